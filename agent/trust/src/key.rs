//! Keys: Ed25519 everywhere, whose public keys are 32 octets with no wrong encoding to trip over.

use std::fmt;

use anyhow::{Context as _, Result, anyhow};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData, SignatureAlgorithm, SigningKey as _};
use ring::signature::{ED25519, UnparsedPublicKey};

/// A host's public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Whether this key's owner signed it.
    pub fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

impl PublicKeyData for PublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

/// A private key with its public key.
pub struct HostKey(KeyPair);

impl HostKey {
    /// A new key.
    ///
    /// # Errors
    /// Where the system has no random numbers.
    pub fn random() -> Result<Self> {
        KeyPair::generate_for(&PKCS_ED25519).map(Self).context("making a key")
    }

    /// The public key.
    ///
    /// # Errors
    /// Never for a key of [`HostKey::random`].
    pub fn public(&self) -> Result<PublicKey> {
        let octets = self.0.public_key_raw().try_into();
        octets.map(PublicKey).map_err(|_| anyhow!("the key is not one of Ed25519"))
    }

    /// A signature.
    ///
    /// # Errors
    /// Where the key can't sign.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>> {
        self.0.sign(message).context("signing")
    }

    /// The private key as PEM (PKCS #8), for a file that only its owner may read.
    pub fn pem(&self) -> String {
        self.0.serialize_pem()
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HostKey(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_of_one_key_and_one_message() {
        let (key, other) = (HostKey::random().unwrap(), HostKey::random().unwrap());
        let signature = key.sign(b"message").unwrap();
        assert!(key.public().unwrap().signed(b"message", &signature));
        assert!(!key.public().unwrap().signed(b"another", &signature));
        assert!(!other.public().unwrap().signed(b"message", &signature));
        assert!(!PublicKey([0; 32]).signed(b"message", &signature));
        assert!(!key.public().unwrap().signed(b"message", b""));
        assert_eq!(format!("{key:?}"), "HostKey(hidden)");
    }
}
