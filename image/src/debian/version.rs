//! Versions of Debian packages and their order (Debian Policy 5.6.12).

use std::cmp::Ordering;
use std::fmt;

use anyhow::{Result, bail, ensure};

/// A version, `[epoch:]upstream[-revision]`, borrowed from the text it was read from.
///
/// Two versions can be equal without being the same text: `1.0` is `0:1.00-0`.
#[derive(Debug, Clone, Copy)]
pub struct Version<'a> {
    text: &'a str,
    epoch: u32,
    upstream: &'a str,
    revision: &'a str,
}

impl<'a> Version<'a> {
    /// Reads a version as `dpkg` does: the epoch is a number, the upstream part is not empty and
    /// has only `A-Z a-z 0-9 . + - ~ :`, and the revision only `A-Z a-z 0-9 . + ~`.
    pub fn parse(text: &'a str) -> Result<Self> {
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) => (parse_epoch(text, epoch)?, rest),
            None => (0, text),
        };
        let (upstream, revision) = match rest.rsplit_once('-') {
            Some((_, "")) => bail!("version `{text}` ends in `-`: a revision must follow"),
            Some(parts) => parts,
            None => (rest, ""),
        };
        ensure!(!upstream.is_empty(), "version `{text}` has no upstream part");
        if let Some(wrong) = upstream.chars().find(|c| !is_allowed(*c) && !matches!(c, '-' | ':')) {
            bail!("version `{text}` has `{}`, which no version may have", wrong.escape_default());
        }
        if let Some(wrong) = revision.chars().find(|c| !is_allowed(*c)) {
            bail!("version `{text}` has `{}` in its revision", wrong.escape_default());
        }
        Ok(Self { text, epoch, upstream, revision })
    }

    /// The text that was read.
    pub fn as_str(&self) -> &'a str {
        self.text
    }
}

impl fmt::Display for Version<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text)
    }
}

impl Ord for Version<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.epoch
            .cmp(&other.epoch)
            .then_with(|| compare_part(self.upstream.as_bytes(), other.upstream.as_bytes()))
            .then_with(|| compare_part(self.revision.as_bytes(), other.revision.as_bytes()))
    }
}

impl PartialOrd for Version<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version<'_> {}

fn parse_epoch(text: &str, epoch: &str) -> Result<u32> {
    // dpkg keeps the epoch in a signed `int`.
    let number = epoch.parse::<u32>().ok().filter(|number| i32::try_from(*number).is_ok());
    match number {
        Some(number) if epoch.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number),
        _ => bail!("version `{text}` has the epoch `{epoch}`, which is not a number up to {}", i32::MAX),
    }
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '~')
}

/// Compares by turns a stretch without digits and a number, until one differs.
fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let (text_a, text_b) = (take_while(&mut a, is_text), take_while(&mut b, is_text));
        let (number_a, number_b) = (take_while(&mut a, is_digit), take_while(&mut b, is_digit));
        let order = compare_text(text_a, text_b).then_with(|| compare_number(number_a, number_b));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

/// Cuts off and gives the longest start whose bytes all are `wanted`.
fn take_while<'a>(bytes: &mut &'a [u8], wanted: fn(u8) -> bool) -> &'a [u8] {
    let end = bytes.iter().position(|byte| !wanted(*byte)).unwrap_or(bytes.len());
    let (start, rest) = bytes.split_at(end);
    *bytes = rest;
    start
}

fn is_digit(byte: u8) -> bool {
    byte.is_ascii_digit()
}

fn is_text(byte: u8) -> bool {
    !is_digit(byte)
}

/// `~` sorts before the end, the end before letters, letters before all else.
fn compare_text(a: &[u8], b: &[u8]) -> Ordering {
    let rank = |byte: Option<&u8>| match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i16::from(*byte),
        Some(byte) => i16::from(*byte) + 256,
    };
    (0..a.len().max(b.len()))
        .map(|at| rank(a.get(at)).cmp(&rank(b.get(at))))
        .find(|order| order.is_ne())
        .unwrap_or(Ordering::Equal)
}

/// Compares numbers of any length: without leading zeros, the longer is the greater.
fn compare_number(mut a: &[u8], mut b: &[u8]) -> Ordering {
    take_while(&mut a, |byte| byte == b'0');
    take_while(&mut b, |byte| byte == b'0');
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn compare(a: &str, b: &str) -> Ordering {
        Version::parse(a).unwrap().cmp(&Version::parse(b).unwrap())
    }

    /// What `dpkg` says, or `None` where there is no `dpkg`.
    fn dpkg(a: &str, operator: &str, b: &str) -> Option<bool> {
        let status = Command::new("dpkg").args(["--compare-versions", a, operator, b]).status().ok()?;
        Some(status.success())
    }

    #[test]
    fn versions_are_in_the_order_of_policy() {
        // Policy's own chain for `~`, then cases that other implementations got wrong once.
        let chain = ["1.0~~", "1.0~~a", "1.0~", "1.0", "1.0a", "1.0+b1", "1.0.1", "1.9", "1.10", "1:0.1"];
        for (at, low) in chain.iter().enumerate() {
            for high in &chain[at + 1..] {
                assert_eq!(compare(low, high), Ordering::Less, "{low} < {high}");
                assert_eq!(compare(high, low), Ordering::Greater, "{high} > {low}");
            }
        }
        for (low, high) in [
            ("1.0-1", "1.0-1+b1"),
            ("1.0-1~bpo13+1", "1.0-1"),
            ("1.0-1", "1.0-1+deb13u1"),
            ("1-2-3", "1-2-4"),
            ("0.99999999999999999999", "0.100000000000000000000"),
            ("1a", "1+"),
        ] {
            assert_eq!(compare(low, high), Ordering::Less, "{low} < {high}");
        }
    }

    #[test]
    fn equal_versions_need_not_be_the_same_text() {
        for (a, b) in [("1.0", "0:1.0"), ("1.0", "1.0-0"), ("1.0", "1.00"), ("1.", "1.0"), ("01", "1")] {
            assert_eq!(compare(a, b), Ordering::Equal, "{a} = {b}");
        }
    }

    #[test]
    fn what_is_not_a_version_is_refused() {
        for text in
            ["", "-1", "1:", ":1", "a:1", "+1:1", "1.0-", "1 0", "1.0_1", "1-1:2", "é", "99999999999:1"]
        {
            assert!(Version::parse(text).is_err(), "{text}");
        }
    }

    fn version() -> impl Strategy<Value = String> {
        // Few different signs, so that shared starts and near misses are common.
        ("([0-2]:)?", "[0-2][0-2a+.~]{0,5}", "(-[0-2a+.~]{1,3})?")
            .prop_map(|(epoch, upstream, revision)| format!("{epoch}{upstream}{revision}"))
    }

    #[test]
    fn the_order_agrees_with_dpkg() {
        let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(100));
        runner
            .run(&(version(), version()), |(a, b)| {
                if let Some(less) = dpkg(&a, "lt", &b) {
                    prop_assert_eq!(compare(&a, &b).is_lt(), less, "{} < {}", a, b);
                    prop_assert_eq!(Some(compare(&a, &b).is_eq()), dpkg(&a, "eq", &b), "{} = {}", a, b);
                }
                Ok(())
            })
            .unwrap();
    }

    proptest! {
        #[test]
        fn the_order_is_total(a in version(), b in version(), c in version()) {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,12}") {
            if let Ok(version) = Version::parse(&text) {
                prop_assert_eq!(version.as_str(), text.as_str());
                prop_assert_eq!(version, version);
            }
        }
    }
}
