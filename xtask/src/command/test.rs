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

pub fn run(common: &Common, flags: &Test) -> Result<ExitCode> {
    let ui = Ui::new(common);
    let wants = |part| flags.only.is_none_or(|only| only == part);
    let mut left_out = Vec::new();
    // A kernel takes long to build, and the two parts before the first that needs one leave much idle.
    let image = if flags.only.is_none() { Some(Beside::start_in_idle_time(Part::Image)?) } else { None };
    if wants(Part::Sources) {
        left_out.extend(check_sources(common, &ui)?);
    }
    if wants(Part::Deb) {
        left_out.extend(deb::run(common, &ui, flags.long)?);
    }
    if let Some(image) = image {
        image.finish(&ui)?;
    }
    if [
        Part::Image,
        Part::Builds,
        Part::Metal,
        Part::Repeat,
        Part::Boot,
        Part::Flash,
        Part::Update,
        Part::Power,
        Part::Pods,
        Part::Root,
    ]
    .into_iter()
    .any(wants)
    {
        ui.notice("image");
        super::image::run(common, &Image::default())?;
        let project = common.open(&ui, &Image::default())?;
        // Some parts open no connection: what all of them start is there before the first.
        if let Some(emulator) = &project.sources.config.board.emulator {
            boot::programs(common, &ui, &project, emulator)?;
        }
        // Each takes one processor, and its time: the other parts go on beside them.
        let mut beside = Vec::new();
        if flags.only.is_none() {
            beside.push(Beside::start(Part::Flash)?);
        }
        if wants(Part::Root) {
            if let Some(reason) = oracle::hindrance("arm64") {
                left_out.extend(leave_out("the comparison of the root with mmdebstrap's", &reason)?);
            } else if flags.only.is_none() {
                beside.push(Beside::start(Part::Root)?);
            } else {
                compare_root(&ui, &project)?;
            }
        }
        if wants(Part::Builds) {
            builds::run(&ui, &project)?;
        }
        if wants(Part::Metal) {
            left_out.extend(metal::run(common, &ui, &project, flags.long)?);
        }
        // Most of a cold build once more: only for who asks.
        if flags.only == Some(Part::Repeat) || flags.long {
            builds::repeat(&ui, &project, flags.long)?;
        }
        if wants(Part::Boot) {
            check_boot(common, &ui, &project)?;
        }
        if flags.only == Some(Part::Flash) {
            flash::run(common, &ui, &project)?;
        }
        if wants(Part::Update) {
            update::run(common, &ui, &project)?;
        }
        if wants(Part::Power) {
            power::run(common, &ui, &project, flags.long)?;
        }
        if wants(Part::Pods) {
            left_out.extend(pods::run(common, &ui, &project)?);
        }
        for part in beside {
            part.finish(&ui)?;
        }
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
fn compare_root(ui: &Ui, project: &Project) -> Result<()> {
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
    Ok(())
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
