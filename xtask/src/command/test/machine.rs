//! An emulated card through many starts: who drives it waits until the system that is meant to run is good.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dpukit_image::bundle;
use dpukit_image::config::{Config, Emulator};
use dpukit_image::emulator::{Card, Programs};

/// How long a start may take on a busy machine without help for arm64, with all of U-Boot's attempts.
pub const PATIENCE: Duration = Duration::from_mins(8);
/// A file of the root that tells systems apart.
pub const MARK: &str = "usr/lib/dpukit/mark";

/// Says which slot runs, and which system.
const WHICH: &str = "sed -n 's/.*rauc.slot=\\([AB]\\).*/\\1/p' /proc/cmdline; cat /usr/lib/dpukit/mark; echo";

/// As the board's, with one processor: two that are emulated on a busy machine wait for each other by spinning, and take
/// a seventh more of its time.
pub fn small(emulator: &Emulator) -> Emulator {
    Emulator { cpus: 1, ..emulator.clone() }
}

/// An emulated card that is updated.
pub struct Machine<'a> {
    config: &'a Config,
    emulator: &'a Emulator,
    programs: &'a Programs,
    card: Card,
    console: PathBuf,
    qemu: Option<Child>,
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        self.cut_power();
    }
}

impl<'a> Machine<'a> {
    /// A card of this name with the image on its disk, switched off.
    pub fn new(
        name: &str,
        config: &'a Config,
        emulator: &'a Emulator,
        programs: &'a Programs,
        folder: &Path,
        image: &Path,
    ) -> Result<Self> {
        let mut card = Card::new(&folder.join(name), image, emulator, programs)?;
        card.make_key(&programs.tools)?;
        card.make_code()?;
        let console = bundle::folder(&config.root, &config.board.name).join("test").join(name);
        fs::create_dir_all(&console)?;
        let console = console.join("console.log");
        let _ = fs::remove_file(&console);
        Ok(Self { config, emulator, programs, card, console, qemu: None })
    }

    /// Logs in as to this other card, whose disk is to be this one's.
    pub fn share_key(&mut self, other: &Machine<'_>) -> Result<()> {
        self.card.share_key(&other.card)
    }

    /// The port of this host that leads to the agent, and a file with the code that a host may pair with.
    pub fn pairing(&self) -> Result<(u16, &Path)> {
        Ok((self.card.agent_port, self.card.code.as_deref().context("the card was given no code")?))
    }

    pub fn power_on(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.console)?;
        let arguments = ["-display", "none", "-monitor", "none", "-serial", "stdio"];
        let port = self.config.board.plan.agent.port.get();
        let mut command =
            self.card.command(&self.config.board, self.emulator, &self.programs.tools, port, &arguments)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.qemu = Some(command.spawn().context("starting QEMU")?);
        Ok(())
    }

    /// From the next start on all writes are kept in logs, whose paths these are: of U-Boot's variables, of the disk.
    pub fn log_writes(&mut self) -> Result<[PathBuf; 2]> {
        self.card.logs_writes = true;
        let logs = ["environment", "disk"].map(|drive| self.card.write_log(drive));
        for log in &logs {
            File::create(log).with_context(|| format!("making `{}`", log.display()))?;
        }
        Ok(logs)
    }

    /// What U-Boot's variables and the disk are on.
    pub fn drives(&self) -> [PathBuf; 2] {
        [self.card.environment(), self.card.disk()]
    }

    pub fn cut_power(&mut self) {
        if let Some(mut qemu) = self.qemu.take() {
            let _ = qemu.kill();
            let _ = qemu.wait();
        }
    }

    /// Turns the card off as a person would.
    pub fn power_off(&mut self) -> Result<()> {
        // The connection may be cut before the command's end is told.
        let _ = self.ssh("systemctl poweroff");
        let end = Instant::now() + PATIENCE;
        while let Some(qemu) = &mut self.qemu {
            if qemu.try_wait()?.is_some() {
                self.qemu = None;
            } else if Instant::now() > end {
                bail!("the card does not go off: see `{}`", self.console.display());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    pub fn ssh(&self, script: &str) -> Result<String> {
        self.card.ssh(&self.programs.tools, script)
    }

    /// What `dpu-agent doctor` says. It ends with 1 where something is wrong, and that is what is to be read here.
    pub fn doctor(&self) -> Result<String> {
        self.ssh("dpu-agent doctor || true")
    }

    /// Waits until this system runs in this slot, and has called it good.
    pub fn wait(&mut self, slot: &str, mark: &str) -> Result<()> {
        self.wait_for_one_of(&[(slot, mark)])
    }

    /// As [`Machine::wait`], for one of several that would all be right.
    pub fn wait_for_one_of(&mut self, systems: &[(&str, &str)]) -> Result<()> {
        let state = "systemctl show --property=SubState,ExecMainStatus --value dpu-confirm | sort | xargs";
        let script = format!("{WHICH}; {state}");
        let wanted: Vec<_> = systems.iter().map(|(slot, mark)| format!("{slot}\n{mark}\n0 exited")).collect();
        self.poll(&script, PATIENCE, |said| wanted.iter().any(|wanted| wanted == said))
            .with_context(|| format!("the card should be `{}`", wanted.join("` or `")))
            .map(drop)
    }

    /// Waits until a system runs, for at most so long; its slot, and its mark.
    pub fn which(&mut self, patience: Duration) -> Result<Vec<String>> {
        Ok(self.poll(WHICH, patience, |_| true)?.lines().map(str::to_owned).collect())
    }

    /// Asks the card until it says what is right.
    fn poll(&mut self, script: &str, patience: Duration, is_right: impl Fn(&str) -> bool) -> Result<String> {
        let end = Instant::now() + patience;
        let mut last = String::from("it did not answer");
        while Instant::now() < end {
            if let Some(qemu) = &mut self.qemu
                && let Some(status) = qemu.try_wait()?
            {
                bail!("QEMU ended with {status}: see `{}`", self.console.display());
            }
            match self.card.ssh_within(&self.programs.tools, script, 5) {
                Ok(said) if is_right(&said) => return Ok(said),
                Ok(said) => last = format!("it said `{said}`"),
                Err(error) => last = format!("{error:#}"),
            }
            std::thread::sleep(Duration::from_secs(1));
        }
        bail!("{last}: see `{}`", self.console.display())
    }

    /// Restarts the card; gives how long it took until this system was good in this slot.
    pub fn restart(&mut self, slot: &str, mark: &str) -> Result<Duration> {
        self.restart_by("systemctl reboot", slot, mark)
    }

    /// As [`Machine::restart`], by what makes the card go down.
    pub fn restart_by(&mut self, command: &str, slot: &str, mark: &str) -> Result<Duration> {
        let start = Instant::now();
        let before = self.ssh("cat /proc/sys/kernel/random/boot_id")?;
        // Some time after the call has ended: the end of one that the network goes down under may be lost.
        self.ssh(&format!("systemd-run --quiet --on-active=2 --timer-property=AccuracySec=1ms {command}"))?;
        // The old system answers for a while.
        while self
            .card
            .ssh_within(&self.programs.tools, "cat /proc/sys/kernel/random/boot_id", 5)
            .is_ok_and(|now| now == before)
        {
            ensure!(start.elapsed() < PATIENCE, "the card does not restart");
            std::thread::sleep(Duration::from_millis(500));
        }
        self.wait(slot, mark)?;
        Ok(start.elapsed())
    }

    pub fn install(&self, url: &str) -> Result<Duration> {
        let start = Instant::now();
        self.ssh(&format!("rauc install {url} 2>&1")).with_context(|| format!("installing `{url}`"))?;
        Ok(start.elapsed())
    }

    /// The card must not take a bundle, and go on with what it has.
    pub fn refuses(&self, url: &str, reason: &str) -> Result<()> {
        let said = self.ssh(&format!("if rauc install {url} 2>&1; then echo INSTALLED; fi"))?;
        ensure!(
            !said.contains("INSTALLED") && said.to_lowercase().contains(reason),
            "`{url}` is not refused for its {reason}:\n{said}"
        );
        Ok(())
    }

    /// Leaves what [`Machine::keeps_data`] looks for.
    pub fn leave_data(&self) -> Result<()> {
        self.ssh("echo kept >/var/lib/kept; cp /etc/machine-id /var/lib/id; sync").map(drop)
    }

    pub fn keeps_data(&self) -> Result<()> {
        let kept = self.ssh("cat /var/lib/kept; cmp /etc/machine-id /var/lib/id && echo same")?;
        ensure!(kept == "kept\nsame", "the card lost its data: `{kept}`");
        Ok(())
    }

    /// Fills both copies of U-Boot's variables with nonsense.
    pub fn spoil_variables(&self) -> Result<()> {
        let path = self.card.environment();
        let size = path.metadata()?.len();
        Ok(fs::write(&path, vec![0x5a; usize::try_from(size)?])?)
    }
}
