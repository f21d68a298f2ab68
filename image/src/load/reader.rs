//! Takes typed values out of a [tree](super::tree), and goes on where something is wrong, so that all
//! that is wrong is found in one go.
//!
//! Whatever key is asked for is thereby known; [`Reader::finish`] reports the keys that nobody asked for
//! and those that were needed and are not there.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::ops::RangeInclusive;

use super::diagnostics::{Diagnostic, Diagnostics, Place};
use super::suggest::{closest, list};
use super::tree::{Entry, Node, Table, Value};

/// Why a value was refused, and what to write instead.
#[derive(Debug)]
pub struct Wrong {
    message: String,
    hint: Option<String>,
}

/// Reads one tree.
#[derive(Debug, Default)]
pub struct Reader<'a> {
    problems: RefCell<Diagnostics>,
    visited: RefCell<Vec<Visited<'a>>>,
}

/// A table as far as it was read.
#[derive(Debug)]
struct Visited<'a> {
    path: String,
    /// Where the table stands, and its entries; none where it is not there, or is no table.
    table: Option<(&'a Place, &'a Table)>,
    known: BTreeSet<&'static str>,
    /// Each with the way to write it: `KEY`, or `[KEY]` of a table.
    missing: Vec<(&'static str, &'static str)>,
}

/// A table to read from. Where it is absent, every value of it is, and nothing is said about them.
#[derive(Debug, Clone, Copy)]
pub struct Section<'r, 'a> {
    reader: &'r Reader<'a>,
    index: usize,
    table: Option<&'a Table>,
}

/// The way to a value, as people write it: `kernel.fragments`.
fn join(path: &str, key: &str) -> String {
    let bare = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    let key = if bare && !key.is_empty() { key.to_owned() } else { format!("\"{}\"", key.escape_debug()) };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

impl Wrong {
    /// Refused because of `message`.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// The same with what to write instead.
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl<'a> Reader<'a> {
    /// The top of a tree.
    pub fn top<'r>(&'r self, node: &'a Node) -> Section<'r, 'a> {
        self.visit(String::new(), node.table().map(|table| (&node.place, table)))
    }

    fn visit<'r>(&'r self, path: String, table: Option<(&'a Place, &'a Table)>) -> Section<'r, 'a> {
        let mut visited = self.visited.borrow_mut();
        visited.push(Visited { path, table, known: BTreeSet::new(), missing: Vec::new() });
        Section { reader: self, index: visited.len() - 1, table: table.map(|(_, table)| table) }
    }

    /// Says that something is wrong.
    pub fn say(&self, diagnostic: Diagnostic) {
        self.problems.borrow_mut().push(diagnostic);
    }

    /// All that was found wrong, with unknown and missing keys.
    pub fn finish(self) -> Diagnostics {
        let mut problems = self.problems.into_inner();
        let visited = self.visited.into_inner();
        for section in &visited {
            let Some((place, table)) = section.table else { continue };
            let mut meant = BTreeSet::new();
            for (key, entry) in table.iter().filter(|(key, _)| !section.known.contains(key.as_str())) {
                let near = closest(key, section.known.iter().copied());
                meant.extend(near);
                problems.push(section.unknown(key, entry, near, &visited));
            }
            let missing = section.missing.iter().filter(|(key, _)| !meant.contains(key));
            let missing: Vec<_> = missing.map(|(key, written)| written.replace("KEY", key)).collect();
            if !missing.is_empty() {
                problems.push(section.lacking(place, &missing));
            }
        }
        problems
    }
}

impl Visited<'_> {
    fn name(&self) -> String {
        if self.path.is_empty() { "the file".into() } else { format!("`[{}]`", self.path) }
    }

    fn unknown(&self, key: &str, entry: &Entry, near: Option<&str>, all: &[Visited<'_>]) -> Diagnostic {
        let path = join(&self.path, key);
        let elsewhere =
            || all.iter().find(|other| other.known.contains(key)).map(|other| join(&other.path, key));
        let hint = match near.map(|near| join(&self.path, near)).or_else(elsewhere) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None if self.known.is_empty() => format!("{} has no keys", self.name()),
            None => {
                let known: Vec<_> = self.known.iter().collect();
                format!("the keys of {} are {}", self.name(), list(&known))
            }
        };
        Diagnostic::new(&entry.key, format!("unknown key `{path}`"), "not known here").hint(hint)
    }

    fn lacking(&self, place: &Place, missing: &[String]) -> Diagnostic {
        let missing = list(missing);
        Diagnostic::new(place, format!("{} lacks {missing}", self.name()), "to be added in here")
    }
}

impl<'r, 'a> Section<'r, 'a> {
    /// Whether the table is there.
    pub fn is_present(self) -> bool {
        self.table.is_some()
    }

    /// The reader, to say what is wrong between values.
    pub fn reader(self) -> &'r Reader<'a> {
        self.reader
    }

    /// The way to a key of this table.
    pub fn path(self, key: &str) -> String {
        join(&self.reader.visited.borrow()[self.index].path, key)
    }

    /// An entry that may be left out.
    pub fn entry(self, key: &'static str) -> Option<&'a Entry> {
        self.reader.visited.borrow_mut()[self.index].known.insert(key);
        self.table?.get(key)
    }

    fn needed(self, key: &'static str) -> Option<&'a Entry> {
        self.needed_as(key, "KEY")
    }

    fn needed_as(self, key: &'static str, written: &'static str) -> Option<&'a Entry> {
        let entry = self.entry(key);
        if entry.is_none() {
            self.reader.visited.borrow_mut()[self.index].missing.push((key, written));
        }
        entry
    }

    /// Says that a value is wrong.
    pub fn refuse(self, place: &Place, path: &str, wrong: Wrong) {
        let problem = Diagnostic::new(place, wrong.message, format!("`{path}`")).maybe_hint(wrong.hint);
        self.reader.say(problem);
    }

    fn other_kind(self, node: &Node, path: &str, wants: &str, example: &str) {
        let message = format!("`{path}` has to be {wants}, and is {}", node.value.kind());
        let problem = Diagnostic::new(&node.place, message, format!("has to be {wants}"));
        self.reader.say(problem.hint(format!("write it as in `{example}`")));
    }

    fn checked<T>(
        self,
        node: &'a Node,
        path: &str,
        check: impl FnOnce(&'a str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let Value::Text(text) = &node.value else {
            let key = path.rsplit('.').next().unwrap_or(path);
            self.other_kind(node, path, "a text", &format!("{key} = \"…\""));
            return None;
        };
        check(text).map_err(|wrong| self.refuse(&node.place, path, wrong)).ok()
    }

    /// A text that must be there.
    pub fn text<T>(self, key: &'static str, check: impl FnOnce(&'a str) -> Result<T, Wrong>) -> Option<T> {
        self.checked(&self.needed(key)?.node, &self.path(key), check)
    }

    /// A text that may be left out.
    pub fn maybe_text<T>(
        self,
        key: &'static str,
        check: impl FnOnce(&'a str) -> Result<T, Wrong>,
    ) -> Option<T> {
        self.checked(&self.entry(key)?.node, &self.path(key), check)
    }

    /// A number that must be there.
    pub fn number<T: TryFrom<i64> + Copy + PartialOrd + Display>(
        self,
        key: &'static str,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        let node = &self.needed(key)?.node;
        self.number_of(node, &self.path(key), range)
    }

    /// A number that may be left out.
    pub fn maybe_number<T: TryFrom<i64> + Copy + PartialOrd + Display>(
        self,
        key: &'static str,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        self.number_of(&self.entry(key)?.node, &self.path(key), range)
    }

    /// A number within a range.
    pub fn number_of<T: TryFrom<i64> + Copy + PartialOrd + Display>(
        self,
        node: &Node,
        path: &str,
        range: RangeInclusive<T>,
    ) -> Option<T> {
        let Value::Integer(number) = node.value else {
            let key = path.rsplit('.').next().unwrap_or(path);
            self.other_kind(node, path, "a number", &format!("{key} = {}", range.start()));
            return None;
        };
        let value = T::try_from(number).ok().filter(|value| range.contains(value));
        if value.is_none() {
            let message = format!("{number} is not from {} to {}", range.start(), range.end());
            self.refuse(&node.place, path, Wrong::new(message));
        }
        value
    }

    /// `true` or `false`, that may be left out.
    pub fn truth(self, key: &'static str) -> Option<bool> {
        let node = &self.entry(key)?.node;
        let Value::Boolean(truth) = node.value else {
            self.other_kind(node, &self.path(key), "`true` or `false`", &format!("{key} = true"));
            return None;
        };
        Some(truth)
    }

    /// A list of texts that must be there.
    pub fn list<T>(self, key: &'static str, check: impl Fn(&'a str) -> Result<T, Wrong>) -> Option<Vec<T>> {
        self.listed(self.needed(key)?, key, true, check)
    }

    /// A list of texts in which one may come again.
    pub fn words<T>(self, key: &'static str, check: impl Fn(&'a str) -> Result<T, Wrong>) -> Option<Vec<T>> {
        self.listed(self.needed(key)?, key, false, check)
    }

    /// A list of texts that may be left out.
    pub fn maybe_list<T>(
        self,
        key: &'static str,
        check: impl Fn(&'a str) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        self.listed(self.entry(key)?, key, true, check)
    }

    fn listed<T>(
        self,
        entry: &'a Entry,
        key: &str,
        once: bool,
        check: impl Fn(&'a str) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        let path = self.path(key);
        let Value::List(items) = &entry.node.value else {
            self.other_kind(&entry.node, &path, "a list of texts", &format!("{key} = [\"…\"]"));
            return None;
        };
        let mut seen = BTreeSet::new();
        let values = items.iter().map(|item| {
            if let Value::Text(text) = &item.value
                && once
                && !seen.insert(text)
            {
                self.refuse(&item.place, &path, Wrong::new(format!("`{text}` comes twice in `{path}`")));
            }
            self.checked(item, &path, &check)
        });
        // All are checked before one that is wrong spoils the whole.
        values.collect::<Vec<_>>().into_iter().collect()
    }

    /// A table of free names to texts, that may be left out.
    pub fn texts(
        self,
        key: &'static str,
        name: impl Fn(&str) -> Result<(), Wrong>,
        value: impl Fn(&str) -> Result<(), Wrong>,
    ) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        for (key, path, entry) in self.free(key) {
            if let Err(wrong) = name(key) {
                self.refuse(&entry.key, &path, wrong);
            }
            let text = self.checked(&entry.node, &path, |text| value(text).map(|()| text.to_owned()));
            texts.extend(text.map(|text| (key.clone(), text)));
        }
        texts
    }

    /// The entries of a table with free names, that may be left out: name, path, entry.
    pub fn free(self, key: &'static str) -> Vec<(&'a String, String, &'a Entry)> {
        let Some(entry) = self.entry(key) else { return Vec::new() };
        let path = self.path(key);
        let Some(table) = entry.node.table() else {
            self.other_kind(&entry.node, &path, "a table", &format!("[{path}]"));
            return Vec::new();
        };
        table.iter().map(|(name, entry)| (name, join(&path, name), entry)).collect()
    }

    /// A table that must be there.
    pub fn section(self, key: &'static str) -> Section<'r, 'a> {
        let entry = self.needed_as(key, "[KEY]");
        self.opened(self.path(key), entry)
    }

    /// A table that may be left out.
    pub fn maybe_section(self, key: &'static str) -> Section<'r, 'a> {
        let entry = self.entry(key);
        self.opened(self.path(key), entry)
    }

    /// The tables of a table with free names.
    pub fn sections(self, key: &'static str) -> Vec<(&'a String, &'a Entry, Section<'r, 'a>)> {
        self.needed_as(key, "[KEY.NAME]");
        self.maybe_sections(key)
    }

    /// The tables of a table with free names, that may be left out.
    pub fn maybe_sections(self, key: &'static str) -> Vec<(&'a String, &'a Entry, Section<'r, 'a>)> {
        let entries = self.free(key).into_iter();
        entries.map(|(name, path, entry)| (name, entry, self.opened(path, Some(entry)))).collect()
    }

    /// A table that must be there, and that something else reads.
    pub fn section_entry(self, key: &'static str) -> Option<&'a Entry> {
        let entry = self.needed_as(key, "[KEY]")?;
        if entry.node.table().is_none() {
            let path = self.path(key);
            self.other_kind(&entry.node, &path, "a table", &format!("[{path}]"));
            return None;
        }
        Some(entry)
    }

    fn opened(self, path: String, entry: Option<&'a Entry>) -> Section<'r, 'a> {
        let table = entry.and_then(|entry| {
            let table = entry.node.table();
            if table.is_none() {
                self.other_kind(&entry.node, &path, "a table", &format!("[{path}]"));
            }
            Some((&entry.key, table?))
        });
        self.reader.visit(path, table)
    }
}
