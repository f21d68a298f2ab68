//! The plugin, in each folder in which runtimes look for it: a link to the one of the package, or to the one that a
//! container brought (see [`crate::service::visit`]).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::Mode;
use crate::files;
use crate::service::aside;
use crate::service::config::PLUGIN;
use crate::service::machine::Machine;
use crate::service::placed::Placed;
use crate::service::report::Report;

/// Where the package has the plugin.
pub const PACKAGED: &str = "/usr/lib/cni/offload-cni";
/// Where a container has put it.
pub const VISITING: &str = "/opt/dpukit/bin/offload-cni";
const SOURCES: [&str; 2] = [PACKAGED, VISITING];

pub fn work(machine: &Machine, mode: Mode, report: &mut Report) -> Result<()> {
    let Some(source) = SOURCES.into_iter().find(|path| is_program(machine, path)) else {
        report.wrong(format!(
            "there is no `{PACKAGED}`: install the package dpukit-host again; where a DaemonSet brings it, delete its pod"
        ));
        return Ok(());
    };
    let meant = &machine.config.plugins;
    if mode == Mode::SetUp {
        Placed::change(&machine.files, |placed| placed.plugins.extend(meant.iter().cloned()))?;
    }
    for folder in meant {
        report.try_to(|report| put(machine, mode, source, folder, report));
    }
    if mode == Mode::SetUp {
        for other in Placed::read(&machine.files)?.plugins.iter().filter(|other| !meant.contains(other)) {
            clear(machine, other, report);
        }
    }
    Ok(())
}

fn put(machine: &Machine, mode: Mode, source: &str, folder: &Path, report: &mut Report) -> Result<()> {
    let path = folder.join(PLUGIN);
    let shown = path.display();
    if is(machine, &path, source) {
        report.found(format!("`{shown}` is the package's"));
        return Ok(());
    }
    let is_there = machine.files.at(&path).symlink_metadata().is_ok();
    if mode == Mode::Look {
        let what = if is_there { "is another one than the package's" } else { "is missing" };
        report.wrong(format!("`{shown}` {what}"));
        return Ok(());
    }
    if is_there && !is_ours(machine, &path) {
        let name = aside::put(&machine.files, folder, PLUGIN)?;
        report.did(format!("moved `{shown}`, which is another one than the package's, aside to `{name}`"));
    }
    let real = machine.files.at(folder);
    fs::create_dir_all(&real).with_context(|| format!("making the folder `{}`", folder.display()))?;
    let beside = real.join(format!(".{PLUGIN}.new"));
    files::remove(&beside)?;
    symlink(source, &beside)
        .and_then(|()| fs::rename(&beside, machine.files.at(&path)))
        .with_context(|| format!("making the link `{shown}`"))?;
    report.did(format!("made the link `{shown}`"));
    Ok(())
}

/// Whether the plugin itself is there: a folder of plugins may be one of [`SOURCES`], and what is in it a link of ours.
fn is_program(machine: &Machine, path: impl AsRef<Path>) -> bool {
    machine.files.at(path).symlink_metadata().is_ok_and(|found| found.is_file())
}

/// Whether it is the plugin of this place, or a link to it.
fn is(machine: &Machine, path: &Path, source: &str) -> bool {
    let is_link = || fs::read_link(machine.files.at(path)).is_ok_and(|target| target == Path::new(source));
    (path == Path::new(source) && is_program(machine, path)) || is_link()
}

fn is_ours(machine: &Machine, path: &Path) -> bool {
    SOURCES.into_iter().any(|source| is(machine, path, source))
}

/// Takes our links away wherever they were put, and puts back what was in their place.
pub fn restore(machine: &Machine, report: &mut Report) {
    report.try_to(|report| {
        let mut folders = Placed::read(&machine.files)?.plugins;
        folders.extend(machine.config.plugins.iter().cloned());
        for folder in &folders {
            clear(machine, folder, report);
        }
        Ok(())
    });
}

/// Makes a folder what it was without us. It is forgotten once that is done.
fn clear(machine: &Machine, folder: &Path, report: &mut Report) {
    let path = folder.join(PLUGIN);
    let wrong = report.wrong.len();
    report.try_to(|report| {
        if !is_program(machine, &path) && is_ours(machine, &path) {
            files::remove(&machine.files.at(&path))?;
            report.did(format!("took the link `{}` away", path.display()));
        }
        Ok(())
    });
    aside::restore(&machine.files, folder, |name| name == PLUGIN, report);
    if report.wrong.len() == wrong {
        report.try_to(|_| Placed::change(&machine.files, |placed| placed.plugins.remove(folder)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Mode, PHASES, Record};
    use super::*;
    use crate::service::config::Config;
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
    fn a_folder_that_is_no_longer_meant_is_as_it_was() {
        let mut host = installed();
        host.fake.file("/opt/cni/bin/offload-cni", "theirs");
        run(&host, Mode::SetUp);
        host.machine.config = Config::parse("cni.plugin-folders = [\"/usr/libexec/cni\"]").unwrap();
        run(&host, Mode::Look);
        assert!(is_ours(&host.machine, Path::new("/opt/cni/bin/offload-cni")), "a look changes nothing");
        run(&host, Mode::SetUp);
        assert!(is_ours(&host.machine, Path::new("/usr/libexec/cni/offload-cni")));
        assert_eq!(fs::read_to_string(host.fake.at("/opt/cni/bin/offload-cni")).unwrap(), "theirs");
        restore(&host.machine, &mut Report::default());
        assert!(!host.fake.at("/usr/libexec/cni/offload-cni").is_symlink());
    }

    #[test]
    fn a_container_has_its_own_place_and_the_package_may_follow_it() {
        let host = Host::new("");
        host.fake.file(VISITING, "the plugin");
        let link = || fs::read_link(host.fake.at("/opt/cni/bin/offload-cni")).unwrap();
        run(&host, Mode::SetUp);
        assert_eq!(link(), Path::new(VISITING));
        host.fake.file(PACKAGED, "the plugin");
        run(&host, Mode::SetUp);
        assert_eq!(link(), Path::new(PACKAGED));
        restore(&host.machine, &mut Report::default());
        assert_eq!(host.machine.files.names("/opt/cni/bin").unwrap(), [""; 0]);
    }

    #[test]
    fn a_container_may_have_to_link_where_the_package_has_the_plugin_itself() {
        let host = Host::new("cni.plugin-folders = [\"/opt/cni/bin\", \"/usr/lib/cni\"]");
        host.fake.file(VISITING, "the plugin");
        run(&host, Mode::SetUp);
        assert_eq!(run(&host, Mode::SetUp).report.did, [""; 0]);
        for folder in ["/opt/cni/bin", "/usr/lib/cni"] {
            let link = fs::read_link(host.fake.at(folder).join("offload-cni")).unwrap();
            assert_eq!(link, Path::new(VISITING));
        }
        restore(&host.machine, &mut Report::default());
        for folder in ["/opt/cni/bin", "/usr/lib/cni"] {
            assert_eq!(host.machine.files.names(folder).unwrap(), [""; 0]);
        }
    }

    #[test]
    fn a_package_that_lost_its_plugin_is_told() {
        let host = Host::new("");
        assert!(
            run(&host, Mode::SetUp).report.wrong[0].starts_with("there is no `/usr/lib/cni/offload-cni`")
        );
    }
}
