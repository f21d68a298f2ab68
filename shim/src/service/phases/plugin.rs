//! The plugin, in each folder in which runtimes look for it: a link to the one of the package.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Mode;
use crate::files;
use crate::service::aside;
use crate::service::config::PLUGIN;
use crate::service::machine::Machine;
use crate::service::report::Report;

/// Where the package has the plugin.
pub const PACKAGED: &str = "/usr/lib/cni/offload-cni";

#[allow(clippy::unnecessary_wraps, reason = "every phase's `work` has this signature")]
pub fn work(machine: &Machine, mode: Mode, report: &mut Report) -> Result<()> {
    if !machine.files.exists(PACKAGED) {
        report.wrong(format!("there is no `{PACKAGED}`: install the package dpukit-host again"));
        return Ok(());
    }
    for folder in &machine.config.plugins {
        report.try_to(|report| put(machine, mode, folder, report));
    }
    Ok(())
}

fn put(machine: &Machine, mode: Mode, folder: &Path, report: &mut Report) -> Result<()> {
    let path = folder.join(PLUGIN);
    let shown = path.display();
    if is_ours(machine, &path) {
        report.found(format!("`{shown}` is the package's"));
        return Ok(());
    }
    let is_there = machine.files.at(&path).symlink_metadata().is_ok();
    if mode == Mode::Look {
        let what = if is_there { "is another one than the package's" } else { "is missing" };
        report.wrong(format!("`{shown}` {what}"));
        return Ok(());
    }
    if is_there {
        let name = aside::put(&machine.files, folder, PLUGIN)?;
        report.did(format!("moved `{shown}`, which is another one than the package's, aside to `{name}`"));
    }
    let real = machine.files.at(folder);
    fs::create_dir_all(&real).with_context(|| format!("making the folder `{}`", folder.display()))?;
    let beside = real.join(format!(".{PLUGIN}.new"));
    files::remove(&beside)?;
    symlink(PACKAGED, &beside)
        .and_then(|()| fs::rename(&beside, machine.files.at(&path)))
        .with_context(|| format!("making the link `{shown}`"))?;
    report.did(format!("made the link `{shown}`"));
    Ok(())
}

fn is_ours(machine: &Machine, path: &Path) -> bool {
    let is_link = || fs::read_link(machine.files.at(path)).is_ok_and(|target| target == Path::new(PACKAGED));
    path == Path::new(PACKAGED) || is_link()
}

/// Takes our links away, and puts back what was in their place.
pub fn restore(machine: &Machine, report: &mut Report) {
    for folder in &machine.config.plugins {
        let path = folder.join(PLUGIN);
        report.try_to(|report| {
            if path != Path::new(PACKAGED) && is_ours(machine, &path) {
                files::remove(&machine.files.at(&path))?;
                report.did(format!("took the link `{}` away", path.display()));
            }
            Ok(())
        });
        aside::restore(&machine.files, folder, |name| name == PLUGIN, report);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Mode, PHASES, Record};
    use super::*;
    use crate::service::fake::Host;

    fn run(host: &Host, mode: Mode) -> Record {
        PHASES[4].run(&host.machine, mode)
    }

    fn installed() -> Host {
        let host = Host::new("cni.plugin-folders = [\"/opt/cni/bin\", \"/usr/lib/cni\"]");
        host.fake.file(PACKAGED, "the plugin");
        host
    }

    #[test]
    fn the_plugin_is_where_runtimes_look_for_it() {
        let host = installed();
        assert_eq!(run(&host, Mode::Look).report.wrong, ["`/opt/cni/bin/offload-cni` is missing"]);
        assert_eq!(run(&host, Mode::SetUp).report.did, ["made the link `/opt/cni/bin/offload-cni`"]);
        assert_eq!(run(&host, Mode::SetUp).report.did, [""; 0]);
        let target = fs::read_link(host.fake.at("/opt/cni/bin/offload-cni")).unwrap();
        assert_eq!(target, Path::new(PACKAGED));
    }

    #[test]
    fn another_plugin_of_the_name_comes_back_at_the_end() {
        let host = installed();
        host.fake.file("/opt/cni/bin/offload-cni", "theirs");
        host.fake.file("/opt/cni/bin/bridge.dpukit-aside", "none of ours");
        let wrong = run(&host, Mode::Look).report.wrong;
        assert_eq!(wrong, ["`/opt/cni/bin/offload-cni` is another one than the package's"]);
        run(&host, Mode::SetUp);
        assert_eq!(
            fs::read_to_string(host.fake.at("/opt/cni/bin/offload-cni.dpukit-aside")).unwrap(),
            "theirs"
        );
        let mut report = Report::default();
        restore(&host.machine, &mut report);
        assert_eq!(fs::read_to_string(host.fake.at("/opt/cni/bin/offload-cni")).unwrap(), "theirs");
        assert!(host.fake.at("/opt/cni/bin/bridge.dpukit-aside").exists());
        assert!(host.fake.at(PACKAGED).exists(), "the package's own is dpkg's");
    }

    #[test]
    fn a_package_that_lost_its_plugin_is_told() {
        let host = Host::new("");
        assert!(
            run(&host, Mode::SetUp).report.wrong[0].starts_with("there is no `/usr/lib/cni/offload-cni`")
        );
    }
}
