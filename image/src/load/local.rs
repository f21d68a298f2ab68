//! `dpukit.local.toml`: this machine's own settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::component::Read;
use super::diagnostics::Diagnostics;
use super::reader::{Reader, Wrong};
use super::{known, tree, values};
use crate::config::Local;

/// Where the file is in the checkout; git ignores it.
const FILE: &str = "dpukit.local.toml";

/// Reads the settings; a checkout without the file has none. Paths are taken from the checkout.
pub fn read(root: &Path, components: &BTreeMap<String, Read>, problems: &mut Diagnostics) -> Option<Local> {
    let path = root.join(FILE);
    if !path.exists() {
        return Some(Local::default());
    }
    let node = tree::read(root, &path, problems)?;
    let reader = Reader::default();
    let top = reader.top(&node);
    let component = |name: &str| known(name, "component", components.keys()).map(drop);
    let path = |text: &str| values::line(text).map(drop);
    let mirrors = top.maybe_text("git-mirrors", |text| folder(root, text));
    let paths = |texts: BTreeMap<String, String>| {
        texts.into_iter().map(|(name, path)| (name, root.join(path))).collect::<BTreeMap<_, _>>()
    };
    let files = paths(top.texts("files", component, path));
    let overrides = paths(top.texts("overrides", component, path));
    problems.extend(reader.finish());
    Some(Local { git_mirrors: mirrors, files, overrides })
}

fn folder(root: &Path, text: &str) -> Result<PathBuf, Wrong> {
    let folder = root.join(text);
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(Wrong::new(format!("there is no folder `{}`", text.escape_debug()))
        .hint("write it from the checkout's top, or with a slash in front"))
}
