//! `dpu-agent`: sets the card up at boot, checks it, and answers for it.

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::builder::PossibleValuesParser;
use clap::{Parser, Subcommand};
use dpu_agent::doctor::Ask;
use dpu_agent::report::Report;
use dpu_agent::setup::{PHASES, phase};
use dpu_agent::slots::Verdict;
use dpu_agent::trusted::{Way, command};
use dpu_agent::{Card, doctor, fresh, grow, images, octep, pods, seed, serve, setup, slots};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Sets the card up at boot, checks it, and answers for it
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
    /// Do what the board's plan asks for, phase by phase
    ///
    /// Each phase can be run again and fails alone; what it found and did is printed, and kept in /run/dpukit/setup.
    Setup {
        /// Run this phase only; may be given more than once
        #[arg(long = "phase", value_name = "NAME", value_parser = phase_names())]
        phases: Vec<String>,
    },
    /// Check the running card, and name the mend for what is wrong
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Answer the host on the link: health, and the calls of its CNI plugin
    Serve,
    /// List the pods' attachments
    Pods {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say which hosts may ask for pods' networks
    Pairing {
        #[command(subcommand)]
        action: command::Action,
    },
    /// Run `octep_cp_agent` with the devices that the plan gives it, and tell systemd when it is ready
    Octep,
    /// Wait until the card is healthy, and tell U-Boot that the slot that runs is good
    ///
    /// A system that does not get healthy and never was gives its slot up: the card starts from the other.
    Confirm {
        /// How long it has to get healthy, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = slots::WITHIN.as_secs())]
        within: u64,
    },
    /// Answer RAUC about the slots, on boards whose start script keeps their state on the disk
    #[command(hide = true)]
    SlotState {
        #[command(subcommand)]
        ask: slots::script::Ask,
    },
    /// Give containerd the images that the card came with
    Images {
        /// Only let those go that the system in the other slot came with, before an update takes its place
        #[arg(long)]
        forget: bool,
    },
    /// Take the seed `dpukit-seed.toml`, where one is given that was not taken
    Seed {
        /// Take it though the card has taken one before
        #[arg(long)]
        again: bool,
    },
    /// Join the Kubernetes that the seed names
    Join,
    /// Let the card forget all that it keeps, at its next start
    ///
    /// Pairings, keys, logs, pods, containers and every change of `/etc` go; the systems in the slots stay, and the
    /// container images that the card came with. Restart the card to have it done.
    FactoryReset {
        /// Take it back
        #[arg(long)]
        cancel: bool,
    },
    /// Keep what the first start made: one that is cut short before begins anew
    Settle,
    /// Let the data partition and its file system take the whole disk
    GrowData,
}

fn phase_names() -> PossibleValuesParser {
    PossibleValuesParser::new(PHASES.iter().map(|phase| phase.name))
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log();
    match run(&arguments.command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: &Command) -> Result<ExitCode> {
    match command {
        Command::Setup { phases } => Ok(set_up(&Card::system()?, phases)),
        Command::Doctor { json } => examine(&Card::system()?, *json),
        Command::Serve => serve::run(Card::system()?).map(|()| ExitCode::SUCCESS),
        Command::Pairing { action } => {
            print!("{}", command::run(&Card::system()?, action)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::Pods { json } => list_pods(&Card::system()?, *json),
        Command::Octep => {
            octep::run(&Card::system()?, &mut std::io::stdout(), serve::tell_ready)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Confirm { within } => confirm(&Card::system()?, Duration::from_secs(*within)),
        Command::SlotState { ask } => {
            if let Some(answer) = slots::script::answer(&Card::system()?, ask)? {
                println!("{answer}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Images { forget } => {
            let work = if *forget { images::forget } else { images::bring };
            let mut report = Report::default();
            report.try_to(|report| work(&Card::system()?, report));
            Ok(told(&report))
        }
        Command::Seed { again } => Ok(told(&seed::take(&Card::system()?, *again))),
        Command::Join => {
            let mut report = Report::default();
            report.try_to(|report| seed::join(&Card::system()?, report));
            Ok(told(&report))
        }
        Command::FactoryReset { cancel } => factory_reset(&Card::system()?, *cancel),
        Command::Settle => {
            fresh::settle(&Card::system()?.tree)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::GrowData => Ok(told(&grow::run())),
    }
}

/// Prints what was found and done; whether it is good.
fn told(report: &Report) -> ExitCode {
    print!("{}", report.lines());
    if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn factory_reset(card: &Card, cancel: bool) -> Result<ExitCode> {
    if !cancel {
        fresh::ask(&card.tree)?;
        println!("the card forgets all that it keeps at its next start: `systemctl reboot`");
        println!("`dpu-agent factory-reset --cancel` takes it back");
    } else if fresh::take_back(&card.tree)? {
        println!("the card keeps what it has");
    } else {
        println!("no factory reset was asked for");
    }
    Ok(ExitCode::SUCCESS)
}

fn set_up(card: &Card, names: &[String]) -> ExitCode {
    let wanted =
        PHASES.iter().filter(|phase| names.is_empty() || names.iter().any(|name| name == phase.name));
    let mut failed = Vec::new();
    for phase in wanted {
        let record = setup::run(card, phase);
        print!("{}", record.text());
        if !record.report.is_good() {
            failed.push(record.phase);
        }
    }
    serve::tell_systemd(&match failed.as_slice() {
        [] => "set up".to_owned(),
        failed => format!("failed: {}", failed.join(", ")),
    });
    debug_assert!(names.iter().all(|name| phase(name).is_some()), "clap takes known names only");
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// How the agent that runs is asked for its health.
fn ask(card: &Card) -> Box<Ask> {
    let way = Way::of(card).map_err(|error| format!("{error:#}"));
    Box::new(move |address, service: &str| match &way {
        Ok(way) => serve::ask(way, address, service),
        Err(error) => bail!("{error}"),
    })
}

fn confirm(card: &Card, within: Duration) -> Result<ExitCode> {
    // The keys that the agent is asked with are made at its first start.
    let examine = || doctor::examine(card, &ask(card));
    let (text, code) = match slots::confirm(card, examine, within)? {
        Verdict::Good(slot) => (format!("slot {slot} is good"), ExitCode::SUCCESS),
        Verdict::Unwell(reasons) => {
            (format!("not healthy, as it was before in this slot: {}", reasons.join("; ")), ExitCode::FAILURE)
        }
        Verdict::NoOther(refused) => (
            format!("never healthy, and no other slot to go to: {}", refused.reasons.join("; ")),
            ExitCode::FAILURE,
        ),
        Verdict::GivenUp(refused) => (
            format!(
                "slot {} with version {} is given up, the card starts from the other: {}",
                refused.slot,
                refused.version,
                refused.reasons.join("; ")
            ),
            ExitCode::FAILURE,
        ),
    };
    println!("{text}");
    Ok(code)
}

fn examine(card: &Card, json: bool) -> Result<ExitCode> {
    let diagnosis = doctor::examine(card, &ask(card));
    if json {
        println!("{}", serde_json::to_string_pretty(&diagnosis)?);
    } else {
        print!("{}", diagnosis.text());
    }
    Ok(ExitCode::from(diagnosis.exit_code()))
}

fn list_pods(card: &Card, json: bool) -> Result<ExitCode> {
    let list = pods::list::list(card)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&list)?);
    } else {
        print!("{}", list.text());
    }
    Ok(if list.damaged.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Logs go to standard error, so that standard output holds results alone. The journal has its own
/// clock and colours are for people.
fn start_log() {
    let wanted = std::env::var("DPU_AGENT_LOG").ok().and_then(|text| text.parse::<Targets>().ok());
    let filter = wanted.unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let log = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal());
    if std::env::var_os("JOURNAL_STREAM").is_some() {
        log.with(lines.without_time()).init();
    } else {
        log.with(lines).init();
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_unknown_phase_is_refused_and_the_known_ones_are_named() {
        let error = Arguments::try_parse_from(["dpu-agent", "setup", "--phase", "hugepage"]).err().unwrap();
        let error = error.to_string();
        assert!(error.contains("[possible values: hugepages, sriov,"), "{error}");
        assert!(error.contains("a similar value exists: 'hugepages'"), "{error}");
    }

    #[test]
    fn help_teaches() {
        insta::assert_snapshot!(Arguments::command().term_width(100).render_long_help(), @"
        Sets the card up at boot, checks it, and answers for it

        Exit codes: 0 all is good, 1 something failed, 2 wrong usage, 3 nothing failed but something could
        not be found out.

        Usage: dpu-agent <COMMAND>

        Commands:
          setup          Do what the board's plan asks for, phase by phase
          doctor         Check the running card, and name the mend for what is wrong
          serve          Answer the host on the link: health, and the calls of its CNI plugin
          pods           List the pods' attachments
          pairing        Say which hosts may ask for pods' networks
          octep          Run `octep_cp_agent` with the devices that the plan gives it, and tell systemd when
                         it is ready
          confirm        Wait until the card is healthy, and tell U-Boot that the slot that runs is good
          images         Give containerd the images that the card came with
          seed           Take the seed `dpukit-seed.toml`, where one is given that was not taken
          join           Join the Kubernetes that the seed names
          factory-reset  Let the card forget all that it keeps, at its next start
          settle         Keep what the first start made: one that is cut short before begins anew
          grow-data      Let the data partition and its file system take the whole disk
          help           Print this message or the help of the given subcommand(s)

        Options:
          -h, --help
                  Print help (see a summary with '-h')

          -V, --version
                  Print version
        ");
        let mut command = Arguments::command().term_width(100);
        insta::assert_snapshot!(command.find_subcommand_mut("setup").unwrap().render_long_help(), @"
        Do what the board's plan asks for, phase by phase

        Each phase can be run again and fails alone; what it found and did is printed, and kept in
        /run/dpukit/setup.

        Usage: setup [OPTIONS]

        Options:
              --phase <NAME>
                  Run this phase only; may be given more than once
                  
                  [possible values: hugepages, sriov, interfaces, vfio, cpt, swap, hostname, link]

          -h, --help
                  Print help (see a summary with '-h')
        ");
        insta::assert_snapshot!(command.find_subcommand_mut("doctor").unwrap().render_long_help(), @"
        Check the running card, and name the mend for what is wrong

        Usage: doctor [OPTIONS]

        Options:
              --json
                  Print JSON

          -h, --help
                  Print help
        ");
    }
}
