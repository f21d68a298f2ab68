//! The CNI plugin: see `shim/README.md`.

use std::env;
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let start = Instant::now();
    // Tests put a made-up host here.
    let root = env::var("DPUKIT_ROOT").unwrap_or_else(|_| "/".to_owned());
    dpukit_host::plugin::run(start, &root)
}
