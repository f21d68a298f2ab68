//! `matrix`: shows which versions of a board's parts go together.

use std::process::ExitCode;

use anyhow::Result;
use dpukit_image::lock::Lock;
use dpukit_image::project::lock_path;
use dpukit_image::rules;

use crate::flags::Common;

pub fn run(common: &Common) -> Result<ExitCode> {
    let config = common.config()?;
    let lock = Lock::read(&lock_path(&config.root, &common.board))?;
    print!("{}", rules::table(&config, &lock));
    let violations = rules::violations(&config, &rules::parts(&config, &lock));
    Ok(if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
