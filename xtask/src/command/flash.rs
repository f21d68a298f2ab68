//! `flash`: puts the board's bundle on a card.

use std::process::ExitCode;

use dpukit_flash::cli;
use dpukit_flash::flags::Flash;

use crate::flags::Common;

pub fn run(common: &Common, flags: &Flash) -> ExitCode {
    cli::run(flags, &common.board, &cli::default_bundle(&common.root(), &common.board), common.quiet)
}
