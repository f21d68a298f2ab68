//! What of a lock is otherwise than before, for people.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::debian::version::Version;

/// What changed in a component's packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The component's name.
    pub component: String,
    /// Sorted by package.
    pub changes: Vec<Change>,
}

/// What became of one package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// `name:arch` of a package; otherwise `commit`, `image`, or a file's name.
    pub package: String,
    /// The version that was there; none if the package is new.
    pub old: Option<String>,
    /// The version that is there now; none if the package is gone.
    pub new: Option<String>,
}

impl Difference {
    /// Compares lists of [`Content::listed`].
    pub(super) fn between(component: &str, old: &Listed, new: &Listed) -> Self {
        let keys: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        let changes = keys.into_iter().filter_map(|key| {
            let (old, new) = (old.get(key), new.get(key));
            let is_same = old.map(|(_, identity)| identity) == new.map(|(_, identity)| identity);
            let version = |listed: Option<&(String, String)>| listed.map(|(version, _)| version.clone());
            (!is_same).then(|| Change { package: key.clone(), old: version(old), new: version(new) })
        });
        Self { component: component.to_owned(), changes: changes.collect() }
    }
}

type Listed = BTreeMap<String, (String, String)>;

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`:", self.component)?;
        self.changes.iter().try_for_each(|change| write!(f, "\n  {change}"))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let package = &self.package;
        match (&self.old, &self.new) {
            (Some(old), Some(new)) if old == new => write!(f, "changed  {package} {new}, with other content"),
            (Some(old), Some(new)) if !package.contains(':') => {
                write!(f, "changed  {package} {old} -> {new}")
            }
            (Some(old), Some(new)) => write!(f, "{} {package} {old} -> {new}", direction(old, new)),
            (Some(old), None) => write!(f, "removed  {package} {old}"),
            (None, Some(new)) => write!(f, "added    {package} {new}"),
            (None, None) => write!(f, "changed  {package}"),
        }
    }
}

fn direction(old: &str, new: &str) -> &'static str {
    match (Version::parse(old), Version::parse(new)) {
        (Ok(old), Ok(new)) if new < old => "lowered ",
        _ => "upgraded",
    }
}
