//! The way to the agent: TCP, and TLS 1.3 with both sides known to each other.
//!
//! TLS is made here and not by tonic, so that nothing is asked before the agent has taken this host's
//! certificate: in TLS 1.3 its refusal comes after the client thinks that all is well, and a request that
//! is on its way by then looks like one that may have been heard.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Channel, Endpoint, Uri};

use super::Failure;
use crate::cni::Code;
use crate::config::{Peer, Tls};
use crate::deadline::Deadline;

/// How long one try may take: a packet that got lost is not to cost the whole deadline.
const TRY: Duration = Duration::from_secs(1);

/// Connects to the agent, once.
pub(super) async fn connect(peer: &Peer, deadline: Deadline) -> Result<Channel, Failure> {
    // Certificate and key are two files: who reads one before they are renewed and the other after has
    // two that do not fit, and reads them again.
    let tls = peer.tls.as_ref().map(|tls| Security::read(peer, tls).or_else(|_| Security::read(peer, tls)));
    let tls = tls.transpose();
    let tls = tls.map_err(|reason| Failure { reason, code: Code::CONFIGURATION })?;
    let patience = deadline.at_most(TRY).left();
    let stream = match timeout(patience, open(peer, tls)).await {
        Ok(stream) => stream?,
        Err(_) => return Err(passing(anyhow!("no connection in {patience:.1?}"))),
    };
    let channel = over(peer, stream).await.context("speaking HTTP/2");
    channel.map_err(passing)
}

fn passing(reason: anyhow::Error) -> Failure {
    Failure { reason, code: Code::TRY_AGAIN }
}

/// A stream of octets, in plain text or not.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn open(peer: &Peer, tls: Option<Security>) -> Result<Box<dyn Stream>, Failure> {
    // The address needs no resolver, which a static program could not have.
    let stream = TcpStream::connect(peer.address).await.map_err(|error| passing(error.into()))?;
    stream.set_nodelay(true).map_err(|error| passing(error.into()))?;
    match tls {
        Some(tls) => Ok(Box::new(tls.over(stream).await.map_err(failure)?)),
        None => Ok(Box::new(stream)),
    }
}

/// Why there is no TLS: it tells as data that is not valid that one side does not trust the other, which
/// no second try mends.
fn failure(error: io::Error) -> Failure {
    let code = if error.kind() == ErrorKind::InvalidData { Code::DISTRUST } else { Code::TRY_AGAIN };
    Failure { reason: error.into(), code }
}

/// What a TLS connection takes.
struct Security {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Security {
    fn read(peer: &Peer, tls: &Tls) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for root in certificates(&tls.ca)? {
            roots.add(root).with_context(|| format!("taking `{}` as an authority", tls.ca.display()))?;
        }
        let key = PrivateKeyDer::from_pem_slice(&read(&tls.key)?);
        let key = key.with_context(|| format!("there is no private key in `{}`", tls.key.display()))?;
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config = config
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(certificates(&tls.certificate)?, key)
            .with_context(|| format!("using `{}` with `{}`", tls.certificate.display(), tls.key.display()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = match &tls.name {
            Some(name) => ServerName::try_from(name.clone())
                .with_context(|| format!("`tls.name` is `{}`, no host's name", name.escape_debug()))?,
            None => peer.address.ip().into(),
        };
        Ok(Self { config: Arc::new(config), name })
    }

    /// A connection whose other side has taken our certificate: an HTTP/2 server is the first to speak.
    async fn over(self, stream: TcpStream) -> io::Result<impl Stream> {
        let stream = TlsConnector::from(self.config).connect(self.name, stream).await?;
        let mut stream = BufReader::new(stream);
        if stream.fill_buf().await?.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(stream)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
    let found = found.with_context(|| format!("reading the certificates in `{}`", path.display()))?;
    anyhow::ensure!(!found.is_empty(), "there is no certificate in `{}`", path.display());
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading `{}`: pair host and card to make it", path.display()))
}

/// gRPC over a stream.
async fn over(peer: &Peer, stream: Box<dyn Stream>) -> Result<Channel> {
    let uri = |scheme| Uri::builder().scheme(scheme).authority(peer.address.to_string()).path_and_query("/");
    let origin = uri(if peer.tls.is_some() { "https" } else { "http" }).build()?;
    let mut stream = Some(TokioIo::new(stream));
    // A channel that lost its connection is not used again.
    let connector = tower::service_fn(move |_: Uri| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| io::Error::from(ErrorKind::NotConnected)) }
    });
    Ok(Endpoint::from(uri("http").build()?).origin(origin).connect_with_connector(connector).await?)
}
