//! `dpu-init`, the first process of the card: see [`dpu_agent::init`].

use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, ExitCode};
use std::time::Duration;

use dpu_agent::init::{Level, Real, SYSTEMD, System as _, prepare};

fn main() -> ExitCode {
    let system = Real::new();
    if std::process::id() != 1 {
        eprintln!("error: `dpu-init` is the first process of a card; it does nothing else");
        return ExitCode::from(2);
    }
    // Where the first process ends, the kernel panics: whatever goes wrong, systemd is still tried.
    if catch_unwind(AssertUnwindSafe(|| prepare(&system))).is_err() {
        system.say(Level::Critical, "the preparation broke off; systemd starts with what there is");
    }
    for program in [SYSTEMD, "/sbin/init", "/bin/sh"] {
        let error = Command::new(program).args(std::env::args_os().skip(1)).exec();
        system.say(Level::Critical, &format!("`{program}` does not start: {error}"));
    }
    system.say(Level::Critical, "nothing is left to start; the card waits to be switched off");
    loop {
        std::thread::sleep(Duration::from_hours(1));
    }
}
