//! The PFs' driver: loaded, and bound to all of them unless their firmware is not ready.

use anyhow::Result;

use super::Mode;
use crate::service::machine::Machine;
use crate::service::pf::pfs;
use crate::service::report::Report;

pub fn work(machine: &Machine, mode: Mode, report: &mut Report) -> Result<()> {
    let config = &machine.config;
    load(machine, mode, &config.pf_driver, report);
    let pfs = pfs(&machine.files, config.pf)?;
    if pfs.is_empty() {
        report.wrong(format!("this host has no PF with the id `{}`", config.pf));
    }
    for pf in pfs {
        match pf.driver(&machine.files)? {
            Some(driver) if driver == config.pf_driver => {
                report.found(format!("`{}` is on the driver `{driver}`", pf.address));
            }
            Some(driver) => report
                .wrong(format!("`{}` is on the driver `{driver}`, not `{}`", pf.address, config.pf_driver)),
            // The driver waits for the firmware, which is the next phase's.
            None => report.found(format!("`{}` is on no driver yet", pf.address)),
        }
    }
    Ok(())
}

/// Loads a driver of PCI devices, unless it is there.
pub fn load(machine: &Machine, mode: Mode, driver: &str, report: &mut Report) {
    if machine.files.exists(format!("/sys/bus/pci/drivers/{driver}")) {
        report.found(format!("the driver `{driver}` is loaded"));
    } else if mode == Mode::Look {
        report.wrong(format!("the driver `{driver}` is not loaded"));
    } else {
        report.try_to(|report| {
            machine.kernel.run("modprobe", &["--", driver])?;
            report.did(format!("loaded the driver `{driver}`"));
            Ok(())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Mode, PHASES, Record};
    use crate::service::fake::{Host, PF};

    fn run(host: &Host, mode: Mode) -> Record {
        PHASES[0].run(&host.machine, mode)
    }

    #[test]
    fn a_driver_is_loaded_once() {
        let host = Host::new("");
        assert_eq!(run(&host, Mode::Look).report.wrong, ["the driver `octeon_ep` is not loaded"]);
        assert_eq!(run(&host, Mode::SetUp).report.did, ["loaded the driver `octeon_ep`"]);
        assert_eq!(run(&host, Mode::SetUp).report.trouble(), "");
        assert_eq!(host.asked(), ["modprobe -- octeon_ep"]);
        assert_eq!(run(&host, Mode::Look).report.trouble(), "");
    }

    #[test]
    fn what_is_wrong_is_told_side_by_side() {
        let host = Host::new("card = {pf = \"177d:b901\"}");
        host.refuse("modprobe");
        let wrong = run(&host, Mode::SetUp).report.wrong;
        assert_eq!(wrong, ["the kernel refuses", "this host has no PF with the id `177d:b901`"]);
    }

    #[test]
    fn another_driver_on_the_pf_is_told() {
        let host = Host::new("");
        host.bind("vfio-pci");
        let wrong = run(&host, Mode::SetUp).report.wrong;
        assert_eq!(wrong, [format!("`{PF}` is on the driver `vfio-pci`, not `octeon_ep`")]);
    }
}
