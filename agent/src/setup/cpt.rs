//! The crypto engine: its VFs are made and left to the kernel's driver.
//!
//! The kernel registers the engine's algorithms only once the expected number of VFs has probed, so
//! none of them may go to `vfio-pci`.

use anyhow::Result;

use super::sriov;
use crate::Card;
use crate::pci::{self, Device};
use crate::report::Report;

const NONE: &str = "the board has no crypto engine";

pub fn apply(card: &Card, report: &mut Report) -> Result<()> {
    let Some(plan) = &card.plan.cpt else {
        report.absent(NONE);
        return Ok(());
    };
    sriov::apply_one(card, plan, report);
    for pf in pci::devices(&card.tree, plan.id)? {
        card.wait_for(|| {
            let vfs = pf.vfs(&card.tree)?;
            let mut drivers = vfs.iter().map(|vf| vf.driver(&card.tree));
            Ok(drivers.try_fold(true, |all, driver| driver.map(|d| all && d.is_some()))?.then_some(()))
        })?;
        report_drivers(card, &pf, report)?;
    }
    Ok(())
}

pub fn check(card: &Card, report: &mut Report) -> Result<()> {
    let Some(plan) = &card.plan.cpt else {
        report.absent(NONE);
        return Ok(());
    };
    sriov::check_one(card, plan, report)?;
    pci::devices(&card.tree, plan.id)?.iter().try_for_each(|pf| report_drivers(card, pf, report))
}

fn report_drivers(card: &Card, pf: &Device, report: &mut Report) -> Result<()> {
    for vf in pf.vfs(&card.tree)? {
        let address = &vf.address;
        match vf.driver(&card.tree)?.as_deref() {
            Some("vfio-pci") => {
                report.wrong(format!("`{address}` is on `vfio-pci`, so the kernel lacks a crypto VF"));
            }
            Some(driver) => report.found(format!("`{address}` is on `{driver}`")),
            None => report.wrong(format!("no driver is bound to the crypto VF `{address}`")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use crate::fake;
    use crate::report::State;
    use crate::setup::{Phase, check, phase, run};

    const PF: &str = "/sys/bus/pci/devices/0002:20:00.0";

    fn cpt() -> &'static Phase {
        phase("cpt").unwrap()
    }

    #[test]
    fn the_kernel_is_limited_before_the_vfs_are_made() {
        let fake = fake::cn106();
        let record = run(&fake.card(), cpt());
        assert_eq!(record.state, State::Good, "{}", record.text());
        assert_eq!(fake.written(), ["kvf_limits=1", "sriov_numvfs=1"]);
        assert_eq!(record.report.found, ["`0002:20:01.0` is on `rvu_cptvf`"]);
    }

    #[test]
    fn vfs_that_were_made_with_another_limit_are_made_again() {
        let fake = fake::cn106();
        fake.set_vfs("0002:20:00.0", 1);
        run(&fake.card(), cpt());
        assert_eq!(fake.written(), ["sriov_numvfs=0", "kvf_limits=1", "sriov_numvfs=1"]);
    }

    #[test]
    fn a_limit_that_the_driver_refuses_stops_before_the_vfs() {
        let fake = fake::cn106();
        fake.refuse("kvf_limits", ErrorKind::InvalidInput);
        let record = run(&fake.card(), cpt());
        assert!(
            record.report.wrong[0].contains("writing `1` to `/sys/bus/pci/devices/0002:20:00.0/kvf_limits`")
        );
        assert_eq!(fake.read(&format!("{PF}/sriov_numvfs")), "0");
    }

    #[test]
    fn a_driver_without_limits_is_told() {
        let fake = fake::cn106();
        fake.remove(&format!("{PF}/kvf_limits"));
        let record = run(&fake.card(), cpt());
        assert_eq!(record.report.wrong, ["`0002:20:00.0` has no `kvf_limits`: is its driver rvu_cptpf"]);
    }

    #[test]
    fn a_vf_that_the_kernel_does_not_have_is_wrong() {
        for (driver, says) in [(None, "no driver is bound"), (Some("vfio-pci"), "is on `vfio-pci`")] {
            let fake = fake::cn106();
            run(&fake.card(), cpt());
            fake.bind("0002:20:01.0", driver);
            let report = check(&fake.card(), cpt());
            assert!(report.wrong[0].contains(says), "{}", report.lines());
        }
    }

    #[test]
    fn an_engine_that_the_board_need_not_have_is_absent() {
        let mut fake = fake::virt();
        assert_eq!(run(&fake.card(), cpt()).state, State::Absent);
        fake.plan.cpt = None;
        assert_eq!(run(&fake.card(), cpt()).state, State::Absent);
        assert_eq!(check(&fake.card(), cpt()).state(), State::Absent);
    }

    #[test]
    fn an_engine_that_the_board_should_have_is_missed() {
        let fake = fake::cn106();
        fake.remove(PF);
        let record = run(&fake.card(), cpt());
        assert_eq!(record.report.wrong, ["no PF with the id `177d:a0f2` was found"]);
    }
}
