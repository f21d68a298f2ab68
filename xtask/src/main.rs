//! The command line of dpukit: parses, calls the builder, prints.
//!
//! One file per command in `command/`, named as it; [`flags`] says what each takes, [`ui`] how a build
//! is shown.

mod command;
mod flags;
mod ui;

use std::process::ExitCode;

use clap::Parser as _;

use flags::{Command, Flags};

fn main() -> ExitCode {
    let flags = Flags::parse();
    match run(&flags) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{}", dpukit_image::hint::report(&error));
            ExitCode::FAILURE
        }
    }
}

fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    match &flags.command {
        Command::Image(image) => command::image::run(&flags.common, image),
        Command::Deb => command::deb::run(&flags.common),
        Command::HostImage => command::deb::run_image(&flags.common),
        Command::Boot(boot) => command::boot::run(&flags.common, boot),
        Command::Flash(flash) => Ok(command::flash::run(&flags.common, flash)),
        Command::Test(test) => command::test::run(&flags.common, test),
        Command::Lock(lock) => command::lock::run(&flags.common, lock),
        Command::Key(flags) => command::key::run(flags),
        Command::Matrix => command::matrix::run(&flags.common),
        Command::Kernel(kernel) => command::kernel::run(&flags.common, kernel),
        Command::Store(store) => command::store::run(&flags.common, store),
        Command::Bench(bench) => command::bench::run(&flags.common, bench),
        Command::Doctor => command::doctor::run(&flags.common),
        Command::Clean => command::clean::run(&flags.common),
    }
}
