//! Tables of options that users of the image rely on.
//!
//! ```toml
//! description = "What Cilium asks of a kernel"
//!
//! [[group]]
//! name = "bandwidth manager"        # shown with each finding
//! want = "m"                        # "y": built in, "m": a module or built in, "n": off
//! options = ["NET_SCH_FQ"]          # without `CONFIG_`
//! reason = "pods' rates are kept by the queue discipline fq"
//! source = "https://docs.cilium.io/en/v1.17/operations/system_requirements/"
//! since = "5.10"                    # optional: the first kernel that has the options
//! until = "6.6"                     # optional: the last kernel that has them, 6.6.x included
//! ```
//! In the place of `want`, `contains = "loadpin"` asks for a text option that lists this word.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::config::{Config, is_name};
use crate::pages::Pages;

/// A checked table.
#[derive(Debug, Clone)]
pub struct Requirements {
    /// The file's name without `.toml`.
    pub name: String,
    /// Whom the table serves.
    pub description: String,
    groups: Vec<Group>,
}

#[derive(Debug, Clone)]
struct Group {
    name: String,
    want: Want,
    options: Vec<String>,
    reason: String,
    source: String,
    since: Option<Version>,
    until: Option<Version>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Want {
    BuiltIn,
    Available,
    Off,
    Contains(String),
}

/// One option of a table, looked up in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The table's name.
    pub table: String,
    /// The group's name.
    pub group: String,
    /// The option, without `CONFIG_`.
    pub option: String,
    /// Its value in the configuration.
    pub value: String,
    /// What the table wants, in words.
    pub want: String,
    /// Why the table wants it.
    pub reason: String,
    /// Where that is written.
    pub source: String,
    /// Whether the wish is met.
    pub outcome: Outcome,
}

/// Whether a requirement is met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// As wanted.
    Met,
    /// This version of the kernel does not have the option.
    NotApplicable,
    /// Not as wanted.
    Unmet,
}

/// A kernel's version, or the beginning of one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version(Vec<u32>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTable {
    description: String,
    group: Vec<RawGroup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawGroup {
    name: String,
    want: Option<RawWant>,
    contains: Option<String>,
    options: Vec<String>,
    reason: String,
    source: String,
    since: Option<String>,
    until: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawWant {
    Y,
    M,
    N,
}

impl Requirements {
    /// Reads `<name>.toml`.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading `{}`", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text).with_context(|| format!("reading the requirements `{}`", path.display()))
    }

    /// Checks a table's text.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let raw: RawTable = toml::from_str(text)?;
        let mut seen = BTreeMap::<String, String>::new();
        let mut groups = Vec::new();
        for raw in raw.group {
            let name = raw.name.clone();
            let group = Group::checked(raw).with_context(|| format!("in the group `{name}`"))?;
            for option in &group.options {
                if let Some(other) = seen.insert(option.clone(), name.clone()) {
                    bail!("`{option}` is in the group `{other}` and again in `{name}`");
                }
            }
            groups.push(group);
        }
        Ok(Self { name: name.into(), description: raw.description, groups })
    }

    /// Reads the tables of these names in `folder`, for a kernel with such pages: the tables name the option of the
    /// default's.
    pub fn load_all(folder: &Path, names: &[String], pages: Pages) -> Result<Vec<Self>> {
        let tables = names.iter().map(|name| {
            let mut table = Self::load(&folder.join(format!("{name}.toml")))?;
            for option in table.groups.iter_mut().flat_map(|group| &mut group.options) {
                if option == Pages::default().option() {
                    pages.option().clone_into(option);
                }
            }
            Ok(table)
        });
        tables.collect()
    }

    /// The options that the table looks at.
    pub fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.groups.iter().flat_map(|group| group.options.iter().cloned())
    }
}

impl Group {
    fn checked(raw: RawGroup) -> Result<Self> {
        for (key, text) in [("name", &raw.name), ("reason", &raw.reason), ("source", &raw.source)] {
            if text.trim().is_empty() {
                bail!("`{key}` is empty");
            }
        }
        let want = match (raw.want, raw.contains) {
            (Some(RawWant::Y), None) => Want::BuiltIn,
            (Some(RawWant::M), None) => Want::Available,
            (Some(RawWant::N), None) => Want::Off,
            (None, Some(word)) if !word.is_empty() => Want::Contains(word),
            _ => bail!("give either `want`, as `y`, `m` or `n`, or `contains`, a word"),
        };
        if raw.options.is_empty() {
            bail!("`options` is empty");
        }
        if let Some(option) = raw.options.iter().find(|name| !is_name(name) || name.starts_with("CONFIG_")) {
            bail!("`{option}` is no option's name; write it in capital letters without `CONFIG_`");
        }
        let version = |text: Option<String>| text.map(|text| Version::parse(&text)).transpose();
        Ok(Self {
            name: raw.name,
            want,
            options: raw.options,
            reason: raw.reason,
            source: raw.source,
            since: version(raw.since).context("in `since`")?,
            until: version(raw.until).context("in `until`")?,
        })
    }

    fn applies(&self, version: &Version) -> bool {
        self.since.as_ref().is_none_or(|since| version.first(since.0.len()) >= since.0.as_slice())
            && self.until.as_ref().is_none_or(|until| version.first(until.0.len()) <= until.0.as_slice())
    }
}

impl Want {
    fn met_by(&self, value: &str) -> bool {
        match self {
            Self::BuiltIn => value == "y",
            Self::Available => matches!(value, "y" | "m"),
            Self::Off => value == "n",
            Self::Contains(word) => value.trim_matches('"').split([',', ' ']).any(|part| part == word),
        }
    }
}

impl fmt::Display for Want {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("y"),
            Self::Available => f.write_str("m or y"),
            Self::Off => f.write_str("n"),
            Self::Contains(word) => write!(f, "a list with `{word}`"),
        }
    }
}

impl Version {
    /// `6.1.192`, also `6.1.192-dpukit` or `6.12-rc1`, whose ends do not count.
    fn parse(text: &str) -> Result<Self> {
        let digits = text.split(|c: char| !(c.is_ascii_digit() || c == '.')).next().unwrap_or_default();
        let parts = digits.split('.').map(str::parse).collect::<Result<Vec<u32>, _>>();
        parts.map(Self).ok().with_context(|| format!("`{text}` is no kernel version as `6.1` or `6.1.192`"))
    }

    fn first(&self, parts: usize) -> &[u32] {
        &self.0[..parts.min(self.0.len())]
    }
}

/// Looks up every option of every table, in the tables' order.
///
/// # Errors
/// `version` is not a kernel's version.
pub fn check(config: &Config, tables: &[Requirements], version: &str) -> Result<Vec<Finding>> {
    let version = Version::parse(version)?;
    let mut findings = Vec::new();
    for table in tables {
        for group in &table.groups {
            for option in &group.options {
                let value = config.value(option);
                let outcome = match (group.applies(&version), group.want.met_by(value)) {
                    (_, true) => Outcome::Met,
                    (false, false) => Outcome::NotApplicable,
                    (true, false) => Outcome::Unmet,
                };
                findings.push(Finding {
                    table: table.name.clone(),
                    group: group.name.clone(),
                    option: option.clone(),
                    value: value.into(),
                    want: group.want.to_string(),
                    reason: group.reason.clone(),
                    source: group.source.clone(),
                    outcome,
                });
            }
        }
    }
    Ok(findings)
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, group, option, value, want, reason, .. } = self;
        match self.outcome {
            Outcome::Met => write!(f, "`{option}` is {value}, as {table} ({group}) wants"),
            Outcome::NotApplicable => {
                write!(f, "`{option}` is not in this kernel; {table} ({group}) wants it in others")
            }
            Outcome::Unmet => write!(f, "`{option}` is {value}, {table} ({group}) wants {want}: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn table(group: &str) -> String {
        format!("description = 'd'\n[[group]]\nname = 'g'\nreason = 'r'\nsource = 's'\n{group}\n")
    }

    fn outcome(group: &str, config: &str, version: &str) -> Outcome {
        let table = Requirements::parse("t", &table(group)).unwrap();
        check(&Config::parse(config).unwrap(), &[table], version).unwrap()[0].outcome
    }

    #[test]
    fn m_means_a_module_or_built_in_and_y_built_in_only() {
        let (y, m, n) =
            ("want = 'y'\noptions = ['A']", "want = 'm'\noptions = ['A']", "want = 'n'\noptions = ['A']");
        let outcomes =
            |want| ["CONFIG_A=y\n", "CONFIG_A=m\n", ""].map(|config| outcome(want, config, "6.1.0"));
        assert_eq!(outcomes(y), [Outcome::Met, Outcome::Unmet, Outcome::Unmet]);
        assert_eq!(outcomes(m), [Outcome::Met, Outcome::Met, Outcome::Unmet]);
        assert_eq!(outcomes(n), [Outcome::Unmet, Outcome::Unmet, Outcome::Met]);
    }

    #[test]
    fn a_word_is_found_in_a_list_only_as_a_whole() {
        let want = "contains = 'loadpin'\noptions = ['LSM']";
        assert_eq!(outcome(want, "CONFIG_LSM=\"yama,loadpin\"\n", "6.1"), Outcome::Met);
        assert_eq!(outcome(want, "CONFIG_LSM=\"yama,loadpinx\"\n", "6.1"), Outcome::Unmet);
        assert_eq!(outcome(want, "", "6.1"), Outcome::Unmet);
    }

    #[test]
    fn an_option_that_the_kernel_does_not_have_is_not_asked_of_it() {
        let since = "want = 'y'\noptions = ['NETKIT']\nsince = '6.7'";
        let at = |versions: [&str; 4], group| {
            versions.map(|version| outcome(group, "", version) == Outcome::Unmet)
        };
        assert_eq!(at(["6.1.192", "6.6.99", "6.7-rc1", "6.12.3"], since), [false, false, true, true]);
        let until = "want = 'm'\noptions = ['CRYPTO_AEAD2']\nuntil = '6.4'";
        assert_eq!(at(["6.1.192", "6.4.5", "6.5", "7.0"], until), [true, true, false, false]);
        assert_eq!(outcome(since, "CONFIG_NETKIT=y\n", "6.1"), Outcome::Met);
    }

    #[test]
    fn unknown_keys_empty_texts_and_wrong_names_are_refused() {
        for (group, part) in [
            ("want = 'y'\noptions = ['A']\nwhy = 'x'", "unknown field `why`"),
            ("want = 'x'\noptions = ['A']", "unknown variant `x`"),
            ("options = ['A']", "give either `want`"),
            ("want = 'y'\ncontains = 'x'\noptions = ['A']", "give either `want`"),
            ("want = 'y'\noptions = []", "`options` is empty"),
            ("want = 'y'\noptions = ['CONFIG_A']", "without `CONFIG_`"),
            ("want = 'y'\noptions = ['A', 'A']", "again in `g`"),
            ("want = 'y'\noptions = ['A']\nsince = 'six'", "`six` is no kernel version"),
        ] {
            let error = format!("{:#}", Requirements::parse("t", &table(group)).unwrap_err());
            assert!(error.contains(part), "{group}: {error}");
        }
        let error = Requirements::parse("t", &table("want = 'y'\noptions = ['A']").replace("'r'", "' '"));
        assert!(format!("{:#}", error.unwrap_err()).contains("`reason` is empty"));
    }

    #[test]
    fn an_unmet_finding_says_what_is_what_is_wanted_and_why() {
        let table = Requirements::parse("cilium", &table("want = 'm'\noptions = ['NET_SCH_FQ']")).unwrap();
        let findings = check(&Config::default(), &[table], "6.1").unwrap();
        assert_eq!(findings[0].to_string(), "`NET_SCH_FQ` is n, cilium (g) wants m or y: r");
    }

    proptest! {
        #[test]
        fn any_version_text_is_read_or_refused(text in any::<String>()) {
            let _ = Version::parse(&text);
        }

        #[test]
        fn any_table_text_is_read_or_refused(text in any::<String>()) {
            let _ = Requirements::parse("any", &text);
        }
    }
}
