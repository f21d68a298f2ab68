//! The package of the host's drivers, with DKMS in a fresh system.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};
use dpukit_image::project::Project;
use dpukit_image::recipes::{self, DRIVERS, drivers_name};

use super::super::{is_root, leave_out};
use super::snapshots::read;
use crate::ui::Ui;

const LIFE: &str = include_str!("drivers-life.sh");
/// The Debian release, whose kernel has neither driver.
const SUITE: &str = "trixie";
const INSTALLED: &str = "dkms,linux-headers-amd64";

/// Installs and removes it for kernels that have both drivers, one, and none; returns why that could not be done.
pub fn live(ui: &Ui, project: &Project) -> Result<Option<String>> {
    let what = "the host's drivers with DKMS";
    if !is_root() {
        return leave_out(what, "that takes root");
    }
    if Command::new("mmdebstrap").arg("--version").output().is_err() {
        return leave_out(what, "there is no `mmdebstrap`");
    }
    ui.notice(&format!("{what} in a fresh {SUITE}; takes some minutes"));
    let name = drivers_name(&project.sources)?.context("the board has no drivers for the host")?;
    let graph = recipes::graph(&project.sources)?;
    let package = project.store.out(&graph.recipe(DRIVERS).entry()).join(name);
    let folder = tempfile::tempdir().context("making a folder for a system")?;
    let root = folder.path().join("root");
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
    read(mmdebstrap.arg(format!("--include={INSTALLED}")).arg(SUITE).arg(&root))?;
    fs::copy(package, root.join("package.deb"))?;
    // `/proc` is needed by compilers; whatever is mounted goes with the namespace.
    let script = "mount -t proc proc \"$0/proc\" && exec chroot \"$0\" sh -c \"$1\"";
    let mut life = Command::new("unshare");
    life.args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-c", script]);
    life.arg(&root).arg(LIFE).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    read(&mut life).context("the life of the package of the host's drivers")?;
    Ok(None)
}
