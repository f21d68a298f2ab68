//! Outside programs, all run in one place.

use std::fmt;
use std::io::ErrorKind;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs outside programs.
pub trait Programs: Send + Sync {
    /// Runs a program and gives what it printed.
    ///
    /// # Streams
    /// Standard input is empty, standard output is returned, and the end of standard error is in
    /// the error where the program fails.
    ///
    /// # Errors
    /// [`Missing`] is in the chain where there is no such program.
    fn read(&self, program: &str, arguments: &[&str]) -> Result<String>;

    /// As [`Programs::read`], for a program that is run for what it does.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<()> {
        self.read(program, arguments).map(drop)
    }
}

/// There is no such program on the card.
#[derive(Debug)]
pub struct Missing(pub String);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the program `{}` is not in the image", self.0)
    }
}

impl std::error::Error for Missing {}

/// The programs of the running system.
pub struct System;

impl Programs for System {
    fn read(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let line = line(program, arguments);
        tracing::debug!(command = line, "running");
        let output = Command::new(program)
            .args(arguments)
            // What is read from programs is in English, whatever the login's language.
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) => outcome(&line, &output),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Missing(program.to_owned())).with_context(|| format!("running `{line}`"))
            }
            Err(error) => Err(error).with_context(|| format!("running `{line}`")),
        }
    }
}

/// A command as a person would type it, near enough to be copied.
pub fn line(program: &str, arguments: &[&str]) -> String {
    std::iter::once(program).chain(arguments.iter().copied()).collect::<Vec<_>>().join(" ")
}

fn outcome(line: &str, output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!("`{line}` failed with {}{}", output.status, end_of(&output.stderr));
    }
    String::from_utf8(output.stdout.clone()).with_context(|| format!("`{line}` printed no UTF-8"))
}

/// The last lines of what a program said, as the tail of a sentence.
fn end_of(stderr: &[u8]) -> String {
    const LINES: usize = 10;
    let text = String::from_utf8_lossy(stderr);
    let lines: Vec<_> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] => String::new(),
        lines => format!(": {}", lines[lines.len().saturating_sub(LINES)..].join("; ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_prints_is_read() {
        assert_eq!(System.read("echo", &["a", "b"]).unwrap(), "a b\n");
    }

    #[test]
    fn a_failure_names_the_command_its_status_and_the_end_of_its_errors() {
        let script = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do echo line $n >&2; done; exit 3";
        let error = System.read("sh", &["-c", script]).unwrap_err().to_string();
        assert!(error.contains("failed with exit status: 3: line 3; line 4"), "{error}");
        assert!(error.ends_with("line 12"), "{error}");
    }

    #[test]
    fn a_missing_program_is_known_as_such() {
        let error = System.run("no-such-program", &["--now"]).unwrap_err();
        assert!(error.chain().any(<dyn std::error::Error>::is::<Missing>), "{error:?}");
        assert_eq!(
            format!("{error:#}"),
            "running `no-such-program --now`: the program `no-such-program` is not in the image"
        );
    }
}
