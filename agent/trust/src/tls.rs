//! TLS on both sides: version 1.3 only, HTTP/2 only, no resumption.
//!
//! A session that is resumed skips the look at certificates, and the host's programs live too short to
//! have anything to resume: so there is none.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, ConnectionCommon, DigitallySignedStruct, DistinguishedName, Error,
    RootCertStore, ServerConfig, SignatureScheme,
};

use crate::exchange::Binding;

/// The protocol that is spoken inside, for ALPN (RFC 7301).
const HTTP2: &[u8] = b"h2";

/// Whether a certificate that the authority signed is still good; `Err` with the reason where not.
pub type IsGood = dyn Fn(&CertificateDer<'_>) -> Result<(), CertificateError> + Send + Sync;

/// The agent's certificate, which can be changed while connections are made.
#[derive(Debug)]
pub struct Current(RwLock<Arc<CertifiedKey>>);

impl Current {
    /// Begins with a certificate.
    pub fn new(key: CertifiedKey) -> Self {
        Self(RwLock::new(Arc::new(key)))
    }

    /// The certificate that the next connection sees.
    pub fn get(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes another certificate. Connections that are open stay.
    pub fn set(&self, key: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.get())
    }
}

/// How the agent serves: a client may come without a certificate, but not with a bad one.
///
/// # Errors
/// Where the authority can't be used.
pub fn server(
    authority: &CertificateDer<'static>,
    current: Arc<Current>,
    is_good: Arc<IsGood>,
) -> Result<ServerConfig> {
    let roots = Arc::new(roots([authority.clone()])?);
    let inner = WebPkiClientVerifier::builder_with_provider(roots, provider()).allow_unauthenticated();
    let inner = inner.build().context("using the card's authority")?;
    let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let config = config.with_client_cert_verifier(Arc::new(Paired { inner, is_good }));
    let mut config = config.with_cert_resolver(current);
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// How a host speaks to an agent that it does not know yet. Whatever comes over such a connection has to be
/// proved by other means.
///
/// # Errors
/// Never with this provider.
pub fn stranger() -> Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider())));
    Ok(client(config.with_no_client_auth()))
}

/// How one who trusts the card, and shows nothing of itself, speaks to the agent: the agent itself does.
///
/// # Errors
/// Where the authority can't be used.
pub fn anonymous(authority: CertificateDer<'static>) -> Result<ClientConfig> {
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    Ok(client(config.with_root_certificates(roots([authority])?).with_no_client_auth()))
}

/// How a paired host speaks to the agent; its files' contents, PEM.
///
/// # Errors
/// Where a part is missing or damaged, or they do not fit.
pub fn paired(authority: &[u8], certificate: &[u8], key: &[u8]) -> Result<ClientConfig> {
    let read = |pem: &[u8]| CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let authority = read(authority).context("reading the card's authority")?;
    let certificate = read(certificate).context("reading the host's certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key).context("reading the host's key")?;
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13])?;
    let config = config.with_root_certificates(roots(authority)?);
    Ok(client(config.with_client_auth_cert(certificate, key).context("using the host's certificate")?))
}

/// The secret that both ends of this connection share (RFC 9266).
///
/// # Errors
/// While the handshake is under way.
pub fn binding<D>(connection: &ConnectionCommon<D>) -> Result<Binding> {
    let exported =
        connection.export_keying_material(Binding::default(), b"EXPORTER-Channel-Binding", Some(b""));
    exported.context("binding to the connection")
}

/// Whether an authority's client certificate is good at a time since 1970-01-01 UTC.
///
/// # Errors
/// Where the authority can't be used.
pub fn is_good_client(
    authority: CertificateDer<'static>,
    certificate: &CertificateDer<'_>,
    time: Duration,
) -> Result<bool> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots([authority])?), provider());
    let verifier = verifier.build().context("using the card's authority")?;
    Ok(verifier.verify_client_cert(certificate, &[], UnixTime::since_unix_epoch(time)).is_ok())
}

/// The cryptography of it all.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

/// Authorities to trust.
///
/// # Errors
/// Where one is damaged.
pub fn roots(authorities: impl IntoIterator<Item = CertificateDer<'static>>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority).context("taking the card's authority")?;
    }
    Ok(roots)
}

fn client(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![HTTP2.to_vec()];
    config.resumption = tokio_rustls::rustls::client::Resumption::disabled();
    config
}

/// Takes clients that the authority signed and that are still paired.
struct Paired {
    inner: Arc<dyn ClientCertVerifier>,
    is_good: Arc<IsGood>,
}

impl fmt::Debug for Paired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Paired")
    }
}

impl ClientCertVerifier for Paired {
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        (self.is_good)(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Takes any server that has the key of the certificate that it shows.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
