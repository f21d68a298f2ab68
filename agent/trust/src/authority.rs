//! The card's authority: what signs its agent's certificate and those of its hosts.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType,
};
use time::OffsetDateTime;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;

use crate::hosts::Fingerprint;
use crate::{PublicKey, SERVER_NAME};

/// 9999-12-31T23:59:59Z: what has no end ends then (RFC 5280, 4.1.2.5).
const NEVER: Duration = Duration::from_secs(253_402_300_799);

/// A certificate's authority, with its private key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    key: String,
}

/// The agent's certificate and its private key, in the form that a TLS server takes.
pub struct ServerIdentity {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    /// A new authority.
    ///
    /// # Errors
    /// Where the system has no random numbers.
    pub fn random() -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ED25519).context("making the authority's key")?;
        let certificate = params_of(&key)?.self_signed(&key).context("making the authority's certificate")?;
        Self::new(key, certificate.into())
    }

    fn new(key: KeyPair, certificate: CertificateDer<'static>) -> Result<Self> {
        let text = key.serialize_pem();
        Ok(Self { issuer: Issuer::new(params_of(&key)?, key), certificate, key: text })
    }

    /// Reads what [`Authority::pem`] wrote.
    ///
    /// # Errors
    /// Where a part is missing or damaged, or the two parts do not fit.
    pub fn of_pem(text: &str) -> Result<Self> {
        let (certificate, key) = parts(text)?;
        Self::new(key, certificate)
    }

    /// The private key and the certificate, for a file that only its owner may read.
    pub fn pem(&self) -> String {
        format!("{}{}", self.key, certificate_pem(&self.certificate))
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for the agent, with a new key: for its name, and for the link's address.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn sign_server(&self, address: IpAddr, end: Duration) -> Result<ServerIdentity> {
        let key = KeyPair::generate_for(&PKCS_ED25519).context("making the agent's key")?;
        let mut params = leaf("dpu-agent", end, ExtendedKeyUsagePurpose::ServerAuth)?;
        params.subject_alt_names =
            vec![SanType::DnsName(SERVER_NAME.try_into()?), SanType::IpAddress(address)];
        let certificate = self.sign(&params, &key).context("signing the agent's certificate")?;
        Ok(ServerIdentity { certificate, key })
    }

    /// A certificate for a host.
    ///
    /// # Errors
    /// Where it can't be made.
    pub fn sign_host(&self, name: &str, key: PublicKey, end: Duration) -> Result<CertificateDer<'static>> {
        let params = leaf(name, end, ExtendedKeyUsagePurpose::ClientAuth)?;
        self.sign(&params, &key).with_context(|| format!("signing the certificate of `{name}`"))
    }

    fn sign(&self, params: &CertificateParams, key: &impl PublicKeyData) -> Result<CertificateDer<'static>> {
        Ok(Certificate::into(params.signed_by(key, &self.issuer)?))
    }
}

impl ServerIdentity {
    /// Reads what [`ServerIdentity::pem`] wrote.
    ///
    /// # Errors
    /// Where a part is missing or damaged, or the two parts do not fit.
    pub fn of_pem(text: &str) -> Result<Self> {
        let (certificate, key) = parts(text)?;
        Ok(Self { certificate, key })
    }

    /// The private key and the certificate, for a file that only its owner may read.
    pub fn pem(&self) -> String {
        format!("{}{}", self.key.serialize_pem(), certificate_pem(&self.certificate))
    }

    /// As rustls takes it.
    ///
    /// # Errors
    /// Where the key is none that rustls knows.
    pub fn certified(&self) -> Result<CertifiedKey> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        CertifiedKey::from_der(vec![self.certificate.clone()], key, &default_provider())
            .context("using the agent's certificate")
    }
}

/// A certificate as PEM.
pub fn certificate_pem(certificate: &CertificateDer<'_>) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", certificate.to_vec()), config)
}

/// The certificate and the key of a file that has both.
fn parts(text: &str) -> Result<(CertificateDer<'static>, KeyPair)> {
    let key = PrivatePkcs8KeyDer::from_pem_slice(text.as_bytes());
    let key = key.map_err(|error| anyhow!("its private key: {error}"))?;
    let certificate = CertificateDer::from_pem_slice(text.as_bytes());
    let certificate = certificate.map_err(|error| anyhow!("its certificate: {error}"))?;
    // rustls compares the key with the certificate's.
    CertifiedKey::from_der(
        vec![certificate.clone()],
        PrivateKeyDer::Pkcs8(key.clone_key()),
        &default_provider(),
    )
    .context("its key and its certificate do not fit")?;
    let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ED25519).context("its private key")?;
    Ok((certificate, key))
}

/// An authority's parameters follow from its key, so that only key and certificate have to be kept.
fn params_of(key: &KeyPair) -> Result<CertificateParams> {
    let mut params = common(NEVER)?;
    // Cards have different names, so that one who trusts another card's authority is told so.
    let short = Fingerprint::of(key.public_key_raw()).to_string();
    params.distinguished_name.push(DnType::CommonName, format!("dpukit card {}", &short[..8]));
    // It signs hosts and its agent, and no other authority.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn leaf(name: &str, end: Duration, usage: ExtendedKeyUsagePurpose) -> Result<CertificateParams> {
    let mut params = common(end)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn common(end: Duration) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    // A clock that is behind is to refuse nobody.
    params.not_before = OffsetDateTime::UNIX_EPOCH;
    let end = i64::try_from(end.min(NEVER).as_secs())?;
    params.not_after = OffsetDateTime::from_unix_timestamp(end)?;
    Ok(params)
}
