//! Errors that say what to do next: a hint is attached as context and found again when the error is told.

use std::fmt;

/// What a person can do about an error: a sentence without a full stop.
#[derive(Debug)]
pub struct Hint(pub String);

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hint: {}", self.0)
    }
}

/// Attaches a hint to an error.
pub trait WithHint<T> {
    /// `Err` gets `hint`; `Ok` passes through.
    fn hint(self, hint: impl FnOnce() -> String) -> anyhow::Result<T>;
}

impl<T, E: Into<anyhow::Error>> WithHint<T> for Result<T, E> {
    fn hint(self, hint: impl FnOnce() -> String) -> anyhow::Result<T> {
        self.map_err(|error| error.into().context(Hint(hint())))
    }
}

/// The text that a person reads of an error: one line, its causes, then its hints.
pub fn report(error: &anyhow::Error) -> String {
    let (causes, hints): (Vec<_>, Vec<_>) =
        error.chain().map(ToString::to_string).partition(|line| !line.starts_with("hint: "));
    format!("error: {}", [causes.join("\n  cause: "), hints.join("\n")].join("\n").trim_end())
}
