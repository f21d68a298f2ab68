//! Errors in declarations: each with its file, its line, the text it stands in and what to write instead.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// Of a longer line, this many letters are shown.
const WIDTH: usize = 100;

/// A file of the checkout as it was read.
#[derive(Debug)]
pub struct Document {
    /// Its path from the root of the checkout, as people see it.
    name: String,
    text: Arc<str>,
}

/// Where something stands: a file, and a range of its bytes.
#[derive(Debug, Clone)]
pub struct Place {
    document: Arc<Document>,
    span: Range<usize>,
}

/// One thing that is wrong.
#[derive(Debug)]
pub struct Diagnostic {
    file: String,
    /// None where the file as a whole is wrong.
    place: Option<Place>,
    message: String,
    label: String,
    hint: Option<String>,
}

/// All that is wrong, by file and place; never empty where it is an error.
///
/// `Display` is what a person reads: one block for each, that begins with `file:line:column`.
#[derive(Debug, Default)]
pub struct Diagnostics(Vec<Diagnostic>);

impl Document {
    /// A file's text; `path` is inside `root`.
    pub fn new(root: &Path, path: &Path, text: &str) -> Arc<Self> {
        Arc::new(Self { name: shown(root, path), text: text.into() })
    }

    /// Its path from the root of the checkout.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A range of the file, moved to whole characters inside it.
    pub fn at(self: &Arc<Self>, span: Range<usize>) -> Place {
        let start = self.text.floor_char_boundary(span.start);
        let end = self.text.ceil_char_boundary(span.end.max(start)).max(start);
        Place { document: Arc::clone(self), span: start..end }
    }
}

/// A path as people see it: from the root of the checkout.
pub fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

impl Place {
    /// The place as `file:line:column`, to be named in another file's error.
    pub fn named(&self) -> String {
        let (line, column) = self.line_and_column();
        format!("{}:{line}:{column}", self.document.name)
    }

    /// Whether this stands before another place; files are ordered by name.
    pub fn comes_before(&self, other: &Self) -> bool {
        (&self.document.name, self.span.start) < (&other.document.name, other.span.start)
    }

    /// The line with the place's beginning, the place marked, and a label behind the marks.
    fn draw(&self, label: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, column) = self.line_and_column();
        let text = &self.document.text;
        let start = text[..self.span.start].rfind('\n').map_or(0, |at| at + 1);
        let end = text[self.span.start..].find('\n').map_or(text.len(), |at| self.span.start + at);
        let marked = text[self.span.start..self.span.end.min(end)].chars().count().clamp(1, WIDTH / 2);
        // Of a long line, the part with the mark and what is left of it.
        let left_out = (column - 1 + marked).saturating_sub(WIDTH);
        let line: String = text[start..end].chars().skip(left_out).take(WIDTH).map(one_wide).collect();
        let number = number.to_string();
        let margin = " ".repeat(number.len());
        let (marks, before) = ("^".repeat(marked), " ".repeat(column - 1 - left_out));
        writeln!(f, " {margin} |\n {number} | {}", line.trim_end())?;
        write!(f, "{}", format!(" {margin} | {before}{marks} {label}").trim_end())
    }

    fn line_and_column(&self) -> (usize, usize) {
        let before = &self.document.text[..self.span.start];
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[start..].chars().count() + 1)
    }
}

/// A letter that takes one column, in the place of one that may take none or several.
fn one_wide(letter: char) -> char {
    if letter.is_control() { ' ' } else { letter }
}

impl Diagnostic {
    /// An error at a place: `message` says what is wrong, `label` stands below the marked text.
    pub fn new(place: &Place, message: impl Into<String>, label: impl Into<String>) -> Self {
        let file = place.document.name.clone();
        Self { file, place: Some(place.clone()), message: message.into(), label: label.into(), hint: None }
    }

    /// An error that has no place within its file.
    pub fn of_file(file: impl Into<String>, message: impl Into<String>) -> Self {
        let (file, message) = (file.into(), message.into());
        Self { file, place: None, message, label: String::new(), hint: None }
    }

    /// The same with what to do about it.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// The same with what to do about it, where that is known.
    #[must_use]
    pub fn maybe_hint(self, hint: Option<String>) -> Self {
        Self { hint: hint.or(self.hint), ..self }
    }

    fn order(&self) -> (&str, Option<(usize, usize)>) {
        (&self.file, self.place.as_ref().map(|place| (place.span.start, place.span.end)))
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl Diagnostics {
    /// Takes one more.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// Takes all of `others`.
    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.0.iter()
    }

    /// What was made, if nothing was found wrong on the way; else all that was, by file and place.
    pub(super) fn or<T>(mut self, made: Option<T>) -> Result<T, Self> {
        self.0.sort_by(|a, b| a.order().cmp(&b.order()));
        match made {
            Some(made) if self.is_empty() => Ok(made),
            _ => Err(self),
        }
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the declarations of the image have an error"),
            count => write!(f, "the declarations of the image have {count} errors"),
        }?;
        self.0.iter().try_for_each(|diagnostic| write!(f, "\n\n{diagnostic}"))
    }
}

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Some(place) => {
                writeln!(f, "{}: {}", place.named(), self.message)?;
                place.draw(&self.label, f)?;
            }
            None => write!(f, "{}: {}", self.file, self.message)?,
        }
        self.hint.iter().try_for_each(|hint| write!(f, "\n  hint: {hint}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drawn(text: &str, span: Range<usize>) -> String {
        let document = Document::new(Path::new("/x"), Path::new("/x/a.toml"), text);
        Diagnostic::new(&document.at(span), "wrong", "here").to_string()
    }

    #[test]
    fn the_marks_stand_below_what_is_wrong() {
        insta::assert_snapshot!(drawn("a = 1\nbär = \"ü\"\n", 13..17), @r#"
        a.toml:2:7: wrong
           |
         2 | bär = "ü"
           |       ^^^ here
        "#);
    }

    #[test]
    fn a_tabulator_is_as_wide_as_its_mark() {
        insta::assert_snapshot!(drawn("\ta\t= 1", 3..4), @r"
        a.toml:1:4: wrong
           |
         1 |  a = 1
           |    ^ here
        ");
    }

    #[test]
    fn of_several_lines_the_first_is_marked() {
        insta::assert_snapshot!(drawn("a = [\n 1,\n]\n", 4..12), @r"
        a.toml:1:5: wrong
           |
         1 | a = [
           |     ^ here
        ");
    }

    #[test]
    fn the_end_of_a_file_is_marked_behind_its_last_line() {
        insta::assert_snapshot!(drawn("a =", 3..3), @r"
        a.toml:1:4: wrong
           |
         1 | a =
           |    ^ here
        ");
    }

    #[test]
    fn of_a_long_line_only_the_part_around_the_mark_is_shown() {
        let text = format!("{}wrong{}", "a".repeat(500), "b".repeat(500));
        let drawn = drawn(&text, 500..505);
        assert!(drawn.lines().all(|line| line.chars().count() < WIDTH + 20), "{drawn}");
        let lines: Vec<_> = drawn.lines().collect();
        let mark = lines[3].find("^^^^^").unwrap();
        let above: String = lines[2].chars().skip(mark).take(5).collect();
        assert_eq!(above, "wrong", "{drawn}");
    }

    proptest! {
        #[test]
        fn any_place_of_any_text_can_be_drawn(text in "(?s).{0,300}", start in 0..400_usize, length in 0..400_usize) {
            let drawn = drawn(&text, start..start + length);
            prop_assert!(drawn.contains('^'));
        }
    }
}
