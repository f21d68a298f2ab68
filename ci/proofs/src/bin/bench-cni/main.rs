//! Measures the plugin and the agent as whole processes, beside the reference plugins `ptp` and `host-local`, on
//! a stage of namespaces. `cargo xtask bench cni` builds what is measured and starts this.

mod bench;
mod measure;
mod reference;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use dpukit_proofs::inside::{alone, is_inside, is_root};

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = &arguments[..]
        && first == measure::FLAG
    {
        return measure::run(rest);
    }
    let runs = match arguments.first().map(|runs| runs.parse::<usize>()) {
        Some(Ok(runs)) if runs > 0 => runs,
        _ => {
            eprintln!("usage: bench-cni RUNS; start it with `cargo xtask bench cni`");
            return ExitCode::from(2);
        }
    };
    if !is_root() {
        eprintln!("error: this makes network namespaces: run it as root");
        return ExitCode::FAILURE;
    }
    if !is_inside() {
        let own = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("bench-cni"));
        let status = alone(own.as_os_str()).args(&arguments).status();
        return match status {
            Ok(status) if status.success() => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: `unshare` of util-linux is needed: {error}");
                ExitCode::FAILURE
            }
        };
    }
    bench::run(runs);
    ExitCode::SUCCESS
}
