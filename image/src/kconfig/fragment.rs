//! A fragment: wanted options, each with the reason above it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::config::assignment;
use crate::hint::WithHint as _;

/// Marks a group of options that may change what an earlier fragment says.
const OVERRIDES: &str = "overrides:";

/// A checked fragment: no option twice, none without a reason.
#[derive(Debug, Clone)]
pub struct Fragment {
    /// The file's name without `.config`.
    pub name: String,
    /// In the file's order.
    pub options: Vec<Wanted>,
}

/// An option that a fragment asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Without `CONFIG_`.
    pub name: String,
    /// `y`, `m`, `n`, a number, or a text in quotes.
    pub value: String,
    /// The comment above its group, in one line.
    pub reason: String,
    /// Counted from 1.
    pub line: usize,
    /// Whether the comment has a line `overrides: …`, so that the value may differ from an earlier fragment's.
    pub overrides: bool,
}

impl Wanted {
    fn wish(&self) -> String {
        format!("CONFIG_{}={}\n", self.name, self.value)
    }
}

/// The comment that holds for the lines below it.
#[derive(Default)]
struct Reason {
    text: String,
    overrides: bool,
    /// Whether an option followed, so that the next comment starts a new group.
    used: bool,
}

impl Fragment {
    /// Reads `<name>.config`.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading `{}`", path.display()))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self::parse(&name, &text).with_context(|| format!("reading the fragment `{}`", path.display()))
    }

    /// Its lines without the reasons.
    pub fn wishes(&self) -> String {
        self.options.iter().map(Wanted::wish).collect()
    }

    /// Checks a fragment's text.
    ///
    /// # Errors
    /// A line that is neither blank, nor a comment, nor an option; an option without a reason; an option twice.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let mut options = Vec::<Wanted>::new();
        let mut lines = BTreeMap::<&str, usize>::new();
        let mut reason = Reason::default();
        for (index, line) in text.lines().enumerate() {
            let (number, line) = (index + 1, line.trim());
            if line.is_empty() {
                reason = Reason::default();
            } else if let Some(comment) = line.strip_prefix('#') {
                reason.add(comment.trim()).with_context(|| format!("line {number}"))?;
            } else {
                let (option, value) = option(line).with_context(|| format!("line {number}"))?;
                if let Some(first) = lines.insert(option, number) {
                    return Err(anyhow::anyhow!("line {number}: `{option}` is already on line {first}"))
                        .hint(|| "keep one of the two".into());
                }
                if reason.text.is_empty() {
                    return Err(anyhow::anyhow!("line {number}: `{option}` has no reason")).hint(|| {
                        "write a comment directly above it, or above its group, that says what needs it"
                            .into()
                    });
                }
                reason.used = true;
                options.push(Wanted {
                    name: option.into(),
                    value: value.into(),
                    reason: reason.text.clone(),
                    line: number,
                    overrides: reason.overrides,
                });
            }
        }
        Ok(Self { name: name.into(), options })
    }
}

impl Reason {
    fn add(&mut self, comment: &str) -> Result<()> {
        if comment.starts_with("CONFIG_") {
            bail!("`# {comment}` looks like an option that is switched off; write `CONFIG_NAME=n`");
        }
        if self.used {
            *self = Self::default();
        }
        let (comment, overrides) = match comment.strip_prefix(OVERRIDES) {
            Some(why) if why.trim().is_empty() => bail!("`# {OVERRIDES}` has no reason after it"),
            Some(why) => (why.trim(), true),
            None => (comment, false),
        };
        self.overrides |= overrides;
        if !self.text.is_empty() && !comment.is_empty() {
            self.text.push(' ');
        }
        self.text.push_str(comment);
        Ok(())
    }
}

fn option(line: &str) -> Result<(&str, &str)> {
    let Some((name, value)) = assignment(line) else {
        bail!("`{line}` is not `CONFIG_NAME=value`");
    };
    let number = value.strip_prefix("0x").map_or_else(
        || value.strip_prefix('-').unwrap_or(value).bytes().all(|byte| byte.is_ascii_digit()),
        |hex| !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit()),
    ) && value != "-";
    let text = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let text = text.is_some_and(|inner| !inner.contains(['"', '\\']));
    if !(matches!(value, "y" | "m" | "n") || number || text) {
        bail!("`{value}` is no value: write `y`, `m`, `n`, a number, or a text in \"quotes\"");
    }
    Ok((name, value))
}

/// What all fragments ask for together, by name: the last one wins.
///
/// # Errors
/// Two fragments want different values of one option, and the later has no `# overrides: <reason>` above it.
pub fn effective(fragments: &[Fragment]) -> Result<BTreeMap<&str, (&Fragment, &Wanted)>> {
    let mut found = BTreeMap::<&str, (&Fragment, &Wanted)>::new();
    for fragment in fragments {
        for wanted in &fragment.options {
            if let Some((first, earlier)) = found.get(wanted.name.as_str())
                && earlier.value != wanted.value
                && !wanted.overrides
            {
                return Err(anyhow::anyhow!(
                    "`{}` is {} in `{}.config` (line {}) and {} in `{}.config` (line {})",
                    wanted.name,
                    earlier.value,
                    first.name,
                    earlier.line,
                    wanted.value,
                    fragment.name,
                    wanted.line
                ))
                .hint(|| "if the later one is meant, write `# overrides: <reason>` above it".into());
            }
            found.insert(&wanted.name, (fragment, wanted));
        }
    }
    Ok(found)
}

/// The text that goes over a base configuration: each option once, by fragment, without the reasons.
pub fn merge(fragments: &[Fragment]) -> Result<String> {
    let effective = effective(fragments)?;
    let mut text = String::new();
    let mut written = BTreeSet::new();
    for fragment in fragments {
        for wanted in &fragment.options {
            let (_, last) = effective[wanted.name.as_str()];
            if written.insert(&wanted.name) {
                text += &last.wish();
            }
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::report;
    use proptest::prelude::*;

    fn refused(text: &str) -> String {
        report(&Fragment::parse("base", text).unwrap_err())
    }

    #[test]
    fn a_comment_is_the_reason_of_all_lines_up_to_the_next_comment_or_blank_line() {
        let text = "# what this file is\n\n# two things\n# in two lines\nCONFIG_A=y\nCONFIG_B=m\n# another\nCONFIG_C=n\n";
        let fragment = Fragment::parse("base", text).unwrap();
        let found: Vec<_> =
            fragment.options.iter().map(|o| (o.name.as_str(), o.value.as_str(), o.reason.as_str())).collect();
        assert_eq!(
            found,
            [
                ("A", "y", "two things in two lines"),
                ("B", "m", "two things in two lines"),
                ("C", "n", "another")
            ]
        );
        assert_eq!(fragment.options[2].line, 8);
    }

    #[test]
    fn an_option_without_a_reason_is_refused() {
        assert!(
            refused("# far away\n\nCONFIG_A=y\n").starts_with("error: line 3: `A` has no reason"),
            "{}",
            refused("# far away\n\nCONFIG_A=y\n")
        );
        assert!(refused("#\nCONFIG_A=y\n").contains("line 2: `A` has no reason"));
    }

    #[test]
    fn an_option_twice_is_refused_with_both_lines() {
        assert!(refused("# a\nCONFIG_A=y\nCONFIG_A=y\n").contains("line 3: `A` is already on line 2"));
    }

    #[test]
    fn lines_that_are_no_options_are_refused() {
        for line in [
            "NET=y",
            "CONFIG_=y",
            "CONFIG_A",
            "CONFIG_A=",
            "CONFIG_A-B=y",
            "CONFIG_A=yes",
            "CONFIG_A=-",
            "CONFIG_A=0x",
            "CONFIG_A=\"",
            "CONFIG_A=y m",
        ] {
            assert!(refused(&format!("# why\n{line}\n")).contains("line 2"), "{line} was taken");
        }
        assert!(refused("# CONFIG_A is not set\n").contains("write `CONFIG_NAME=n`"));
        assert!(refused("# overrides:\nCONFIG_A=y\n").contains("no reason after it"));
    }

    #[test]
    fn numbers_and_texts_are_values() {
        let text =
            "# why\nCONFIG_A=250\nCONFIG_B=0xff\nCONFIG_C=-1\nCONFIG_D=\"yama,loadpin\"\nCONFIG_E=\"\"\n";
        assert_eq!(merge(&[Fragment::parse("a", text).unwrap()]).unwrap(), text.replace("# why\n", ""));
    }

    #[test]
    fn a_later_fragment_may_change_an_earlier_one_only_where_it_says_so() {
        let first = Fragment::parse("base", "# why\nCONFIG_A=y\nCONFIG_B=y\n").unwrap();
        let silent = Fragment::parse("virt", "# other\nCONFIG_B=y\nCONFIG_A=m\n").unwrap();
        let error = report(&merge(&[first.clone(), silent]).unwrap_err());
        assert!(
            error.contains("`A` is y in `base.config` (line 2) and m in `virt.config` (line 3)"),
            "{error}"
        );
        assert!(error.contains("hint: if the later one is meant"), "{error}");
        let said = Fragment::parse("virt", "# overrides: the emulator has none\nCONFIG_A=m\n").unwrap();
        assert_eq!(merge(&[first, said]).unwrap(), "CONFIG_A=m\nCONFIG_B=y\n");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in any::<String>()) {
            let _ = Fragment::parse("any", &text);
        }

        #[test]
        fn what_is_merged_is_a_configuration_with_the_wanted_values(
            options in proptest::collection::btree_map("[A-Z][A-Z0-9_]{0,8}", "[ym]|[1-9][0-9]{0,3}", 0..20)
        ) {
            let lines: Vec<_> = options.iter().map(|(name, value)| format!("CONFIG_{name}={value}")).collect();
            let text = format!("# why it is\n{}", lines.join("\n"));
            let merged = merge(&[Fragment::parse("any", &text).unwrap()]).unwrap();
            let config = super::super::Config::parse(&merged).unwrap();
            for (name, value) in &options {
                prop_assert_eq!(config.value(name), value);
            }
        }
    }
}
