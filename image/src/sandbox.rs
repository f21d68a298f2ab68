//! Where outside programs of a step run: bubblewrap with namespaces of its own and nothing of the
//! machine in it but what the step names.
//!
//! Inside there is the tool root at `/`, inputs read-only below `/in`, the step's result at `/out`,
//! scratch space at `/build`, and no network. Time, user, host name and locale are fixed, so that a
//! program has nothing to tell machines apart by. Root on the machine is not needed.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::hint::WithHint as _;
use crate::store::Workplace;

/// The time that every file and program sees as "now": 2026-01-01T00:00:00Z, in seconds.
pub const EPOCH: u64 = 1_767_225_600;

/// One run of a shell script in a tool root.
#[derive(Debug)]
pub struct Sandbox {
    tools: PathBuf,
    binds: Vec<(PathBuf, String, bool)>,
    devices: Vec<String>,
    env: Vec<(String, String)>,
    network: bool,
}

/// Builds the command that starts bubblewrap out of a tool root, whatever the machine's own libraries.
fn bubblewrap(tools: &Path) -> Command {
    let mut command = Command::new(tools.join("usr/lib64/ld-linux-x86-64.so.2"));
    command
        .arg("--library-path")
        .arg(tools.join("usr/lib/x86_64-linux-gnu"))
        .arg(tools.join("usr/bin/bwrap"));
    command
}

impl Sandbox {
    /// A sandbox with `tools` at its root, started by the bubblewrap in it.
    pub fn new(tools: impl Into<PathBuf>) -> Self {
        Self { tools: tools.into(), binds: Vec::new(), devices: Vec::new(), env: Vec::new(), network: false }
    }

    /// Shows a file or folder of the machine, read-only, at `/in/<name>`.
    #[must_use]
    pub fn input(mut self, name: &str, path: impl Into<PathBuf>) -> Self {
        self.binds.push((path.into(), format!("/in/{name}"), false));
        self
    }

    /// Shows a folder of the machine, writable, at `inside`.
    #[must_use]
    pub fn writable(mut self, inside: &str, path: impl Into<PathBuf>) -> Self {
        self.binds.push((path.into(), inside.to_owned(), true));
        self
    }

    /// Shows a device of the machine: for emulators, never for a step.
    #[must_use]
    pub fn device(mut self, path: &str) -> Self {
        self.devices.push(path.to_owned());
        self
    }

    /// Sets a variable.
    #[must_use]
    #[allow(clippy::needless_pass_by_value, reason = "numbers and strings are given as they are")]
    pub fn env(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.env.push((name.to_owned(), value.to_string()));
        self
    }

    /// Lets the program use the machine's network: for emulators and clients, never for a step.
    #[must_use]
    pub fn with_network(mut self) -> Self {
        self.network = true;
        self
    }

    /// The command that runs `argv` in the sandbox.
    pub fn command(&self, argv: &[&str]) -> Result<Command> {
        let mut command = bubblewrap(&self.tools);
        command.args([
            "--unshare-user",
            "--unshare-pid",
            "--unshare-ipc",
            "--unshare-uts",
            "--unshare-cgroup-try",
        ]);
        if !self.network {
            command.arg("--unshare-net");
        }
        command.args(["--uid", "0", "--gid", "0", "--hostname", "dpukit", "--die-with-parent", "--clearenv"]);
        for name in ["usr", "etc", "var", "opt"] {
            let path = self.tools.join(name);
            if path.is_dir() {
                command.arg("--ro-bind").arg(&path).arg(format!("/{name}"));
            }
        }
        for name in ["bin", "sbin", "lib", "lib64"] {
            command.arg("--symlink").arg(format!("usr/{name}")).arg(format!("/{name}"));
        }
        command.args(["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--dir", "/root"]);
        for (path, inside, writable) in &self.binds {
            command.arg(if *writable { "--bind" } else { "--ro-bind" }).arg(path).arg(inside);
        }
        for path in &self.devices {
            command.args(["--dev-bind", path, path]);
        }
        // Mount points are made in a file system in memory, which is then closed.
        command.args(["--remount-ro", "/"]);
        let fixed = [
            ("PATH", "/usr/bin:/usr/sbin"),
            ("HOME", "/root"),
            ("LC_ALL", "C"),
            ("TZ", "UTC"),
            ("TERM", "dumb"),
            ("SOURCE_DATE_EPOCH", &EPOCH.to_string()),
        ];
        let own = self.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in fixed.into_iter().chain(own) {
            command.args(["--setenv", name, value]);
        }
        command.arg("--").args(argv);
        // bubblewrap is given the machine's environment only to clear it; a step must not depend on it.
        command.env_clear();
        Ok(command)
    }

    /// Runs `script` with bash for a step: `/out` and `/build` are the step's, output goes to its log.
    ///
    /// # Errors
    /// Where the script fails, the error holds the last 30 lines of the log and the log's place.
    pub fn run(self, place: &Workplace, script: &str) -> Result<()> {
        let sandbox = self.writable("/out", &place.out).writable("/build", &place.scratch);
        let mut command =
            sandbox.command(&["/bin/bash", "-euo", "pipefail", "-c", &format!("cd /build\n{script}")])?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&place.log)
            .with_context(|| format!("opening the log `{}`", place.log.display()))?;
        let status = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .status()
            .context("starting the sandbox")?;
        if status.success() {
            return Ok(());
        }
        let tail = tail(&place.log, 30)?;
        let failure = Err(anyhow::anyhow!(
            "the step's script ended with {status}; the end of its log:\n{}\nthe whole log is `{}`",
            tail.join("\n"),
            place.log.display()
        ));
        if tail.iter().any(|line| line.contains("bwrap: ")) { failure.hint(namespace_hint) } else { failure }
    }
}

fn namespace_hint() -> String {
    "steps run in user namespaces: `cargo xtask doctor` says what to switch on".into()
}

/// The last lines of a text file, each cut at 400 characters.
fn tail(path: &Path, lines: usize) -> Result<Vec<String>> {
    let reader = BufReader::new(File::open(path).with_context(|| format!("reading `{}`", path.display()))?);
    let mut last = std::collections::VecDeque::new();
    for line in reader.split(b'\n') {
        if last.len() == lines {
            last.pop_front();
        }
        last.push_back(String::from_utf8_lossy(&line?).chars().take(400).collect());
    }
    Ok(last.into())
}

/// Appends a line of ours to a step's log.
pub fn note(place: &Workplace, line: &str) -> Result<()> {
    let mut log = File::options().create(true).append(true).open(&place.log)?;
    writeln!(log, "{line}").with_context(|| format!("writing `{}`", place.log.display()))
}

/// Gives a tool root the few links that Debian's base packages make when installed.
pub fn finish_tool_root(root: &Path) -> Result<()> {
    for name in ["bin", "sbin", "lib", "lib64"] {
        let link = root.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(format!("usr/{name}"), &link).with_context(|| format!("making `{}`", link.display()))?;
        }
    }
    // Programs such as ssh ask who they are.
    for (name, line) in [("passwd", "root:x:0:0:root:/root:/bin/bash\n"), ("group", "root:x:0:\n")] {
        let path = root.join("etc").join(name);
        if !path.exists() {
            fs::create_dir_all(root.join("etc"))?;
            fs::write(&path, line).with_context(|| format!("writing `{}`", path.display()))?;
        }
    }
    if !root.join("usr/bin/bash").exists() {
        bail!("a tool root without `bash` can't run a step; add it to the component's packages");
    }
    Ok(())
}
