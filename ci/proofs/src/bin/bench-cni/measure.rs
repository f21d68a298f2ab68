//! The peak memory of a program, measured by a small process between: the kernel counts what a process had
//! before it became another program as well.

use std::fs::File;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::resource::{UsageWho, getrusage};

/// What this program is called with to be that process; then the file for standard input and the program.
pub const FLAG: &str = "--measure-peak-memory";

/// Runs a program with the environment as it is, and prints its peak memory in KiB.
pub fn run(arguments: &[String]) -> ExitCode {
    let [input, program] = arguments else { return ExitCode::from(2) };
    let Ok(input) = File::open(input) else { return ExitCode::from(2) };
    let status = Command::new(program).stdin(input).stdout(Stdio::null()).status();
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return ExitCode::FAILURE };
    println!("{}", usage.max_rss());
    if status.is_ok_and(|status| status.success()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The peak memory of a call with this input and environment, in octets.
pub fn peak(program: &Path, input: &Path, environment: &[(&str, String)]) -> u64 {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(own);
    command.arg(FLAG).arg(input).arg(program).env_clear().envs(environment.iter().map(|(k, v)| (k, v)));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", dpukit_proofs::run::shown(&output));
    String::from_utf8_lossy(&output.stdout).trim().parse::<u64>().unwrap() * 1024
}

/// Seconds of processor time that the children of this process took that have ended.
pub fn children_cpu() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).unwrap();
    let seconds = |time: nix::sys::time::TimeVal| {
        #[allow(clippy::cast_precision_loss, reason = "processor times are short")]
        let seconds = time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
        seconds
    };
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Seconds of processor time that a process and its children that have ended took.
pub fn process_cpu(id: u32) -> f64 {
    /// `USER_HZ`, which is part of the kernel's interface: proc(5), `/proc/pid/stat`.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // utime, stime, cutime and cstime are the fields 14 to 17; the first here is 3.
    fields[11..15].iter().map(|field| field.parse::<f64>().unwrap()).sum::<f64>() / TICKS
}

/// The memory that a process has now, in octets.
pub fn resident(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
