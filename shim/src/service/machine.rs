//! The host, as the set-up works on it.

use std::cell::Cell;
use std::fs;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::config::Config;
use crate::deadline::Deadline;
use crate::files::Files;

/// Where claims are, under the PCI addresses of their VFs; see [`crate::claims`].
const CLAIMS: &str = "/var/lib/dpukit/claims";

/// A host and what it is to be.
pub struct Machine {
    /// Its files.
    pub files: Files,
    /// What changes its kernel's state.
    pub kernel: Box<dyn Kernel>,
    /// What it is to be.
    pub config: Config,
    /// Since when the card's firmware is waited for; none where it is not, or nobody waits.
    pub waiting: Cell<Option<Instant>>,
}

impl Machine {
    /// The host whose files are those below `root`, with its configuration.
    pub fn open(root: &str) -> Result<Self> {
        let files = Files::below(root);
        let config = Config::read(&files)?;
        Ok(Self::with(files, config))
    }

    /// As [`Machine::open`], for the end: the defaults stand in for a configuration that cannot be used, and why
    /// it cannot is told.
    pub fn open_for_the_end(root: &str) -> Result<(Self, Option<anyhow::Error>)> {
        let files = Files::below(root);
        Ok(match Config::read(&files) {
            Ok(config) => (Self::with(files, config), None),
            Err(error) => (Self::with(files, Config::parse("")?), Some(error)),
        })
    }

    fn with(files: Files, config: Config) -> Self {
        Self { kernel: Box::new(System(files.clone())), files, config, waiting: Cell::new(None) }
    }

    /// The PCI addresses of the VFs that are claimed, be the claim readable or damaged.
    pub fn claimed(&self) -> Result<Vec<String>> {
        let mut names = self.files.names(CLAIMS)?;
        names.retain(|name| !name.starts_with('.'));
        Ok(names)
    }
}

/// What is asked of the kernel beside netlink.
pub trait Kernel {
    /// Runs a program, and gives what it printed.
    ///
    /// # Errors
    /// Where it fails, or does not end in time; with the end of what it said on standard error.
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String>;

    /// Writes an attribute of sysfs.
    fn set(&self, path: &str, value: &str) -> Result<()>;
}

/// The running kernel.
pub struct System(Files);

impl Kernel for System {
    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        // The kernel waits up to 60 s for a firmware file that nobody gives it, and modprobe with it.
        const PATIENCE: Duration = Duration::from_secs(75);
        let line = [&[program], arguments].concat().join(" ");
        tracing::debug!(command = line, "running");
        let mut command = Command::new(program);
        command.args(arguments).env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("running `{line}`"))?;
        outcome(&mut child, PATIENCE).with_context(|| format!("running `{line}`"))
    }

    fn set(&self, path: &str, value: &str) -> Result<()> {
        tracing::debug!(path, value, "writing");
        let written = fs::File::options().write(true).open(self.0.at(path)).and_then(|mut file| {
            use std::io::Write as _;
            file.write_all(value.as_bytes())
        });
        written.with_context(|| format!("writing `{value}` to `{path}`"))
    }
}

/// Waits for a program to end, and kills it where it does not.
fn outcome(child: &mut Child, patience: Duration) -> Result<String> {
    let (out, errors) = (drain(child.stdout.take()), drain(child.stderr.take()));
    let deadline = Deadline::after(Instant::now(), patience);
    let Some(status) = deadline.wait_for(|| Ok(child.try_wait()?))? else {
        // One that the kernel holds is not waited for.
        let _ = child.kill();
        bail!("it did not end in {patience:?}");
    };
    let text = |thread: thread::JoinHandle<String>| thread.join().unwrap_or_default();
    if !status.success() {
        let errors = text(errors);
        let lines: Vec<_> = errors.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines[lines.len().saturating_sub(5)..].join("; ");
        bail!("it failed with {status}{}{last}", if last.is_empty() { "" } else { ": " });
    }
    Ok(text(out))
}

/// Reads a pipe to its end, beside whatever else is done.
fn drain(pipe: Option<impl std::io::Read + Send + 'static>) -> thread::JoinHandle<String> {
    /// More than any program that is run here has to say, in octets.
    const LARGEST: u64 = 1 << 20;
    thread::spawn(move || {
        let mut octets = Vec::new();
        if let Some(pipe) = pipe {
            // What was read until then counts.
            let _ = pipe.take(LARGEST).read_to_end(&mut octets);
        }
        String::from_utf8_lossy(&octets).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn system() -> System {
        System(Files::below("/"))
    }

    #[test]
    fn what_a_program_prints_is_read() {
        assert_eq!(system().run("echo", &["a", "b"]).unwrap(), "a b\n");
    }

    #[test]
    fn a_failure_names_the_command_its_status_and_what_it_said() {
        let error = system().run("sh", &["-c", "echo no such module >&2; exit 3"]).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.starts_with("running `sh -c "), "{error}");
        assert!(error.ends_with("it failed with exit status: 3: no such module"), "{error}");
        assert!(format!("{:#}", system().run("no-such-program", &[]).unwrap_err()).contains("No such file"));
    }

    #[test]
    fn one_that_does_not_end_is_killed() {
        let mut child = Command::new("sleep").arg("60").stdout(Stdio::piped()).spawn().unwrap();
        let error = outcome(&mut child, Duration::from_millis(50)).unwrap_err().to_string();
        assert_eq!(error, "it did not end in 50ms");
        assert!(!child.wait().unwrap().success());
    }
}
