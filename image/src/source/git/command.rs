//! The machine's git, with nothing of the machine's configuration in it.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::hint::WithHint as _;

/// All of the configuration that git has. Any owner may hold a mirror on this machine: what comes of it is
/// checked by its hash, and nothing of it is run.
const CONFIG: &str = "\
[safe]
\tdirectory = *
[core]
\thooksPath = /dev/null
\tattributesFile = /dev/null
[gc]
\tauto = 0
[maintenance]
\tauto = false
[protocol]
\tversion = 2
[fetch]
\tunpackLimit = 1
[http]
\tlowSpeedLimit = 1000
\tlowSpeedTime = 30
\tfollowRedirects = true
";

/// Ways to other machines that the user set up, which decide who is asked but not what is taken.
const KEPT: [&str; 16] = [
    "PATH",
    "HOME",
    "USER",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// Starts git.
#[derive(Debug)]
pub struct Sealed {
    config: PathBuf,
    /// Key and value of the user's `credential.*`.
    credentials: Vec<(String, String)>,
}

impl Sealed {
    /// Its configuration is written into `folder`.
    pub fn new(folder: &Path) -> Result<Self> {
        let config = folder.join("config");
        if std::fs::read(&config).ok().as_deref() != Some(CONFIG.as_bytes()) {
            crate::store::write_atomically(&config, CONFIG.as_bytes())?;
        }
        Ok(Self { config, credentials: credentials() })
    }

    fn command(&self, store: Option<&Path>) -> Command {
        let mut command = Command::new("git");
        command.env_clear();
        command.envs(KEPT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_CONFIG_GLOBAL", &self.config)
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            // A promised object must never be fetched by the way: only from the place that is asked.
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_ALLOW_PROTOCOL", "http:https:file")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "true")
            .env("SSH_ASKPASS", "true")
            .env("GIT_CONFIG_COUNT", self.credentials.len().to_string());
        for (number, (key, value)) in self.credentials.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{number}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{number}"), value);
        }
        if let Some(store) = store {
            command.arg("--git-dir").arg(store);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs git and gives its output.
    ///
    /// # Errors
    /// The last lines that git says.
    pub fn run(&self, store: Option<&Path>, arguments: &[&str]) -> Result<Vec<u8>> {
        let output = self.command(store).args(arguments).output().with_context(starting).hint(install)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(said(&output.stderr, output.status))
    }

    /// Runs git with a text on its standard input.
    pub fn run_with(&self, store: &Path, arguments: &[&str], input: &str) -> Result<()> {
        let mut child = self.start(store, arguments)?;
        let stdin = child.stdin.take();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
            child.wait_with_output()
        })?;
        if output.status.success() { Ok(()) } else { Err(said(&output.stderr, output.status)) }
    }

    /// Starts git with all three streams to be used.
    pub fn start(&self, store: &Path, arguments: &[&str]) -> Result<std::process::Child> {
        let mut command = self.command(Some(store));
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(starting).hint(install)
    }

    /// The lines of `git ls-remote`, for as long as it may take.
    pub fn refs(&self, address: &str, name: &str, patience: Duration) -> Result<String> {
        let mut command = self.command(None);
        command
            .args(["ls-remote", "--quiet", "--", address, name])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().with_context(starting).hint(install)?;
        let start = Instant::now();
        let status = loop {
            match child.try_wait()? {
                Some(status) => break status,
                None if start.elapsed() > patience => {
                    child.kill()?;
                    child.wait()?;
                    bail!("no answer within {} s", patience.as_secs());
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        // Both are short: a pipe holds them.
        let (mut refs, mut errors) = (Vec::new(), Vec::new());
        child.stdout.take().map(|mut stream| stream.read_to_end(&mut refs)).transpose()?;
        child.stderr.take().map(|mut stream| stream.read_to_end(&mut errors)).transpose()?;
        if status.success() {
            Ok(String::from_utf8_lossy(&refs).into_owned())
        } else {
            Err(said(&errors, status))
        }
    }

    /// The objects of a commit's files that are not there; its folders have to be.
    pub fn missing(&self, store: &Path, commit: &str) -> Result<Vec<String>> {
        let arguments = ["rev-list", "--objects", "--no-walk", "--missing=print", "--end-of-options", commit];
        let output = self.run(Some(store), &arguments)?;
        let text = String::from_utf8_lossy(&output);
        Ok(text.lines().filter_map(|line| line.strip_prefix('?')).map(str::to_owned).collect())
    }

    /// The address that a commit's `.gitmodules` has for a path.
    pub fn submodule(&self, store: &Path, commit: &str, path: &str) -> Result<Option<String>> {
        let blob = format!("--blob={commit}:.gitmodules");
        let listed = self.run(Some(store), &["config", &blob, "--null", "--list"])?;
        let text = String::from_utf8_lossy(&listed);
        let entries: Vec<_> = text.split('\0').filter_map(|entry| entry.split_once('\n')).collect();
        let value = |key: &str| entries.iter().rev().find(|(name, _)| *name == key).map(|(_, value)| *value);
        let keys = entries.iter().filter_map(|(key, _)| key.strip_suffix(".path"));
        let mut keys = keys.filter(|key| key.starts_with("submodule."));
        let key = keys.find(|key| value(&format!("{key}.path")) == Some(path));
        Ok(key.and_then(|key| value(&format!("{key}.url"))).map(str::to_owned))
    }
}

/// Lets none of git's variables have a say, but those of these names.
pub fn forget_variables(command: &mut Command, but: &[&str]) {
    let names = std::env::vars_os().map(|(name, _)| name);
    for name in names.filter(|name| name.as_encoded_bytes().starts_with(b"GIT_")) {
        if but.iter().all(|kept| name != *kept) {
            command.env_remove(name);
        }
    }
}

/// The user's helpers for passwords and tokens, and nothing else of their configuration.
fn credentials() -> Vec<(String, String)> {
    let mut command = Command::new("git");
    command.args(["config", "--global", "--null", "--get-regexp", r"^credential\."]).stdin(Stdio::null());
    // It says where that configuration is.
    forget_variables(&mut command, &["GIT_CONFIG_GLOBAL"]);
    let output = command.output();
    let Ok(output) = output else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let pairs = text.split('\0').filter_map(|entry| entry.split_once('\n'));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Whether a failure is one of the way to the server, that may be gone the next moment.
pub fn broke_off(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    ["early EOF", "hung up", "RPC failed", "disconnect", "reset by peer", "timed out"]
        .iter()
        .any(|sign| text.contains(sign))
}

fn starting() -> &'static str {
    "starting git"
}

fn install() -> String {
    "install git with the machine's package manager".into()
}

/// git's own words, without what it says on the way.
fn said(errors: &[u8], status: std::process::ExitStatus) -> anyhow::Error {
    let text = String::from_utf8_lossy(errors);
    let marks = ["fatal: ", "error: ", "remote: "];
    let strip = |line: &str| {
        let rest = marks.iter().find_map(|mark| line.strip_prefix(mark)).unwrap_or(line);
        rest.chars().filter(|c| !c.is_control()).take(300).collect::<String>()
    };
    let lines: Vec<_> = text.lines().map(strip).filter(|line| !line.trim().is_empty()).collect();
    let last = lines.iter().skip(lines.len().saturating_sub(3)).map(String::as_str).collect::<Vec<_>>();
    if last.is_empty() { anyhow!("git ended with {status}") } else { anyhow!("{}", last.join("; ")) }
}
