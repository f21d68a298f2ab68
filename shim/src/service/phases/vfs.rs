//! VFs for pods: their driver, and their number on each PF.
//!
//! The kernel changes the number by way of none, which takes every VF from whoever has it. Our claims do not name
//! all of those: pods of other CNI plugins and virtual machines have VFs, too. So the number is changed only
//! where each VF is seen to be idle, while no ADD runs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::{Mode, driver};
use crate::claims::{Lock, Store};
use crate::deadline::Deadline;
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
    let usable = look_at_interfaces(machine, report)?;
    if mode == Mode::SetUp && usable > 0 {
        // Pods can start, whatever becomes of the rest.
        report.notes.append(&mut report.waits);
    }
    Ok(())
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
    let _adds = keep_adds_waiting(machine)?;
    if has > 0 {
        let used = in_use(machine, pf)?;
        if !used.is_empty() {
            report.waits(format!(
                "`{address}` has {has} VFs, {wanted} are wanted; their number stays while some are in use: {}",
                used.join(", ")
            ));
            return Ok(());
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

/// An ADD between the look at the VFs and the change of their number would lose its VF.
fn keep_adds_waiting(machine: &Machine) -> Result<Lock> {
    const PATIENCE: Duration = Duration::from_secs(2);
    Store::open(&machine.files)?.keep_adds_waiting(Deadline::after(Instant::now(), PATIENCE))
}

/// The VFs of a PF that somebody may be using, each with what speaks for it.
fn in_use(machine: &Machine, pf: &Pf) -> Result<Vec<String>> {
    let (files, config) = (&machine.files, &machine.config);
    let claimed = machine.claimed()?;
    let mut found = Vec::new();
    for vf in pf.vfs(files)? {
        let driver = vf.driver(files)?;
        let what = if claimed.contains(&vf.address) {
            "is claimed for a pod".to_owned()
        } else if let Some(driver) = driver.as_ref().filter(|driver| **driver != config.vf_driver) {
            format!("is on the driver `{driver}`")
        } else if driver.is_some() && vf.interface(files)?.is_none() {
            "has its interface in no namespace of this host's own".to_owned()
        } else {
            continue;
        };
        found.push(format!("`{}` {what}", vf.address));
    }
    Ok(found)
}

/// A VF that no pod has should have an interface on the host. Gives how many VFs pods have or can get.
fn look_at_interfaces(machine: &Machine, report: &mut Report) -> Result<usize> {
    let claimed = machine.claimed()?;
    let vfs = vf::vfs(&machine.files, machine.config.vf)?;
    let mut without = Vec::new();
    for vf in &vfs {
        if !claimed.contains(&vf.address) && vf.interfaces(&machine.files)?.is_empty() {
            without.push(format!("`{}`", vf.address));
        }
    }
    if !without.is_empty() {
        report.waits(format!("{} VFs have no interface yet: {}", without.len(), without.join(", ")));
    }
    Ok(vfs.len() - without.len())
}

/// Takes the VFs away of each PF none of whose VFs is in use.
pub fn restore(machine: &Machine, report: &mut Report) -> Result<()> {
    let _adds = keep_adds_waiting(machine)?;
    for pf in pfs(&machine.files, machine.config.pf)? {
        report.try_to(|report| {
            if pf.number(&machine.files, "sriov_numvfs")?.unwrap_or_default() == 0 {
                return Ok(());
            }
            let used = in_use(machine, &pf)?;
            if !used.is_empty() {
                bail!("the VFs of `{}` stay, drain the node: {}", pf.address, used.join(", "));
            }
            machine.kernel.set(&pf.path("sriov_numvfs"), "0")?;
            report.did(format!("took the VFs of `{}` away", pf.address));
            Ok(())
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{Mode, PHASES, Record};
    use super::*;
    use crate::service::fake::{Host, PF};
    use crate::service::report::State;

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
    fn vfs_without_interfaces_are_told_and_waited_for_where_all_are() {
        let host = ready("");
        host.fake.remove("/sys/bus/pci/devices/0000:01:10.3/net");
        let record = run(&host, Mode::SetUp);
        assert_eq!(record.report.notes, ["1 VFs have no interface yet: `0000:01:10.3`"]);
        assert_eq!((record.state, record.report.trouble().as_str()), (State::Good, ""), "pods can start");
        assert_eq!(run(&host, Mode::Look).state, State::Waiting, "the doctor tells it all the same");
        for vf in (0..8).filter(|vf| *vf != 3) {
            host.fake.remove(&format!("/sys/bus/pci/devices/0000:01:10.{vf}/net"));
        }
        assert_eq!(run(&host, Mode::SetUp).state, State::Waiting);
        host.fake.file("/var/lib/dpukit/claims/0000:01:10.0", "a pod's");
        assert_eq!(run(&host, Mode::SetUp).state, State::Good, "a pod has one, and others get it after that");
    }

    /// All ways in which a VF may be somebody's, as they are before its number would be changed and at the end.
    #[test]
    fn vfs_that_may_be_in_use_are_never_taken_away() {
        type Taking = fn(&Host);
        let cases: [(Taking, &str); 3] = [
            (
                |host| {
                    host.bind_vf("0000:01:10.1", "octeon_ep_vf");
                    host.fake.remove("/sys/bus/pci/devices/0000:01:10.1/net");
                },
                "`0000:01:10.1` has its interface in no namespace of this host's own",
            ),
            (|host| host.bind_vf("0000:01:10.1", "vfio-pci"), "`0000:01:10.1` is on the driver `vfio-pci`"),
            (
                |host| host.fake.file("/var/lib/dpukit/claims/0000:01:10.1", "damaged"),
                "`0000:01:10.1` is claimed for a pod",
            ),
        ];
        for (take, reason) in cases {
            let host = ready("vfs.count = 4");
            set(&host, "sriov_numvfs", "2\n");
            take(&host);
            let record = run(&host, Mode::SetUp);
            let told =
                format!("`{PF}` has 2 VFs, 4 are wanted; their number stays while some are in use: {reason}");
            assert!(record.report.notes.contains(&told), "{record:?}");
            let mut report = Report::default();
            super::restore(&host.machine, &mut report).unwrap();
            assert_eq!(report.wrong, [format!("the VFs of `{PF}` stay, drain the node: {reason}")]);
            let asked = host.asked();
            assert!(asked.iter().all(|asked| !asked.starts_with("sriov_numvfs")), "{asked:?}");
        }
    }

    #[test]
    fn vfs_are_not_taken_away_while_an_add_runs() {
        let host = ready("vfs.count = 4");
        set(&host, "sriov_numvfs", "2\n");
        let store = Store::open(&host.machine.files).unwrap();
        let soon = Deadline::after(Instant::now(), Duration::from_secs(1));
        let add = store.keep_gc_waiting(soon).unwrap();
        assert!(run(&host, Mode::SetUp).report.trouble().contains("ADDs are running"));
        assert!(super::restore(&host.machine, &mut Report::default()).is_err());
        assert_eq!(host.asked(), ["modprobe -- octeon_ep_vf"]);
        drop(add);
        run(&host, Mode::SetUp);
        assert_eq!(host.asked(), ["sriov_numvfs=0", "sriov_numvfs=4"]);
    }

    #[test]
    fn vfs_go_at_the_end() {
        let host = ready("");
        run(&host, Mode::SetUp);
        host.bind_vf("0000:01:10.0", "octeon_ep_vf");
        host.asked();
        let mut report = Report::default();
        super::restore(&host.machine, &mut report).unwrap();
        assert_eq!(host.asked(), ["sriov_numvfs=0"]);
    }
}
