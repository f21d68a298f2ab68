//! A kernel configuration as Kconfig writes it, and what differs between two.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use anyhow::{Result, bail};

/// A `.config`: each option that is set, and the kernel's version where the file names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    options: BTreeMap<String, String>,
    version: Option<String>,
}

/// One option whose value is not the same in two configurations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The option, without `CONFIG_`.
    pub name: String,
    /// Its value in the first configuration; `None` if it is off there.
    pub before: Option<String>,
    /// Its value in the second one; `None` if it is off there.
    pub after: Option<String>,
}

impl Config {
    /// Reads a `.config` or `/proc/config.gz` unpacked.
    ///
    /// # Errors
    /// A line that is neither a comment nor `CONFIG_NAME=value`: the text is something else, or was cut off.
    pub fn parse(text: &str) -> Result<Self> {
        let mut config = Self::default();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if let Some(comment) = line.strip_prefix('#') {
                if config.version.is_none() {
                    config.version = version_in(comment);
                }
            } else if !line.is_empty() {
                let Some((name, value)) = assignment(line) else {
                    bail!("line {} of the configuration is not `CONFIG_NAME=value`: `{line}`", index + 1);
                };
                config.options.insert(name.into(), value.into());
            }
        }
        config.options.retain(|_, value| value != "n");
        Ok(config)
    }

    /// The value as it stands in the file: `y`, `m`, a number, or a text in quotes; `n` for what is off.
    pub fn value(&self, name: &str) -> &str {
        self.options.get(name).map_or("n", String::as_str)
    }

    /// The kernel that the file says it is for, as `6.1.192`.
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }
}

/// What differs from `before` to `after`, by name.
pub fn diff(before: &Config, after: &Config) -> Vec<Change> {
    let names: BTreeSet<_> = before.options.keys().chain(after.options.keys()).collect();
    names
        .into_iter()
        .filter(|name| before.options.get(*name) != after.options.get(*name))
        .map(|name| Change {
            name: name.clone(),
            before: before.options.get(name).cloned(),
            after: after.options.get(name).cloned(),
        })
        .collect()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "~ {} {before} -> {after}", self.name),
            (Some(before), None) => write!(f, "- {} {before}", self.name),
            (None, after) => write!(f, "+ {} {}", self.name, after.as_deref().unwrap_or("n")),
        }
    }
}

/// Splits `CONFIG_NAME=value`; `None` if the line is not such a one.
pub(super) fn assignment(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.strip_prefix("CONFIG_")?.split_once('=')?;
    (is_name(name) && !value.is_empty()).then_some((name, value))
}

/// Whether `name` can name an option: letters, digits and `_`.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// ` Linux/arm64 6.1.192 Kernel Configuration`, which Kconfig writes at the top.
fn version_in(comment: &str) -> Option<String> {
    let mut words = comment.strip_suffix(" Kernel Configuration")?.split_whitespace();
    words.next()?.starts_with("Linux/").then(|| words.next().map(ToOwned::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &str = "#\n# Automatically generated file; DO NOT EDIT.\n# Linux/arm64 6.1.192 Kernel Configuration\n#\n\
                        CONFIG_NET=y\nCONFIG_IGB=m\n# CONFIG_KEXEC is not set\nCONFIG_LSM=\"yama,loadpin\"\nCONFIG_HZ=250\n";

    #[test]
    fn values_and_version_are_read_and_what_is_absent_is_off() {
        let config = Config::parse(TEXT).unwrap();
        let values: Vec<_> =
            ["NET", "IGB", "KEXEC", "LSM", "HZ", "NO_SUCH"].map(|name| config.value(name)).into();
        assert_eq!(values, ["y", "m", "n", "\"yama,loadpin\"", "250", "n"]);
        assert_eq!(config.version(), Some("6.1.192"));
    }

    #[test]
    fn a_line_of_something_else_is_refused_with_its_number() {
        let error = Config::parse("CONFIG_A=y\nCONFIG_B").unwrap_err().to_string();
        assert_eq!(error, "line 2 of the configuration is not `CONFIG_NAME=value`: `CONFIG_B`");
    }

    #[test]
    fn a_difference_shows_what_came_went_and_changed() {
        let after = Config::parse("CONFIG_NET=y\nCONFIG_IGB=y\nCONFIG_LSM=\"yama,loadpin\"\nCONFIG_NVME=m\n")
            .unwrap();
        let lines: Vec<_> =
            diff(&Config::parse(TEXT).unwrap(), &after).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["- HZ 250", "~ IGB m -> y", "+ NVME m"]);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            let _ = Config::parse(&text);
        }

        #[test]
        fn a_configuration_does_not_differ_from_itself(text in "(CONFIG_[A-Z]{1,3}=[ymn]\n){0,20}") {
            let config = Config::parse(&text).unwrap();
            prop_assert!(diff(&config, &config).is_empty());
        }
    }
}
