//! How long work is shown: a bar on a terminal, now and then a line elsewhere.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// Work that is under way.
pub struct Progress(Shown);

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines {
        what: &'static str,
        total: u64,
        /// Tenths of the work that a line told of.
        told: AtomicU64,
    },
}

impl Progress {
    /// Work on so many octets.
    pub fn octets(what: &'static str, total: u64) -> Self {
        Self::new(what, total, "{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}")
    }

    /// As [`Progress::octets`], for work that is soon over: elsewhere than on a terminal nothing is shown.
    pub fn brief(what: &'static str, total: u64) -> Self {
        match Self::octets(what, total) {
            Self(Shown::Lines { .. }) => Self(Shown::Nothing),
            bar => bar,
        }
    }

    /// Work of so many parts, each with something to say.
    pub fn steps(what: &'static str, total: u64) -> Self {
        Self::new(what, total, "{prefix} {bar:20} {percent:>3}% {wide_msg}")
    }

    /// Waiting, which nobody knows the end of.
    pub fn waiting(what: &'static str) -> Self {
        let progress = Self::new(what, 0, "{spinner} {prefix} {elapsed} {wide_msg}");
        if let Shown::Bar(bar) = &progress.0 {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        progress
    }

    fn new(what: &'static str, total: u64, style: &str) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(Shown::Lines { what, total, told: AtomicU64::new(0) });
        }
        let bar = ProgressBar::new(total);
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_prefix(what);
        Self(Shown::Bar(bar))
    }

    /// So much is done.
    pub fn at(&self, done: u64) {
        match &self.0 {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.set_position(done),
            Shown::Lines { what, total, told } => {
                let tenths = done.saturating_mul(10) / (*total).max(1);
                if told.fetch_max(tenths, Ordering::Relaxed) < tenths {
                    eprintln!("{what}: {}%", tenths * 10);
                }
            }
        }
    }

    /// What is being done, when so much is.
    pub fn step(&self, done: u64, text: &str) {
        match &self.0 {
            Shown::Nothing => {}
            Shown::Bar(bar) => {
                bar.set_position(done);
                bar.set_message(text.to_owned());
            }
            Shown::Lines { what, total: 0, .. } => eprintln!("{what}: {text}"),
            Shown::Lines { what, .. } => eprintln!("{what}: {done:>3}% {text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Shown::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
