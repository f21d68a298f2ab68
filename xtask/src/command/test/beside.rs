//! Parts of the checks that run beside others: each a run of this program of its own.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;
use tempfile::NamedTempFile;

use crate::flags::Part;
use crate::ui::Ui;

/// A part that runs. It is ended where it is dropped.
pub struct Beside {
    name: String,
    child: Child,
    in_idle_time: bool,
    begun: Instant,
    told: NamedTempFile,
    left_out: NamedTempFile,
}

impl Beside {
    /// Starts a part, with the words that this program was started with.
    fn start(part: Part) -> Result<Self> {
        Self::run(part, Command::new(std::env::current_exe().context("finding this program")?), false)
    }

    /// As [`Beside::start`], for what takes only the time that nothing else wants.
    pub fn start_in_idle_time(part: Part) -> Result<Self> {
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe().context("finding this program")?);
        Self::run(part, command, true)
    }

    fn run(part: Part, mut command: Command, in_idle_time: bool) -> Result<Self> {
        let name = part.to_possible_value().context("the part has no name")?.get_name().to_owned();
        let told = NamedTempFile::new().context("making a file for what a part says")?;
        let left_out = NamedTempFile::new().context("making a file for what a part leaves out")?;
        command.args(std::env::args_os().skip(1)).args(["--only", &name]).stdin(Stdio::null());
        command.arg("--left-out").arg(left_out.path());
        // Both in the order in which they come.
        let out = File::options().append(true).open(told.path())?;
        let child = command.stdout(out.try_clone()?).stderr(out).spawn();
        let child = child.with_context(|| format!("starting part `{name}`"))?;
        Ok(Self { name, child, in_idle_time, begun: Instant::now(), told, left_out })
    }

    /// Waits for the end, prints what the part said, and returns what it left out, and why.
    pub fn finish(mut self, ui: &Ui) -> Result<Vec<String>> {
        let status = self.child.wait()?;
        let took = self.begun.elapsed().as_secs();
        ui.notice(&format!("part `{}`, which ran beside the others for {took} s", self.name));
        let told = fs::read(self.told.path())?;
        String::from_utf8_lossy(&told).lines().for_each(|line| ui.notice(line));
        ensure!(status.success(), "part `{}` failed, see above", self.name);
        Ok(fs::read_to_string(self.left_out.path())?.lines().map(str::to_owned).collect())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs parts, so many at once, the next whenever one has ended, and one more in the time that they leave; returns what
/// they left out, and why.
pub fn run_all(ui: &Ui, in_idle_time: Part, parts: &[Part], at_once: usize) -> Result<Vec<String>> {
    let mut left_out = Vec::new();
    let mut waiting = parts.iter();
    let mut running = vec![Beside::start_in_idle_time(in_idle_time)?];
    loop {
        while running.iter().filter(|part| !part.in_idle_time).count() < at_once
            && let Some(part) = waiting.next()
        {
            let part = Beside::start(*part)?;
            ui.notice(&format!("part `{}` ...", part.name));
            running.push(part);
        }
        if running.is_empty() {
            return Ok(left_out);
        }
        let mut ended = None;
        for (at, part) in running.iter_mut().enumerate() {
            if part.child.try_wait()?.is_some() {
                ended = Some(at);
            }
        }
        match ended {
            Some(at) => left_out.extend(running.swap_remove(at).finish(ui)?),
            None => std::thread::sleep(Duration::from_millis(200)),
        }
    }
}
