//! One run of a plugin's program: its configuration on standard input, an environment of its own, its answer
//! on standard output, and an end by the deadline for it and all that it started.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout, timeout_at};

use crate::pods::network::Refusal;

/// The longest answer that is taken, in octets.
const LONGEST_ANSWER: u64 = 1 << 20;
/// What is kept of standard error, in octets.
const LONGEST_COMPLAINT: usize = 4 << 10;
/// Where plugins find the programs that they call (`iptables`, `ip`).
const SEARCH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Starts plugins.
#[derive(Debug)]
pub struct Plugins {
    /// Where their programs are looked for, in this order.
    pub folders: Vec<PathBuf>,
}

/// What a plugin is started with.
pub struct Start {
    /// `CNI_COMMAND`.
    pub command: &'static str,
    /// The other `CNI_` variables; `CNI_PATH` is added.
    pub environment: Vec<(&'static str, String)>,
    /// Its standard input.
    pub input: Vec<u8>,
}

impl Plugins {
    /// The program of a plugin.
    ///
    /// # Errors
    /// Where no folder has it.
    pub fn find(&self, kind: &str) -> Result<PathBuf> {
        let mut places = self.folders.iter().map(|folder| folder.join(kind));
        places
            .find(|place| place.is_file())
            .with_context(|| format!("the plugin `{kind}` is in none of `{}`: install it there", self.path()))
    }

    /// Runs a plugin.
    ///
    /// # Errors
    /// [`Refusal::Later`] where it says so (11, 5, 50, 51), is cut off by the deadline or a signal, or can't be
    /// started; [`Refusal::Never`] for all else that is no success.
    pub async fn run(&self, kind: &str, start: Start, deadline: Instant) -> Result<Vec<u8>, Refusal> {
        let command = start.command;
        let running = || format!("{command} of the plugin `{kind}`");
        let begun = Instant::now();
        let program = self.find(kind).with_context(running).map_err(Refusal::Never)?;
        let child = self.spawn(program, &start, deadline).await;
        let mut child = child.with_context(running).map_err(Refusal::Later)?;
        let mut group = Group::of(&child);

        let mut out = Vec::new();
        let mut complaint = Vec::new();
        let mut status = None;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let talking = async {
            let give = async {
                // It may end without having read all; what it answers says why.
                if let Some(mut stdin) = stdin {
                    let _ = stdin.write_all(&start.input).await;
                }
            };
            let take = async {
                let Some(stdout) = stdout else { return Ok(()) };
                let read = stdout.take(LONGEST_ANSWER + 1).read_to_end(&mut out).await;
                if out.len() as u64 > LONGEST_ANSWER {
                    group.kill();
                }
                read.map(drop)
            };
            let wait = async {
                status = Some(child.wait().await?);
                Ok(())
            };
            let ((), read, (), waited) = tokio::join!(give, take, listen(stderr, &mut complaint), wait);
            read.and(waited)
        };
        let talked = timeout_at(deadline.into(), talking).await;
        if !matches!(talked, Ok(Ok(()))) {
            group.kill();
            // A killed process is gone at once, but for one that hangs in the kernel.
            let _ = timeout(Duration::from_millis(200), child.wait()).await;
        }
        group.disarm();

        let complaint = String::from_utf8_lossy(&complaint);
        if !complaint.trim().is_empty() {
            tracing::debug!(plugin = kind, command, "{}", complaint.trim());
        }
        if out.len() as u64 > LONGEST_ANSWER {
            let error = anyhow!("it answered with more than {LONGEST_ANSWER} octets");
            return Err(Refusal::Never(error.context(running())));
        }
        let status = match (talked, status) {
            (Ok(Ok(())), Some(status)) => status,
            (Ok(Ok(())), None) => return Err(Refusal::Later(anyhow!("it was lost").context(running()))),
            (Ok(Err(error)), _) => {
                return Err(Refusal::Later(anyhow!(error).context("reading its answer").context(running())));
            }
            (Err(_), Some(_)) => {
                let error = anyhow!("it ended, and something that it started held its output open");
                return Err(Refusal::Later(error.context(running())));
            }
            (Err(_), None) => {
                let error = anyhow!("no answer in {:.1?}", begun.elapsed());
                return Err(Refusal::Later(error.context(running())));
            }
        };
        if status.success() {
            return Ok(out);
        }
        Err(refusal(status, &out, &complaint, &running()))
    }

    async fn spawn(&self, program: PathBuf, start: &Start, deadline: Instant) -> std::io::Result<Child> {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", SEARCH)
            .env("CNI_COMMAND", start.command)
            .env("CNI_PATH", self.path())
            .envs(start.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        loop {
            match command.spawn() {
                // A plugin that is being replaced is still open for writing.
                Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                    sleep(Duration::from_millis(10)).await;
                }
                started => return started,
            }
        }
    }

    fn path(&self) -> String {
        let folders: Vec<_> = self.folders.iter().map(|folder| folder.display().to_string()).collect();
        folders.join(":")
    }
}

/// The processes that a plugin started. They are killed where the call is given up, for whatever reason.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    fn kill(&self) {
        if let Some(group) = self.0 {
            // What is gone already is what is wanted.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads all, and keeps the beginning.
async fn listen(stream: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut stream) = stream else { return };
    let mut part = [0; 1024];
    while let Ok(read @ 1..) = stream.read(&mut part).await {
        let room = LONGEST_COMPLAINT.saturating_sub(kept.len());
        kept.extend_from_slice(&part[..read.min(room)]);
    }
}

/// An error as a plugin writes it.
#[derive(Deserialize)]
struct Report {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

fn refusal(status: ExitStatus, out: &[u8], complaint: &str, running: &str) -> Refusal {
    /// I/O failure, try again later, not available, not available and limited.
    const LATER: [u32; 4] = [5, 11, 50, 51];
    let Ok(Report { code, msg, details }) = serde_json::from_slice(out) else {
        let reason = match complaint.trim() {
            "" => format!("it ended with {status} and no reason"),
            complaint => format!("it ended with {status}: {}", beginning(complaint)),
        };
        let error = anyhow!(reason).context(running.to_owned());
        return if status.code().is_none() { Refusal::Later(error) } else { Refusal::Never(error) };
    };
    let texts: Vec<_> = [msg, details].iter().map(|text| beginning(text.trim())).collect();
    let texts: Vec<_> = texts.into_iter().filter(|text| !text.is_empty()).collect();
    let error = anyhow!("{} (code {code})", texts.join("; ")).context(running.to_owned());
    if LATER.contains(&code) { Refusal::Later(error) } else { Refusal::Never(error) }
}

/// As much of a text as fits into a line of a log.
fn beginning(text: &str) -> String {
    const MOST: usize = 500;
    text.chars().take(MOST).collect()
}
