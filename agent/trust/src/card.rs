//! What a card keeps of its trust, and the certificates that it gives.
//!
//! | file in `/var/lib/dpukit/trust` | what it holds |
//! | --- | --- |
//! | `authority.pem` | the authority's private key and certificate |
//! | `server.pem` | the agent's private key and certificate, which the agent makes anew when they are due |
//! | `hosts.json` | the paired hosts ([`Hosts`]) |
//! | `spent-codes.json` | hashes of codes that the card was given and that are worth nothing any more |
//! | `lock` | nothing: who changes the others holds it locked |
//!
//! All are for root alone. The folder has no pairings where it has neither authority nor hosts; one that has
//! only a part of it was damaged, and nothing is made anew then: a new authority would turn all hosts away.

use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::ServerCertVerifier as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{CertificateError, ServerConfig};

use crate::authority::{Authority, ServerIdentity};
use crate::hosts::{Certificate, Fingerprint, Hosts, Standing};
use crate::keep::{self, Lock};
use crate::tls::{self, Current};
use crate::{PublicKey, SERVER_NAME};

/// Where a card keeps it.
pub const FOLDER: &str = "/var/lib/dpukit/trust";
/// The file in it that lists the paired hosts, as [`Hosts::parse`] takes it.
pub const HOSTS: &str = "hosts.json";
/// How long the agent's certificate is good.
pub const SERVER_LIFE: Duration = Duration::from_hours(730 * 24);
/// How long a host's certificate is good.
pub const HOST_LIFE: Duration = Duration::from_hours(365 * 24);

/// What to do about a folder that was damaged.
const MEND: &str = "put a copy of the folder back; or give up all pairings: stop dpu-agent, remove \
                    everything in the folder, start dpu-agent, and pair each host again";

/// The card's trust.
pub struct Trust {
    folder: PathBuf,
    address: IpAddr,
    authority: Authority,
    current: Arc<Current>,
    roster: Arc<Roster>,
}

/// A certificate for a host, and the authority that signed it.
#[derive(Debug)]
pub struct Signed {
    /// The authority's certificate (DER).
    pub authority: Vec<u8>,
    /// The host's certificate (DER).
    pub certificate: Vec<u8>,
}

impl Trust {
    /// Reads the folder, or, at the card's first start, fills it. The agent's certificate is for the link's
    /// `address`; one that is not, is damaged or is due is made anew.
    ///
    /// # Errors
    /// Where the folder was damaged, with what to do; where it can't be read or written.
    pub fn open(folder: &Path, address: IpAddr, now: Duration) -> Result<Self> {
        keep::folder(folder)?;
        let _lock = Lock::take(folder)?;
        let authority = authority(folder)?;
        let kept = keep::read(&folder.join("server.pem"))
            .and_then(|text| text.as_deref().map(ServerIdentity::of_pem).transpose());
        let kept = kept.unwrap_or_else(|error| {
            tracing::warn!("the agent's certificate is damaged, and made anew: {error:#}");
            None
        });
        let kept = kept.filter(|kept| is_fresh(&authority, &kept.certificate, address, now));
        let server = match kept {
            Some(kept) => kept,
            None => new_server(folder, &authority, address, now)?,
        };
        let current = Arc::new(Current::new(server.certified()?));
        let roster = Arc::new(Roster::new(folder));
        roster.hosts()?;
        Ok(Self { folder: folder.to_owned(), address, authority, current, roster })
    }

    /// The authority's certificate, for those who look at the agent from the card itself.
    ///
    /// # Errors
    /// Where there is none yet, or it is damaged.
    pub fn authority_in(folder: &Path) -> Result<CertificateDer<'static>> {
        let path = folder.join("authority.pem");
        let text = keep::read(&path)?.with_context(|| {
            format!("there is no `{}`: `dpu-agent serve` makes it at its first start", path.display())
        })?;
        Ok(Authority::of_pem(&text)
            .with_context(|| format!("reading `{}`", path.display()))?
            .certificate()
            .clone())
    }

    /// The authority's certificate.
    pub fn authority(&self) -> &CertificateDer<'static> {
        self.authority.certificate()
    }

    /// The paired hosts.
    pub fn roster(&self) -> &Arc<Roster> {
        &self.roster
    }

    /// How the agent serves.
    ///
    /// # Errors
    /// Where the authority can't be used.
    pub fn server_config(&self) -> Result<ServerConfig> {
        let roster = Arc::clone(&self.roster);
        let is_good = move |certificate: &CertificateDer<'_>| match roster
            .standing(&Fingerprint::of(certificate), crate::now())
        {
            Ok(Standing::Good(_)) => Ok(()),
            Ok(Standing::Over(_)) => Err(CertificateError::Expired),
            Ok(Standing::Revoked) => Err(CertificateError::Revoked),
            Err(error) => {
                tracing::error!("no host can be known: {error:#}");
                Err(CertificateError::UnknownRevocationStatus)
            }
        };
        tls::server(self.authority(), Arc::clone(&self.current), Arc::new(is_good))
    }

    /// Makes the agent's certificate anew where half of its life is over, for the connections to come;
    /// whether it was due.
    ///
    /// # Errors
    /// Where it can't be made or written; the one before is then still served.
    pub fn refresh(&self, now: Duration) -> Result<bool> {
        let current = self.current.get();
        let is_due =
            current.cert.first().is_none_or(|one| !is_fresh(&self.authority, one, self.address, now));
        if is_due {
            let _lock = Lock::take(&self.folder)?;
            let server = new_server(&self.folder, &self.authority, self.address, now)?;
            self.current.set(server.certified()?);
        }
        Ok(is_due)
    }

    /// Takes a host in that has proved itself; `now` is the later of both sides' clocks.
    ///
    /// # Errors
    /// Where its name is none, or the list can't be kept.
    pub fn pair(&self, name: &str, key: PublicKey, now: Duration) -> Result<Signed> {
        let (signed, certificate) = self.sign(name, key, now)?;
        self.roster.change(|hosts| hosts.pair(name, certificate, now))?;
        self.refresh(now)?;
        Ok(signed)
    }

    /// Gives the host that has a certificate another.
    ///
    /// # Errors
    /// Where no paired host has it, or the list can't be kept.
    pub fn renew(&self, has: &Fingerprint, key: PublicKey, now: Duration) -> Result<Signed> {
        let Standing::Good(name) = self.roster.standing(has, crate::now())? else {
            bail!("the certificate is no paired host's");
        };
        let (signed, certificate) = self.sign(&name, key, now)?;
        self.roster.change(|hosts| hosts.renew(has, certificate, crate::now()))?;
        self.refresh(now)?;
        Ok(signed)
    }

    fn sign(&self, name: &str, key: PublicKey, now: Duration) -> Result<(Signed, Certificate)> {
        let end = now + HOST_LIFE;
        let certificate = self.authority.sign_host(name, key, end)?;
        let entry = Certificate { sha256: Fingerprint::of(&certificate), ends: end.as_secs() };
        Ok((Signed { authority: self.authority().to_vec(), certificate: certificate.to_vec() }, entry))
    }
}

/// The authority; made at the first start. The list of hosts is written before it: as long as there is no
/// authority nobody can be paired, so what a crash leaves is a first start again.
fn authority(folder: &Path) -> Result<Authority> {
    let path = folder.join("authority.pem");
    let hosts = folder.join(HOSTS);
    let damaged = |what: String| anyhow!("{what}: {MEND}");
    match (keep::read(&path)?, keep::read(&hosts)?) {
        (Some(_), None) => Err(damaged(format!("`{}` is missing", hosts.display()))),
        (Some(text), Some(_)) => Authority::of_pem(&text)
            .map_err(|error| damaged(format!("`{}` is damaged, {error:#}", path.display()))),
        (None, list) => {
            let list = list.map(|text| Hosts::parse(&text)).transpose();
            let is_empty = list.is_ok_and(|list| list.is_none_or(|list| list.all().is_empty()));
            if !is_empty || folder.join("server.pem").exists() {
                return Err(damaged(format!("`{}` is missing", path.display())));
            }
            keep::write(&hosts, Hosts::default().text()?.as_bytes(), 0o600)?;
            let authority = Authority::random()?;
            keep::write(&path, authority.pem().as_bytes(), 0o600)?;
            tracing::info!("made the card's authority in `{}`", folder.display());
            Ok(authority)
        }
    }
}

fn new_server(
    folder: &Path,
    authority: &Authority,
    address: IpAddr,
    now: Duration,
) -> Result<ServerIdentity> {
    let server = authority.sign_server(address, now + SERVER_LIFE)?;
    keep::write(&folder.join("server.pem"), server.pem().as_bytes(), 0o600)?;
    tracing::info!("made a certificate for the agent");
    Ok(server)
}

/// Whether this is a certificate of the authority for the agent at this address, with at least half of its
/// life before it.
fn is_fresh(authority: &Authority, certificate: &CertificateDer<'_>, address: IpAddr, now: Duration) -> bool {
    let verify = || -> Result<()> {
        let roots = Arc::new(tls::roots([authority.certificate().clone()])?);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, tls::provider()).build()?;
        let then = UnixTime::since_unix_epoch(now + SERVER_LIFE / 2);
        for name in [ServerName::from(address), ServerName::try_from(SERVER_NAME)?] {
            verifier.verify_server_cert(certificate, &[], &name, &[], then)?;
        }
        Ok(())
    };
    verify().inspect_err(|error| tracing::debug!("the agent's certificate is due: {error:#}")).is_ok()
}

/// The list of hosts, as it is on the disk: a change by another process counts from the next look on.
pub struct Roster {
    folder: PathBuf,
    known: Mutex<Option<(Stamp, Arc<Hosts>)>>,
}

/// Tells one content of a file from another: files are replaced, not written over.
type Stamp = (u64, u64, i64, i64, u64);

impl Roster {
    /// The list in a folder.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), known: Mutex::default() }
    }

    /// The hosts as they are now.
    ///
    /// # Errors
    /// Where the list is missing or damaged.
    pub fn hosts(&self) -> Result<Arc<Hosts>> {
        let path = self.path();
        let data = fs::metadata(&path).with_context(|| format!("reading `{}`", path.display()))?;
        let stamp = (data.dev(), data.ino(), data.mtime(), data.mtime_nsec(), data.len());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((seen, hosts)) if *seen == stamp => Ok(Arc::clone(hosts)),
            _ => {
                let hosts = Arc::new(self.read()?);
                *known = Some((stamp, Arc::clone(&hosts)));
                Ok(hosts)
            }
        }
    }

    /// What a certificate is worth now.
    ///
    /// # Errors
    /// Where the list is missing or damaged.
    pub fn standing(&self, certificate: &Fingerprint, now: Duration) -> Result<Standing> {
        Ok(self.hosts()?.standing(certificate, now))
    }

    /// Changes the list.
    ///
    /// # Errors
    /// Where `change` fails, or the list can't be read or written; it is then as it was.
    pub fn change<T>(&self, change: impl FnOnce(&mut Hosts) -> Result<T>) -> Result<T> {
        let _lock = Lock::take(&self.folder)?;
        let mut hosts = self.read()?;
        let result = change(&mut hosts)?;
        keep::write(&self.path(), hosts.text()?.as_bytes(), 0o600)?;
        Ok(result)
    }

    fn path(&self) -> PathBuf {
        self.folder.join(HOSTS)
    }

    fn read(&self) -> Result<Hosts> {
        let path = self.path();
        let text = keep::read(&path)?.with_context(|| format!("`{}` is missing: {MEND}", path.display()))?;
        Hosts::parse(&text).with_context(|| format!("`{}` is damaged: {MEND}", path.display()))
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roster({})", self.folder.display())
    }
}
