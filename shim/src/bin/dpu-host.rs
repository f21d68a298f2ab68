//! `dpu-host`: sets the host up for pods by the card, watches the card, tells how it is, and updates it.

use std::env;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use dpukit_host::pairing::{self, PairArguments};
use dpukit_host::service::machine::Machine;
use dpukit_host::service::report::Report;
use dpukit_host::service::{doctor, restore, run, status::Status, visit};
use dpukit_host::update::{self, UpdateArguments};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::filter::LevelFilter;

/// Sets the host up for pods by the card, watches the card, and tells how it is
///
/// Exit codes: 0 all is good, 1 something failed, 2 wrong usage, 3 nothing failed but something could not be found out.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the host ready for pods and watch the card, until SIGTERM or SIGINT
    ///
    /// This is the service `dpu-host`. What it found and did is in the journal, and in /run/dpukit/host.json.
    Run {
        /// Where a container has the host's root: bring the programs there, work there, and take all away at the end
        #[arg(long, value_name = "DIRECTORY")]
        host_root: Option<PathBuf>,
    },
    /// Tell who has which VF, whether the card is up, and what is not as it should be
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Check the host, and name the mend for what is wrong
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    Pair(PairArguments),
    Update(UpdateArguments),
    /// Put back what was moved aside, and take away what was made
    ///
    /// The service has to be stopped first. Removing the package does both.
    Restore,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log();
    match work(&arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(command: &Command) -> Result<ExitCode> {
    // Tests put a made-up host here, or a made-up image.
    let root = env::var("DPUKIT_ROOT").unwrap_or_else(|_| "/".to_owned());
    let machine = || Machine::open(&root);
    match command {
        Command::Pair(arguments) => {
            println!("{}", pairing::run(arguments)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Update(arguments) => {
            update::run(arguments, || Ok(machine()?.config.plugin.agent))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Run { host_root: None } => run::run(machine()?, &signals()?).map(|()| ExitCode::SUCCESS),
        Command::Run { host_root: Some(host) } => Ok(end(&visit::run(Path::new(&root), host, &signals()?)?)),
        Command::Status { json } => {
            let status = Status::look(&machine()?)?;
            print(*json, &status, || status.text())?;
            Ok(ExitCode::from(status.exit_code()))
        }
        Command::Doctor { json } => {
            let diagnosis = doctor::examine(&machine()?);
            print(*json, &diagnosis, || diagnosis.text())?;
            Ok(ExitCode::from(diagnosis.exit_code()))
        }
        Command::Restore => {
            let (machine, unusable) = Machine::open_for_the_end(&root)?;
            if let Some(error) = unusable {
                eprintln!("warning: {}", format!("{error:#}").trim_end());
                eprintln!("the defaults stand in, and what was noted of where things were put");
            }
            Ok(end(&restore::restore(&machine)?))
        }
    }
}

/// Tells what was put back.
fn end(report: &Report) -> ExitCode {
    for did in report.did.iter().chain(&report.found) {
        println!("{did}");
    }
    for wrong in &report.wrong {
        eprintln!("error: {wrong}");
    }
    if report.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(json: bool, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(value)?);
    } else {
        print!("{}", text());
    }
    Ok(())
}

/// Something is heard from it with the first signal to stop.
fn signals() -> Result<Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("starting the runtime for signals")?;
    let (stop, stopped) = channel();
    let (mut terminate, mut interrupt) = runtime.block_on(async {
        let terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
        Ok::<_, anyhow::Error>((terminate, interrupt))
    })?;
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
                _ = interrupt.recv() => tracing::info!("stopping on SIGINT"),
            }
        });
        tell(&stop);
    });
    Ok(stopped)
}

fn tell(stop: &Sender<()>) {
    // Who does not listen any more is about to stop.
    let _ = stop.send(());
}

/// Logs go to standard error, so that standard output holds results alone. The journal has its own clock
/// and colours are for people.
fn start_log() {
    let level = env::var("DPU_HOST_LOG").ok().and_then(|level| level.parse().ok());
    let log = tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(LevelFilter::INFO))
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    if env::var_os("JOURNAL_STREAM").is_some() { log.without_time().init() } else { log.init() }
}
