//! A TOML file as a tree whose every key and value knows where it stands, also after boards that
//! extend each other were laid over one another.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostics::{Diagnostic, Diagnostics, Document, Place, shown};
use super::suggest::closest;

/// Of the errors of syntax in one file, this many are shown: one may bring about hundreds.
const SHOWN: usize = 10;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub struct Node {
    pub place: Place,
    pub value: Value,
}

/// A value as TOML has it.
#[derive(Debug, Clone)]
pub enum Value {
    Text(String),
    Integer(i64),
    Boolean(bool),
    List(Vec<Node>),
    Table(Table),
    /// A kind that no declaration uses (a float, a date) or a number out of range: what it is.
    Other(&'static str),
}

/// Entries by key.
pub type Table = BTreeMap<String, Entry>;

/// A key with its value.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Where the key stands.
    pub key: Place,
    pub node: Node,
}

impl Value {
    /// What the value is, with its article.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "`true` or `false`",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
            Self::Other(kind) => kind,
        }
    }
}

impl Node {
    /// An empty table at a place.
    pub fn empty(place: Place) -> Self {
        Self { place, value: Value::Table(Table::new()) }
    }

    /// The entries, if this is a table.
    pub fn table(&self) -> Option<&Table> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }
}

/// Reads a TOML file. What is wrong with it is put into `problems`; as much as could be read is returned.
pub fn read(root: &Path, path: &Path, problems: &mut Diagnostics) -> Option<Node> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) => {
            let file = shown(root, path);
            let message = format!("the file cannot be read: {error}");
            problems.push(Diagnostic::of_file(file, message));
            return None;
        }
    };
    match String::from_utf8(bytes) {
        Ok(text) => parse(&Document::new(root, path, &text), problems),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let document = Document::new(root, path, &String::from_utf8_lossy(error.as_bytes()));
            let problem =
                Diagnostic::new(&document.at(at..at + 1), "this is not UTF-8", "the first byte that is not")
                    .hint("TOML is written in UTF-8: save the file in that encoding");
            problems.push(problem);
            None
        }
    }
}

/// Reads TOML. A file with errors of syntax gives all of them, and no tree: what is missing from a broken
/// file would only be reported for a second time.
pub fn parse(document: &Arc<Document>, problems: &mut Diagnostics) -> Option<Node> {
    let (table, errors) = DeTable::parse_recoverable(document.text());
    if errors.is_empty() {
        // What the whole file lacks is shown at its first key, not at the comment above it.
        let first = table.get_ref().keys().map(Spanned::span).min_by_key(|span| span.start);
        return Some(Node {
            place: document.at(first.unwrap_or(0..0)),
            value: Value::Table(entries(document, table.get_ref())),
        });
    }
    let more = errors.len().saturating_sub(SHOWN);
    for error in errors.into_iter().take(SHOWN) {
        let end = document.text().len();
        let span = error.span().unwrap_or(end..end);
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        problems.push(Diagnostic::new(&document.at(span), message, "TOML does not allow this here"));
    }
    if more > 0 {
        let message = format!("there are {more} more errors of syntax");
        problems.push(Diagnostic::of_file(document.name(), message));
    }
    None
}

fn entries(document: &Arc<Document>, table: &DeTable<'_>) -> Table {
    let entries = table.iter().map(|(key, value)| {
        let entry = Entry { key: document.at(key.span()), node: node(document, value) };
        (key.get_ref().to_string(), entry)
    });
    entries.collect()
}

fn node(document: &Arc<Document>, value: &Spanned<DeValue<'_>>) -> Node {
    let place = document.at(value.span());
    let value = match value.get_ref() {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Other("a number out of range"),
        },
        DeValue::Float(_) => Value::Other("a number with a fraction"),
        DeValue::Boolean(truth) => Value::Boolean(*truth),
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Array(list) => Value::List(list.iter().map(|item| node(document, item)).collect()),
        DeValue::Table(table) => Value::Table(entries(document, table)),
    };
    Node { place, value }
}

/// Lays `over` over `base`: tables are merged, key by key; any other value replaces what was there.
pub fn lay_over(base: &mut Table, over: Table) {
    for (key, entry) in over {
        match base.get_mut(&key) {
            Some(Entry { key, node: Node { place, value: Value::Table(base) } })
                if entry.node.table().is_some() =>
            {
                // What is missing from the whole is missing from the board that was asked for.
                (*key, *place) = (entry.key, entry.node.place);
                if let Value::Table(over) = entry.node.value {
                    lay_over(base, over);
                }
            }
            _ => {
                base.insert(key, entry);
            }
        }
    }
}

/// Appends the lists of `add` to those of `base`; tables are gone into.
pub fn add(base: &mut Table, add: Entry, path: &str, problems: &mut Diagnostics) {
    let Value::Table(added) = add.node.value else {
        let message = format!("`add{path}` has to be a table, and is {}", add.node.value.kind());
        problems.push(Diagnostic::new(&add.node.place, message, "has to be a table"));
        return;
    };
    for (key, entry) in added {
        let path = format!("{path}.{key}");
        let there = base.get_mut(&key).map(|entry| &mut entry.node.value);
        match (there, entry.node.value) {
            (Some(Value::List(there)), Value::List(items)) => there.extend(items),
            (Some(Value::Table(there)), value @ Value::Table(_)) => {
                let node = Node { place: entry.node.place, value };
                self::add(there, Entry { key: entry.key, node }, &path, problems);
            }
            _ => {
                let message = format!("there is no list `{}` to add to", &path[1..]);
                let hint = match closest(&key, base.keys().map(String::as_str).filter(|other| *other != key))
                {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => "`[add]` appends to the lists of the boards that this one extends".into(),
                };
                problems.push(Diagnostic::new(&entry.key, message, "nothing to add this to").hint(hint));
            }
        }
    }
}
