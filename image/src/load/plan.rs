//! The `[setup]` table of a board, read into the plan that the agent and the builder share.
//!
//! The plan's types say themselves what they take, through serde; this hands them a
//! [tree](super::tree) that may come from several files, so that an error is where its value stands.

use std::fmt;

use dpu_plan::Plan;
use serde::de::value::StrDeserializer;
use serde::de::{
    self, Deserialize as _, DeserializeSeed, Deserializer, Expected, IntoDeserializer as _, MapAccess,
    SeqAccess, Unexpected, Visitor,
};
use serde::forward_to_deserialize_any;

use super::diagnostics::{Diagnostic, Place};
use super::suggest::{closest, list};
use super::tree::{Entry, Node, Value};

/// Reads the plan, and says all that is wrong with it; `path` is the way to it.
pub fn read(node: &Node, path: &str, say: &mut dyn FnMut(Diagnostic)) -> Option<Plan> {
    // serde stops at the first error: what is wrong is taken out, and the rest tried again.
    let mut rest = node.clone();
    let mut wrong = false;
    let mut taken_out = Vec::<Vec<Step>>::new();
    loop {
        let error = match Plan::deserialize(&rest) {
            Ok(plan) => return (!wrong).then_some(plan),
            Err(error) => error,
        };
        let way = error.way();
        if !(wrong && error.follows(&way, &taken_out)) {
            say(error.diagnostic(&rest, path, &way));
        }
        wrong = true;
        if way.is_empty() || !remove(&mut rest, &way) {
            return None;
        }
        taken_out.extend(error.meant.map(|key| sibling(&way, key)));
        taken_out.push(way);
    }
}

/// One step of the way from the plan to a value.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Key(String),
    Item(usize),
}

/// The way to another key of the same table.
fn sibling(way: &[Step], key: &str) -> Vec<Step> {
    let table = way.split_last().map_or(way, |(_, table)| table);
    table.iter().cloned().chain([Step::Key(key.into())]).collect()
}

/// Takes a value out of the tree; whether it was there.
fn remove(node: &mut Node, way: &[Step]) -> bool {
    match (way, &mut node.value) {
        ([Step::Key(key)], Value::Table(table)) => table.remove(key).is_some(),
        ([Step::Item(index)], Value::List(items)) if *index < items.len() => {
            items.remove(*index);
            true
        }
        ([Step::Key(key), way @ ..], Value::Table(table)) => {
            table.get_mut(key).is_some_and(|entry| remove(&mut entry.node, way))
        }
        ([Step::Item(index), way @ ..], Value::List(items)) => {
            items.get_mut(*index).is_some_and(|item| remove(item, way))
        }
        _ => false,
    }
}

/// An error of serde, with the way to what is wrong, last step first.
#[derive(Debug)]
pub struct Refused {
    message: String,
    hint: Option<String>,
    back: Vec<Step>,
    place: Option<Place>,
    /// The key that a table lacks.
    missing: Option<&'static str>,
    /// The key that an unknown one was meant to be.
    meant: Option<&'static str>,
}

impl Refused {
    fn new(message: String) -> Self {
        Self { message, hint: None, back: Vec::new(), place: None, missing: None, meant: None }
    }

    fn way(&self) -> Vec<Step> {
        self.back.iter().rev().cloned().collect()
    }

    /// Whether this is only so because something that is wrong by itself was taken out.
    fn follows(&self, way: &[Step], taken_out: &[Vec<Step>]) -> bool {
        match self.missing {
            Some(key) => {
                let key = [way, &[Step::Key(key.into())]].concat();
                taken_out.contains(&key)
            }
            // What the parts get wrong together can't be told from half of them.
            None => way.is_empty() || taken_out.iter().any(|out| out.starts_with(way)),
        }
    }

    fn within(mut self, step: Step, place: &Place) -> Self {
        self.back.push(step);
        self.place.get_or_insert_with(|| place.clone());
        self
    }

    fn diagnostic(&self, plan: &Node, path: &str, way: &[Step]) -> Diagnostic {
        let way: String = way
            .iter()
            .map(|step| match step {
                Step::Key(key) => format!(".{key}"),
                Step::Item(index) => format!("[{index}]"),
            })
            .collect();
        let place = self.place.as_ref().unwrap_or(&plan.place);
        Diagnostic::new(place, &self.message, format!("`{path}{way}`")).maybe_hint(self.hint.clone())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refused {}

impl de::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("{} is not {}", kind(&unexpected), plainly(&expected.to_string())))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let meant = closest(variant, expected.iter().copied());
        let hint = meant.map_or_else(|| format!("write one of {}", list(expected)), did_you_mean);
        let message = format!("`{}` is not known here", variant.escape_debug());
        Self { hint: Some(hint), ..Self::new(message) }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let meant = closest(field, expected.iter().copied());
        let hint = meant.map_or_else(|| format!("the keys here are {}", list(expected)), did_you_mean);
        let message = format!("unknown key `{}`", field.escape_debug());
        Self { hint: Some(hint), meant, ..Self::new(message) }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { missing: Some(field), ..Self::new(format!("the table lacks `{field}`")) }
    }
}

fn did_you_mean(name: &str) -> String {
    format!("did you mean `{name}`?")
}

/// What Rust's types are called by people.
const KINDS: [(&str, &str); 8] = [
    ("a nonzero u16", "a number from 1 to 65535"),
    ("u16", "a number from 0 to 65535"),
    ("a nonzero u32", "a number from 1 to 4294967295"),
    ("u32", "a number from 0 to 4294967295"),
    ("a boolean", "`true` or `false`"),
    ("a string", "a text"),
    ("path string", "a text"),
    ("a sequence", "a list"),
];

fn plainly(expected: &str) -> &str {
    let kind = KINDS.iter().find(|(rust, _)| *rust == expected).map(|(_, plain)| *plain);
    kind.unwrap_or(if expected.starts_with("struct ") { "a table" } else { expected })
}

/// What a value is, in the words that all errors use.
fn kind(value: &Unexpected<'_>) -> String {
    match value {
        Unexpected::Bool(truth) => format!("`{truth}`"),
        Unexpected::Signed(number) => format!("the number {number}"),
        Unexpected::Unsigned(number) => format!("the number {number}"),
        Unexpected::Str(text) => format!("the text `{}`", text.escape_debug()),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map => "a table".into(),
        other => other.to_string(),
    }
}

impl<'de> Deserializer<'de> for &'de Node {
    type Error = Refused;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        match &self.value {
            Value::Text(text) => visitor.visit_borrowed_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Boolean(truth) => visitor.visit_bool(*truth),
            Value::List(items) => visitor.visit_seq(Items { items, next: 0 }),
            Value::Table(table) => visitor.visit_map(Entries { entries: table.iter(), current: None }),
            Value::Other(kind) => Err(Refused::new(format!("{kind} is not known here"))),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        match &self.value {
            Value::Text(text) => {
                let text: StrDeserializer<'_, Refused> = text.as_str().into_deserializer();
                text.deserialize_enum(name, variants, visitor)
            }
            _ => self.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Items<'de> {
    items: &'de [Node],
    next: usize,
}

impl<'de> SeqAccess<'de> for Items<'de> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Refused> {
        let index = self.next;
        let Some(item) = self.items.get(index) else { return Ok(None) };
        self.next += 1;
        seed.deserialize(item).map(Some).map_err(|error| error.within(Step::Item(index), &item.place))
    }
}

struct Entries<'de> {
    entries: std::collections::btree_map::Iter<'de, String, Entry>,
    current: Option<(&'de String, &'de Entry)>,
}

impl<'de> MapAccess<'de> for Entries<'de> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Refused> {
        self.current = self.entries.next();
        let Some((key, entry)) = self.current else { return Ok(None) };
        let text: StrDeserializer<'_, Refused> = key.as_str().into_deserializer();
        seed.deserialize(text).map(Some).map_err(|error| error.within(Step::Key(key.clone()), &entry.key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        let Some((key, entry)) = self.current else {
            return Err(Refused::new("a value without a key".into()));
        };
        let lacking = |error: &Refused| error.missing.is_some() && error.place.is_none();
        seed.deserialize(&entry.node).map_err(|error| {
            // A table lacks something where its name stands, however much of the file it spans.
            let place = if lacking(&error) { &entry.key } else { &entry.node.place };
            error.within(Step::Key(key.clone()), place)
        })
    }
}
