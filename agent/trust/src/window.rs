//! When a card pairs, and how often one may guess.
//!
//! - A code is good for one pairing.
//! - One that the card made is good for ten minutes. One that it was given at build or boot is good until it
//!   is used, since nobody knows how long the host needs to come up, but only while no host is paired.
//! - After five wrong tries a code is worth nothing any more, a given one for ever.
//! - After each wrong try the next has to wait, twice as long each time, up to five minutes.
//!
//! So who guesses gets at most 5 tries for one code and 288 a day, out of 2^38 codes or more.
//!
//! The state is a file in `/run`, which the agent and `dpu-agent pairing open` share: a restart of the
//! agent gives no new tries. Its clock is the kernel's time since boot, which nobody sets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use crate::Code;
use crate::hosts::Fingerprint;
use crate::keep::{self, Lock};

/// How long a code is good that the card made.
pub const LIFE: Duration = Duration::from_mins(10);
/// How many wrong tries a code survives, and one more.
pub const TRIES: u32 = 5;
/// The longest wait after a wrong try.
pub const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// Where the card keeps what it knows of its code.
#[derive(Debug, Clone)]
pub struct Window {
    folder: PathBuf,
    spent: PathBuf,
}

/// A code that can be tried now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// The code.
    pub code: Code,
    /// Tells it from the codes before and after it.
    pub serial: u64,
}

/// Why no code can be tried now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// There is no code.
    Closed,
    /// A wrong one was tried, and this long nothing can be tried.
    Wait(Duration),
}

/// Where a code comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Origin {
    /// The card was given it.
    Given,
    /// The card made it.
    Made,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    code: String,
    origin: Origin,
    /// When it was made, in milliseconds since boot.
    since: u64,
    wrong: u32,
}

#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    open: Option<Entry>,
    serial: u64,
    /// Wrong tries since the last pairing.
    failures: u32,
    /// Until when nothing can be tried, in milliseconds since boot.
    wait_until: u64,
}

/// The time since boot, sleep included.
pub fn uptime() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

impl Window {
    /// The window whose state is in the folder `run`, and whose given codes that are worth nothing any more
    /// are remembered in the folder `trust`.
    pub fn new(run: &Path, trust: &Path) -> Self {
        Self { folder: run.to_owned(), spent: trust.join("spent-codes.json") }
    }

    /// Makes a new code because somebody asked for it; the one before it is worth nothing any more.
    ///
    /// # Errors
    /// Where the state can't be kept.
    pub fn open(&self, now: Duration) -> Result<Code> {
        self.change(|state| state.make(now))
    }

    /// Takes the code that the card was given, unless it was used up or is in use already; whether it can be
    /// used.
    ///
    /// # Errors
    /// Where the state can't be kept.
    pub fn give(&self, code: &Code, now: Duration) -> Result<bool> {
        if self.spent()?.contains(&hash(code.characters())) {
            return Ok(false);
        }
        self.change(|state| {
            if state.open.as_ref().is_none_or(|open| open.code != code.characters()) {
                state.put(code, Origin::Given, now);
            }
            Ok(true)
        })
    }

    /// Forgets a code that is over, and, where `wanted`, sees to it that there is one. Gives the code that is
    /// to be shown to people, if one is.
    ///
    /// # Errors
    /// Where the state can't be kept.
    pub fn tend(&self, now: Duration, wanted: bool) -> Result<Option<Open>> {
        self.change(|state| {
            state.expire(now);
            if state.open.is_none() && wanted {
                state.make(now)?;
            }
            let made = state.open.as_ref().filter(|open| open.origin == Origin::Made);
            made.map(|open| state.view(open)).transpose()
        })
    }

    /// The code that can be tried now.
    ///
    /// # Errors
    /// Where the state can't be read.
    pub fn current(&self, now: Duration) -> Result<Result<Open, Refusal>> {
        self.change(|state| {
            state.expire(now);
            Ok(match (&state.open, state.wait(now)) {
                (_, Some(wait)) => Err(Refusal::Wait(wait)),
                (None, None) => Err(Refusal::Closed),
                (Some(open), None) => Ok(state.view(open)?),
            })
        })
    }

    /// Counts a wrong try; how long the next has to wait.
    ///
    /// # Errors
    /// Where the state can't be kept.
    pub fn wrong(&self, serial: u64, now: Duration) -> Result<Duration> {
        let (wait, burnt) = self.change(|state| {
            let wait = Duration::from_secs(1 << state.failures.min(16)).min(LONGEST_WAIT);
            state.failures = state.failures.saturating_add(1);
            state.wait_until = milliseconds(now + wait);
            let is_current = state.serial == serial;
            let Some(open) = state.open.as_mut().filter(|_| is_current) else { return Ok((wait, None)) };
            open.wrong += 1;
            let burnt = if open.wrong >= TRIES { state.open.take() } else { None };
            Ok((wait, burnt))
        })?;
        burnt.map_or(Ok(()), |entry| self.remember(&entry))?;
        Ok(wait)
    }

    /// Uses the code up, before the pairing is made: whether it was still there.
    ///
    /// # Errors
    /// Where the state can't be kept.
    pub fn spend(&self, serial: u64, now: Duration) -> Result<bool> {
        let used = self.change(|state| {
            state.expire(now);
            let is_current = state.serial == serial;
            let used = if is_current { state.open.take() } else { None };
            if used.is_some() {
                state.failures = 0;
                state.wait_until = 0;
            }
            Ok(used)
        })?;
        used.as_ref().map_or(Ok(()), |entry| self.remember(entry))?;
        Ok(used.is_some())
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        keep::folder(&self.folder)?;
        let _lock = Lock::take(&self.folder)?;
        let path = self.folder.join("state.json");
        let before = keep::read(&path)?;
        let mut state: State = match &before {
            None => State::default(),
            Some(text) => serde_json::from_str(text).with_context(|| {
                format!("`{}` is damaged: remove it, and a new code is made", path.display())
            })?,
        };
        let result = change(&mut state)?;
        let text = serde_json::to_string(&state)? + "\n";
        if before.as_deref() != Some(&text) {
            keep::write(&path, text.as_bytes(), 0o600)?;
        }
        Ok(result)
    }

    fn spent(&self) -> Result<Vec<Fingerprint>> {
        let Some(text) = keep::read(&self.spent)? else { return Ok(Vec::new()) };
        serde_json::from_str(&text).with_context(|| {
            format!(
                "`{}` is damaged: give the card another pairing code, and remove it",
                self.spent.display()
            )
        })
    }

    /// A given code comes again at the next boot; it is to be known then.
    fn remember(&self, entry: &Entry) -> Result<()> {
        if entry.origin != Origin::Given {
            return Ok(());
        }
        let mut spent = self.spent()?;
        spent.push(hash(&entry.code));
        keep::write(&self.spent, (serde_json::to_string(&spent)? + "\n").as_bytes(), 0o600)
    }
}

impl State {
    fn make(&mut self, now: Duration) -> Result<Code> {
        let code = Code::random()?;
        self.put(&code, Origin::Made, now);
        Ok(code)
    }

    fn put(&mut self, code: &Code, origin: Origin, now: Duration) {
        self.serial += 1;
        let code = code.characters().to_owned();
        self.open = Some(Entry { code, origin, since: milliseconds(now), wrong: 0 });
    }

    fn expire(&mut self, now: Duration) {
        let is_over = |open: &Entry| {
            open.origin == Origin::Made && milliseconds(now) >= open.since.saturating_add(milliseconds(LIFE))
        };
        if self.open.as_ref().is_some_and(is_over) {
            self.open = None;
        }
    }

    fn wait(&self, now: Duration) -> Option<Duration> {
        let left = self.wait_until.saturating_sub(milliseconds(now));
        (left > 0).then(|| Duration::from_millis(left))
    }

    fn view(&self, entry: &Entry) -> Result<Open> {
        Ok(Open { code: entry.code.parse()?, serial: self.serial })
    }
}

fn hash(code: &str) -> Fingerprint {
    Fingerprint::of(code.as_bytes())
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> (tempfile::TempDir, Window) {
        let folder = tempfile::tempdir().unwrap();
        let window = Window::new(&folder.path().join("run"), folder.path());
        (folder, window)
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn given() -> Code {
        "ACDEF-GHJKM".parse().unwrap()
    }

    #[test]
    fn a_code_that_was_made_is_good_once_and_for_ten_minutes() {
        let (_folder, window) = window();
        assert_eq!(window.current(at(0)).unwrap(), Err(Refusal::Closed));
        assert_eq!(window.tend(at(0), false).unwrap(), None);
        let code = window.open(at(100)).unwrap();
        let open = window.current(at(699)).unwrap().unwrap();
        assert_eq!(open.code, code);
        assert_eq!(window.current(at(700)).unwrap(), Err(Refusal::Closed));
        assert!(!window.spend(open.serial, at(700)).unwrap());
        let open = window.tend(at(701), true).unwrap().unwrap();
        assert_ne!(open.code, code);
        assert!(window.spend(open.serial, at(702)).unwrap());
        assert!(!window.spend(open.serial, at(702)).unwrap());
        assert_eq!(window.current(at(702)).unwrap(), Err(Refusal::Closed));
    }

    #[test]
    fn a_code_that_was_given_waits_for_the_host_and_is_good_once_for_ever() {
        let (_folder, window) = window();
        assert!(window.give(&given(), at(0)).unwrap());
        assert_eq!(window.tend(at(0), true).unwrap(), None, "nobody is to be shown it");
        let open = window.current(at(100_000)).unwrap().unwrap();
        assert_eq!(open.code, given());
        assert!(window.spend(open.serial, at(100_000)).unwrap());
        assert!(!window.give(&given(), at(100_001)).unwrap());
        assert_eq!(window.current(at(100_001)).unwrap(), Err(Refusal::Closed));
    }

    #[test]
    fn five_wrong_tries_end_a_code_and_each_makes_the_next_wait_longer() {
        let (_folder, window) = window();
        window.give(&given(), at(0)).unwrap();
        let mut now = at(0);
        for wait in [1, 2, 4, 8, 16] {
            let open = window.current(now).unwrap().unwrap();
            assert_eq!(open.code, given());
            assert_eq!(window.wrong(open.serial, now).unwrap(), at(wait));
            assert_eq!(window.current(now).unwrap(), Err(Refusal::Wait(at(wait))));
            // A restart of the agent gives no new tries.
            if wait < 16 {
                assert!(window.give(&given(), now).unwrap());
            }
            now += at(wait);
        }
        assert_eq!(window.current(now).unwrap(), Err(Refusal::Closed));
        assert!(!window.give(&given(), now).unwrap());
        let open = window.tend(now, true).unwrap().unwrap();
        assert_ne!(open.code, given());
        for wait in [32, 64, 128, 256, 300, 300] {
            assert_eq!(window.wrong(open.serial, now).unwrap(), at(wait));
        }
    }

    #[test]
    fn a_pairing_ends_the_waits() {
        let (_folder, window) = window();
        let code = window.open(at(0)).unwrap();
        let open = window.current(at(0)).unwrap().unwrap();
        window.wrong(open.serial, at(0)).unwrap();
        window.wrong(open.serial, at(1)).unwrap();
        assert_eq!(window.current(at(3)).unwrap().unwrap().code, code);
        assert!(window.spend(open.serial, at(3)).unwrap());
        window.open(at(4)).unwrap();
        let open = window.current(at(4)).unwrap().unwrap();
        assert_eq!(window.wrong(open.serial, at(4)).unwrap(), at(1));
    }

    #[test]
    fn a_try_that_began_with_another_code_is_none_with_this_one() {
        let (_folder, window) = window();
        window.open(at(0)).unwrap();
        let before = window.current(at(0)).unwrap().unwrap();
        window.open(at(1)).unwrap();
        assert!(!window.spend(before.serial, at(1)).unwrap());
        for _ in 0..TRIES {
            window.wrong(before.serial, at(1)).unwrap();
        }
        assert!(window.current(at(100)).unwrap().is_ok(), "it is not used up by tries with another");
    }

    #[test]
    fn a_damaged_state_is_told_and_not_replaced() {
        let (folder, window) = window();
        window.open(at(0)).unwrap();
        keep::write(&folder.path().join("run/state.json"), b"{", 0o600).unwrap();
        let error = format!("{:#}", window.current(at(1)).unwrap_err());
        assert!(error.contains("state.json` is damaged: remove it, and a new code is made"), "{error}");
    }
}
