//! `kernel`: looks at the kernel's configuration.

use std::fs;
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, Result};
use dpukit_image::hint::WithHint as _;
use dpukit_image::kconfig::{self, Config};
use dpukit_image::recipes::{self, KERNEL_CONFIG};
use dpukit_image::sandbox::Sandbox;

use crate::flags::{Common, Image, Kernel};
use crate::ui::Ui;

pub fn run(common: &Common, flags: &Kernel) -> Result<ExitCode> {
    let ui = Ui::new(common);
    let project = common.open(&ui, &Image::default())?;
    let graph = recipes::graph(&project.sources)?;
    let outcomes = graph.build(&project.store, &[KERNEL_CONFIG], common.jobs(), &ui)?;
    let now_path = project.store.out(&graph.recipe(KERNEL_CONFIG).entry()).join("config");
    let now = Config::parse(&fs::read_to_string(&now_path)?)?;
    match flags {
        Kernel::Check => {
            ui.summary(&outcomes);
            ui.notice("every wanted option took, every requirement is met");
            ui.result("kernel-config", &[now_path]);
        }
        Kernel::Diff { file } => {
            let before = if let Some(file) = file {
                file.clone()
            } else {
                let last = project.store.last(&common.board)?;
                let recipe = last
                    .get(KERNEL_CONFIG)
                    .context("there was no whole build to compare with")
                    .hint(|| "run `cargo xtask image` first, or name a file to compare with".into())?;
                project.store.out(&recipe.entry()).join("config")
            };
            let text =
                fs::read_to_string(&before).with_context(|| format!("reading `{}`", before.display()))?;
            for line in kconfig::diff(&Config::parse(&text)?, &now) {
                println!("{line}");
            }
        }
        Kernel::Menu => {
            let tools = &project.sources.config.board.tools.kernel;
            let source = recipes::kernel_source(&project.sources)?;
            graph.build(&project.store, &[tools, &source], common.jobs(), &ui)?;
            let entry = |step: &str| project.store.out(&graph.recipe(step).entry());
            let scratch = tempfile::tempdir().context("making a folder for the menu")?;
            let script = "mkdir /build/kernel && cp /in/config /build/kernel/.config && \
                          make -C /in/source O=/build/kernel ARCH=arm64 CROSS_COMPILE=aarch64-linux-gnu- menuconfig";
            let status = Sandbox::new(entry(tools))
                .input("source", entry(&source))
                .input("config", &now_path)
                .writable("/build", scratch.path())
                .env("TERM", std::env::var("TERM").unwrap_or_else(|_| "xterm".into()))
                .command(&["/bin/bash", "-euc", script])?
                .stdin(Stdio::inherit())
                .status()
                .context("starting the menu")?;
            if !status.success() {
                anyhow::bail!("the menu ended with {status}");
            }
            let changed = Config::parse(&fs::read_to_string(scratch.path().join("kernel/.config"))?)?;
            for line in kconfig::diff(&now, &changed) {
                println!("{line}");
            }
            ui.notice(
                "put what you want of these into a fragment in `kernel-config/`, with a reason above each",
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}
