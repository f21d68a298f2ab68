//! What a connection may call: everything with a paired host's certificate, health and pairing without.
//!
//! Calls are let through by the beginning of their path, and all others refused: a service that is added
//! later is closed to strangers, whoever adds it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dpu_trust::card::Roster;
use dpu_trust::hosts::Standing;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tower::Layer;

use super::accept::Caller;

/// What anyone may call.
const OPEN: [&str; 2] = ["/grpc.health.v1.Health/", "/dpukit.v1.Pairing/"];

/// The name of the paired host that makes a call; found in the call's extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(pub String);

/// Puts a [`Gate`] before services.
#[derive(Clone)]
pub struct GateLayer(Option<Arc<Roster>>);

/// Lets calls through, or not.
#[derive(Clone)]
pub struct Gate<S> {
    inner: S,
    roster: Option<Arc<Roster>>,
}

impl GateLayer {
    /// One for the hosts of a list; without a list, everything is let through.
    pub fn new(roster: Option<Arc<Roster>>) -> Self {
        Self(roster)
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, roster: self.0.clone() }
    }
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if let Some(roster) = &self.roster {
            match may(roster, &request) {
                Ok(name) => drop(name.map(|name| request.extensions_mut().insert(HostName(name)))),
                Err(status) => {
                    tracing::warn!(path = request.uri().path(), "refused a call: {}", status.message());
                    let answer = status.into_http();
                    return Box::pin(async { Ok(answer) });
                }
            }
        }
        Box::pin(self.inner.call(request))
    }
}

/// Whether a call is let through, and whose it is.
///
/// The connection's certificate is looked at again, since it may have been revoked, or have come to its end,
/// after the handshake.
fn may(roster: &Roster, request: &Request<Body>) -> Result<Option<String>, Status> {
    let certificate = request.extensions().get::<Caller>().and_then(|caller| caller.certificate);
    let standing = certificate.map(|one| roster.standing(&one, dpu_trust::now())).transpose();
    let standing = standing.map_err(|error| {
        tracing::error!("no host can be known: {error:#}");
        Status::unavailable("the card's list of hosts is damaged: see the agent's journal")
    });
    let is_open = OPEN.iter().any(|path| request.uri().path().starts_with(path));
    match standing {
        Ok(Some(Standing::Good(name))) => Ok(Some(name)),
        // Health is told even of a card whose files are damaged.
        _ if is_open => Ok(None),
        Ok(None) => {
            Err(Status::unauthenticated("without a certificate: pair host and card (`dpu-host pair`)"))
        }
        Ok(Some(Standing::Over(name))) => Err(Status::unauthenticated(format!(
            "the certificate of `{name}` is over: pair host and card again"
        ))),
        Ok(Some(Standing::Revoked)) => {
            Err(Status::unauthenticated("the certificate was revoked: pair host and card again"))
        }
        Err(status) => Err(status),
    }
}
