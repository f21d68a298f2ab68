//! Differences that are meant, with their reasons: `image/root-differences.toml`.
//!
//! ```toml
//! [[difference]]
//! reason = "the packages' own state: no package manager runs on a card"
//! missing = ["var/lib/dpkg/**"]
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use globset::{GlobBuilder, GlobMatcher};
use serde::Deserialize;

use super::compare::{Difference, What};

/// What is declared, each pattern by itself.
#[derive(Debug)]
pub struct Declarations {
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    what: What,
    glob: GlobMatcher,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    difference: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    reason: String,
    /// Patterns of paths by what differs.
    #[serde(flatten)]
    paths: BTreeMap<String, Vec<String>>,
}

impl Declarations {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let context = || format!("reading `{}`", path.display());
        Self::parse(&std::fs::read_to_string(path).with_context(context)?).with_context(context)
    }

    fn parse(text: &str) -> Result<Self> {
        let raw: Raw = toml::from_str(text)?;
        let mut patterns = Vec::new();
        for entry in raw.difference {
            ensure!(!entry.reason.trim().is_empty(), "a difference has no reason");
            for (key, globs) in entry.paths {
                let what =
                    What::deserialize(serde::de::value::StrDeserializer::<toml::de::Error>::new(&key))?;
                for glob in globs {
                    let glob = GlobBuilder::new(&glob).literal_separator(true).build()?.compile_matcher();
                    patterns.push(Pattern { what, glob });
                }
            }
        }
        Ok(Self { patterns })
    }

    /// Whether the difference is meant.
    pub fn covers(&self, difference: &Difference) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(difference))
    }

    /// A line for each pattern that no difference meets: what it was for is gone.
    pub fn unused(&self, differences: &[Difference]) -> Vec<String> {
        let is_unused =
            |pattern: &&Pattern| !differences.iter().any(|difference| pattern.matches(difference));
        let line = |pattern: &Pattern| {
            let what = format!("{:?}", pattern.what).to_lowercase();
            format!("unused   `{}` is declared as {what}, and does not differ so", pattern.glob.glob())
        };
        self.patterns.iter().filter(is_unused).map(line).collect()
    }
}

impl Pattern {
    fn matches(&self, difference: &Difference) -> bool {
        self.what == difference.what && self.glob.is_match(&difference.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(path: &str, what: What) -> Difference {
        Difference { path: path.into(), what, ours: String::new(), theirs: String::new() }
    }

    #[test]
    fn only_what_is_declared_is_covered_and_what_is_not_met_is_unused() {
        let text =
            "[[difference]]\nreason = \"x\"\nmissing = [\"var/**\", \"etc/gone\"]\nmode = [\"etc/m\"]\n";
        let declared = Declarations::parse(text).unwrap();
        let found = [difference("var/a/b", What::Missing), difference("etc/m", What::Mode)];
        assert!(found.iter().all(|difference| declared.covers(difference)));
        assert!(!declared.covers(&difference("var/a/b", What::Mode)));
        assert!(!declared.covers(&difference("etc/other", What::Missing)));
        assert_eq!(
            declared.unused(&found),
            ["unused   `etc/gone` is declared as missing, and does not differ so"]
        );
    }

    #[test]
    fn a_reason_and_a_known_word_are_wanted() {
        for wrong in [
            "[[difference]]\nreason = \" \"\n",
            "[[difference]]\nmissing = []\n",
            "[[difference]]\nreason = \"x\"\nmising = [\"a\"]\n",
        ] {
            assert!(Declarations::parse(wrong).is_err(), "{wrong}");
        }
    }
}
