//! The hosts whose cards are updated together, and which of them are done.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::files;

/// Reads a list of hosts: a destination of ssh on each line; `#` begins a comment.
///
/// # Errors
/// It can't be read, names no host, one twice, or something that is no destination.
pub fn read(path: &Path) -> Result<Vec<String>> {
    let text =
        fs::read_to_string(path).with_context(|| format!("reading the hosts in `{}`", path.display()))?;
    parse(&text).with_context(|| format!("reading the hosts in `{}`", path.display()))
}

fn parse(text: &str) -> Result<Vec<String>> {
    let mut hosts: Vec<String> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let host = line.split('#').next().unwrap_or_default().trim();
        if host.is_empty() {
            continue;
        }
        let shown = host.escape_debug();
        // ssh would take it for an option.
        ensure!(!host.starts_with('-'), "line {number}: `{shown}` is no host");
        let is_odd = |one: char| one.is_whitespace() || one.is_control();
        ensure!(!host.contains(is_odd), "line {number}: `{shown}` is more than one host: give each a line");
        ensure!(!hosts.iter().any(|other| other == host), "line {number}: `{shown}` is there twice");
        hosts.push(host.to_owned());
    }
    ensure!(!hosts.is_empty(), "it names no host");
    Ok(hosts)
}

/// Which hosts are done with a bundle, in a file.
pub struct Done {
    path: PathBuf,
    kept: Kept,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// The bundle's SHA-256.
    bundle: String,
    done: BTreeSet<String>,
}

impl Done {
    /// Where it is kept for a list of hosts, unless somebody says so.
    pub fn beside(list: &Path) -> PathBuf {
        let mut name = OsString::from(list);
        name.push(".state");
        PathBuf::from(name)
    }

    /// What is known of this bundle. Where the file is of another, all begins anew, which is told.
    ///
    /// # Errors
    /// The file is none of these: nobody can say which hosts are done.
    pub fn open(path: PathBuf, bundle: String) -> Result<Self> {
        let none = |bundle| Kept { bundle, done: BTreeSet::new() };
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok(Self { path, kept: none(bundle) });
            }
            Err(error) => return Err(error).with_context(|| format!("reading `{}`", path.display())),
        };
        let kept: Kept = match serde_json::from_str(&text) {
            Ok(kept) => kept,
            Err(error) => bail!(
                "`{}` does not say which hosts are done ({error}): remove it to begin with all hosts, or name another \
                 `--state`",
                path.display()
            ),
        };
        let kept = if kept.bundle == bundle {
            kept
        } else {
            eprintln!("`{}` is of another bundle: all hosts are begun anew", path.display());
            none(bundle)
        };
        Ok(Self { path, kept })
    }

    /// Whether a host is done.
    pub fn has(&self, host: &str) -> bool {
        self.kept.done.contains(host)
    }

    /// Notes that a host is done.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn add(&mut self, host: &str) -> Result<()> {
        self.kept.done.insert(host.to_owned());
        self.keep()
    }

    /// Writes the file, so that one that can't be written is found out before anything is done.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn keep(&self) -> Result<()> {
        // A name alone is in the folder that one is in.
        let path = std::path::absolute(&self.path).context("finding the folder of the state file")?;
        files::replace(&path, &serde_json::to_vec_pretty(&self.kept)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_lines_without_comments() {
        let text = "# rack 1\nroot@node1\n\n  node2 # the slow one\nssh://root@node3:22\n";
        assert_eq!(parse(text).unwrap(), ["root@node1", "node2", "ssh://root@node3:22"]);
    }

    #[test]
    fn what_is_no_host_is_told_with_its_line() {
        let told = |text: &str| parse(text).unwrap_err().to_string();
        assert_eq!(told("# none\n"), "it names no host");
        assert_eq!(told("a\n-oProxyCommand=x\n"), "line 2: `-oProxyCommand=x` is no host");
        assert_eq!(told("a b\n"), "line 1: `a b` is more than one host: give each a line");
        assert_eq!(told("a\u{1b}[2J\n"), "line 1: `a\\u{1b}[2J` is more than one host: give each a line");
        assert_eq!(told("a\nb\na\n"), "line 3: `a` is there twice");
    }

    #[test]
    fn hosts_that_are_done_stay_so_for_their_bundle() {
        let folder = tempfile::tempdir().unwrap();
        let path = Done::beside(&folder.path().join("hosts"));
        assert!(path.ends_with("hosts.state"));
        let open = |bundle: &str| Done::open(path.clone(), bundle.to_owned());
        open("one").unwrap().add("a").unwrap();
        open("one").unwrap().add("b").unwrap();
        let done = open("one").unwrap();
        assert!(done.has("a") && done.has("b") && !done.has("c"));
        assert!(!open("two").unwrap().has("a"));
        for damaged in ["", "{", "[]", r#"{"bundle":"one"}"#] {
            fs::write(&path, damaged).unwrap();
            let error = open("one").err().unwrap().to_string();
            assert!(error.contains("does not say which hosts are done"), "{error}");
        }
    }
}
