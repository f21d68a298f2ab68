//! `boot`: runs the image in an emulated card, for a person or for the checks.

use std::fs;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use dpukit_image::check::{Report, Subject, check};
use dpukit_image::config::Emulator;
use dpukit_image::emulator::{Card, Programs};
use dpukit_image::hint::WithHint as _;
use dpukit_image::project::Project;
use dpukit_image::recipes::U_BOOT;
use dpukit_image::{bundle, recipes};

use crate::flags::{Boot, Common, Image};
use crate::ui::Ui;

pub fn run(common: &Common, flags: &Boot) -> Result<ExitCode> {
    let ui = Ui::new(common);
    let project = common.open(&ui, &Image::default())?;
    let emulator = emulator(&project)?;
    if flags.check {
        let report = check_image(common, &ui, &project, emulator)?;
        return Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let programs = programs(common, &ui, &project, emulator)?;
    let board = &project.sources.config.board;
    let image = bundle::image_path(&common.root(), &board.name);
    let folder = bundle::folder(&common.root(), &board.name).join("card");
    let mut card = Card::new(&folder, &image, emulator, &programs)?;
    if let Some(key) = &flags.ssh_key {
        let copy = card.folder().join("authorized_keys");
        fs::write(&copy, super::ssh_keys(key)?).with_context(|| format!("writing `{}`", copy.display()))?;
        card.key = Some(copy);
    }
    let port = board.plan.agent.port.get();
    let console = ["-nographic", "-no-reboot", "-serial", "mon:stdio"];
    if flags.print {
        let arguments = card.arguments(board, emulator, port, &console);
        let words: Vec<_> = arguments.iter().map(|word| quoted(&word.to_string_lossy())).collect();
        println!("qemu-system-aarch64 {}", words.join(" "));
        return Ok(ExitCode::SUCCESS);
    }
    ui.notice(&format!(
        "ssh: port {} of this host; agent: port {}; Ctrl-A X leaves",
        card.ssh_port, card.agent_port
    ));
    let status =
        card.command(board, emulator, &programs.tools, port, &console)?.status().context("starting QEMU")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// How the board is emulated; an error for a board of metal.
pub fn emulator(project: &Project) -> Result<&Emulator> {
    let board = &project.sources.config.board;
    board
        .emulator
        .as_ref()
        .with_context(|| format!("board `{}` can't be emulated", board.name))
        .hint(|| "its file has no `[emulator]`; the emulated card is `--board virt`".into())
}

/// QEMU and U-Boot, made unless the store has them.
pub fn programs(common: &Common, ui: &Ui, project: &Project, emulator: &Emulator) -> Result<Programs> {
    let graph = recipes::graph(&project.sources)?;
    graph.build(&project.store, &[&emulator.tools, U_BOOT], common.jobs(), ui)?;
    let result = |step: &str| project.store.out(&graph.recipe(step).entry());
    Ok(Programs { tools: result(&emulator.tools), u_boot: result(U_BOOT).join("u-boot.bin") })
}

/// Checks the image in `out/` on an emulated card, and prints what was found.
pub fn check_image(common: &Common, ui: &Ui, project: &Project, emulator: &Emulator) -> Result<Report> {
    let board = &project.sources.config.board;
    let image = bundle::image_path(&common.root(), &board.name);
    check_file(common, ui, project, emulator, &image, "check")
}

/// Checks an image file; the card's files go to `out/<board>/<name>`.
pub fn check_file(
    common: &Common,
    ui: &Ui,
    project: &Project,
    emulator: &Emulator,
    image: &std::path::Path,
    name: &str,
) -> Result<Report> {
    let board = &project.sources.config.board;
    let folder = bundle::folder(&common.root(), &board.name).join(name);
    fs::create_dir_all(&folder)?;
    let programs = programs(common, ui, project, emulator)?;
    let subject = Subject {
        config: &project.sources.config,
        emulator,
        programs: &programs,
        image,
        folder: &folder,
        patience: Duration::from_mins(3),
    };
    let report = check(&subject, &|phase| ui.notice(&format!("{phase} ...")))?;
    for finding in &report.findings {
        match &finding.result {
            Ok(()) => ui.notice(&format!("  ok      {}", finding.name)),
            Err(found) => ui.problem(&format!("  FAILED  {}\n          {found}", finding.name)),
        }
    }
    if let Some(after) = report.healthy_after {
        ui.notice(&format!("agent healthy {:.1} s after power-on", after.as_secs_f64()));
    }
    ui.notice(&format!("console: {}", report.console.display()));
    Ok(report)
}

/// A word as a shell wants it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:@+".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}
