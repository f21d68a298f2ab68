//! The way to the agent: TCP, and TLS with both sides known to each other.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Uri};

use super::Failure;
use crate::cni::Code;
use crate::config::{Peer, Tls};
use crate::deadline::Deadline;

/// How long one try may take: a packet that got lost is not to cost the whole deadline.
const TRY: Duration = Duration::from_secs(1);

/// Connects to the agent, once.
pub(super) async fn connect(peer: &Peer, deadline: Deadline) -> Result<Channel, Failure> {
    let endpoint = endpoint(peer).map_err(|reason| Failure { reason, is_final: true })?;
    let address = peer.address;
    // The address needs no resolver, which a static program could not have.
    let connector = tower::service_fn(move |_: Uri| async move {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok::<_, io::Error>(TokioIo::new(stream))
    });
    let patience = deadline.at_most(TRY).left();
    match timeout(patience, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(Failure { is_final: is_distrust(&error), reason: described(&error) }),
        Err(_) => Err(Failure { reason: anyhow!("no connection in {patience:.1?}"), is_final: false }),
    }
}

fn endpoint(peer: &Peer) -> Result<Endpoint> {
    let scheme = if peer.tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{}", peer.address))?;
    let Some(tls) = &peer.tls else { return Ok(endpoint) };
    let config = config(peer, tls).context(Code::CONFIGURATION)?;
    let endpoint = endpoint.tls_config(config);
    endpoint
        .map_err(|error| described(&error))
        .context("using the files of `tls`: pair host and card again")
        .context(Code::CONFIGURATION)
}

fn config(peer: &Peer, tls: &Tls) -> Result<ClientTlsConfig> {
    let identity = Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?);
    let name = tls.name.clone().unwrap_or_else(|| peer.address.ip().to_string());
    Ok(ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&tls.ca)?))
        .identity(identity)
        .domain_name(name))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading `{}`: pair host and card to make it", path.display()))
}

/// Whether the two sides do not trust each other, which no second try mends. TLS tells it as data that
/// is not valid.
fn is_distrust(error: &tonic::transport::Error) -> bool {
    causes(error).any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::InvalidData)
    })
}

/// An error with its causes; tonic's own text leaves them out.
fn described(error: &tonic::transport::Error) -> anyhow::Error {
    let mut texts: Vec<String> = causes(error).map(ToString::to_string).collect();
    texts.dedup();
    anyhow!(texts.join(": "))
}

fn causes(error: &tonic::transport::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(Some(error as &(dyn Error + 'static)), |error| (*error).source())
}
