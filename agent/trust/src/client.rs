//! The host's side of the calls: pair, renew, and a channel to a card that is known.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use dpu_api::v1::pairing_client::PairingClient;
use dpu_api::v1::trust_client::TrustClient;
use dpu_api::v1::{FinishRequest, RenewRequest, StartRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::authority::certificate_pem;
use crate::exchange::{Binding, Claim, HostStart, renewal};
use crate::{Code, HostKey, SERVER_NAME, tls};

/// How long a connection may take to be made, and each call on it.
const PATIENCE: Duration = Duration::from_secs(5);

/// Who a host is to a card: the contents of its three files, PEM.
#[derive(Clone)]
pub struct Identity {
    /// The card's authority.
    pub authority: String,
    /// The host's certificate.
    pub certificate: String,
    /// The host's private key.
    pub key: String,
}

/// A connection over TLS.
pub struct Connection {
    /// To make calls on.
    pub channel: Channel,
    /// The secret that only both of its ends share.
    pub binding: Binding,
}

/// Connects as one that the card does not know and that does not know the card. Any server is taken.
///
/// # Errors
/// Where there is no connection.
pub async fn stranger(address: SocketAddr) -> Result<Connection> {
    connect(address, tls::stranger()?).await
}

/// Connects as one that knows the card's authority, and shows nothing of itself.
///
/// # Errors
/// Where there is no connection, or another card answers.
pub async fn anonymous(address: SocketAddr, authority: CertificateDer<'static>) -> Result<Connection> {
    connect(address, tls::anonymous(authority)?).await
}

/// Connects as a paired host.
///
/// # Errors
/// Where the identity is damaged, there is no connection, or one side does not take the other.
pub async fn paired(address: SocketAddr, identity: &Identity) -> Result<Connection> {
    let Identity { authority, certificate, key } = identity;
    connect(address, tls::paired(authority.as_bytes(), certificate.as_bytes(), key.as_bytes())?).await
}

/// Pairs with a card, by a code that both have; the host's new identity.
///
/// # Errors
/// Where the card can't be reached, does not take the code, or proves to be none that has it.
pub async fn pair(address: SocketAddr, code: &Code, name: &str) -> Result<Identity> {
    let connection = stranger(address).await?;
    let mut card = PairingClient::new(connection.channel);
    let key = HostKey::random()?;
    let (host, message) = HostStart::new(code, &connection.binding);
    let started = card.start(StartRequest { message }).await.map_err(said)?.into_inner();
    let claim = Claim { name: name.to_owned(), key: key.public()?, time: crate::now().as_secs() };
    let (host, answer) = host.answer(&started.session, &started.message, &claim, &key)?;
    let request = FinishRequest {
        session: started.session,
        name: claim.name,
        public_key: claim.key.0.to_vec(),
        time: claim.time,
        possession: answer.possession,
        proof: answer.proof,
    };
    let finished = card.finish(request).await.map_err(said)?.into_inner();
    host.check(&finished.authority, &finished.certificate, &finished.proof)
        .context("what answers is not the card: it could not prove that it has the code")?;
    let identity = Identity {
        authority: certificate_pem(&CertificateDer::from(finished.authority)),
        certificate: certificate_pem(&CertificateDer::from(finished.certificate)),
        key: key.pem(),
    };
    paired(address, &identity).await.context("trying the new certificate")?;
    Ok(identity)
}

/// Gets a new key and certificate, by the ones that the host has; those stay good until they end.
///
/// # Errors
/// Where there is no connection, or the card refuses.
pub async fn renew(address: SocketAddr, identity: &Identity) -> Result<Identity> {
    let connection = paired(address, identity).await?;
    let key = HostKey::random()?;
    let (public, time) = (key.public()?, crate::now().as_secs());
    let possession = key.sign(&renewal(&connection.binding, public, time))?;
    let request = RenewRequest { public_key: public.0.to_vec(), time, possession };
    let renewed = TrustClient::new(connection.channel).renew(request).await.map_err(said)?.into_inner();
    let identity = Identity {
        authority: identity.authority.clone(),
        certificate: certificate_pem(&CertificateDer::from(renewed.certificate)),
        key: key.pem(),
    };
    paired(address, &identity).await.context("trying the new certificate")?;
    Ok(identity)
}

/// Until when an identity is good can't be read from outside the certificate without a parser of X.509:
/// whether it is, at a time.
///
/// # Errors
/// Where the certificate is damaged.
pub fn is_good_at(identity: &Identity, time: Duration) -> Result<bool> {
    tls::is_good_client(
        CertificateDer::from_pem_slice(identity.authority.as_bytes())
            .context("reading the card's authority")?,
        &CertificateDer::from_pem_slice(identity.certificate.as_bytes())
            .context("reading the host's certificate")?,
        time,
    )
}

/// What a card said instead of an answer.
#[allow(clippy::needless_pass_by_value, reason = "`map_err` hands it over")]
fn said(status: tonic::Status) -> anyhow::Error {
    match status.message() {
        "" => anyhow!("the card said {:?}", status.code()),
        text => anyhow!("the card said: {text}"),
    }
}

async fn connect(address: SocketAddr, config: ClientConfig) -> Result<Connection> {
    let connecting = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(SERVER_NAME)?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let binding = tls::binding(stream.get_ref().1)?;
        // In TLS 1.3 the card refuses a certificate after the handshake has ended here. An HTTP/2 server speaks
        // first: what it says, or that it says nothing, tells.
        let mut stream = BufReader::new(stream);
        if stream.fill_buf().await?.is_empty() {
            return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
        }
        let mut stream = Some(TokioIo::new(stream));
        // A channel that lost its connection is not used again: it would be another, with another secret.
        let connector = tower::service_fn(move |_: Uri| {
            let stream = stream.take();
            async move { stream.ok_or_else(|| io::Error::from(ErrorKind::NotConnected)) }
        });
        let uri =
            |scheme| Uri::builder().scheme(scheme).authority(address.to_string()).path_and_query("/").build();
        let endpoint = Endpoint::from(uri("http")?).origin(uri("https")?).timeout(PATIENCE);
        let channel = endpoint.connect_with_connector(connector).await?;
        Ok::<_, anyhow::Error>(Connection { channel, binding })
    };
    timeout(PATIENCE, connecting)
        .await
        .map_err(|_| anyhow!("no connection in {PATIENCE:?}"))
        .flatten()
        .with_context(|| format!("connecting to the agent at {address}"))
}
