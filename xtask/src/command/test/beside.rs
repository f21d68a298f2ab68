//! A part of the checks beside the others: a run of this program of its own.

use std::fs::{self, File};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;
use tempfile::NamedTempFile;

use crate::flags::Part;
use crate::ui::Ui;

/// A part that runs. It is ended where it is dropped.
pub struct Beside {
    name: String,
    child: Child,
    told: NamedTempFile,
}

impl Beside {
    /// Starts a part, with the words that this program was started with.
    pub fn start(part: Part) -> Result<Self> {
        Self::run(part, Command::new(std::env::current_exe().context("finding this program")?))
    }

    /// As [`Beside::start`], for what takes only the time that nothing else wants.
    pub fn start_in_idle_time(part: Part) -> Result<Self> {
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe().context("finding this program")?);
        Self::run(part, command)
    }

    fn run(part: Part, mut command: Command) -> Result<Self> {
        let name = part.to_possible_value().context("the part has no name")?.get_name().to_owned();
        let told = NamedTempFile::new().context("making a file for what a part says")?;
        command.args(std::env::args_os().skip(1)).args(["--only", &name]).stdin(Stdio::null());
        // Both in the order in which they come.
        let out = File::options().append(true).open(told.path())?;
        let child = command.stdout(out.try_clone()?).stderr(out).spawn();
        let child = child.with_context(|| format!("starting part `{name}`"))?;
        Ok(Self { name, child, told })
    }

    /// Waits for the end, and prints what the part said.
    pub fn finish(mut self, ui: &Ui) -> Result<()> {
        let status = self.child.wait()?;
        ui.notice(&format!("part `{}`, which ran beside the others", self.name));
        let told = fs::read(self.told.path())?;
        String::from_utf8_lossy(&told).lines().for_each(|line| ui.notice(line));
        ensure!(status.success(), "part `{}` failed, see above", self.name);
        Ok(())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
