//! How a build is shown: one line per running step on a terminal, plain lines elsewhere, JSON on demand.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use dpukit_image::step::{Event, Outcome, Watch};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use crate::flags::{Common, MessageFormat};

/// Shows what happens.
pub struct Ui {
    mode: Mode,
    bars: MultiProgress,
    running: Mutex<HashMap<String, ProgressBar>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Bars,
    Lines,
    Quiet,
    Json,
}

impl Ui {
    /// Bars on a terminal, lines elsewhere, nothing but errors if quiet.
    pub fn new(common: &Common) -> Self {
        let mode = match (common.message_format, common.quiet) {
            (MessageFormat::Json, _) => Mode::Json,
            (MessageFormat::Human, true) => Mode::Quiet,
            (MessageFormat::Human, false) if std::io::stderr().is_terminal() => Mode::Bars,
            (MessageFormat::Human, false) => Mode::Lines,
        };
        Self { mode, bars: MultiProgress::new(), running: Mutex::default() }
    }

    /// A line for people.
    pub fn notice(&self, text: &str) {
        match self.mode {
            Mode::Quiet => {}
            Mode::Json => json_line(&json!({"event": "notice", "text": text})),
            Mode::Bars => {
                let _ = self.bars.println(text);
            }
            Mode::Lines => error_line(text),
        }
    }

    /// What is wrong: told in any case.
    pub fn problem(&self, text: &str) {
        match self.mode {
            Mode::Json => json_line(&json!({"event": "problem", "text": text})),
            Mode::Bars => self.notice(text),
            Mode::Lines | Mode::Quiet => error_line(text),
        }
    }

    /// Files that a command made, on standard output.
    pub fn result(&self, kind: &str, files: &[PathBuf]) {
        for file in files {
            match self.mode {
                Mode::Json => json_line(&json!({"event": "result", "kind": kind, "path": file})),
                _ => out_line(&relative(file).display().to_string()),
            }
        }
    }

    /// What each step cost.
    pub fn summary(&self, outcomes: &[Outcome]) {
        if matches!(self.mode, Mode::Quiet | Mode::Json) {
            return;
        }
        let built = outcomes.iter().filter(|outcome| outcome.built).count();
        if built == 0 {
            self.notice("nothing changed: all from the store");
            return;
        }
        let mut table = format!("{:<22} {:<7} {:>9} {:>11}", "step", "from", "seconds", "size");
        for outcome in outcomes {
            let from = if outcome.built { "built" } else { "store" };
            table += &format!(
                "\n{:<22} {from:<7} {:>9.1} {:>11}",
                outcome.step,
                outcome.seconds,
                bytes(outcome.bytes)
            );
        }
        self.notice(&table);
    }

    /// The most memory that this process had, for programs that measure it (`VmHWM`, proc(5)).
    pub fn peak_memory(&self) {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        if let (Mode::Json, Some(kib)) = (self.mode, kib) {
            json_line(&json!({"event": "peak-memory", "bytes": kib * 1024}));
        }
    }

    fn bar(&self, step: &str, change: impl FnOnce(&ProgressBar)) {
        if let Ok(running) = self.running.lock()
            && let Some(bar) = running.get(step)
        {
            change(bar);
        }
    }
}

impl Watch for Ui {
    fn event(&self, event: Event<'_>) {
        match self.mode {
            Mode::Json => json_event(&event),
            Mode::Bars => self.bars_event(&event),
            Mode::Lines => line_event(&event),
            Mode::Quiet => {}
        }
    }
}

impl Ui {
    fn bars_event(&self, event: &Event<'_>) {
        match event {
            Event::Started { step } => {
                let bar = self.bars.add(ProgressBar::no_length());
                bar.set_style(style("{spinner} {prefix:<22} {elapsed:>6} {msg}"));
                bar.set_prefix((*step).to_owned());
                bar.enable_steady_tick(Duration::from_millis(120));
                if let Ok(mut running) = self.running.lock() {
                    running.insert((*step).to_owned(), bar);
                }
            }
            Event::Progress { step, done, total } => self.bar(step, |bar| {
                if let Some(total) = total
                    && bar.length().is_none()
                {
                    bar.set_length(*total);
                    bar.set_style(style(
                        "{spinner} {prefix:<22} {elapsed:>6} [{bar:20}] {bytes}/{total_bytes} {msg}",
                    ));
                }
                bar.set_position(*done);
            }),
            Event::Notice { step, text } => self.notice(&format!("{step}: {text}")),
            Event::Finished(outcome) => {
                if let Ok(mut running) = self.running.lock()
                    && let Some(bar) = running.remove(&outcome.step)
                {
                    bar.finish_and_clear();
                    self.bars.remove(&bar);
                }
                if outcome.built {
                    self.notice(&format!(
                        "  {:<22} {:>6.1} s {:>11}",
                        outcome.step,
                        outcome.seconds,
                        bytes(outcome.bytes)
                    ));
                }
            }
            Event::Failed { step, log } => {
                self.bar(step, ProgressBar::abandon);
                self.notice(&format!("{step} FAILED, log: {}", log.display()));
            }
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn line_event(event: &Event<'_>) {
    match event {
        Event::Started { step } => error_line(&format!("{step} ...")),
        Event::Notice { step, text } => error_line(&format!("{step}: {text}")),
        Event::Finished(outcome) if outcome.built => {
            let (step, seconds) = (&outcome.step, outcome.seconds);
            error_line(&format!("{step} built in {seconds:.1} s, {}", bytes(outcome.bytes)));
        }
        Event::Failed { step, log } => error_line(&format!("{step} FAILED, log: {}", log.display())),
        Event::Progress { .. } | Event::Finished(_) => {}
    }
}

fn json_event(event: &Event<'_>) {
    match event {
        Event::Started { step } => json_line(&json!({"event": "started", "step": step})),
        Event::Notice { step, text } => json_line(&json!({"event": "notice", "step": step, "text": text})),
        Event::Finished(outcome) => json_line(&json!({
            "event": "finished", "step": outcome.step, "built": outcome.built,
            "seconds": outcome.seconds, "bytes": outcome.bytes,
        })),
        Event::Failed { step, log } => json_line(&json!({"event": "failed", "step": step, "log": log})),
        Event::Progress { .. } => {}
    }
}

fn json_line(value: &serde_json::Value) {
    out_line(&value.to_string());
}

// A reader that went away is no reason to stop a build.

fn out_line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn error_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn relative(path: &Path) -> PathBuf {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).map_or_else(|_| path.to_owned(), Path::to_owned)
}

/// Bytes as a person reads them.
#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..0x10_0000 => format!("{:.1} KiB", count as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        _ => format!("{:.2} GiB", count as f64 / 1_073_741_824.0),
    }
}
