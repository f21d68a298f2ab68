//! A flash on a terminal: the console as it comes, and below it how far it is.

use std::cell::{Cell, RefCell};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::watch::Watch;

/// How often a log without a terminal is told how far it is.
const LINE: Duration = Duration::from_secs(10);

pub struct Terminal {
    quiet: bool,
    bar: ProgressBar,
    draws: bool,
    /// A line of the console that is not whole yet.
    line: RefCell<String>,
    told: Cell<Option<Instant>>,
    start: Cell<Option<(Instant, u64)>>,
}

impl Terminal {
    pub fn new(quiet: bool) -> Self {
        let is_terminal = std::io::stderr().is_terminal() && !quiet;
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = "{bar:30} {bytes}/{total_bytes} {binary_bytes_per_sec}, {eta} left";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            quiet,
            bar,
            draws: is_terminal,
            line: RefCell::default(),
            told: Cell::new(None),
            start: Cell::new(None),
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        self.console("\n");
        self.bar.finish_and_clear();
    }

    fn say(&self, text: &str) {
        if self.quiet {
        } else if self.draws {
            self.bar.suspend(|| eprintln!("{text}"));
        } else {
            eprintln!("{text}");
        }
    }

    fn line_of_progress(&self, done: u64, total: u64) {
        if self.told.get().is_some_and(|told| told.elapsed() < LINE) && done < total {
            return;
        }
        self.told.set(Some(Instant::now()));
        let (start, first) = self.start.get().unwrap_or((Instant::now(), done));
        let seconds = start.elapsed().as_secs().max(1);
        let rate = (done - first.min(done)) / seconds;
        let left =
            (total - done.min(total)).checked_div(rate).map_or_else(|| "?".into(), |left| left.to_string());
        self.say(&format!(
            "{} of {} MiB, {:.1} MiB/s, {left} s left",
            done >> 20,
            total >> 20,
            f64::from(u32::try_from(rate >> 10).unwrap_or(u32::MAX)) / 1024.0
        ));
    }
}

impl Watch for Terminal {
    fn step(&self, text: &str) {
        self.console("\n");
        self.start.set(None);
        self.say(&format!("==> {text}"));
    }

    fn notice(&self, text: &str) {
        self.console("\n");
        self.say(text);
    }

    fn console(&self, text: &str) {
        let mut line = self.line.borrow_mut();
        for letter in text.chars() {
            if letter != '\n' {
                line.push(letter);
                continue;
            }
            if !line.trim().is_empty() {
                self.say(&format!("    {line}"));
            }
            line.clear();
        }
    }

    fn progress(&self, done: u64, total: u64) {
        if self.start.get().is_none() {
            self.start.set(Some((Instant::now(), done)));
            self.bar.reset();
        }
        self.bar.set_length(total);
        self.bar.set_position(done);
        if !self.draws {
            self.line_of_progress(done, total);
        }
    }
}
