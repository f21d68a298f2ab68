//! The short code that a person carries from the card to the host.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, anyhow, bail};
use ring::rand::{SecureRandom as _, SystemRandom};

/// Letters and digits that nobody takes for another: no B, I, L, O, S, U, Z, 0 and 1.
const ALPHABET: &[u8; 27] = b"ACDEFGHJKMNPQRTVWXY23456789";

/// What is written for a letter that looks like it.
const LOOKALIKES: [(char, char); 3] = [('B', '8'), ('S', '5'), ('Z', '2')];

/// A code. It is not to be found in any log: `{:?}` hides it, `{}` is for the card's console.
#[derive(Clone, PartialEq, Eq)]
pub struct Code(String);

impl Code {
    /// How many characters a code of ours has: 47 bits.
    const LENGTH: usize = 10;
    /// How many characters a code that is given must have at least (38 bits), and may have at most.
    const GIVEN: std::ops::RangeInclusive<usize> = 8..=32;

    /// A new code.
    ///
    /// # Errors
    /// Where the system has no random numbers.
    pub fn random() -> Result<Self> {
        // The largest multiple of 27 that fits: all characters are equally likely below it.
        const FAIR: u8 = 243;
        let random = SystemRandom::new();
        let mut code = String::new();
        while code.len() < Self::LENGTH {
            let mut octets = [0; 32];
            random.fill(&mut octets).map_err(|_| anyhow!("the system gives no random numbers"))?;
            let fair = octets.into_iter().filter(|octet| *octet < FAIR);
            let missing = Self::LENGTH - code.len();
            code.extend(fair.map(|octet| char::from(ALPHABET[usize::from(octet % 27)])).take(missing));
        }
        Ok(Self(code))
    }

    /// The characters, without any between them.
    pub fn characters(&self) -> &str {
        &self.0
    }
}

/// Reads what a person wrote: small letters, spaces and hyphens do not matter.
impl FromStr for Code {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut code = String::new();
        for character in text.chars().filter(|one| !one.is_whitespace() && *one != '-') {
            let character = character.to_ascii_uppercase();
            let meant = LOOKALIKES.iter().find(|(written, _)| *written == character);
            let character = meant.map_or(character, |(_, meant)| *meant);
            if !u8::try_from(character).is_ok_and(|octet| ALPHABET.contains(&octet)) {
                // The character alone gives nothing away.
                bail!("no pairing code has `{}` in it", character.escape_default());
            }
            code.push(character);
            if code.len() > *Self::GIVEN.end() {
                break;
            }
        }
        if !Self::GIVEN.contains(&code.len()) {
            let (least, most) = Self::GIVEN.into_inner();
            bail!("a pairing code has from {least} to {most} characters, hyphens aside");
        }
        Ok(Self(code))
    }
}

/// As the console shows it: in groups of five.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, character) in self.0.chars().enumerate() {
            if place > 0 && place % 5 == 0 {
                f.write_str("-")?;
            }
            write!(f, "{character}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Code(hidden)")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn codes_are_all_different_and_use_the_whole_alphabet() {
        let codes: Vec<_> = (0..500).map(|_| Code::random().unwrap()).collect();
        let different: BTreeSet<_> = codes.iter().map(|code| code.characters().to_owned()).collect();
        assert_eq!(different.len(), codes.len());
        let used: BTreeSet<_> = codes.iter().flat_map(|code| code.characters().bytes()).collect();
        assert_eq!(used, ALPHABET.iter().copied().collect());
        assert!(codes.iter().all(|code| code.characters().len() == 10));
    }

    #[test]
    fn what_a_person_writes_is_understood() {
        let code: Code = "ACDEF-GHJK8".parse().unwrap();
        for written in ["acdef ghjk8", "ACDEFGHJKB", " a-c-d-e-f-g-h-j-k-b\n"] {
            assert_eq!(written.parse::<Code>().unwrap(), code, "{written}");
        }
        assert_eq!(code.to_string(), "ACDEF-GHJK8");
        assert_eq!(format!("{code:?}"), "Code(hidden)");
    }

    #[test]
    fn what_is_no_code_is_told_without_showing_it() {
        for (written, says) in [
            ("ACDEF-GHJK0", "no pairing code has `0` in it"),
            ("ACDEFGH", "a pairing code has from 8 to 32 characters, hyphens aside"),
            ("", "a pairing code has from 8 to 32 characters, hyphens aside"),
            ("ACDEF-GHJKÄ", "no pairing code has `\\u{c4}` in it"),
        ] {
            assert_eq!(written.parse::<Code>().unwrap_err().to_string(), says);
        }
        assert!("A".repeat(33).parse::<Code>().is_err());
    }

    proptest! {
        #[test]
        fn a_code_survives_being_shown(text in "[ACDEFGHJKMNPQRTVWXY2-9]{8,32}") {
            let code: Code = text.parse().unwrap();
            prop_assert_eq!(code.to_string().parse::<Code>().unwrap(), code);
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<Code>();
        }
    }
}
