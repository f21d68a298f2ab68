//! `image/rules.toml`: which versions of a board's parts go together.

use std::collections::BTreeMap;
use std::path::Path;

use super::diagnostics::Diagnostics;
use super::reader::{Reader, Section, Wrong};
use super::{known, tree, values};
use crate::config::{Rule, Rules, Set, Start};
use crate::rules::{PARTS, Range};

const FILE: &str = "image/rules.toml";

/// Reads the rules; a checkout without the file has none.
pub fn read(root: &Path, problems: &mut Diagnostics) -> Option<Rules> {
    let path = root.join(FILE);
    if !path.exists() {
        return Some(Rules::default());
    }
    let node = tree::read(root, &path, problems)?;
    let reader = Reader::default();
    let top = reader.top(&node);
    let rules =
        top.maybe_sections("rule").into_iter().map(|(name, _, section)| (name.clone(), rule(section)));
    let rules: Option<_> = rules.map(|(name, rule)| Some((name, rule?))).collect();
    let sets = top.maybe_sections("set").into_iter().map(|(name, _, section)| (name.clone(), set(section)));
    let sets: Option<_> = sets.map(|(name, set)| Some((name, set?))).collect();
    problems.extend(reader.finish());
    Some(Rules { rules: rules?, sets: sets? })
}

fn rule(section: Section<'_, '_>) -> Option<Rule> {
    let when = ranges(section, "when");
    let needs = ranges(section, "needs");
    let reason = section.text("reason", values::line);
    let arguments = section.maybe_text("arguments", values::line);
    let module = section.maybe_text("module", values::name("a module"));
    if let (Some(_), Some(_), Some(entry)) = (&arguments, &module, section.entry("module")) {
        let wrong = Wrong::new("a rule has `arguments` or a `module`, not both");
        section.refuse(&entry.key, &section.path("module"), wrong);
    }
    let start = arguments.map(Start::Arguments).or(module.map(Start::Module));
    Some(Rule { when, needs, reason: reason?, start })
}

fn set(section: Section<'_, '_>) -> Option<Set> {
    let verified = section.text("verified", values::line);
    let parts = section.texts("parts", part, |text| range(text).map(drop));
    let commits = section.texts("commits", part, |text| values::commit(text).map(drop));
    Some(Set { verified: verified?, parts, commits })
}

fn ranges(section: Section<'_, '_>, key: &'static str) -> BTreeMap<String, Range> {
    let texts = section.texts(key, part, |text| range(text).map(drop));
    texts.into_iter().filter_map(|(part, text)| Some((part, range(&text).ok()?))).collect()
}

fn part(name: &str) -> Result<(), Wrong> {
    known(name, "part", PARTS).map(drop)
}

fn range(text: &str) -> Result<Range, Wrong> {
    Range::parse(text).map_err(|message| {
        Wrong::new(message).hint("write versions as `25.03`, `>=12.25.03` or `>=12.25.03, <12.26`")
    })
}
