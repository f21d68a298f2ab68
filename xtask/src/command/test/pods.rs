//! Pods, end to end: the plugin and the agent as built programs, in network namespaces, and under containerd.

use std::path::Path;

use anyhow::{Context as _, Result};
use dpukit_image::bundle;
use dpukit_image::project::Project;
use xshell::Shell;

use crate::command::boot::{emulator, programs};
use crate::flags::Common;
use crate::ui::Ui;

use super::programs;

/// Programs that the proofs run beside our own, each with the file by which it is known.
const NEEDED: [(&str, &[&str]); 4] = [
    ("ip", &["/usr/sbin/ip", "/sbin/ip", "/usr/bin/ip"]),
    ("ping", &["/usr/bin/ping", "/bin/ping"]),
    ("host-local", &["/usr/lib/cni/host-local", "/opt/cni/bin/host-local"]),
    ("containerd", &["/usr/bin/containerd"]),
];

/// Builds the programs and runs the proofs; returns why it could not be done.
pub fn run(common: &Common, ui: &Ui, project: &Project) -> Result<Option<String>> {
    if let Some(reason) = hindrance() {
        return super::leave_out("the proofs of pods", &reason);
    }
    let config = &project.sources.config;
    let card = programs(common, ui, project, emulator(project)?)?;
    let shell = Shell::new()?;
    shell.change_dir(&config.root);
    // What the proof in an emulated card boots, and with what.
    shell.set_var("DPUKIT_CARD_IMAGE", bundle::image_path(&config.root, &config.board.name));
    shell.set_var("DPUKIT_CARD_TOOLS", card.tools);
    shell.set_var("DPUKIT_CARD_U_BOOT", card.u_boot);
    ui.notice("pods: proofs in network namespaces; take some minutes");
    // Each proof has the machine to itself: they measure deadlines.
    let arguments = ["--include-ignored", "--test-threads", "1", "--quiet"];
    programs::test(&shell, &config.root, &["ci/proofs"], &arguments).context("proving pods end to end")?;
    Ok(None)
}

fn hindrance() -> Option<String> {
    if !super::is_root() {
        return Some("that takes root, for network namespaces".into());
    }
    let lacks = NEEDED.iter().find(|(_, places)| !places.iter().any(|place| Path::new(place).exists()));
    lacks.map(|(name, _)| format!("there is no `{name}`; `ci/install` installs what is needed"))
}
