//! VFs, made through `sriov_numvfs` (Documentation/PCI/pci-iov-howto.rst of the kernel).

use anyhow::{Result, bail};
use dpu_plan::Sriov;

use super::report_missing;
use crate::Card;
use crate::pci::{self, Device};
use crate::report::Report;

#[allow(clippy::unnecessary_wraps, reason = "every phase's `apply` has this signature")]
pub fn apply(card: &Card, report: &mut Report) -> Result<()> {
    card.plan.sriov.iter().for_each(|pf| apply_one(card, pf, report));
    Ok(())
}

pub fn check(card: &Card, report: &mut Report) -> Result<()> {
    card.plan.sriov.iter().try_for_each(|pf| check_one(card, pf, report))
}

/// Makes the VFs of all PFs of one id; one that fails does not hold up the others.
pub fn apply_one(card: &Card, plan: &Sriov, report: &mut Report) {
    report.try_to(|report| {
        let pfs = pci::devices(&card.tree, plan.id)?;
        if pfs.is_empty() {
            report_missing(report, plan.expected, &described(plan));
        }
        for pf in &pfs {
            report.try_to(|report| make_vfs(card, pf, plan, report));
        }
        Ok(())
    });
}

/// Looks at the VFs of all PFs of one id.
pub fn check_one(card: &Card, plan: &Sriov, report: &mut Report) -> Result<()> {
    let pfs = pci::devices(&card.tree, plan.id)?;
    if pfs.is_empty() {
        report_missing(report, plan.expected, &described(plan));
    }
    for pf in pfs {
        let has = card.tree.number(pf.path("sriov_numvfs"))?;
        let address = &pf.address;
        if has == u64::from(plan.vfs.get()) {
            report.found(format!("`{address}` has its {has} VFs"));
        } else {
            report.wrong(format!("`{address}` has {has} VFs, {} are wanted", plan.vfs));
        }
    }
    Ok(())
}

fn described(plan: &Sriov) -> String {
    format!("PF with the id `{}`", plan.id)
}

fn make_vfs(card: &Card, pf: &Device, plan: &Sriov, report: &mut Report) -> Result<()> {
    let address = &pf.address;
    let wanted = u64::from(plan.vfs.get());
    if !card.tree.exists(pf.path("sriov_totalvfs")) {
        bail!("`{address}` has no VFs to make: it offers no SR-IOV");
    }
    let most = card.tree.number(pf.path("sriov_totalvfs"))?;
    if wanted > most {
        bail!("`{address}` has {most} VFs at most, {wanted} are wanted");
    }
    let Some(driver) = card.wait_for(|| pf.driver(&card.tree))? else {
        bail!("no driver is bound to `{address}`, so nothing can make its VFs");
    };
    limit_kernel(card, pf, plan, report)?;
    set_number(card, pf, wanted, report)?;
    tracing::debug!(address, driver, wanted, "VFs are there");
    Ok(())
}

/// CPT's `kvf_limits`, which counts only when written before the VFs are made.
fn limit_kernel(card: &Card, pf: &Device, plan: &Sriov, report: &mut Report) -> Result<()> {
    let Some(limit) = plan.kvf_limits else { return Ok(()) };
    let path = pf.path("kvf_limits");
    let address = &pf.address;
    if !card.tree.exists(&path) {
        bail!("`{address}` has no `kvf_limits`: is its driver rvu_cptpf");
    }
    if card.tree.number(&path)? == u64::from(limit.get()) {
        report.found(format!("`{address}` leaves the kernel {limit} functions"));
        return Ok(());
    }
    clear(card, pf)?;
    card.tree.set(&path, &limit.to_string())?;
    report.did(format!("limited the kernel to {limit} functions of `{address}`"));
    Ok(())
}

fn set_number(card: &Card, pf: &Device, wanted: u64, report: &mut Report) -> Result<()> {
    let path = pf.path("sriov_numvfs");
    let address = &pf.address;
    if card.tree.number(&path)? == wanted {
        report.found(format!("`{address}` has its {wanted} VFs"));
        return Ok(());
    }
    clear(card, pf)?;
    card.tree.set(&path, &wanted.to_string())?;
    let has = card.tree.number(&path)?;
    if has != wanted {
        bail!("the driver of `{address}` made {has} VFs, {wanted} are wanted");
    }
    report.did(format!("made {wanted} VFs of `{address}`"));
    Ok(())
}

/// The kernel takes a number of VFs only where there are none.
fn clear(card: &Card, pf: &Device) -> Result<()> {
    if card.tree.number(pf.path("sriov_numvfs"))? == 0 {
        return Ok(());
    }
    card.tree.set(pf.path("sriov_numvfs"), "0")
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use crate::fake;
    use crate::report::State;
    use crate::setup::{Phase, check, phase, run};

    const PF: &str = "/sys/bus/pci/devices/0000:01:00.0";

    fn sriov() -> &'static Phase {
        phase("sriov").unwrap()
    }

    #[test]
    fn vfs_are_made() {
        let fake = fake::virt();
        let record = run(&fake.card(), sriov());
        assert_eq!(record.report.did, ["made 7 VFs of `0000:01:00.0`"]);
        assert_eq!(fake.written(), ["sriov_numvfs=7"]);
    }

    #[test]
    fn another_number_of_vfs_is_taken_away_first() {
        let fake = fake::virt();
        fake.set_vfs("0000:01:00.0", 2);
        assert_eq!(check(&fake.card(), sriov()).wrong, ["`0000:01:00.0` has 2 VFs, 7 are wanted"]);
        run(&fake.card(), sriov());
        assert_eq!(fake.written(), ["sriov_numvfs=0", "sriov_numvfs=7"]);
    }

    #[test]
    fn a_missing_pf_fails_where_the_board_has_it_and_is_absent_elsewhere() {
        let mut fake = fake::virt();
        fake.remove(PF);
        let record = run(&fake.card(), sriov());
        assert_eq!(record.report.wrong, ["no PF with the id `8086:10c9` was found"]);
        fake.plan.sriov[0].expected = false;
        assert_eq!(run(&fake.card(), sriov()).state, State::Absent);
        assert_eq!(check(&fake.card(), sriov()).state(), State::Absent);
    }

    #[test]
    fn more_vfs_than_the_pf_has_are_refused_with_both_numbers() {
        let mut fake = fake::virt();
        fake.plan.sriov[0].vfs = 9.try_into().unwrap();
        let record = run(&fake.card(), sriov());
        assert_eq!(record.report.wrong, ["`0000:01:00.0` has 7 VFs at most, 9 are wanted"]);
        assert!(fake.written().is_empty());
    }

    #[test]
    fn a_pf_without_a_driver_is_told() {
        let fake = fake::virt();
        fake.remove(&format!("{PF}/driver"));
        let record = run(&fake.card(), sriov());
        assert_eq!(
            record.report.wrong,
            ["no driver is bound to `0000:01:00.0`, so nothing can make its VFs"]
        );
    }

    #[test]
    fn a_device_without_sriov_is_told() {
        let fake = fake::virt();
        fake.remove(&format!("{PF}/sriov_totalvfs"));
        let record = run(&fake.card(), sriov());
        assert_eq!(record.report.wrong, ["`0000:01:00.0` has no VFs to make: it offers no SR-IOV"]);
    }

    #[test]
    fn a_driver_that_refuses_is_quoted() {
        let fake = fake::virt();
        fake.refuse("sriov_numvfs", ErrorKind::OutOfMemory);
        let record = run(&fake.card(), sriov());
        assert_eq!(record.state, State::Failed);
        assert!(record.report.wrong[0].contains("writing `7` to"), "{}", record.text());
        assert!(record.report.wrong[0].contains("out of memory"), "{}", record.text());
    }
}
