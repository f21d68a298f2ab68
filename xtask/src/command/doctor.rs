//! `doctor`: says what of this machine would stop a build, and the mend.

use std::process::ExitCode;

use anyhow::Result;
use dpukit_image::doctor::{State, checks};
use dpukit_image::store::cache_folder;

use crate::flags::Common;

pub fn run(_common: &Common) -> Result<ExitCode> {
    let mut good = true;
    for check in checks(&cache_folder()?) {
        let mark = match check.state {
            State::Good => "ok     ",
            State::Bad => "FAILED ",
            State::Unknown => "unknown",
        };
        println!("{mark} {}: {}", check.name, check.found);
        if let Some(mend) = &check.mend {
            println!("        mend: {mend}");
        }
        good &= check.state != State::Bad;
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
