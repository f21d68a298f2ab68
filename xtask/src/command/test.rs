//! `test`: all checks, including a boot of the image.

mod beside;
mod builds;
mod commands;
mod deb;
pub mod flash;
mod host_image;
mod machine;
mod metal;
mod pods;
mod power;
mod programs;
mod running;
mod update;
mod variant;

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use dpukit_image::bundle;
use dpukit_image::oracle::{self, Comparison};
use dpukit_image::project::Project;
use xshell::{Shell, cmd};

use self::beside::Beside;
use crate::command::boot::{self, check_file, check_image, emulator};
use crate::flags::{Common, Image, Part, Test};
use crate::ui::Ui;

/// The parts that need the image, in the order in which they are begun: the one by which a bad image is known, and then
/// the longest first.
const WITH_THE_IMAGE: [Part; 7] =
    [Part::Boot, Part::Update, Part::Power, Part::Pods, Part::Metal, Part::Flash, Part::Builds];

pub fn run(common: &Common, flags: &Test) -> Result<ExitCode> {
    let ui = Ui::new(common);
    let left_out = match flags.only {
        Some(part) => run_part(common, &ui, part, flags.long)?,
        None => run_all(common, &ui, flags.long)?,
    };
    if let Some(file) = &flags.left_out {
        fs::write(file, left_out.join("\n")).with_context(|| format!("writing `{}`", file.display()))?;
    }
    if left_out.is_empty() {
        ui.notice("all checks passed");
    } else {
        ui.notice("all checks passed that were run; not run were:");
        for reason in &left_out {
            ui.notice(&format!("  {reason}"));
        }
        ui.notice("`ci/install` installs what is needed, and `ci/run` runs them all");
    }
    Ok(ExitCode::SUCCESS)
}

/// All of them; returns what could not be run here, and why.
fn run_all(common: &Common, ui: &Ui, long: bool) -> Result<Vec<String>> {
    // A kernel takes long to build, and the two parts before the first that needs one leave much idle.
    let image = Beside::start_in_idle_time(Part::Image)?;
    let mut left_out = run_part(common, ui, Part::Sources, long)?;
    left_out.extend(run_part(common, ui, Part::Deb, long)?);
    left_out.extend(image.finish(ui)?);
    // The root's comparison has no deadlines, and much of the others' time is spent in waiting.
    left_out.extend(beside::run_all(ui, Part::Root, &WITH_THE_IMAGE, common.jobs())?);
    // Most of a cold build once more: only for who asks.
    if long {
        left_out.extend(run_part(common, ui, Part::Repeat, long)?);
    }
    Ok(left_out)
}

/// One of them; returns what of it could not be run here, and why.
fn run_part(common: &Common, ui: &Ui, part: Part, long: bool) -> Result<Vec<String>> {
    let left_out = match part {
        Part::Sources => check_sources(common, ui)?,
        Part::Deb => deb::run(common, ui, long)?,
        _ => {
            ui.notice("image");
            super::image::run(common, &Image::default())?;
            let project = common.open(ui, &Image::default())?;
            // Some parts open no connection: what all of them start is there before the first.
            if let Some(emulator) = &project.sources.config.board.emulator {
                boot::programs(common, ui, &project, emulator)?;
            }
            check_with_image(common, ui, &project, part, long)?
        }
    };
    Ok(left_out.into_iter().collect())
}

fn check_with_image(
    common: &Common,
    ui: &Ui,
    project: &Project,
    part: Part,
    long: bool,
) -> Result<Option<String>> {
    match part {
        Part::Metal => return metal::run(common, ui, project, long),
        Part::Pods => return pods::run(common, ui, project),
        Part::Root => return compare_root(ui, project),
        Part::Builds => builds::run(ui, project)?,
        Part::Repeat => builds::repeat(ui, project, long)?,
        Part::Boot => check_boot(common, ui, project)?,
        Part::Flash => flash::run(common, ui, project)?,
        Part::Update => update::run(common, ui, project)?,
        Part::Power => power::run(common, ui, project, long)?,
        Part::Image | Part::Sources | Part::Deb => {}
    }
    Ok(None)
}

/// What can't be run here is left out, with the reason; CI has to have what is needed.
fn leave_out(what: &str, reason: &str) -> Result<Option<String>> {
    if std::env::var_os("CI").is_some() {
        bail!("{what}: {reason}; `ci/install` installs what is needed");
    }
    Ok(Some(format!("{what}: {reason}")))
}

fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

const IN_NAMESPACES: &str = "tests in namespaces, with mounts and links";

fn check_sources(common: &Common, ui: &Ui) -> Result<Option<String>> {
    let shell = Shell::new()?;
    shell.change_dir(common.root());
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    ui.notice("formatting");
    cmd!(shell, "{cargo} fmt --all --check")
        .quiet()
        .run()
        .context("checking the format; `cargo fmt` mends it")?;
    ui.notice("lints");
    cmd!(shell, "{cargo} clippy --workspace --all-targets --locked -- -D warnings").quiet().run()?;
    ui.notice("tests");
    cmd!(shell, "{cargo} test --workspace --locked").quiet().run()?;
    if !is_root() {
        return leave_out(IN_NAMESPACES, "they need root");
    }
    ui.notice(IN_NAMESPACES);
    programs::test(&shell, &common.root(), &["shim", "agent"], &["--ignored"])?;
    // One that takes minutes is for those who change the flash itself.
    programs::test(&shell, &common.root(), &["flash"], &["--ignored", "--skip", "survives_every_fault"])?;
    Ok(None)
}

/// The image must do in an emulated card what it must, and must not with one wrong byte in its root.
fn check_boot(common: &Common, ui: &Ui, project: &Project) -> Result<()> {
    let emulator = emulator(project)?;
    if !check_image(common, ui, project, emulator)?.is_good() {
        bail!("the image does not do on an emulated card what it must");
    }
    ui.notice("one wrong byte in the root must be found");
    let board = &project.sources.config.board.name;
    let image = bundle::image_path(&common.root(), board);
    let broken = bundle::folder(&common.root(), board).join("broken.img");
    break_root(&image, &broken)?;
    let report = check_file(common, ui, project, emulator, &broken, "check-broken");
    fs::remove_file(&broken)?;
    match report {
        Ok(report) if report.is_good() => bail!("an image with a wrong byte in its root passed the checks"),
        Ok(_) => {}
        Err(error) => ui.notice(&format!("the card with the wrong byte could not be asked: {error:#}")),
    }
    // It must have failed for the byte, and for nothing else.
    let console = bundle::folder(&common.root(), board).join("check-broken/console.log");
    let said = fs::read(&console).with_context(|| format!("reading `{}`", console.display()))?;
    let said = String::from_utf8_lossy(&said);
    if !said.lines().any(|line| line.contains("device-mapper: verity:") && line.contains("is corrupted")) {
        bail!("the kernel did not see the wrong byte: `{}`", console.display());
    }
    Ok(())
}

/// Compares the root with what mmdebstrap makes of its packages.
fn compare_root(ui: &Ui, project: &Project) -> Result<Option<String>> {
    if let Some(reason) = oracle::hindrance("arm64") {
        return leave_out("the comparison of the root with mmdebstrap's", &reason);
    }
    ui.notice("the root must be what mmdebstrap makes of its packages; takes some minutes");
    let comparison = oracle::run(project)?;
    for line in &comparison.wrong {
        ui.problem(line);
    }
    let Comparison { paths, declared, wrong, took } = comparison;
    if !wrong.is_empty() {
        bail!("{} differences that `{}` does not declare", wrong.len(), oracle::DECLARED);
    }
    let seconds = took.as_secs_f64();
    ui.notice(&format!(
        "{paths} paths compared, {declared} differences, all declared; mmdebstrap took {seconds:.0} s"
    ));
    Ok(None)
}

/// Copies an image and turns over one byte in the middle of slot A's root.
fn break_root(image: &Path, broken: &Path) -> Result<()> {
    let map = fs::read_to_string(image.with_file_name("disk.map"))?;
    let line = map.lines().find(|line| line.starts_with("root-a\t")).context("the map has no `root-a`")?;
    let start: u64 = line.split('\t').nth(1).context("the map is cut short")?.parse()?;
    fs::copy(image, broken)?;
    let mut file = fs::File::options().read(true).write(true).open(broken)?;
    let at = SeekFrom::Start(start + (40 << 20));
    let mut byte = [0];
    file.seek(at)?;
    file.read_exact(&mut byte)?;
    file.seek(at)?;
    file.write_all(&[!byte[0]])?;
    Ok(())
}
