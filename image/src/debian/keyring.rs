//! Who may sign a Release file, and when a signature counts.
//!
//! The `pgp` crate checks the mathematics; what is good enough is decided here: the key is in
//! one of the listed files, may sign, has not expired and was not revoked, every signature on the
//! way uses SHA-256 or better, and all is judged at the time that the caller gives.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use pgp::composed::{CleartextSignedMessage, Deserializable as _, SignedPublicKey, SignedPublicSubKey};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{PublicKey, PublicSubkey, Signature, SignatureType, SubpacketData};
use pgp::types::{KeyDetails, Tag};

use crate::hint::WithHint as _;

/// How far in the future a signature may have been made: clocks are set by hand, too.
pub const CLOCK_SKEW: Duration = Duration::from_hours(24);

/// The keys that may sign one suite.
#[derive(Debug)]
pub struct Keyring {
    /// Each with the name of the file that it is from.
    certificates: Vec<(String, SignedPublicKey)>,
}

impl Keyring {
    /// Reads armored key files: `names` in `folder`, with the ending `.asc`.
    pub fn read(folder: &Path, names: &[String]) -> Result<Self> {
        let mut keyring = Self { certificates: Vec::new() };
        for name in names {
            let path = folder.join(format!("{name}.asc"));
            let armor = std::fs::read(&path)
                .with_context(|| format!("reading the key file `{}`", path.display()))
                .hint(|| "see the keys of the suite in `image/suites.toml`".into())?;
            keyring.add(name, &armor)?;
        }
        Ok(keyring)
    }

    /// Adds all certificates of an armored file; `name` is what errors call it.
    pub fn add(&mut self, name: &str, armor: &[u8]) -> Result<()> {
        let before = self.certificates.len();
        let parse = || format!("parsing the key file `{name}`");
        let (certificates, _) = SignedPublicKey::from_armor_many(armor).with_context(parse)?;
        for certificate in certificates {
            self.certificates.push((name.to_owned(), certificate.with_context(parse)?));
        }
        ensure!(self.certificates.len() > before, "the key file `{name}` has no key in it");
        Ok(())
    }

    /// The text that `bytes`, a clear-signed message, vouches for at the time `now`: all of it
    /// signed, with `\n` at the ends of lines. One good signature is enough.
    pub fn signed_text(&self, bytes: &[u8], now: SystemTime) -> Result<String> {
        let message = parse_message(bytes)?;
        let now = seconds(now);
        let (keys, unfit) = self.keys_at(now);
        let text = message.signed_text();
        let mut refused = Vec::new();
        for signature in message.signatures() {
            match check_signature(signature, &text, &keys, now) {
                Ok(()) => return Ok(text.replace("\r\n", "\n")),
                Err(error) => refused.push(format!("{}: {error:#}", issuer(signature))),
            }
        }
        refused.extend(unfit);
        if refused.is_empty() {
            refused.push("there is no signature".into());
        }
        bail!("no good signature ({})", refused.join("; "))
    }

    /// The keys that may sign at `now`, and for each certificate or subkey that may not, why.
    fn keys_at(&self, now: u64) -> (Vec<Key<'_>>, Vec<String>) {
        let (mut keys, mut unfit) = (Vec::new(), Vec::new());
        for (name, certificate) in &self.certificates {
            let id = certificate.primary_key.fingerprint();
            match signing_keys(certificate, now) {
                Ok((found, refused)) => {
                    keys.extend(found);
                    unfit.extend(refused.iter().map(|why| format!("a subkey in `{name}`: {why:#}")));
                }
                Err(error) => unfit.push(format!("the key {id:X} in `{name}`: {error:#}")),
            }
        }
        (keys, unfit)
    }
}

/// A key that may sign.
#[derive(Clone, Copy)]
enum Key<'a> {
    Primary(&'a PublicKey),
    Sub(&'a PublicSubkey),
}

impl Key<'_> {
    fn verify(self, signature: &Signature, text: &str) -> pgp::errors::Result<()> {
        match self {
            Self::Primary(key) => signature.verify(key, text.as_bytes()),
            Self::Sub(key) => signature.verify(key, text.as_bytes()),
        }
    }

    fn is_issuer_of(self, signature: &Signature) -> bool {
        let (id, fingerprint) = match self {
            Self::Primary(key) => (key.legacy_key_id(), key.fingerprint()),
            Self::Sub(key) => (key.legacy_key_id(), key.fingerprint()),
        };
        signature.issuer_key_id().contains(&&id) || signature.issuer_fingerprint().contains(&&fingerprint)
    }

    fn created(self) -> u64 {
        match self {
            Self::Primary(key) => key.created_at().as_secs().into(),
            Self::Sub(key) => key.created_at().as_secs().into(),
        }
    }
}

fn parse_message(bytes: &[u8]) -> Result<CleartextSignedMessage> {
    let text = std::str::from_utf8(bytes).context("the signed file is not UTF-8")?;
    ensure!(text.starts_with("-----BEGIN PGP SIGNED MESSAGE-----\n"), "the file is not clear-signed");
    // The crate takes line ends after the armor for trailing data.
    let (message, _) =
        CleartextSignedMessage::from_string(text.trim_end()).context("parsing the clear-signed file")?;
    Ok(message)
}

fn check_signature(signature: &Signature, text: &str, keys: &[Key<'_>], now: u64) -> Result<()> {
    let kind = signature.typ();
    ensure!(
        matches!(kind, Some(SignatureType::Text | SignatureType::Binary)),
        "it is not a signature over a text"
    );
    check_form(signature, now)?;
    let mut issuers = keys.iter().filter(|key| key.is_issuer_of(signature)).peekable();
    ensure!(issuers.peek().is_some(), "made by a key that may not sign this suite");
    let created = signature.created().map_or(0, |time| u64::from(time.as_secs()));
    for key in issuers {
        ensure!(created >= key.created(), "made before its key was");
        if key.verify(signature, text).is_ok() {
            return Ok(());
        }
    }
    bail!("the text is not what was signed")
}

/// What every signature has to be, over a text as over a key.
fn check_form(signature: &Signature, now: u64) -> Result<()> {
    let hash = signature.hash_alg().context("made in an unknown way")?;
    ensure!(is_strong(hash), "made with {hash}, which can be forged");
    let created = signature.created().context("without the time when it was made")?.as_secs();
    let created = u64::from(created);
    ensure!(
        created <= now + CLOCK_SKEW.as_secs(),
        "made in the future, on {}; the clock of this machine may be wrong",
        Date(created)
    );
    let lifetime = signature.signature_expiration_time().map_or(0, |time| u64::from(time.as_secs()));
    ensure!(lifetime == 0 || now < created + lifetime, "expired on {}", Date(created + lifetime));
    let config = signature.config().context("made in an unknown way")?;
    let is_unknown = |data: &SubpacketData| {
        matches!(
            data,
            SubpacketData::Other(..) | SubpacketData::Experimental(..) | SubpacketData::Notation(_)
        )
    };
    ensure!(
        !config.hashed_subpackets().any(|packet| packet.is_critical && is_unknown(&packet.data)),
        "it has a condition that is not understood"
    );
    Ok(())
}

fn is_strong(hash: HashAlgorithm) -> bool {
    matches!(
        hash,
        HashAlgorithm::Sha256
            | HashAlgorithm::Sha384
            | HashAlgorithm::Sha512
            | HashAlgorithm::Sha3_256
            | HashAlgorithm::Sha3_512
    )
}

/// The keys of a certificate that may sign at `now`, and why others may not.
fn signing_keys(certificate: &SignedPublicKey, now: u64) -> Result<(Vec<Key<'_>>, Vec<anyhow::Error>)> {
    let primary = &certificate.primary_key;
    // A revocation counts even where it cannot be checked: nobody but us writes the key files, and
    // to refuse is the safe side.
    ensure!(certificate.details.revocation_signatures.is_empty(), "it was revoked");
    let own = self_signature(certificate, now).context("it has no valid signature of its own")?;
    check_lifetime(primary.created_at().as_secs(), own, now)?;
    let mut keys = Vec::new();
    let mut refused = Vec::new();
    if own.key_flags().sign() {
        keys.push(Key::Primary(primary));
    }
    for subkey in &certificate.public_subkeys {
        match check_subkey(primary, subkey, now) {
            Ok(true) => keys.push(Key::Sub(&subkey.key)),
            Ok(false) => {}
            Err(error) => refused.push(error.context(format!("{:X}", subkey.key.fingerprint()))),
        }
    }
    Ok((keys, refused))
}

/// The newest valid signature by which the primary key speaks of itself: on a user id, or, where
/// there is none, on the key.
fn self_signature(certificate: &SignedPublicKey, now: u64) -> Option<&Signature> {
    let primary = &certificate.primary_key;
    let is_valid = |signature: &Signature| check_form(signature, now).is_ok();
    let on_users = certificate.details.users.iter().filter_map(|user| {
        let own = || {
            let made = |signature: &&Signature| {
                signature.verify_certification(primary, Tag::UserId, &user.id).is_ok()
            };
            user.signatures.iter().filter(made)
        };
        let is_revoked = own().any(|signature| signature.typ() == Some(SignatureType::CertRevocation));
        (!is_revoked).then(|| newest(own().filter(|signature| is_valid(signature))))?
    });
    let on_key = certificate.details.direct_signatures.iter();
    let on_key = on_key.filter(|signature| is_valid(signature) && signature.verify_key(primary).is_ok());
    newest(on_users).or_else(|| newest(on_key))
}

/// Whether the subkey may sign; an error if it once could and no longer may.
fn check_subkey(primary: &PublicKey, subkey: &SignedPublicSubKey, now: u64) -> Result<bool> {
    let of_kind = |kind| subkey.signatures.iter().filter(move |signature| signature.typ() == Some(kind));
    ensure!(of_kind(SignatureType::SubkeyRevocation).next().is_none(), "it was revoked");
    let valid = of_kind(SignatureType::SubkeyBinding).filter(|signature| {
        check_form(signature, now).is_ok() && signature.verify_subkey_binding(primary, &subkey.key).is_ok()
    });
    let binding = newest(valid).context("it is not bound to its key by a valid signature")?;
    if !binding.key_flags().sign() {
        return Ok(false);
    }
    check_lifetime(subkey.key.created_at().as_secs(), binding, now)?;
    let back = binding.embedded_signature().context("it has not agreed to its key")?;
    check_form(back, now)?;
    back.verify_primary_key_binding(&subkey.key, primary).context("it has not agreed to its key")?;
    Ok(true)
}

fn check_lifetime(created: u32, signature: &Signature, now: u64) -> Result<()> {
    let created = u64::from(created);
    ensure!(created <= now + CLOCK_SKEW.as_secs(), "it was made in the future, on {}", Date(created));
    let lifetime = signature.key_expiration_time().map_or(0, |time| u64::from(time.as_secs()));
    ensure!(lifetime == 0 || now < created + lifetime, "it expired on {}", Date(created + lifetime));
    Ok(())
}

fn newest<'a>(signatures: impl Iterator<Item = &'a Signature>) -> Option<&'a Signature> {
    signatures.max_by_key(|signature| signature.created().map(pgp::types::Timestamp::as_secs))
}

fn issuer(signature: &Signature) -> String {
    let ids = signature.issuer_key_id();
    match (signature.issuer_fingerprint().first(), ids.first()) {
        (Some(fingerprint), _) => format!("the signature of {fingerprint:X}"),
        (None, Some(id)) => format!("the signature of {id}"),
        (None, None) => "a signature of an unknown key".into(),
    }
}

/// Seconds since 1970; a clock before that counts as 1970.
pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |duration| duration.as_secs())
}

/// A time as seconds since 1970, written as `2026-11-21T09:15:44Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date(pub u64);

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_from_days(self.0 / 86_400);
        let (hour, minute, second) = (self.0 / 3600 % 24, self.0 / 60 % 60, self.0 % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// Year, month and day of a count of days since 1970-01-01.
///
/// Years are reckoned from 1 March 0000, so that the leap day is a year's last day
/// (<https://howardhinnant.github.io/date_algorithms.html>).
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Days since 1970-01-01 of a date not before it: the reverse of [`civil_from_days`].
pub(super) fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    let from_march = if month > 2 { year } else { year.checked_sub(1)? };
    let (era, year_of_era) = (from_march / 400, from_march % 400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    (civil_from_days(days) == (year, month, day)).then_some(days)
}

#[cfg(test)]
pub(crate) mod tests;
