//! Errors that say what to do next.
//!
//! A hint is attached as context and found again anywhere in the chain; one place
//! ([`report`]) renders errors and hints, so that all of them read alike.

use std::fmt;
use std::io::{self, ErrorKind};

/// What a person can do about an error: a full sentence without a full stop.
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

/// Attaches a hint to an error that says somewhere that a disk is full: of this program, or in the words of
/// strerror(3) of one that it ran.
pub fn where_full(error: anyhow::Error, hint: impl FnOnce() -> String) -> anyhow::Error {
    let is_full = error.chain().any(|cause| {
        let kind = cause.downcast_ref::<io::Error>().map(io::Error::kind);
        matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
            || cause.to_string().contains("No space left on device")
    });
    if is_full { error.context(Hint(hint())) } else { error }
}

/// The causes of an error, and its hints, which begin with `hint: `.
pub fn parts(error: &anyhow::Error) -> (Vec<String>, Vec<String>) {
    error.chain().map(ToString::to_string).partition(|line| !line.starts_with("hint: "))
}

/// The text that a person reads of an error: one line, its causes, then its hints.
pub fn report(error: &anyhow::Error) -> String {
    let (causes, hints) = parts(error);
    let mut text = String::new();
    for (depth, cause) in causes.iter().enumerate() {
        text.push_str(if depth == 0 { "error: " } else { "\n  cause: " });
        text.push_str(cause.trim_end());
    }
    for hint in hints {
        text.push('\n');
        text.push_str(&hint);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn a_report_has_the_operation_its_causes_and_then_the_hints() {
        let error = Err::<(), _>(std::io::Error::other("no space left"))
            .hint(|| "free 2 GiB in /var".into())
            .context("unpacking `tools`")
            .unwrap_err();
        assert_eq!(
            report(&error),
            "error: unpacking `tools`\n  cause: no space left\nhint: free 2 GiB in /var"
        );
    }
}
