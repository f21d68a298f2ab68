//! What became of a new system: the card's own word, asked for until it has one.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use dpu_api::v1::{Refused, Slot, StateResponse};

use super::calls::{Card, printable};
use super::progress::Progress;

const PAUSE: Duration = Duration::from_secs(2);

/// The slot that was installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target(Slot);

impl Target {
    /// The slot that the card starts next; none where that is the one that runs.
    pub fn of(state: &StateResponse) -> Option<Self> {
        state.next.clone().map(Self)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Slot { name, version } = &self.0;
        write!(f, "slot {}", printable(name))?;
        if version.is_empty() { Ok(()) } else { write!(f, " with version {}", printable(version)) }
    }
}

/// What the card says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// It runs the slot that it ran before, and why.
    Back(String),
    /// Nothing is certain yet, and how it is.
    Later(String),
}

/// Waits until the card says that the new system is good.
///
/// # Errors
/// The card went back, or is not there or not certain at the end.
pub async fn wait(card: &Card, before: &StateResponse, target: &Target, end: Instant) -> Result<()> {
    let progress = Progress::waiting("waiting for the card");
    let mut told = String::new();
    loop {
        let news = match card.state().await {
            Ok(now) => match judge(before, target, &now) {
                Verdict::Good => return Ok(()),
                Verdict::Back(why) => bail!("{why}"),
                Verdict::Later(news) => news,
            },
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            bail!("the card does not say that {target} is good: {news}; see `dpu-agent doctor` on the card");
        }
        if news != told {
            progress.step(0, &news);
            told = news;
        }
        tokio::time::sleep(PAUSE.min(end.saturating_duration_since(Instant::now()))).await;
    }
}

fn judge(before: &StateResponse, target: &Target, now: &StateResponse) -> Verdict {
    if now.boot == before.boot {
        return Verdict::Later("it goes down".to_owned());
    }
    let running = now.running.clone().unwrap_or_default();
    let is_there = |refused: &&Refused| refused.slot.as_ref().is_some_and(|slot| slot.name == target.0.name);
    let ill = now.refused.as_ref().filter(is_there).map(|refused| refused.reasons.join("; "));
    if running.name == target.0.name {
        return match (now.good, ill) {
            (true, _) => Verdict::Good,
            (false, None) => Verdict::Later(format!("{target} runs, and is not known to be good yet")),
            (false, Some(ill)) => {
                Verdict::Later(printable(&format!("{target} runs, and is not healthy: {ill}")))
            }
        };
    }
    let why = match ill {
        Some(ill) => format!("it was never healthy there: {ill}"),
        None => "it did not come up there".to_owned(),
    };
    let version = if running.version.is_empty() { "unknown" } else { &running.version };
    Verdict::Back(printable(&format!(
        "the card went back to slot {} with version {version} and left {target}: {why}",
        running.name
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &str, version: &str) -> Slot {
        Slot { name: name.into(), version: version.into() }
    }

    fn state(boot: &str, running: Slot, good: bool) -> StateResponse {
        StateResponse { running: Some(running), good, refused: None, next: None, boot: boot.into() }
    }

    fn refused(slot: Slot, reason: &str) -> Refused {
        Refused { slot: Some(slot), reasons: vec![reason.into()] }
    }

    #[test]
    fn a_new_system_is_good_when_the_card_says_so() {
        let before = StateResponse { next: Some(slot("B", "2")), ..state("1", slot("A", "1"), true) };
        let target = Target::of(&before).unwrap();
        assert_eq!(target.to_string(), "slot B with version 2");
        let judge = |now: &StateResponse| judge(&before, &target, now);
        assert!(matches!(judge(&before), Verdict::Later(_)), "it did not restart yet");
        assert!(matches!(judge(&state("2", slot("B", "2"), false)), Verdict::Later(_)));
        assert_eq!(judge(&state("2", slot("B", "2"), true)), Verdict::Good);
    }

    #[test]
    fn a_card_that_went_back_says_why() {
        let before = state("1", slot("A", "1"), true);
        let target = Target(slot("B", "2"));
        let told = |running, refused| {
            judge(&before, &target, &StateResponse { refused, ..state("2", running, false) })
        };
        let sick = || Some(refused(slot("B", "2"), "agent: mute"));
        let back = |why| {
            let left = "the card went back to slot A with version 1 and left slot B with version 2: ";
            Verdict::Back(format!("{left}{why}"))
        };
        assert_eq!(told(slot("A", "1"), sick()), back("it was never healthy there: agent: mute"));
        assert_eq!(told(slot("A", "1"), None), back("it did not come up there"));
        assert_eq!(
            told(slot("A", "1"), Some(refused(slot("A", "1"), "x"))),
            back("it did not come up there")
        );
        let ill = "slot B with version 2 runs, and is not healthy: agent: mute".to_owned();
        assert_eq!(told(slot("B", "2"), sick()), Verdict::Later(ill), "there may be no slot to go back to");
    }
}
