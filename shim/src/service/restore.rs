//! `dpu-host restore`: everything back as it was, for the package's end.

use std::time::Duration;

use anyhow::Result;

use super::machine::Machine;
use super::report::Report;
use super::run::lock;
use super::state;
use super::{cni, phases};
use crate::files;

/// Takes our CNI configuration and our links away, puts those of others back, and takes away VFs that
/// nobody uses. The link's address and the drivers stay until the host's next start.
///
/// # Errors
/// Where the service runs. What else goes wrong is in the report, and stops nothing.
pub fn restore(machine: &Machine) -> Result<Report> {
    let _lock = lock(&machine.files, Duration::from_secs(10))?;
    let mut report = Report::default();
    put_back(machine, &mut report);
    Ok(report)
}

/// As [`restore`], for who has the lock.
pub fn put_back(machine: &Machine, report: &mut Report) {
    cni::restore(machine, report);
    phases::restore_plugin(machine, report);
    report.try_to(|report| phases::restore_vfs(machine, report));
    report.try_to(|_| files::remove(&machine.files.at(state::PATH)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::config::PATH;
    use crate::service::fake::Host;
    use crate::service::phases::{Mode, PACKAGED, PHASES};

    #[test]
    fn a_configuration_that_cannot_be_used_keeps_nothing_back() {
        let host = Host::new("cni.folder = \"/etc/nets\"\ncni.plugin-folders = [\"/usr/libexec/cni\"]");
        for name in ["/etc/nets/10-theirs.conf", "/usr/libexec/cni/offload-cni", PACKAGED] {
            host.fake.file(name, "theirs");
        }
        let mut report = Report::default();
        cni::place(&host.machine, &mut report).unwrap();
        PHASES[4].run(&host.machine, Mode::SetUp);
        host.fake.file(PATH, "[cni]\nfolders = 3\n");

        let root = host.fake.root().to_str().unwrap();
        let (machine, error) = Machine::open_for_the_end(root).unwrap();
        assert!(format!("{:#}", error.unwrap()).contains("unknown field `folders`"));
        assert_eq!(restore(&machine).unwrap().wrong, [""; 0]);
        assert_eq!(machine.files.names("/etc/nets").unwrap(), ["10-theirs.conf"]);
        let plugin = std::fs::read_to_string(host.fake.at("/usr/libexec/cni/offload-cni")).unwrap();
        assert_eq!(plugin, "theirs");
    }
}
