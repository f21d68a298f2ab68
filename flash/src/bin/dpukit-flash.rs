//! Puts a bundle on a card, on a machine without the sources.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use dpukit_flash::{cli, flags::Flash};

#[derive(Debug, Parser)]
#[command(name = "dpukit-flash", version)]
struct Flags {
    /// The card: a board that this program knows, or that the bundle is of.
    #[arg(long, value_name = "NAME")]
    board: String,
    /// Print errors only.
    #[arg(long, short)]
    quiet: bool,
    #[command(flatten)]
    flash: Flash,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let bundle = cli::default_bundle(Path::new("."), &flags.board);
    cli::run(&flags.flash, &flags.board, &bundle, flags.quiet)
}
