//! Relations between packages: `Depends`, `Conflicts`, `Provides` and their like (Debian Policy 7.1).

use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};

use super::version::Version;

/// How a version must stand to the one that is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `<<`
    Earlier,
    /// `<=`, and the old `<`, which means the same
    EarlierOrEqual,
    /// `=`
    Equal,
    /// `>=`, and the old `>`, which means the same
    LaterOrEqual,
    /// `>>`
    Later,
}

/// What follows a package's name after a colon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qualifier<'a> {
    /// `:any`: any architecture, where the package is `Multi-Arch: allowed`
    Any,
    /// `:native`: the architecture of the machine
    Native,
    /// The architecture that is named
    Architecture(&'a str),
}

/// One package that is wanted or shunned: `name:qualifier (operator version)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The name of a package, real or virtual.
    pub name: &'a str,
    /// Which architectures' packages are meant.
    pub qualifier: Option<Qualifier<'a>>,
    /// Which versions are meant; none for all.
    pub version: Option<(Operator, Version<'a>)>,
}

/// Alternatives, in the order they are written: one of them is enough.
pub type Group<'a> = Vec<Relation<'a>>;

/// Reads a whole field, as the value of `Depends`. An empty field is an empty list.
pub fn parse(field: &str) -> Result<Vec<Group<'_>>> {
    let groups = field.split(',').map(str::trim).filter(|group| !group.is_empty());
    groups.map(|group| group.split('|').map(parse_one).collect()).collect()
}

impl Operator {
    /// Whether `have` stands to `named` as the operator says.
    pub fn accepts(self, have: &Version<'_>, named: &Version<'_>) -> bool {
        match self {
            Self::Earlier => have < named,
            Self::EarlierOrEqual => have <= named,
            Self::Equal => have == named,
            Self::LaterOrEqual => have >= named,
            Self::Later => have > named,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Earlier => "<<",
            Self::EarlierOrEqual => "<=",
            Self::Equal => "=",
            Self::LaterOrEqual => ">=",
            Self::Later => ">>",
        }
    }
}

impl Relation<'_> {
    /// Whether a package of this version fits; no version asked for means any.
    pub fn accepts(&self, have: &Version<'_>) -> bool {
        self.version.is_none_or(|(operator, named)| operator.accepts(have, &named))
    }
}

impl fmt::Display for Relation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.qualifier {
            None => {}
            Some(Qualifier::Any) => f.write_str(":any")?,
            Some(Qualifier::Native) => f.write_str(":native")?,
            Some(Qualifier::Architecture(architecture)) => write!(f, ":{architecture}")?,
        }
        match &self.version {
            None => Ok(()),
            Some((operator, version)) => write!(f, " ({} {version})", operator.as_str()),
        }
    }
}

/// The text of alternatives, as they are written in a field.
pub fn join(group: &[Relation<'_>]) -> String {
    group.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")
}

/// Whether `name` can be a package's name (Debian Policy 5.6.1, but for its length).
pub fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    name.bytes().all(allowed) && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

/// Whether `name` can be an architecture's name: `amd64`, `all`, `kfreebsd-amd64`.
pub fn is_architecture(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.bytes().all(allowed) && name.starts_with(|first: char| first.is_ascii_alphanumeric())
}

fn parse_one(text: &str) -> Result<Relation<'_>> {
    let text = without_restrictions(text);
    let (subject, version) = match text.split_once('(') {
        Some((subject, constraint)) => {
            let Some(constraint) = constraint.trim_end().strip_suffix(')') else {
                bail!("relation `{text}` has `(` without `)` at its end");
            };
            let version =
                parse_constraint(constraint.trim()).with_context(|| format!("relation `{text}`"))?;
            (subject.trim(), Some(version))
        }
        None => (text, None),
    };
    let (name, qualifier) = match subject.split_once(':') {
        Some((name, qualifier)) => (name, Some(parse_qualifier(text, qualifier)?)),
        None => (subject, None),
    };
    ensure!(is_name(name), "relation `{text}`: `{name}` is not a package's name");
    Ok(Relation { name, qualifier, version })
}

/// Cuts `[architectures]` and `<profiles>` off: they mean something in source packages only. The
/// `<` and `>` of an operator come before the `)`, so the search begins there.
fn without_restrictions(text: &str) -> &str {
    let from = text.find(')').unwrap_or(0);
    let end = text[from..].find(['[', '<']).map_or(text.len(), |at| from + at);
    text[..end].trim()
}

fn parse_qualifier<'a>(text: &str, qualifier: &'a str) -> Result<Qualifier<'a>> {
    Ok(match qualifier {
        "any" => Qualifier::Any,
        "native" => Qualifier::Native,
        architecture if is_architecture(architecture) => Qualifier::Architecture(architecture),
        _ => bail!("relation `{text}`: `{qualifier}` is not an architecture"),
    })
}

fn parse_constraint(text: &str) -> Result<(Operator, Version<'_>)> {
    let end = text.find(|c| !matches!(c, '<' | '=' | '>')).unwrap_or(text.len());
    let (operator, version) = text.split_at(end);
    let operator = match operator {
        "<<" => Operator::Earlier,
        "<=" | "<" => Operator::EarlierOrEqual,
        "=" => Operator::Equal,
        ">=" | ">" => Operator::LaterOrEqual,
        ">>" => Operator::Later,
        _ => bail!("`{operator}` is none of `<<`, `<=`, `=`, `>=`, `>>`"),
    };
    Ok((operator, Version::parse(version.trim())?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_field_is_read_into_groups_of_alternatives() {
        let groups =
            parse("libc6 (>= 2.36), debconf (>= 0.5) | debconf-2.0,perl:any, gcc:native, x:arm64 (= 1-1)")
                .unwrap();
        let text: Vec<_> = groups.iter().map(|group| join(group)).collect();
        assert_eq!(
            text,
            [
                "libc6 (>= 2.36)",
                "debconf (>= 0.5) | debconf-2.0",
                "perl:any",
                "gcc:native",
                "x:arm64 (= 1-1)"
            ]
        );
        assert_eq!(groups[2][0].qualifier, Some(Qualifier::Any));
        assert_eq!(groups[4][0].qualifier, Some(Qualifier::Architecture("arm64")));
    }

    #[test]
    fn spacing_does_not_matter_and_old_operators_are_understood() {
        for (text, meaning) in [
            ("a(>=1)", "a (>= 1)"),
            (" a ( >= 1 ) ", "a (>= 1)"),
            ("a (< 1)", "a (<= 1)"),
            ("a (> 1)", "a (>= 1)"),
            ("a\n (<< 1)", "a (<< 1)"),
            ("a [amd64 !i386]", "a"),
            ("a (>> 1) [amd64] <!nocheck>", "a (>> 1)"),
            ("a <!nocheck>", "a"),
        ] {
            assert_eq!(join(&parse(text).unwrap()[0]), meaning, "{text}");
        }
    }

    #[test]
    fn an_empty_field_and_stray_commas_are_no_relations() {
        for text in ["", " ", ",", " , "] {
            assert!(parse(text).unwrap().is_empty(), "{text:?}");
        }
        assert_eq!(parse("a,").unwrap().len(), 1);
    }

    #[test]
    fn what_is_not_a_relation_is_refused() {
        for text in
            ["A", "a b", "a (1)", "a (>= )", "a (>= 1", "a (=> 1)", "a:", "a:B", "a | | b", "a (>= 1) b"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_version_is_held_against_the_operator() {
        for (text, fits) in [
            ("a (<< 2)", [true, false, false]),
            ("a (<= 2)", [true, true, false]),
            ("a (= 2)", [false, true, false]),
            ("a (>= 2)", [false, true, true]),
            ("a (>> 2)", [false, false, true]),
            ("a", [true, true, true]),
        ] {
            let groups = parse(text).unwrap();
            let have = ["1", "2", "3"].map(|version| groups[0][0].accepts(&Version::parse(version).unwrap()));
            assert_eq!(have, fits, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_and_read_the_same(text in "[a-c][a-c0-9+.:(<>=) ,|-]{0,20}") {
            if let Ok(groups) = parse(&text) {
                let written = groups.iter().map(|group| join(group)).collect::<Vec<_>>().join(", ");
                prop_assert_eq!(parse(&written).unwrap(), groups.clone());
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }
    }
}
