//! `dpukit.local.toml`: this machine's own settings.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::component::Read;
use super::diagnostics::Diagnostics;
use super::reader::{Reader, Section, Wrong};
use super::{known, tree, values};
use crate::config::{Local, Signer, Signing};

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
    let signing = signing(root, top.maybe_section("signing"));
    problems.extend(reader.finish());
    Some(Local { git_mirrors: mirrors, files, overrides, signing })
}

fn signing(root: &Path, signing: Section<'_, '_>) -> Option<Signing> {
    if !signing.is_present() {
        return None;
    }
    let file = |text: &str| {
        let file = root.join(text);
        if file.is_file() {
            return Ok(file);
        }
        Err(Wrong::new(format!("there is no file `{}`", text.escape_debug()))
            .hint("`cargo xtask key FOLDER` makes a key and its certificate"))
    };
    let certificate = signing.text("certificate", file);
    let keyring = signing.maybe_text("keyring", file).or_else(|| certificate.clone());
    let command = signing.maybe_list("command", |word| Ok(word.to_owned()));
    let key = signing.maybe_text("key", file);
    let signer = match (key, command) {
        (Some(key), None) => Some(Signer::Key(key)),
        (None, Some(command)) => Some(Signer::Command(command)),
        (key, _) => {
            // A key that is named and wrong has been told.
            if let Some(entry) = signing.entry("certificate")
                && (key.is_some() || signing.entry("key").is_none())
            {
                let wrong = Wrong::new("bundles are signed by `key`, or by `command`: give one of them");
                signing.refuse(&entry.node.place, "signing", wrong);
            }
            None
        }
    };
    Some(Signing { certificate: certificate?, signer: signer?, keyring: keyring? })
}

fn folder(root: &Path, text: &str) -> Result<PathBuf, Wrong> {
    let folder = root.join(text);
    if folder.is_dir() {
        return Ok(folder);
    }
    Err(Wrong::new(format!("there is no folder `{}`", text.escape_debug()))
        .hint("write it from the checkout's top, or with a slash in front"))
}
