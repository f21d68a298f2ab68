//! Outside programs, all run in one place.

use std::fmt;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
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

    /// As [`Programs::run`], for a program that takes long: each line that it prints is told when it comes.
    ///
    /// # Streams
    /// Standard input is empty, lines of standard output are told, and the end of standard error is in the error
    /// where the program fails.
    fn watch(&self, program: &str, arguments: &[&str], tell: &mut dyn FnMut(&str)) -> Result<()> {
        self.read(program, arguments)?.lines().for_each(tell);
        Ok(())
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

    fn watch(&self, program: &str, arguments: &[&str], tell: &mut dyn FnMut(&str)) -> Result<()> {
        let line = line(program, arguments);
        tracing::debug!(command = line, "running");
        let mut command = Command::new(program);
        command.args(arguments).env("LC_ALL", "C.UTF-8").stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = match child {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Missing(program.to_owned())).with_context(|| format!("running `{line}`"));
            }
            child => child.with_context(|| format!("running `{line}`"))?,
        };
        // Both pipes are read at once: a program waits where one of them is full.
        let errors = child.stderr.take();
        let errors = std::thread::spawn(move || {
            let mut said = Vec::new();
            // What was read until then counts.
            let _ = errors.map(|mut pipe| pipe.read_to_end(&mut said));
            said
        });
        if let Some(out) = child.stdout.take() {
            let lines = BufReader::new(out).split(b'\n').map_while(Result::ok);
            lines.for_each(|line| tell(&String::from_utf8_lossy(&line)));
        }
        let stderr = errors.join().unwrap_or_default();
        let status = child.wait().with_context(|| format!("running `{line}`"))?;
        outcome(&line, &Output { status, stdout: Vec::new(), stderr }).map(drop)
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
    fn lines_are_told_and_a_failure_has_what_was_said_beside_them() {
        let mut lines = Vec::new();
        let script = "echo one; echo why >&2; printf 'two'; exit 4";
        let error = System.watch("sh", &["-c", script], &mut |line| lines.push(line.to_owned())).unwrap_err();
        assert_eq!(lines, ["one", "two"]);
        assert!(error.to_string().ends_with("failed with exit status: 4: why"), "{error}");
        let error = System.watch("no-such-program", &[], &mut |_| ()).unwrap_err();
        assert!(error.chain().any(<dyn std::error::Error>::is::<Missing>), "{error:?}");
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
