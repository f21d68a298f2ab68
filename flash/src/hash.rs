//! The hashes that U-Boot can reckon too.

use std::fmt::Write as _;

use md5::Md5;
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// Which of U-Boot's hash commands a board has. Here they guard against errors of lines, memory and flash, not
/// against a person who forges: any of them serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    Md5,
    Sha1,
    Sha256,
}

impl Algorithm {
    /// Of all of these bytes, in lower-case hexadecimal digits.
    pub fn of(self, bytes: &[u8]) -> String {
        match self {
            Self::Md5 => digits(&Md5::digest(bytes)),
            Self::Sha1 => digits(&Sha1::digest(bytes)),
            Self::Sha256 => digits(&Sha256::digest(bytes)),
        }
    }
}

fn digits(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_algorithm_is_the_one_that_it_is_called() {
        // RFC 1321, FIPS 180-4: of "abc".
        let of = |algorithm: Algorithm| algorithm.of(b"abc");
        assert_eq!(of(Algorithm::Md5), "900150983cd24fb0d6963f7d28e17f72");
        assert_eq!(of(Algorithm::Sha1), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(of(Algorithm::Sha256), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
