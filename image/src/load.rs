//! Reads boards, components and suites, and says all that is wrong with them at once.
//!
//! Everything is TOML below `image/`: `suites.toml`, `components/<name>.toml`, `boards/<name>.toml`. An
//! error names file, line and column, shows the line, and says what to write instead. Keys are those of
//! the examples below, and no others; one that may be left out says so.
//!
//! # `image/suites.toml`
//!
//! ```toml
#![doc = include_str!("load/example/suites.toml")]
//! ```
//!
//! # `image/components/<name>.toml`
//!
//! A component has one source. Debian packages:
//!
//! ```toml
#![doc = include_str!("load/example/deb.toml")]
//! ```
//!
//! or a crate of this workspace:
//!
//! ```toml
#![doc = include_str!("load/example/local.toml")]
//! ```
//!
//! or a commit of a git repository:
//!
//! ```toml
#![doc = include_str!("load/example/git.toml")]
//! ```
//!
//! or a container image:
//!
//! ```toml
#![doc = include_str!("load/example/oci.toml")]
//! ```
//!
//! or files that only the user can get:
//!
//! ```toml
#![doc = include_str!("load/example/user.toml")]
//! ```
//!
//! # `image/rules.toml`
//!
//! Which versions of a board's parts go together; see [`crate::rules`]. May be left out.
//!
//! ```toml
#![doc = include_str!("load/example/rules.toml")]
//! ```
//!
//! # `image/boards/<name>.toml`
//!
//! A board that others extend, `base.toml`:
//!
//! ```toml
#![doc = include_str!("load/example/base.toml")]
//! ```
//!
//! and one of those:
//!
//! ```toml
#![doc = include_str!("load/example/board.toml")]
//! ```
//!
//! A board of metal has parts that are not free, or not ours:
//!
//! ```toml
#![doc = include_str!("load/example/metal.toml")]
//! ```
//!
//! # `dpukit.local.toml`
//!
//! This machine's own settings, at the top of the checkout and never committed. May be left out.
//!
//! ```toml
#![doc = include_str!("load/example/local-settings.toml")]
//! ```

mod board;
mod component;
mod diagnostics;
mod kernel;
mod local;
mod plan;
mod reader;
mod rules;
mod source;
pub(crate) mod suggest;
mod suites;
mod tree;
mod u_boot;
mod updates;
mod values;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Config;
use reader::Wrong;

pub use diagnostics::{Diagnostic, Diagnostics};

/// Where declarations are in the checkout.
struct Folders {
    boards: &'static str,
    components: &'static str,
    fragments: &'static str,
    requirements: &'static str,
}

const FOLDERS: Folders = Folders {
    boards: "image/boards",
    components: "image/components",
    fragments: "kernel-config",
    requirements: "kernel-config/requirements",
};

/// A board as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name, as `--board` takes it.
    pub name: String,
    /// What it is, in one line.
    pub description: String,
    /// Whether it is only there to be extended.
    pub is_abstract: bool,
}

/// Reads everything that a board's build declares, below the root of a checkout. Of other boards only
/// those are read that the board extends.
pub fn load(root: &Path, board: &str) -> Result<Config, Diagnostics> {
    let mut problems = Diagnostics::default();
    let (suites, names) = suites::read(root, &mut problems);
    let components = component::read_all(root, names.as_ref(), &mut problems);
    let board = board::read(root, board, &components, &mut problems);
    let rules = rules::read(root, &mut problems);
    let local = local::read(root, &components, &mut problems);
    let components: Option<_> =
        components.into_iter().map(|(name, read)| Some((name, read.component?))).collect();
    let config = board.zip(components).zip(suites).zip(rules).zip(local);
    problems.or(config.map(|((((board, components), suites), rules), local)| Config {
        root: root.to_owned(),
        board,
        components,
        suites,
        rules,
        local,
    }))
}

/// All boards of a checkout, by name. Only the heads of their files are looked at.
pub fn boards(root: &Path) -> Result<Vec<Listed>, Diagnostics> {
    let mut problems = Diagnostics::default();
    let mut boards = Vec::new();
    for (name, path) in declared(root, FOLDERS.boards, &mut problems) {
        let Some(mut node) = tree::read(root, &path, &mut problems) else { continue };
        let header = board::header(&mut node, &mut problems);
        let is_abstract = header.is_abstract;
        boards.extend(header.description.map(|description| Listed { name, description, is_abstract }));
    }
    problems.or(Some(boards))
}

/// The TOML files of a folder: name and path, by name.
fn declared(root: &Path, folder: &str, problems: &mut Diagnostics) -> Vec<(String, PathBuf)> {
    let entries = match fs::read_dir(root.join(folder)).and_then(Iterator::collect::<Result<Vec<_>, _>>) {
        Ok(entries) => entries,
        Err(error) => {
            let message = format!("the folder cannot be read: {error}");
            let hint = "run this in the checkout, or name the checkout with `--root`";
            problems.push(Diagnostic::of_file(folder, message).hint(hint));
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for path in entries.into_iter().map(|entry| entry.path()) {
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_stem().and_then(|name| name.to_str()).filter(|name| values::is_name(name));
        if let Some(name) = name {
            files.push((name.to_owned(), path.clone()));
        } else {
            let file = diagnostics::shown(root, &path);
            let message = "the file is not named as a board or component can be";
            let hint =
                "a name has letters, digits, `.`, `+`, `-` and `_`, and begins with a letter or a digit";
            problems.push(Diagnostic::of_file(file, message).hint(hint));
        }
    }
    files.sort();
    files
}

/// The names of the files with an extension in a folder, without it; none where there is no such folder.
fn stems(folder: &Path, extension: &str) -> BTreeSet<String> {
    let paths = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let paths = paths.filter(|path| path.extension().is_some_and(|other| other == extension));
    paths.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned())).collect()
}

/// A name that has to be one of those that exist.
fn known<'a, T: AsRef<str> + ?Sized + 'a>(
    name: &str,
    what: &str,
    all: impl IntoIterator<Item = &'a T>,
) -> Result<String, Wrong> {
    let all: Vec<_> = all.into_iter().map(AsRef::as_ref).collect();
    if all.contains(&name) {
        return Ok(name.to_owned());
    }
    let hint = suggest::hint(name, what, all);
    Err(Wrong::new(format!("there is no {what} `{}`", name.escape_debug())).hint(hint))
}

/// A folder of the checkout.
fn exists(root: &Path, path: &str, what: &str) -> Result<PathBuf, Wrong> {
    let checked = values::relative(path)?;
    let is_one = |path: &Path| if what == "folder" { path.is_dir() } else { path.is_file() };
    if is_one(&root.join(&checked)) {
        return Ok(checked);
    }
    let parent = checked.parent().unwrap_or(Path::new(""));
    let siblings = fs::read_dir(root.join(parent)).into_iter().flatten().flatten();
    let siblings = siblings.filter(|entry| is_one(&entry.path()));
    let siblings: Vec<_> =
        siblings.filter_map(|entry| Some(parent.join(entry.file_name()).to_str()?.to_owned())).collect();
    let wrong = Wrong::new(format!("there is no {what} `{path}` in the checkout"));
    Err(match suggest::closest(path, siblings.iter().map(String::as_str)) {
        Some(meant) => wrong.hint(format!("did you mean `{meant}`?")),
        None => wrong,
    })
}
