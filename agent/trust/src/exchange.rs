//! The pairing's cryptography, both sides, without any network. What it is for is in the crate's page.

use std::fmt;

use anyhow::{Result, anyhow};
use ring::hkdf::{HKDF_SHA256, Salt};
use ring::hmac::{self, HMAC_SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};
use spake2::{Ed25519Group, Identity, Password, Spake2};

use crate::{Code, HostKey, PublicKey};

/// The secret that both ends of one TLS connection share, and nobody else (RFC 9266, `tls-exporter`).
pub type Binding = [u8; 32];
/// The name of a session.
pub type Session = [u8; 16];

const HOST: &[u8] = b"dpukit host";
const CARD: &[u8] = b"dpukit card";

/// What a host says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// What it is to be called.
    pub name: String,
    /// Its public key.
    pub key: PublicKey,
    /// Its clock, in seconds since 1970-01-01 UTC.
    pub time: u64,
}

/// The proof does not fit: another code, another connection, or something was changed on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wrong;

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the two sides do not have the same code, or something is between them")
    }
}

impl std::error::Error for Wrong {}

/// All that was said, so that no two different histories look the same.
#[derive(Clone)]
struct Transcript(Vec<u8>);

impl Transcript {
    fn new(binding: &Binding) -> Self {
        let mut transcript = Self(Vec::new());
        transcript.put(b"dpukit pairing 1");
        transcript.put(binding);
        transcript
    }

    fn put(&mut self, part: &[u8]) {
        self.0.extend((part.len() as u64).to_be_bytes());
        self.0.extend(part);
    }

    fn put_claim(&mut self, claim: &Claim) {
        self.put(claim.name.as_bytes());
        self.put(&claim.key.0);
        self.put(&claim.time.to_be_bytes());
    }
}

/// The keys of both proofs.
struct Keys {
    host: hmac::Key,
    card: hmac::Key,
}

impl Keys {
    fn of(secret: &[u8]) -> Result<Self> {
        let secret = Salt::new(HKDF_SHA256, b"dpukit pairing 1").extract(secret);
        let key = |whose: &[u8]| {
            let info = [whose];
            let octets = secret.expand(&info, HMAC_SHA256).map_err(|_| anyhow!("deriving a key"))?;
            Ok::<_, anyhow::Error>(hmac::Key::from(octets))
        };
        Ok(Self { host: key(HOST)?, card: key(CARD)? })
    }
}

fn identities() -> (Identity, Identity) {
    (Identity::new(HOST), Identity::new(CARD))
}

/// A host that waits for the card's message.
pub struct HostStart {
    spake: Spake2<Ed25519Group>,
    transcript: Transcript,
}

/// A host that waits for the card's proof.
pub struct HostFinish {
    key: hmac::Key,
    transcript: Transcript,
}

/// What a host sends to end a session.
pub struct Answer {
    /// The signature by the host's key.
    pub possession: Vec<u8>,
    /// The proof that the host has the code.
    pub proof: Vec<u8>,
}

impl HostStart {
    /// Begins, with the message to the card.
    pub fn new(code: &Code, binding: &Binding) -> (Self, Vec<u8>) {
        let (host, card) = identities();
        let (spake, message) = Spake2::start_a(&Password::new(code.characters()), &host, &card);
        let mut transcript = Transcript::new(binding);
        transcript.put(&message);
        (Self { spake, transcript }, message)
    }

    /// Takes the card's message, and proves all.
    ///
    /// # Errors
    /// Where the message is none, or the key can't sign.
    pub fn answer(
        self,
        session: &[u8],
        message: &[u8],
        claim: &Claim,
        key: &HostKey,
    ) -> Result<(HostFinish, Answer)> {
        let secret = self.spake.finish(message).map_err(|error| anyhow!("the card's message: {error}"))?;
        let keys = Keys::of(&secret)?;
        let mut transcript = self.transcript;
        transcript.put(message);
        transcript.put(session);
        transcript.put_claim(claim);
        let possession = key.sign(&transcript.0)?;
        transcript.put(&possession);
        let proof = hmac::sign(&keys.host, &transcript.0).as_ref().to_vec();
        transcript.put(&proof);
        Ok((HostFinish { key: keys.card, transcript }, Answer { possession, proof }))
    }
}

impl HostFinish {
    /// Whether a card that has the code gave these certificates (DER).
    ///
    /// # Errors
    /// [`Wrong`] where not.
    pub fn check(mut self, authority: &[u8], certificate: &[u8], proof: &[u8]) -> Result<(), Wrong> {
        self.transcript.put(authority);
        self.transcript.put(certificate);
        hmac::verify(&self.key, &self.transcript.0, proof).map_err(|_| Wrong)
    }
}

/// A card that waits for a host's proof.
pub struct CardStart {
    keys: Keys,
    transcript: Transcript,
}

/// A card that knows the host, and is to prove itself.
pub struct CardFinish {
    key: hmac::Key,
    transcript: Transcript,
}

impl CardStart {
    /// Takes a host's message; gives the session's name and the message to the host.
    ///
    /// # Errors
    /// Where the message is none, or the system has no random numbers.
    pub fn new(code: &Code, binding: &Binding, message: &[u8]) -> Result<(Self, Session, Vec<u8>)> {
        let mut session = Session::default();
        SystemRandom::new().fill(&mut session).map_err(|_| anyhow!("the system gives no random numbers"))?;
        let (host, card) = identities();
        let (spake, answer) =
            Spake2::<Ed25519Group>::start_b(&Password::new(code.characters()), &host, &card);
        let secret = spake.finish(message).map_err(|error| anyhow!("the host's message: {error}"))?;
        let mut transcript = Transcript::new(binding);
        for part in [message, &answer, &session] {
            transcript.put(part);
        }
        Ok((Self { keys: Keys::of(&secret)?, transcript }, session, answer))
    }

    /// Whether the host has the code, and the key that it claims.
    ///
    /// # Errors
    /// [`Wrong`] where not.
    pub fn check(mut self, claim: &Claim, possession: &[u8], proof: &[u8]) -> Result<CardFinish, Wrong> {
        self.transcript.put_claim(claim);
        let signed = self.transcript.0.clone();
        self.transcript.put(possession);
        hmac::verify(&self.keys.host, &self.transcript.0, proof).map_err(|_| Wrong)?;
        self.transcript.put(proof);
        if !claim.key.signed(&signed, possession) {
            return Err(Wrong);
        }
        Ok(CardFinish { key: self.keys.card, transcript: self.transcript })
    }
}

impl CardFinish {
    /// The card's proof that it gives these certificates (DER).
    pub fn prove(mut self, authority: &[u8], certificate: &[u8]) -> Vec<u8> {
        self.transcript.put(authority);
        self.transcript.put(certificate);
        hmac::sign(&self.key, &self.transcript.0).as_ref().to_vec()
    }
}

/// What a host signs with its new key to renew: this connection, and nothing that could be used elsewhere.
pub fn renewal(binding: &Binding, key: PublicKey, time: u64) -> Vec<u8> {
    let mut transcript = Transcript(Vec::new());
    for part in [&b"dpukit renewal 1"[..], binding, &key.0, &time.to_be_bytes()] {
        transcript.put(part);
    }
    transcript.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What came over the wire in one pairing, with a change for the worse.
    #[derive(Default)]
    struct Change {
        card_code: Option<&'static str>,
        card_binding: Option<Binding>,
        name: Option<&'static str>,
        key: Option<PublicKey>,
        time: Option<u64>,
        session: Option<Session>,
        authority: Option<&'static [u8]>,
        certificate: Option<&'static [u8]>,
    }

    /// How far a pairing comes: whether the card takes the host, and the host the card.
    fn pair(change: &Change) -> (bool, bool) {
        let code: Code = "ACDEF-GHJKM".parse().unwrap();
        let card_code = change.card_code.map_or(code.clone(), |code| code.parse().unwrap());
        let binding = [7; 32];
        let (host, first) = HostStart::new(&code, &binding);
        let card_binding = change.card_binding.unwrap_or(binding);
        let (card, session, second) = CardStart::new(&card_code, &card_binding, &first).unwrap();
        let key = HostKey::random().unwrap();
        let mut claim = Claim { name: "node1".into(), key: key.public().unwrap(), time: 1_700_000_000 };
        let session = change.session.unwrap_or(session);
        let (host, answer) = host.answer(&session, &second, &claim, &key).unwrap();
        claim.name = change.name.unwrap_or("node1").to_owned();
        claim.key = change.key.unwrap_or(claim.key);
        claim.time = change.time.unwrap_or(claim.time);
        let Ok(card) = card.check(&claim, &answer.possession, &answer.proof) else { return (false, false) };
        let proof = card.prove(b"authority", b"certificate");
        let authority = change.authority.unwrap_or(b"authority");
        let certificate = change.certificate.unwrap_or(b"certificate");
        (true, host.check(authority, certificate, &proof).is_ok())
    }

    #[test]
    fn two_who_share_a_code_pair_and_any_change_on_the_way_is_found_out() {
        assert_eq!(pair(&Change::default()), (true, true));
        let other = HostKey::random().unwrap().public().unwrap();
        for change in [
            Change { card_code: Some("ACDEF-GHJKN"), ..Change::default() },
            Change { card_binding: Some([8; 32]), ..Change::default() },
            Change { name: Some("node2"), ..Change::default() },
            Change { key: Some(other), ..Change::default() },
            Change { time: Some(1), ..Change::default() },
            Change { session: Some([0; 16]), ..Change::default() },
        ] {
            assert_eq!(pair(&change), (false, false));
        }
        assert_eq!(pair(&Change { authority: Some(b"another"), ..Change::default() }), (true, false));
        assert_eq!(pair(&Change { certificate: Some(b"another"), ..Change::default() }), (true, false));
        // What moves from one part to the next is another history.
        let moved =
            Change { authority: Some(b"authorityc"), certificate: Some(b"ertificate"), ..Change::default() };
        assert_eq!(pair(&moved), (true, false));
    }

    #[test]
    fn a_recorded_proof_is_no_proof_in_another_session() {
        let code: Code = "ACDEF-GHJKM".parse().unwrap();
        let binding = [7; 32];
        let (host, first) = HostStart::new(&code, &binding);
        let (card, session, second) = CardStart::new(&code, &binding, &first).unwrap();
        let key = HostKey::random().unwrap();
        let claim = Claim { name: "node1".into(), key: key.public().unwrap(), time: 1 };
        let (_, answer) = host.answer(&session, &second, &claim, &key).unwrap();
        let (again, ..) = CardStart::new(&code, &binding, &first).unwrap();
        assert_eq!(again.check(&claim, &answer.possession, &answer.proof).err(), Some(Wrong));
        assert!(card.check(&claim, &answer.possession, &answer.proof).is_ok());
    }

    #[test]
    fn a_card_that_sends_the_hosts_own_message_back_is_refused() {
        let code: Code = "ACDEF-GHJKM".parse().unwrap();
        let (host, first) = HostStart::new(&code, &[7; 32]);
        let key = HostKey::random().unwrap();
        let claim = Claim { name: "node1".into(), key: key.public().unwrap(), time: 1 };
        assert!(host.answer(&[0; 16], &first, &claim, &key).is_err());
    }

    #[test]
    fn a_key_that_its_owner_does_not_have_gets_no_certificate() {
        let code: Code = "ACDEF-GHJKM".parse().unwrap();
        let (host, first) = HostStart::new(&code, &[7; 32]);
        let (card, session, second) = CardStart::new(&code, &[7; 32], &first).unwrap();
        let (mine, theirs) = (HostKey::random().unwrap(), HostKey::random().unwrap());
        let claim = Claim { name: "node1".into(), key: theirs.public().unwrap(), time: 1 };
        let (_, answer) = host.answer(&session, &second, &claim, &mine).unwrap();
        assert!(card.check(&claim, &answer.possession, &answer.proof).is_err());
    }

    proptest! {
        #[test]
        fn no_message_makes_a_card_panic_or_believe(
            message in prop::collection::vec(any::<u8>(), 0..40),
            point in prop::collection::vec(any::<u8>(), 32),
            name: String,
            possession in prop::collection::vec(any::<u8>(), 0..70),
            proof in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let code: Code = "ACDEF-GHJKM".parse().unwrap();
            let point = [&b"A"[..], &point].concat();
            for message in [message, point] {
                if let Ok((card, ..)) = CardStart::new(&code, &[7; 32], &message) {
                    let claim = Claim { name: name.clone(), key: PublicKey([3; 32]), time: 1 };
                    prop_assert!(card.check(&claim, &possession, &proof).is_err());
                }
            }
        }

        #[test]
        fn no_message_makes_a_host_panic_or_believe(
            message in prop::collection::vec(any::<u8>(), 0..40),
            point in prop::collection::vec(any::<u8>(), 32),
            session in prop::collection::vec(any::<u8>(), 0..20),
            proof in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let code: Code = "ACDEF-GHJKM".parse().unwrap();
            let key = HostKey::random().unwrap();
            let claim = Claim { name: "node1".into(), key: key.public().unwrap(), time: 1 };
            let point = [&b"B"[..], &point].concat();
            for message in [message, point] {
                let (host, _) = HostStart::new(&code, &[7; 32]);
                if let Ok((host, _)) = host.answer(&session, &message, &claim, &key) {
                    prop_assert!(host.check(b"authority", b"certificate", &proof).is_err());
                }
            }
        }
    }
}
