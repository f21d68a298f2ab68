//! Power cuts of an emulated card: whenever its power goes, it comes up with a system that is whole, old or new, and
//! with what it keeps.
//!
//! One card goes through its life once: first boot, an update, the start of it, a host that pairs, a factory reset. All
//! that is written to its drives is kept in order, with the flushes between. A cut at any moment is then made from
//! that: a card is given what its drives had at this moment, of which the disk loses what was not flushed, each write
//! whole, or in part, or not, by chance. The eMMC that U-Boot keeps its variables in has no cache: it has all that was
//! written until then, be it half of them.
//!
//! A cut in the partition table is a moment that is seldom hit, so one is made by hand.
//!
//! Two cards without what makes this safe must not pass: one whose disk only says that it flushed, and one with a
//! single copy of U-Boot's variables.

mod log;
mod record;

use std::fs::{self, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use dpukit_image::config::{Config, Counts, Emulator};
use dpukit_image::emulator::Programs;
use dpukit_image::project::Project;
use dpukit_image::update;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use self::log::{Drive, Log};
use self::record::{Moment, Recorder};
use super::flash::head;
use super::machine::{Machine, PATIENCE, small};
use super::update::host::Host;
use super::update::server::{HOST, Server};
use super::variant::{Variant, room, signing};
use crate::command::boot::{emulator, programs};
use crate::flags::Common;
use crate::ui::Ui;

const USUAL_CUTS: usize = 10;
const LONG_CUTS: usize = 500;
const SEED: &str = "DPUKIT_SEED";

/// What a card keeps: many files, of which a disk that does not flush loses some.
const KEEP: &str = "mkdir /var/lib/kept; for each in $(seq 64); do echo $each >/var/lib/kept/$each; done; \
    cp /etc/machine-id /var/lib/kept/id; sync";
/// Says `whole`, or `none` after a factory reset.
const KEPT: &str = "cd /var/lib; if ! test -e kept; then echo none; exit; fi; \
    seq 64 | cmp - <(for each in $(seq 64); do cat kept/$each; done) && cmp kept/id /etc/machine-id && echo whole";
const FIRST: (&str, &str) = ("A", "first");
const SECOND: (&str, &str) = ("B", "second");

/// Where the first partition of the disk begins, in bytes.
const FIRST_PARTITION: usize = 1 << 20;

/// A part of the card's life.
#[derive(Clone)]
struct Window {
    name: &'static str,
    moments: Range<usize>,
    /// The systems that may come up after a cut.
    systems: &'static [(&'static str, &'static str)],
    /// What [`KEPT`] may say then.
    kept: &'static [&'static str],
    /// Only moments at which U-Boot's variables are written.
    in_variables: bool,
}

/// How long the card has to come up that need not: one whose key is lost never says a word.
const SOME: Duration = Duration::from_mins(4);

/// What all of it needs.
struct Bench<'a> {
    config: &'a Config,
    emulator: &'a Emulator,
    programs: &'a Programs,
    folder: &'a Path,
    image: &'a Path,
}

pub fn run(common: &Common, ui: &Ui, project: &Project, long: bool) -> Result<()> {
    let seed = seed()?;
    ui.notice(&format!("power cuts: {SEED}={seed} draws the same; images and a bundle"));
    let emulator = &small(emulator(project)?);
    let programs = programs(common, ui, project, emulator)?;
    let folder = room(common)?;
    let own = signing(&folder.path().join("keys"))?;
    let first = Variant::marked(common, ui, folder.path(), &own, FIRST.1, &[], |_| Ok(()))?;
    let second = Variant::marked(common, ui, folder.path(), &own, SECOND.1, &[], |_| Ok(()))?;
    let bundles = folder.path().join("bundles");
    fs::create_dir(&bundles)?;
    update::make(&second.config, &own, second.tools()?, &second.slot, &bundles.join("second.raucb"))?;

    let (config, image) = (&project.sources.config, first.disk());
    let bench = Bench { config, emulator, programs: &programs, folder: folder.path(), image: &image };
    let prove = || -> Result<()> {
        let life = bench.live(common, ui, &bundles)?;
        bench.cut(ui, &life, seed, if long { LONG_CUTS } else { USUAL_CUTS })?;
        bench.spoil_table(ui, &life, seed)?;
        bench.prove_that_it_bites(ui, &life, seed)
    };
    // Another run writes at other moments: what a card did not come up from is worth a look.
    prove().inspect_err(|_| ui.notice(&format!("the cards are kept in `{}`", folder.keep().display())))
}

fn seed() -> Result<u64> {
    match std::env::var(SEED) {
        Ok(text) => text.parse().with_context(|| format!("`{SEED}` is `{text}`, it should be a number")),
        Err(_) => Ok(SystemTime::UNIX_EPOCH.elapsed()?.as_secs()),
    }
}

/// What a card went through.
struct Life<'a> {
    machine: Machine<'a>,
    moments: Vec<Moment>,
    windows: Vec<Window>,
    /// Of U-Boot's variables, and of the disk.
    logs: [Log; 2],
}

impl Bench<'_> {
    fn machine(&self, name: &str) -> Result<Machine<'_>> {
        Machine::new(
            &format!("power/{name}"),
            self.config,
            self.emulator,
            self.programs,
            self.folder,
            self.image,
        )
    }

    /// Lets a card live, and keeps what it writes.
    fn live(&self, common: &Common, ui: &Ui, bundles: &Path) -> Result<Life<'_>> {
        ui.notice("power cuts: a card's life, from its first boot to a factory reset");
        let mut machine = self.machine("life")?;
        let logs = machine.log_writes()?;
        let server = Server::start(bundles)?;
        let recorder = Recorder::start(logs.clone());
        let mut windows = Vec::new();
        let mut add = |name, start, systems, kept| {
            let moments = start..recorder.count();
            windows.push(Window { name, moments, systems, kept, in_variables: false });
        };

        let start = recorder.count();
        machine.power_on()?;
        machine.wait(FIRST.0, FIRST.1)?;
        add("first boot", start, &[FIRST], &["none"]);
        machine.ssh(KEEP)?;

        let start = recorder.count();
        machine.install(&format!("http://{HOST}:{}/second.raucb", server.port()))?;
        add("update", start, &[FIRST, SECOND], &["whole"]);

        let start = recorder.count();
        machine.restart(SECOND.0, SECOND.1)?;
        add("first start of an update", start, &[SECOND], &["whole"]);

        let start = recorder.count();
        let (port, code) = machine.pairing()?;
        Host::pair(&common.root(), self.folder.join("host"), port, code)?;
        add("a host that pairs", start, &[SECOND], &["whole"]);

        let start = recorder.count();
        machine.ssh("dpu-agent factory-reset")?;
        machine.restart(SECOND.0, SECOND.1)?;
        add("factory reset", start, &[SECOND], &["whole", "none"]);
        ensure!(machine.ssh(KEPT)? == "none", "the factory reset left something behind");
        machine.cut_power();

        let moments = recorder.finish()?;
        let logs = [Log::read(&logs[0])?, Log::read(&logs[1])?];
        let mut life = Life { machine, moments, windows, logs };
        let start = life.window("first start of an update")?;
        let variables = Window { name: "U-Boot's variables", in_variables: true, ..start.clone() };
        life.windows.push(variables);
        life.windows.push(life.growth()?);
        Ok(life)
    }

    /// Cuts the power at moments drawn from all windows, in turn.
    fn cut(&self, ui: &Ui, life: &Life<'_>, seed: u64, cuts: usize) -> Result<()> {
        for number in 0..cuts {
            let window = &life.windows[number % life.windows.len()];
            let mut chances = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
            let cut = life.draw(window, &mut chances)?;
            let name = format!("cut-{number}");
            let (mut machine, lost) = self.after(life, &name, cut, Drive::Cached, &mut chances)?;
            let told = format!("{}: {}, {lost} writes lost", window.name, life.place(window, cut)?);
            ui.notice(&format!("  cut {} of {cuts}, {told}", number + 1));
            comes_up(&mut machine, window)
                .with_context(|| format!("a card whose power was cut ({told}; {SEED}={seed})"))?;
            drop(machine);
            fs::remove_dir_all(self.folder.join("power").join(name))?;
        }
        ui.notice(&format!("power cuts: all {cuts} were in their windows, and the card came up after each"));
        Ok(())
    }

    /// The power goes while the partition table's first copy is written: half of it is what it was.
    fn spoil_table(&self, ui: &Ui, life: &Life<'_>, seed: u64) -> Result<()> {
        ui.notice("power cuts: half a copy of the partition table");
        let window = life.window("first boot")?;
        let end = life.moments[window.moments.end - 1];
        let (mut machine, _) =
            self.after(life, "table", end, Drive::Cached, &mut StdRng::seed_from_u64(seed))?;
        let [_, disk] = machine.drives();
        let good = head(&disk, FIRST_PARTITION)?;
        let mut file = OpenOptions::new().write(true).open(&disk)?;
        file.seek(SeekFrom::Start(2 * log::SECTOR))?;
        file.write_all(&[0; 256])?;
        comes_up(&mut machine, window).context("a card with half a copy of its partition table")?;
        machine.cut_power();
        ensure!(
            head(&disk, FIRST_PARTITION)? == good,
            "the first copy of the partition table was not made anew"
        );
        Ok(())
    }

    /// The same without what makes it safe: must fail.
    fn prove_that_it_bites(&self, ui: &Ui, life: &Life<'_>, seed: u64) -> Result<()> {
        let mut chances = StdRng::seed_from_u64(seed);
        ui.notice("power cuts: a disk that does not keep what it was told to flush");
        let cut = life.moments[life.window("update")?.moments.start];
        let (mut machine, lost) = self.after(life, "lying", cut, Drive::Lying, &mut chances)?;
        machine.power_on()?;
        let said = machine.which(SOME).and_then(|_| machine.ssh(KEPT));
        ensure!(
            !said.as_deref().is_ok_and(|said| said == "whole"),
            "a card that lost {lost} writes kept everything: this test sees nothing"
        );
        drop(machine);

        ui.notice("power cuts: one copy of U-Boot's variables instead of two");
        let (cut, other) =
            life.half_written(life.window("first start of an update")?, &copies(self.config)?)?;
        let (mut machine, _) = self.after(life, "single", cut, Drive::Cached, &mut chances)?;
        let [variables, _] = machine.drives();
        let mut file = OpenOptions::new().write(true).open(variables)?;
        file.seek(SeekFrom::Start(other.start))?;
        file.write_all(&vec![0; usize::try_from(other.end - other.start)?])?;
        machine.power_on()?;
        let came = machine.which(PATIENCE)?;
        ensure!(
            came != [SECOND.0, SECOND.1],
            "a card with one half-written copy of its variables knew its slot: this test sees nothing"
        );
        Ok(())
    }

    /// A card after a cut; and how many writes were lost.
    fn after(
        &self,
        life: &Life<'_>,
        name: &str,
        cut: Moment,
        disk: Drive,
        chances: &mut StdRng,
    ) -> Result<(Machine<'_>, usize)> {
        let mut machine = self.machine(name)?;
        machine.share_key(&life.machine)?;
        let mut lost = 0;
        let drives = machine.drives().into_iter().zip([Drive::Uncached, disk]);
        for ((log, length), (path, drive)) in life.logs.iter().zip(cut).zip(drives) {
            let mut image = OpenOptions::new().write(true).open(&path)?;
            lost += log.replay(&mut image, length, drive, chances)?;
        }
        Ok((machine, lost))
    }
}

impl Life<'_> {
    fn window(&self, name: &str) -> Result<&Window> {
        let window = self.windows.iter().find(|window| window.name == name);
        window.with_context(|| format!("the card's life has no part `{name}`"))
    }

    /// The part of the first boot in which the data partition grows, and its file system.
    fn growth(&self) -> Result<Window> {
        /// The log of all that it writes.
        const LENGTH: u64 = 400 << 10;
        let first = self.window("first boot")?.clone();
        let end = self.machine.drives()[1].metadata()?.len();
        let log = self.moments[first.moments.start][1]..u64::MAX;
        // The copy of the partition table at the disk's end is written first.
        let table = self.logs[1].writes(log).into_iter().find(|(_, at)| *at >= end - (1 << 20));
        let (start, _) = table.context("the data partition did not grow")?;
        let moment = |length: u64| self.moments.partition_point(|moment| moment[1] <= length);
        let moments = moment(start)..moment(start + LENGTH);
        Ok(Window { name: "growth of the data partition", moments, ..first })
    }

    /// A moment of a window at which something was written.
    fn draw(&self, window: &Window, chances: &mut StdRng) -> Result<Moment> {
        if window.in_variables {
            let entries = self.variables(window);
            ensure!(!entries.is_empty(), "U-Boot's variables were not written: {}", window.name);
            return Ok(self.before(entries[chances.gen_range(0..entries.len())].0));
        }
        // Those of U-Boot's variables have a window of their own.
        let written = |at: &usize| self.moments[*at][1] != self.moments[*at - 1][1];
        let moments: Vec<usize> = window.moments.clone().skip(1).filter(written).collect();
        ensure!(!moments.is_empty(), "nothing was written: {}", window.name);
        Ok(self.moments[moments[chances.gen_range(0..moments.len())]])
    }

    /// Where in the log U-Boot's variables were written in a window, and where on the drive.
    fn variables(&self, window: &Window) -> Vec<(u64, u64)> {
        let [start, end] = [window.moments.start, window.moments.end - 1];
        self.logs[0].writes(self.moments[start][0]..self.moments[end][0])
    }

    /// The cut before a write of U-Boot's variables.
    fn before(&self, write: u64) -> Moment {
        let after = self.moments.partition_point(|moment| moment[0] <= write);
        [write, self.moments[after.saturating_sub(1)][1]]
    }

    /// A cut after the first sector of a copy of U-Boot's variables, and the other copy.
    fn half_written(&self, window: &Window, copies: &[Range<u64>; 2]) -> Result<(Moment, Range<u64>)> {
        let second_sector = |copy: &Range<u64>| copy.start + log::SECTOR;
        for (write, at) in self.variables(window) {
            for (copy, other) in [(0, 1), (1, 0)] {
                if at == second_sector(&copies[copy]) {
                    return Ok((self.before(write), copies[other].clone()));
                }
            }
        }
        bail!("no copy of U-Boot's variables was written: {}", window.name)
    }

    /// Where a cut is in its window.
    fn place(&self, window: &Window, cut: Moment) -> Result<String> {
        let bounds = [window.moments.start, window.moments.end - 1].map(|at| self.moments[at]);
        let inside = (0..2).all(|drive| (bounds[0][drive]..=bounds[1][drive]).contains(&cut[drive]));
        ensure!(inside, "the cut is not in its window");
        let done = cut[1] - bounds[0][1];
        Ok(format!("after {} of {} KiB of log", done >> 10, (bounds[1][1] - bounds[0][1]) >> 10))
    }
}

/// After the cut: one of the right systems, called good, with what the card keeps.
fn comes_up(machine: &mut Machine<'_>, window: &Window) -> Result<()> {
    machine.power_on()?;
    machine.wait_for_one_of(window.systems)?;
    let kept = machine.ssh(KEPT)?;
    ensure!(
        window.kept.contains(&kept.as_str()),
        "what the card keeps is not `{}`: {kept}",
        window.kept.join("` or `")
    );
    let doctor = machine.ssh("dpu-agent doctor || { echo; rauc status --detailed --output-format=json; }")?;
    ensure!(!doctor.contains("FAILED"), "the card is not well: {doctor}");
    machine.ssh("! test -e /data/fresh && rauc status && fw_printenv BOOT_ORDER").map(drop)
}

/// Where on its drive U-Boot's variables are: lines of `fw_env.config`.
fn copies(config: &Config) -> Result<[Range<u64>; 2]> {
    let updates = config.board.updates.as_ref().context("the board takes no updates")?;
    let Counts::Variables(lines) = &updates.counts else { bail!("U-Boot of this board does not count") };
    let number = |word: Option<&str>| {
        let digits = word.and_then(|word| word.strip_prefix("0x"));
        digits
            .and_then(|digits| u64::from_str_radix(digits, 16).ok())
            .context("a line of `environment` has no number")
    };
    let range = |line: &String| -> Result<Range<u64>> {
        let mut words = line.split_whitespace().skip(1);
        let start = number(words.next())?;
        Ok(start..start + number(words.next())?)
    };
    Ok([range(&lines[0])?, range(&lines[1])?])
}
