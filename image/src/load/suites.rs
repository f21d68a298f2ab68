//! `image/suites.toml`: Debian archives and their suites.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::diagnostics::Diagnostics;
use super::reader::{Reader, Section, Wrong};
use super::{known, stems, suggest, tree, values};
use crate::config::{Archive, Suite, Suites};

/// Where the file is in the checkout.
pub const FILE: &str = "image/suites.toml";
const KEYS: &str = "image/keys";

/// What the file holds, and the names of its suites, as far as they can be read.
pub fn read(root: &Path, problems: &mut Diagnostics) -> (Option<Suites>, Option<BTreeSet<String>>) {
    let Some(node) = tree::read(root, &root.join(FILE), problems) else { return (None, None) };
    let reader = Reader::default();
    let top = reader.top(&node);
    let archives: BTreeMap<_, _> = top
        .sections("archive")
        .into_iter()
        .map(|(name, _, section)| (name.clone(), archive(section)))
        .collect();
    let keys = stems(&root.join(KEYS), "asc");
    let mut suites = BTreeMap::new();
    for (name, entry, section) in top.sections("suite") {
        if let Err(wrong) = values::name("a suite")(name) {
            top.refuse(&entry.key, &format!("suite.{name}"), wrong);
        }
        suites.insert(name.clone(), suite(section, &archives, &keys));
    }
    let names = suites.keys().cloned().collect();
    let problems_here = reader.finish();
    problems.extend(problems_here);
    (whole(archives).zip(whole(suites)).map(|(archives, suites)| Suites { archives, suites }), Some(names))
}

fn whole<T>(parts: BTreeMap<String, Option<T>>) -> Option<BTreeMap<String, T>> {
    parts.into_iter().map(|(name, part)| Some((name, part?))).collect()
}

fn archive(section: Section<'_, '_>) -> Option<Archive> {
    let mirrors = section.list("mirrors", values::url);
    let snapshot = section.maybe_text("snapshot", values::url);
    if let (Some(mirrors), Some(entry)) = (&mirrors, section.entry("mirrors"))
        && mirrors.is_empty()
    {
        let wrong = Wrong::new("an archive needs a mirror").hint("write `mirrors = [\"https://…\"]`");
        section.refuse(&entry.node.place, &section.path("mirrors"), wrong);
    }
    Some(Archive { mirrors: mirrors?, snapshot })
}

fn suite(
    section: Section<'_, '_>,
    archives: &BTreeMap<String, Option<Archive>>,
    keys: &BTreeSet<String>,
) -> Option<Suite> {
    let archive = section.text("archive", |name| known(name, "archive", archives.keys()));
    let path = section.text("path", path);
    let origin = section.maybe_text("origin", |origin| Ok::<_, Wrong>(origin.to_owned()));
    let files = section.list("keys", |name| key(name, keys));
    let only_when_named = section.truth("only-when-named").unwrap_or_default();
    if let (Some([]), Some(entry)) = (files.as_deref(), section.entry("keys")) {
        let wrong = Wrong::new("without a key, nothing of the suite can be trusted")
            .hint("name the keys that sign its Release file");
        section.refuse(&entry.node.place, &section.path("keys"), wrong);
    }
    Some(Suite { archive: archive?, path: path?, origin, keys: files?, only_when_named })
}

fn path(path: &str) -> Result<String, Wrong> {
    match path.strip_suffix('/') {
        Some(".") => {}
        Some(folder) => drop(values::relative(folder)?),
        None => drop(values::relative(path)?),
    }
    Ok(path.to_owned())
}

fn key(name: &str, keys: &BTreeSet<String>) -> Result<String, Wrong> {
    if keys.contains(name) {
        return Ok(name.to_owned());
    }
    let hint = suggest::hint(name, "key file", keys.iter().map(String::as_str));
    Err(Wrong::new(format!("there is no key `{KEYS}/{}.asc`", name.escape_debug())).hint(hint))
}
