//! What is there, so that what was left behind can be told.

use std::fmt::Write as _;

use crate::run::try_run;
use crate::sysfs::Files;

/// The state of host and card, as text: interfaces, addresses, routes, answers for neighbours, files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    lines: Vec<String>,
}

/// Files that say what was done, or are there to be locked, not what there is.
fn is_history(file: &str) -> bool {
    file.contains("log/")
        || file.contains("last_reserved_ip")
        || file.ends_with("/lock")
        || file.ends_with("/locks/all")
}

/// Whether a cable is in is no matter of pods.
const STATES: [&str; 4] = ["linkdown", "UP", "DOWN", "LOWERLAYERDOWN"];

impl Picture {
    /// As it is now.
    pub fn take(host: &Files, card: &Files) -> Self {
        let mut text = String::new();
        for namespace in ["card", "outside"] {
            for what in [
                "-4 route show table all",
                "-6 route show table all",
                "-brief address show",
                "-4 neighbour show proxy",
                "-6 neighbour show proxy",
                "-4 rule show",
                "-6 rule show",
            ] {
                let shown = try_run(&format!("ip -n {namespace} {what}")).unwrap_or_else(|error| error);
                // The kernel makes this table of the addresses, in its own time.
                for line in shown.lines().filter(|line| !line.contains(" table local ")) {
                    let words: Vec<_> =
                        line.split_whitespace().filter(|word| !STATES.contains(word)).collect();
                    let _ = writeln!(text, "{namespace}: {what}: {}", words.join(" "));
                }
            }
        }
        for (machine, files) in [("host", host), ("card", card)] {
            for file in files.below("/var").into_iter().chain(files.below("/run")) {
                if !is_history(&file) {
                    let _ = writeln!(text, "{machine}: file {file}");
                }
            }
        }
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        Self { lines }
    }

    /// What is there now and was not, and what was there and is not.
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let more = now.lines.iter().filter(|line| !self.lines.contains(line)).map(|line| format!("+ {line}"));
        let less = self.lines.iter().filter(|line| !now.lines.contains(line)).map(|line| format!("- {line}"));
        more.chain(less).collect()
    }
}

/// The processes of this stage, as `number name`, but this one and those that have ended.
pub fn processes() -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(number) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // "number (name) state …"; it may end meanwhile.
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')')) else {
            continue;
        };
        if number != std::process::id() && !rest.trim_start().starts_with('Z') {
            found.push(format!("{number} {name}"));
        }
    }
    found
}
