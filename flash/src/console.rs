//! The card's console: what it says, waited for with deadlines, and kept in a transcript.

pub mod clean;
pub mod link;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use regex::Regex;

use crate::hint::WithHint as _;
use crate::watch::Watch;
use clean::Cleaner;
use link::Link;

/// How often a wait looks whether it should stop.
const TICK: Duration = Duration::from_millis(50);
/// No command says more than this; of a card that does not stop talking the end is kept.
const KEPT: usize = 256 << 10;

/// How long is waited.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Without anything from the card.
    pub silent: Duration,
    /// In all.
    pub total: Duration,
}

impl Patience {
    /// As long in all as in silence.
    pub fn of(duration: Duration) -> Self {
        Self { silent: duration, total: duration }
    }
}

/// Bytes on their way to the card by another road.
#[derive(Debug)]
pub struct Transfer {
    /// Counts all that were ever sent.
    pub sent: Arc<AtomicU64>,
    /// The count when this transfer began.
    pub start: u64,
    /// The count when it was last looked at.
    pub last: u64,
    /// How many this transfer has.
    pub length: u64,
    /// How many bytes of the whole they stand for.
    pub size: u64,
    /// Of the whole, what was dealt with before.
    pub done: u64,
    pub total: u64,
}

/// What keeps a wait from ending well.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("the card said nothing for {} s", .0.as_secs_f32())]
    Silent(Duration),
    #[error("the card did not say what was waited for within {} s; its last lines were:{}", .after.as_secs_f32(), indented(.said))]
    Late { after: Duration, said: String },
    #[error("most of what comes from the console is no text ({bad} of {all} bytes)")]
    Noise { bad: usize, all: usize },
    #[error("the console went away")]
    Gone,
    #[error("stopped by Ctrl-C")]
    Stopped,
}

/// A console with what it said and was not looked at yet.
pub struct Console<'a> {
    link: Box<dyn Link>,
    watch: &'a dyn Watch,
    stop: Arc<AtomicBool>,
    transcript: Option<File>,
    cleaner: Cleaner,
    said: String,
    /// Of the last bytes, which were no text.
    noise: VecDeque<bool>,
    transfer: Option<Transfer>,
}

impl<'a> Console<'a> {
    pub fn new(link: Box<dyn Link>, watch: &'a dyn Watch, stop: Arc<AtomicBool>) -> Self {
        Self {
            link,
            watch,
            stop,
            transcript: None,
            cleaner: Cleaner::default(),
            said: String::new(),
            noise: VecDeque::new(),
            transfer: None,
        }
    }

    /// Keeps all that comes and goes in `file` too.
    #[must_use]
    pub fn with_transcript(mut self, file: File) -> Self {
        self.transcript = Some(file);
        self
    }

    /// A line of ours in the transcript.
    pub fn note(&mut self, text: &str) -> Result<()> {
        self.keep(format!("\n## {text}\n").as_bytes())
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.link.write(bytes).map_err(|error| gone(&error)).context("writing to the console")
    }

    /// Waits for the first of these patterns, and takes what was said up to its end. Returns which one it was,
    /// what was said before it, and what it matched.
    pub fn wait(&mut self, wanted: &[&Regex], patience: Patience) -> Result<Found, Broken> {
        let start = Instant::now();
        let mut heard = start;
        loop {
            if let Some(found) = self.find(wanted) {
                return Ok(found);
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(Broken::Stopped);
            }
            if self.read()? || self.goes_on() {
                heard = Instant::now();
            }
            if let Some(noise) = self.is_noise() {
                return Err(noise);
            }
            if heard.elapsed() > patience.silent {
                return Err(if self.said.trim().is_empty() {
                    Broken::Silent(patience.silent)
                } else {
                    Broken::Late { after: patience.silent, said: self.last_lines() }
                });
            }
            if start.elapsed() > patience.total {
                return Err(Broken::Late { after: patience.total, said: self.last_lines() });
            }
        }
    }

    /// Looks at a transfer too while it waits: as long as that goes on, the card may be silent.
    pub fn follow(&mut self, transfer: Option<Transfer>) {
        self.transfer = transfer;
    }

    fn goes_on(&mut self) -> bool {
        let Some(transfer) = &mut self.transfer else { return false };
        let now = transfer.sent.load(Ordering::Relaxed);
        if now == transfer.last {
            return false;
        }
        transfer.last = now;
        // What is sent is smaller than what it unpacks to.
        let part = (now - transfer.start).min(transfer.length) * transfer.size / transfer.length.max(1);
        self.watch.progress(transfer.done + part, transfer.total);
        true
    }

    /// Forgets what was said up to now, once the card says no more for `quiet`; at most for `limit`.
    pub fn settle(&mut self, quiet: Duration, limit: Duration) -> Result<(), Broken> {
        let start = Instant::now();
        let mut heard = start;
        while heard.elapsed() < quiet && start.elapsed() < limit {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Broken::Stopped);
            }
            if self.read()? {
                heard = Instant::now();
            }
        }
        self.said.clear();
        Ok(())
    }

    fn find(&mut self, wanted: &[&Regex]) -> Option<Found> {
        let matches = wanted.iter().enumerate().filter_map(|(which, pattern)| {
            let captures = pattern.captures(&self.said)?;
            let all = captures.get(0)?;
            Some((all.start(), all.end(), which, captures.get(1).map(|group| group.as_str().to_owned())))
        });
        // Of those that begin at one place the first in the list counts.
        let (start, end, which, group) = matches.min_by_key(|(start, _, which, _)| (*start, *which))?;
        let before = self.said[..start].to_owned();
        let matched = self.said[start..end].to_owned();
        self.said.drain(..end);
        Some(Found { which, before, matched, group })
    }

    /// Takes in what came, waiting for one tick; whether there was anything.
    fn read(&mut self) -> Result<bool, Broken> {
        let mut buffer = [0; 4096];
        let count = match self.link.read(&mut buffer, TICK) {
            Ok(None) => return Ok(false),
            Ok(Some(0)) => return Err(Broken::Gone),
            Ok(Some(count)) => count,
            Err(error) => {
                keep_reason(&mut self.transcript, &error);
                return Err(Broken::Gone);
            }
        };
        let bytes = &buffer[..count];
        // A full disk must not end a flash in the middle of a write.
        let _ = self.keep(bytes);
        for byte in bytes {
            if self.noise.len() == NOISE_WINDOW {
                self.noise.pop_front();
            }
            self.noise.push_back(clean::is_noise(*byte));
        }
        let text = self.cleaner.clean(bytes);
        self.watch.console(&text);
        self.said.push_str(&text);
        if self.said.len() > KEPT {
            let mut cut = self.said.len() - KEPT / 2;
            while !self.said.is_char_boundary(cut) {
                cut += 1;
            }
            self.said.drain(..cut);
        }
        Ok(true)
    }

    fn is_noise(&self) -> Option<Broken> {
        let bad = self.noise.iter().filter(|bad| **bad).count();
        (self.noise.len() >= NOISE_WINDOW / 4 && bad * 2 > self.noise.len())
            .then_some(Broken::Noise { bad, all: self.noise.len() })
    }

    fn last_lines(&self) -> String {
        let lines: Vec<_> = self.said.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(8)..].join("\n")
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(file) = &mut self.transcript else { return Ok(()) };
        file.write_all(bytes).context("writing the transcript")
    }
}

/// How many bytes are looked at for noise.
const NOISE_WINDOW: usize = 256;

/// What was waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its place in the list.
    pub which: usize,
    /// What was said before it.
    pub before: String,
    pub matched: String,
    /// Its first group.
    pub group: Option<String>,
}

impl Broken {
    /// The error, with what a person can do.
    pub fn told(self, baud: u32) -> anyhow::Error {
        let hint = match &self {
            Self::Silent(_) => format!(
                "look whether the card has power, whether this is its console, and whether the line is of {baud} baud (`--baud`)"
            ),
            Self::Noise { .. } => {
                format!("the line is most likely not of {baud} baud: name another with `--baud`")
            }
            Self::Gone => {
                "look at the cable and at `dmesg`; what was begun goes on when the command is run again"
                    .into()
            }
            Self::Stopped => "what was begun goes on when the command is run again".into(),
            Self::Late { .. } => "the transcript has all that the card said".into(),
        };
        Err::<(), _>(self).hint(|| hint).unwrap_err()
    }
}

fn gone(error: &std::io::Error) -> anyhow::Error {
    anyhow!("{error}")
}

fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["\n    ", line]).collect()
}

/// What the system said of a console that went away, for who reads the transcript.
fn keep_reason(transcript: &mut Option<File>, error: &std::io::Error) {
    if let Some(file) = transcript {
        let _ = writeln!(file, "\n## the console went away: {error}");
    }
}

#[cfg(test)]
mod tests;
