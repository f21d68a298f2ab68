//! The host's IPAM plugin, run as CNI has it: our configuration on its standard input, our environment,
//! its answer on its standard output.

use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Deserialize;

use crate::cni::{Attachment, Code, Invocation, Outcome};
use crate::config::Config;
use crate::deadline::Deadline;

/// An IPAM plugin, for one call.
pub struct Ipam<'a> {
    /// The call, for the environment.
    pub call: &'a Invocation,
    /// The plugin's name.
    pub plugin: &'a str,
    /// The configuration that it gets.
    pub config: &'a Config,
}

/// An error as a plugin writes it.
#[derive(Deserialize)]
struct Refusal {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl Ipam<'_> {
    /// Asks for addresses.
    pub fn add(&self, attachment: &Attachment, deadline: Deadline) -> Result<Outcome> {
        let answer = self.run("ADD", Some(attachment), deadline)?;
        let outcome = serde_json::from_slice(&answer);
        outcome.with_context(|| format!("reading what `{}` answered", self.plugin)).context(Code::DECODE)
    }

    /// Gives addresses back; the attachment may be of another call than this one.
    pub fn del(&self, attachment: &Attachment, deadline: Deadline) -> Result<()> {
        self.run("DEL", Some(attachment), deadline).map(drop)
    }

    /// Has it compare with the result before.
    pub fn check(&self, attachment: &Attachment, deadline: Deadline) -> Result<()> {
        self.run("CHECK", Some(attachment), deadline).map(drop)
    }

    /// Has it forget what is not valid.
    pub fn gc(&self, deadline: Deadline) -> Result<()> {
        self.run("GC", None, deadline).map(drop)
    }

    /// Asks whether it can serve.
    pub fn status(&self, deadline: Deadline) -> Result<()> {
        self.run("STATUS", None, deadline).map(drop)
    }

    fn run(&self, command: &str, attachment: Option<&Attachment>, deadline: Deadline) -> Result<Vec<u8>> {
        let running = || format!("{command} of the IPAM plugin `{}`", self.plugin);
        let mut child = self.start(command, attachment).with_context(running).context(Code::IO)?;
        let (status, out) = talk(&mut child, &serde_json::to_vec(&self.config.json)?, deadline)
            .with_context(running)
            .context(Code::TRY_AGAIN)?;
        if status.success() {
            return Ok(out);
        }
        match serde_json::from_slice::<Refusal>(&out) {
            Ok(Refusal { code, msg, details }) => {
                let texts = [msg, details].into_iter().filter(|text| !text.is_empty());
                Err(anyhow!(texts.collect::<Vec<_>>().join("; ")).context(running()).context(Code(code)))
            }
            Err(_) => {
                Err(anyhow!("it ended with {status} and no reason").context(running()).context(Code::IO))
            }
        }
    }

    fn start(&self, command: &str, attachment: Option<&Attachment>) -> Result<Child> {
        let mut program = Command::new(self.find()?);
        program.env("CNI_COMMAND", command);
        if let Some(attachment) = attachment {
            program.env("CNI_CONTAINERID", &attachment.container).env("CNI_IFNAME", &attachment.interface);
            if self.call.attachment().ok() != Some(attachment) {
                // What is said of this call's container is not true of another one.
                program.env_remove("CNI_NETNS").env_remove("CNI_ARGS");
            }
        }
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        program.spawn().context("starting it")
    }

    fn find(&self) -> Result<PathBuf> {
        let places = self.call.path.iter().map(|folder| folder.join(self.plugin));
        places.clone().find(|place| place.is_file()).with_context(|| {
            let folders: Vec<_> = self.call.path.iter().map(|folder| folder.display().to_string()).collect();
            format!("it is in none of the folders of `CNI_PATH`: `{}`", folders.join(":"))
        })
    }
}

/// Gives a program its input and takes its output, until the deadline at most.
fn talk(child: &mut Child, input: &[u8], deadline: Deadline) -> Result<(ExitStatus, Vec<u8>)> {
    let mut stdin = child.stdin.take().context("it has no standard input")?;
    let mut stdout = child.stdout.take().context("it has no standard output")?;
    let input = input.to_vec();
    // It may end without having read all; what it answers says why.
    thread::spawn(move || stdin.write_all(&input));
    let reader = thread::spawn(move || {
        let mut out = Vec::new();
        stdout.read_to_end(&mut out).map(|_| out)
    });
    let status = deadline.wait_for(|| Ok(child.try_wait()?))?;
    let Some(status) = status else {
        let _ = child.kill();
        let _ = child.wait();
        bail!("no answer in {:.1?}", deadline.whole());
    };
    // A child of its own may hold the pipe open for longer than it lives.
    let out = deadline.wait_for(|| Ok(reader.is_finished().then_some(())))?;
    if out.is_none() {
        bail!("it ended, and something holds its output open");
    }
    let out = reader.join().map_err(|_| anyhow!("reading its output panicked"))?;
    Ok((status, out.context("reading its output")?))
}
