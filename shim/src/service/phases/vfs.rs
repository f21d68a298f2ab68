//! VFs for pods: their driver, and their number on each PF.

use anyhow::{Context as _, Result, bail};

use super::{Mode, driver};
use crate::claims::Store;
use crate::service::machine::Machine;
use crate::service::pf::{Pf, pfs};
use crate::service::report::Report;
use crate::vf;

pub fn work(machine: &Machine, mode: Mode, report: &mut Report) -> Result<()> {
    driver::load(machine, mode, &machine.config.vf_driver, report);
    for pf in pfs(&machine.files, machine.config.pf)? {
        if pf.interface(&machine.files)?.is_none() {
            report.waits(format!("`{}` makes no VFs before its firmware is ready", pf.address));
            continue;
        }
        report.try_to(|report| set_number(machine, mode, &pf, report));
    }
    look_at_interfaces(machine, report)
}

fn set_number(machine: &Machine, mode: Mode, pf: &Pf, report: &mut Report) -> Result<()> {
    let files = &machine.files;
    let address = &pf.address;
    let most = pf.number(files, "sriov_totalvfs")?;
    let most = most.with_context(|| format!("`{address}` offers no SR-IOV"))?;
    let has = pf.number(files, "sriov_numvfs")?;
    let has = has.with_context(|| format!("`{address}` does not say how many VFs it has"))?;
    let wanted = machine.config.vfs.min(most);
    if wanted == 0 {
        bail!("`{address}` offers no VFs: is the card's firmware told to make some?");
    }
    if has == wanted {
        report.found(format!("`{address}` has {has} VFs, of {most} at most"));
        return Ok(());
    }
    if mode == Mode::Look {
        bail!("`{address}` has {has} VFs, {wanted} are wanted");
    }
    let path = pf.path("sriov_numvfs");
    if has > 0 {
        // The kernel changes the number by way of none, which takes the pods' away.
        let pods = Store::look(files).claims()?.len();
        if pods > 0 {
            bail!("`{address}` has {has} VFs, {wanted} are wanted, and {pods} pods have some of them");
        }
        machine.kernel.set(&path, "0")?;
    }
    machine.kernel.set(&path, &wanted.to_string())?;
    let has = pf.number(files, "sriov_numvfs")?.unwrap_or_default();
    if has != wanted {
        bail!("the driver of `{address}` made {has} VFs, {wanted} are wanted");
    }
    report.did(format!("made {wanted} VFs of `{address}`"));
    Ok(())
}

/// A VF that no pod has should have an interface on the host.
fn look_at_interfaces(machine: &Machine, report: &mut Report) -> Result<()> {
    let claims = Store::look(&machine.files).claims()?;
    let mut without = Vec::new();
    for vf in vf::vfs(&machine.files, machine.config.vf)? {
        let is_claimed = claims.iter().any(|claim| claim.vf.address == vf.address);
        if !is_claimed && vf.interfaces(&machine.files)?.is_empty() {
            without.push(format!("`{}`", vf.address));
        }
    }
    if !without.is_empty() {
        report.waits(format!("{} VFs have no interface yet: {}", without.len(), without.join(", ")));
    }
    Ok(())
}

/// Takes the VFs away where no pod has any.
pub fn restore(machine: &Machine, report: &mut Report) -> Result<()> {
    let pods = Store::look(&machine.files).claims()?.len();
    if pods > 0 {
        report.wrong(format!("the VFs stay, for {pods} pods have some of them: drain the node"));
        return Ok(());
    }
    for pf in pfs(&machine.files, machine.config.pf)? {
        report.try_to(|report| {
            if pf.number(&machine.files, "sriov_numvfs")?.unwrap_or_default() > 0 {
                machine.kernel.set(&pf.path("sriov_numvfs"), "0")?;
                report.did(format!("took the VFs of `{}` away", pf.address));
            }
            Ok(())
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Mode, PHASES, Record};
    use crate::service::fake::{Host, PF};
    use crate::service::report::{Report, State};

    fn run(host: &Host, mode: Mode) -> Record {
        PHASES[3].run(&host.machine, mode)
    }

    fn set(host: &Host, attribute: &str, value: &str) {
        host.fake.file(&format!("/sys/bus/pci/devices/{PF}/{attribute}"), value);
    }

    fn ready(config: &str) -> Host {
        let host = Host::new(config);
        host.start_firmware();
        for vf in 0..8 {
            host.fake.interface(&format!("0000:01:10.{vf}"), &format!("vf{vf}"));
        }
        host
    }

    #[test]
    fn vfs_are_made_after_their_driver_is_loaded() {
        let host = ready("");
        assert_eq!(run(&host, Mode::SetUp).report.trouble(), "");
        assert_eq!(host.asked(), ["modprobe -- octeon_ep_vf", "sriov_numvfs=8"]);
        let record = run(&host, Mode::SetUp);
        assert_eq!((record.state, host.asked().len()), (State::Good, 0), "{record:?}");
    }

    #[test]
    fn there_are_no_more_than_the_pf_has() {
        let host = ready("vfs.count = 64");
        assert_eq!(run(&host, Mode::SetUp).report.did[1], format!("made 8 VFs of `{PF}`"));
    }

    #[test]
    fn their_number_is_changed_by_way_of_none() {
        let host = ready("vfs.count = 4");
        set(&host, "sriov_numvfs", "2\n");
        assert_eq!(run(&host, Mode::Look).report.wrong[1], format!("`{PF}` has 2 VFs, 4 are wanted"));
        run(&host, Mode::SetUp);
        assert_eq!(host.asked()[1..], ["sriov_numvfs=0", "sriov_numvfs=4"]);
    }

    #[test]
    fn a_pf_whose_firmware_is_not_ready_is_waited_for() {
        let host = Host::new("");
        let record = run(&host, Mode::SetUp);
        assert_eq!(record.state, State::Waiting);
        assert_eq!(host.asked(), ["modprobe -- octeon_ep_vf"]);
    }

    #[test]
    fn a_pf_without_vfs_and_a_driver_that_refuses_are_told() {
        let host = ready("");
        set(&host, "sriov_totalvfs", "0\n");
        let wrong = run(&host, Mode::SetUp).report.wrong;
        assert_eq!(wrong, [format!("`{PF}` offers no VFs: is the card's firmware told to make some?")]);
        set(&host, "sriov_totalvfs", "8\n");
        host.refuse("sriov_numvfs");
        assert_eq!(run(&host, Mode::SetUp).report.wrong, ["the kernel refuses"]);
    }

    #[test]
    fn vfs_without_interfaces_are_waited_for() {
        let host = ready("");
        host.fake.remove("/sys/bus/pci/devices/0000:01:10.3/net");
        let waits = run(&host, Mode::SetUp).report.waits;
        assert_eq!(waits, ["1 VFs have no interface yet: `0000:01:10.3`"]);
    }

    #[test]
    fn vfs_go_at_the_end() {
        let host = ready("");
        run(&host, Mode::SetUp);
        host.asked();
        let mut report = Report::default();
        super::restore(&host.machine, &mut report).unwrap();
        assert_eq!(host.asked(), ["sriov_numvfs=0"]);
    }
}
