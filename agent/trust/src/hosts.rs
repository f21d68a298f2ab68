//! The list of paired hosts: each with the certificates that are good, by their hash.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// How many certificates of one host are good at once; the oldest is dropped for one more.
const MOST_CERTIFICATES: usize = 8;
/// How many hosts a card pairs with at most.
const MOST_HOSTS: usize = 256;
/// The longest name: what an X.509 common name holds (RFC 5280, `ub-common-name`).
const LONGEST_NAME: usize = 64;

/// SHA-256 of a certificate (DER).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Fingerprint([u8; 32]);

/// The list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hosts {
    version: Version,
    hosts: Vec<Host>,
}

/// A paired host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// What it is called.
    pub name: String,
    /// When it was paired, in seconds since 1970-01-01 UTC.
    pub paired: u64,
    /// Its certificates, the oldest first.
    pub certificates: Vec<Certificate>,
}

/// A certificate that is good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// Which it is.
    pub sha256: Fingerprint,
    /// Until when it is good, in seconds since 1970-01-01 UTC.
    pub ends: u64,
}

/// What a certificate is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is that of the host of this name.
    Good(String),
    /// It was, and is over.
    Over(String),
    /// No host that is paired has it: it was revoked.
    Revoked,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "u32", try_from = "u32")]
struct Version;

impl Hosts {
    /// Reads the list.
    ///
    /// # Errors
    /// Where it is damaged.
    pub fn parse(text: &str) -> Result<Self> {
        let hosts: Self = serde_json::from_str(text)?;
        for (place, host) in hosts.hosts.iter().enumerate() {
            check_name(&host.name)?;
            ensure!(
                hosts.hosts[..place].iter().all(|other| other.name != host.name),
                "`{}` is in it twice",
                host.name
            );
        }
        Ok(hosts)
    }

    /// The list as [`Hosts::parse`] takes it.
    ///
    /// # Errors
    /// Where it can't be written, which is never.
    pub fn text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// The hosts, in the order in which they were paired.
    pub fn all(&self) -> &[Host] {
        &self.hosts
    }

    /// What a certificate is worth at a time.
    pub fn standing(&self, certificate: &Fingerprint, now: Duration) -> Standing {
        let mut all = self.hosts.iter().flat_map(|host| host.certificates.iter().map(move |one| (host, one)));
        match all.find(|(_, one)| one.sha256 == *certificate) {
            Some((host, one)) if one.ends > now.as_secs() => Standing::Good(host.name.clone()),
            Some((host, _)) => Standing::Over(host.name.clone()),
            None => Standing::Revoked,
        }
    }

    /// Takes a host in. One of the same name is replaced: its certificates are worth nothing any more.
    ///
    /// # Errors
    /// Where the name is none, or there are too many hosts.
    pub fn pair(&mut self, name: &str, certificate: Certificate, now: Duration) -> Result<()> {
        check_name(name)?;
        self.revoke(name);
        ensure!(self.hosts.len() < MOST_HOSTS, "{MOST_HOSTS} hosts are paired already, which is the most");
        let host = Host { name: name.to_owned(), paired: now.as_secs(), certificates: vec![certificate] };
        self.hosts.push(host);
        Ok(())
    }

    /// Gives the host that has a certificate another. Those that are over are forgotten.
    ///
    /// # Errors
    /// Where no host has the first.
    pub fn renew(&mut self, has: &Fingerprint, another: Certificate, now: Duration) -> Result<()> {
        let mut hosts = self.hosts.iter_mut();
        let host = hosts.find(|host| host.certificates.iter().any(|one| one.sha256 == *has));
        let host = host.context("the certificate is no paired host's")?;
        host.certificates.retain(|one| one.ends > now.as_secs());
        host.certificates.push(another);
        let excess = host.certificates.len().saturating_sub(MOST_CERTIFICATES);
        host.certificates.drain(..excess);
        Ok(())
    }

    /// Forgets a host; whether it was there.
    pub fn revoke(&mut self, name: &str) -> bool {
        let before = self.hosts.len();
        self.hosts.retain(|host| host.name != name);
        self.hosts.len() < before
    }
}

/// Whether a host can be called so: by a DNS name (RFC 1123) of at most 64 characters.
///
/// # Errors
/// Where not.
pub fn check_name(name: &str) -> Result<()> {
    let label = |label: &str| {
        let inside = label.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'-');
        inside && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() > LONGEST_NAME || !name.split('.').all(label) {
        bail!(
            "`{}` is no host name: letters, digits, hyphens and dots make one, {LONGEST_NAME} characters at most",
            name.chars().take(LONGEST_NAME).collect::<String>().escape_debug()
        );
    }
    Ok(())
}

impl Fingerprint {
    /// That of a certificate (DER).
    pub fn of(certificate: &[u8]) -> Self {
        let mut octets = [0; 32];
        octets.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(octets)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is no SHA-256", text.escape_debug());
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        let mut octets = [0; 32];
        for (place, octet) in octets.iter_mut().enumerate() {
            *octet = u8::from_str_radix(&text[2 * place..][..2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(octets))
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Version> for u32 {
    fn from(_: Version) -> Self {
        1
    }
}

impl TryFrom<u32> for Version {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, String> {
        if number == 1 { Ok(Self) } else { Err(format!("it is of version {number}, and this agent knows 1")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn certificate(content: &str, ends: u64) -> Certificate {
        Certificate { sha256: Fingerprint::of(content.as_bytes()), ends }
    }

    fn standing(hosts: &Hosts, content: &str) -> Standing {
        hosts.standing(&Fingerprint::of(content.as_bytes()), NOW)
    }

    #[test]
    fn a_list_survives_being_written() {
        let mut hosts = Hosts::default();
        hosts.pair("node1", certificate("a", 2000), NOW).unwrap();
        let text = hosts.text().unwrap();
        assert_eq!(Hosts::parse(&text).unwrap(), hosts);
        assert!(
            text.contains("\"version\": 1")
                && text.contains("ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb")
        );
    }

    #[test]
    fn certificates_are_good_until_their_end_or_their_hosts() {
        let mut hosts = Hosts::default();
        hosts.pair("node1", certificate("a", 2000), NOW).unwrap();
        hosts.pair("node2", certificate("b", 1000), NOW).unwrap();
        assert_eq!(standing(&hosts, "a"), Standing::Good("node1".into()));
        assert_eq!(standing(&hosts, "b"), Standing::Over("node2".into()));
        assert_eq!(standing(&hosts, "c"), Standing::Revoked);
        hosts.renew(&Fingerprint::of(b"a"), certificate("c", 3000), NOW).unwrap();
        for both in ["a", "c"] {
            assert_eq!(standing(&hosts, both), Standing::Good("node1".into()));
        }
        assert!(hosts.renew(&Fingerprint::of(b"x"), certificate("d", 3000), NOW).is_err());
        assert!(hosts.revoke("node1") && !hosts.revoke("node1"));
        assert_eq!((standing(&hosts, "a"), standing(&hosts, "c")), (Standing::Revoked, Standing::Revoked));
    }

    #[test]
    fn a_host_that_pairs_again_starts_anew() {
        let mut hosts = Hosts::default();
        hosts.pair("node1", certificate("a", 2000), NOW).unwrap();
        hosts.pair("node1", certificate("b", 2000), NOW).unwrap();
        assert_eq!(standing(&hosts, "a"), Standing::Revoked);
        assert_eq!(standing(&hosts, "b"), Standing::Good("node1".into()));
    }

    #[test]
    fn lists_do_not_grow_without_end() {
        let mut hosts = Hosts::default();
        hosts.pair("node1", certificate("0", 2000), NOW).unwrap();
        for number in 1..20_u32 {
            let has = Fingerprint::of((number - 1).to_string().as_bytes());
            hosts.renew(&has, certificate(&number.to_string(), 2000), NOW).unwrap();
        }
        assert_eq!(hosts.all()[0].certificates.len(), MOST_CERTIFICATES);
        assert_eq!(standing(&hosts, "0"), Standing::Revoked);
        for number in 1..MOST_HOSTS {
            hosts.pair(&format!("other{number}"), certificate("z", 2000), NOW).unwrap();
        }
        assert!(hosts.pair("one-more", certificate("z", 2000), NOW).is_err());
    }

    #[test]
    fn names_are_those_of_hosts() {
        for good in ["node1", "a.example", "A-1.b"] {
            check_name(good).unwrap();
        }
        for bad in ["", "-a", "a-", "a..b", "a b", "a/b", "..", "a\n", "é", &"a".repeat(65), &"a".repeat(64)]
        {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn damage_is_told() {
        for (text, says) in [
            ("", "EOF"),
            ("{\"version\":2,\"hosts\":[]}", "it is of version 2, and this agent knows 1"),
            ("{\"version\":1,\"hosts\":[],\"x\":1}", "unknown field `x`"),
            (
                "{\"version\":1,\"hosts\":[{\"name\":\"a\",\"paired\":1,\"certificates\":[{\"sha256\":\"ab\",\"ends\":1}]}]}",
                "`ab` is no SHA-256",
            ),
            (
                "{\"version\":1,\"hosts\":[{\"name\":\"a\",\"paired\":1,\"certificates\":[]},{\"name\":\"a\",\"paired\":1,\"certificates\":[]}]}",
                "`a` is in it twice",
            ),
        ] {
            let error = Hosts::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: String, hash: String) {
            let _ = Hosts::parse(&text);
            let _ = hash.parse::<Fingerprint>();
            let _ = check_name(&text);
        }
    }
}
