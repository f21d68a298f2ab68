//! Which service answers a call, by the first part of its path.
//!
//! tonic's own router would bring a web framework along for this.

use std::convert::Infallible;
use std::future::ready;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use anyhow::{Context as _, Result};
use dpu_api::cni_action_server::CniActionServer;
use dpu_api::v1::updates_server::UpdatesServer;
use hyper::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_reflection::server::Builder;
use tower::Service;
use tower::util::BoxCloneService;

use super::Served;
use crate::pods::service::Service as PodService;
use crate::trusted::Door;
use crate::updates::Service as UpdateService;

type Answering = BoxCloneService<Request<Body>, Response<Body>, Infallible>;

/// The services.
#[derive(Clone, Default)]
pub struct Routes {
    services: Vec<(&'static str, Answering)>,
}

/// All that the agent serves.
pub fn routes(served: &Served, door: &Door, health: HealthServer<impl Health>) -> Result<Routes> {
    let reflection = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(dpu_api::DESCRIPTION)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let described = "describing the services for reflection";
    let pods = PodService::new(Arc::clone(&served.pods), Arc::clone(&served.metrics));
    let updates = UpdateService::new(Arc::clone(&served.card));
    let (pairing, trust) = door.services();
    Ok(Routes::default()
        .with_some(pairing)
        .with_some(trust)
        .with(CniActionServer::new(pods))
        .with(UpdatesServer::new(updates))
        .with(health)
        .with(reflection().build_v1().context(described)?)
        // What older tools ask for.
        .with(reflection().build_v1alpha().context(described)?))
}

impl Routes {
    fn with<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        self.services.push((S::NAME, BoxCloneService::new(service)));
        self
    }

    fn with_some<S>(self, service: Option<S>) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + 'static,
        S::Future: Send + 'static,
    {
        match service {
            Some(service) => self.with(service),
            None => self,
        }
    }
}

impl Service<Request<Body>> for Routes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // tonic's services are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let name = request.uri().path().trim_start_matches('/').split('/').next().unwrap_or_default();
        match self.services.iter_mut().find(|(known, _)| *known == name) {
            Some((_, service)) => service.call(request),
            None => Box::pin(ready(Ok(Status::unimplemented("there is no such service").into_http()))),
        }
    }
}
