//! Gives the card another system, from a bundle that its builder signed: `dpu-host update`.
//!
//! The bundle goes over the link that host and card were paired for; the card's RAUC checks and installs it. Then the
//! card is started anew, and whether the new system stays is the card's own word: it confirms a system that is
//! healthy, and goes back from one that is not.

mod bundle;
mod calls;
mod everywhere;
mod progress;
mod roster;
mod verdict;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::config::Peer;
use bundle::Bundle;
use calls::Card;
use verdict::Target;

/// How long a card may take to restart and to say that the new system is good: starts of a slot that does not come
/// up, and the five minutes that one has to get healthy (see `dpu-agent confirm`).
const WITHIN: &str = "15m";

/// Give the card another system, and wait until it says that it is good
///
/// BUNDLE is a `.raucb` that was signed for the card, or `-` for one on standard input. The card has to be paired
/// with this host. While it restarts, its pods have no network.
#[derive(Debug, Clone, clap::Args)]
pub struct UpdateArguments {
    /// The bundle; `-` reads it from standard input
    #[arg(value_name = "BUNDLE")]
    pub bundle: PathBuf,
    /// Install only: the card starts the new system when it is restarted next
    #[arg(long)]
    pub no_restart: bool,
    /// How long the restarted card may take to say that the new system is good: `90s`, `15m`, `1h`
    #[arg(long, value_name = "DURATION", default_value = WITHIN, value_parser = duration)]
    pub within: Duration,
    /// Update the cards of all hosts in this file instead: a destination of ssh on each line, `#` begins a comment
    ///
    /// Each host gets the bundle through `ssh`, which has to let you in as root without a question, and its own
    /// `dpu-host` updates its card. After a failure no other host is begun; the same command goes on with those that
    /// are not done.
    #[arg(long, value_name = "FILE", conflicts_with = "no_restart")]
    pub all: Option<PathBuf>,
    /// With `--all`: how many hosts are updated at once
    #[arg(long, value_name = "N", default_value_t = 1, requires = "all", value_parser = clap::value_parser!(u16).range(1..))]
    pub at_once: u16,
    /// With `--all`: where it is kept which hosts are done [default: FILE with `.state` behind it]
    #[arg(long, value_name = "FILE", requires = "all")]
    pub state: Option<PathBuf>,
    /// With `--all`: the program that reaches the hosts, called as ssh is
    #[arg(long, value_name = "PROGRAM", default_value = "ssh", requires = "all")]
    pub ssh: PathBuf,
}

/// Updates this host's card, or those of all hosts; `peer` finds this host's.
///
/// # Errors
/// A card has no new system that is good, or, with `--no-restart`, none that is installed.
pub fn run(arguments: &UpdateArguments, peer: impl FnOnce() -> Result<Peer>) -> Result<()> {
    if let Some(list) = &arguments.all {
        return everywhere::run(arguments, list);
    }
    // Whatever is wrong with the configuration is told before a bundle is read.
    let peer = peer()?;
    let bundle = Bundle::open(&arguments.bundle)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("starting the runtime for gRPC")?.block_on(update(arguments, peer, bundle))
}

async fn update(arguments: &UpdateArguments, peer: Peer, bundle: Bundle) -> Result<()> {
    let card = Card::new(peer);
    // A card that takes no updates says so before anything is sent.
    card.state().await?;
    card.install(bundle).await?;
    let before = card.state().await?;
    let Some(target) = Target::of(&before) else {
        bail!(
            "the card installed the bundle, and does not say that it would start it: see `rauc status` on it"
        );
    };
    if arguments.no_restart {
        println!(
            "installed as {target}; the card starts it when it is restarted next (`systemctl reboot` on it)"
        );
        return Ok(());
    }
    eprintln!(
        "the card restarts now: pods have no network until it is up again, and keep their addresses; new pods wait \
         until then"
    );
    card.restart().await?;
    let end = Instant::now() + arguments.within;
    verdict::wait(&card, &before, &target, end).await?;
    println!("the card runs {target}, and says that it is good");
    Ok(())
}

/// Reads `90s`, `15m`, `1h`, or seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
    let seconds = match unit {
        "" | "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let number = number.parse::<u32>().ok().filter(|number| *number > 0);
    let found = number.zip(seconds).map(|(number, unit)| Duration::from_secs(u64::from(number) * unit));
    found.ok_or_else(|| "no time such as `90s`, `15m` or `1h`".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_a_unit_or_is_in_seconds() {
        for (text, seconds) in [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), (WITHIN, 900)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["", "m", "0", "0m", "-1s", "1.5h", "15 m", "1d", "99999999999s", "1µ", "ß"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
