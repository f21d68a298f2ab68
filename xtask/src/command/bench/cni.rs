//! `bench cni`: builds the plugin and the agent as they are shipped, and measures them as whole processes.
//!
//! What is measured is in the crate `dpukit-proofs`, which has the stage for it.

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

use crate::command::bench::machine;
use crate::flags::Common;
use crate::ui::Ui;

const TARGET: &str = "x86_64-unknown-linux-gnu";

pub fn run(common: &Common, runs: u16) -> Result<ExitCode> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("the host's plugin is built for x86-64: run this on such a machine");
    }
    let ui = Ui::new(common);
    let shell = Shell::new()?;
    shell.change_dir(common.root());
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let target = common.root().join("target");
    let folder = ["--target-dir".as_ref(), target.as_os_str()];
    ui.notice("the plugin, as one static file");
    let package = ["--package", "dpukit-host", "--bin", "offload-cni"];
    cmd!(shell, "{cargo} build --quiet --locked --profile plugin --target {TARGET} {package...} {folder...}")
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static")
        .quiet()
        .run()?;
    ui.notice("the agent, and what measures both");
    let packages = ["--package", "dpu-agent", "--package", "dpukit-proofs"];
    cmd!(shell, "{cargo} build --quiet --locked --release --bins {packages...} {folder...}").quiet().run()?;
    let plugin = target.join(TARGET).join("plugin/offload-cni");
    let (agent, bench) = (target.join("release/dpu-agent"), target.join("release/bench-cni"));
    ui.notice("pods");
    cmd!(shell, "{bench}")
        .arg(runs.to_string())
        .env("DPUKIT_PLUGIN", plugin)
        .env("DPUKIT_AGENT", agent)
        .quiet()
        .run()
        .context("measuring")?;
    println!("machine: {}", machine());
    Ok(ExitCode::SUCCESS)
}
