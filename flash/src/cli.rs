//! One flash, from flags to the running card, told to a person.

mod ui;

use std::fs::{self, File};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::board::{Board, Firmware, Storage};
use crate::bundle::Bundle;
use crate::console::Console;
use crate::flags::Flash;
use crate::hint::{WithHint as _, report};
use crate::pieces::{Form, Image};
use crate::session::Started;
use crate::u_boot::UBoot;
use crate::watch::Watch;
use crate::{firmware, network, session, system};
use ui::Terminal;

/// What a shell says of a program that Ctrl-C ended.
const STOPPED: u8 = 130;

/// Flashes, and tells how it went. `default_bundle` is used where no bundle is named.
pub fn run(flags: &Flash, board: &str, default_bundle: &Path, quiet: bool) -> ExitCode {
    let ui = Terminal::new(quiet);
    let stop = Arc::default();
    let told =
        stopped_by_signals(&stop).and_then(|()| flash(flags, board, default_bundle, &ui, Arc::clone(&stop)));
    ui.end();
    match told {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", report(&error));
            if stop.load(Ordering::Relaxed) { ExitCode::from(STOPPED) } else { ExitCode::FAILURE }
        }
    }
}

/// What is to be done, known to be there before the card is touched.
struct Job<'a> {
    firmware: Option<(&'a Firmware, Vec<u8>)>,
    system: Option<(&'a Storage, Image)>,
}

fn flash(
    flags: &Flash,
    name: &str,
    default_bundle: &Path,
    ui: &Terminal,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let folder = flags.bundle.as_deref().unwrap_or(default_bundle);
    let bundle = Bundle::open(folder, name)?;
    let board = bundle.board()?;
    let job = job(flags, name, &board, &bundle)?;
    let terms = flags.network();
    let prepared = network::prepare(&board, &terms, flags.dry_run)?;
    if flags.dry_run {
        let tell = |line: &str| println!("{line}");
        println!("# stop autoboot: {}", stops(&board));
        // A dry run can't know what the card started from: what is refused is told when the card is there.
        let mut u_boot = UBoot::dry(&board, &tell)?;
        let mut network = network::up(&mut u_boot, prepared, &terms, ui)?;
        return work(flags, &job, &mut u_boot, &mut network, ui);
    }
    let baud = flags.baud.unwrap_or(board.baud);
    let link = flags.console.open(baud)?;
    let transcript = flags.transcript.clone().unwrap_or_else(|| bundle.folder().join("flash.log"));
    let file = File::create(&transcript)
        .with_context(|| format!("making the transcript `{}`", transcript.display()))
        .hint(|| "name another file with `--transcript`".into())?;
    ui.notice(&format!("transcript: {}", transcript.display()));
    let console = Console::new(link, ui, stop).with_transcript(file);
    let Started { mut u_boot, copy } = session::start(console, &board, baud, &flags.session(), ui)?;
    if let Some(copy) = &copy {
        ui.notice(&format!("{}, started from its {copy} copy", board.description));
    }
    if job.firmware.is_some() {
        firmware::allow(flags.copy, copy.as_deref(), flags.i_know)?;
    }
    let mut network = network::up(&mut u_boot, prepared, &terms, ui)?;
    let done = work(flags, &job, &mut u_boot, &mut network, ui);
    if let (Err(error), Some(console)) = (&done, u_boot.console()) {
        let _ = console.note(&report(error));
    }
    done?;
    if flags.no_boot {
        ui.notice("done; the card waits at U-Boot's prompt");
        return Ok(());
    }
    session::boot(&mut u_boot, ui)
        .context("everything was flashed and compared, but the card did not come up")?;
    ui.notice("done; the card is up");
    Ok(())
}

fn job<'a>(flags: &Flash, name: &str, board: &'a Board, bundle: &Bundle) -> Result<Job<'a>> {
    let firmware = if flags.firmware {
        let Some(firmware) = &board.firmware else {
            bail!("board `{name}` has no firmware that is flashed: its file has no `[firmware]`")
        };
        // What is compared first is the file by itself, whatever it is sent as.
        let form = Form { algorithm: board.memory.algorithm, packed: false, size: board.memory.piece };
        let (path, content) = firmware::find(&bundle.firmware(), firmware, form)?;
        eprintln!("firmware: {}", path.display());
        Some((firmware, content))
    } else {
        None
    };
    let system = if flags.wants_system() {
        let storage = board.storage.get(&flags.to);
        let storage =
            storage.with_context(|| format!("board `{name}` has no disk `{}`", flags.to)).hint(|| {
                let disks: Vec<_> = board.storage.keys().map(String::as_str).collect();
                format!("name one with `--to`: {}", disks.join(", "))
            })?;
        let path = bundle.image()?;
        let image = Image::open(&path)?;
        eprintln!("system: {}", path.display());
        Some((storage, image))
    } else {
        None
    };
    Ok(Job { firmware, system })
}

fn work(
    flags: &Flash,
    job: &Job<'_>,
    u_boot: &mut UBoot<'_>,
    network: &mut network::Network,
    ui: &Terminal,
) -> Result<()> {
    if let Some((storage, image)) = &job.system {
        let summary = system::flash(u_boot, network, storage, image, ui)?;
        ui.notice(&format!(
            "{} MiB written, {} MiB were there already, {} MiB are empty; {} MiB sent",
            summary.written >> 20,
            summary.same >> 20,
            summary.left >> 20,
            summary.sent.div_ceil(1 << 20)
        ));
    }
    if let Some((firmware, content)) = &job.firmware {
        firmware::flash(u_boot, network, firmware, flags.copy, content, ui)?;
    }
    Ok(())
}

fn stops(board: &Board) -> String {
    let stops = board.boot.stops.iter().map(|stop| format!("`{}` -> {:?}", stop.on.0, stop.send));
    stops.collect::<Vec<_>>().join(", ")
}

/// Has `stop` set by Ctrl-C, or by being asked to end; the second time ends the program.
fn stopped_by_signals(stop: &Arc<AtomicBool>) -> Result<()> {
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
        signal_hook::flag::register_conditional_shutdown(signal, STOPPED.into(), Arc::clone(stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(stop)))
            .map_err(|error| anyhow!("waiting for signals: {error}"))?;
    }
    Ok(())
}

/// The bundle of a board below a checkout or the working folder.
pub fn default_bundle(root: &Path, board: &str) -> std::path::PathBuf {
    let out = root.join("out").join(board);
    fs::canonicalize(&out).unwrap_or(out)
}
