//! Swap: off, as Kubernetes wants it.

use anyhow::{Result, bail};
use dpu_plan::Swap;

use crate::Card;
use crate::report::Report;

pub fn apply(card: &Card, report: &mut Report) -> Result<()> {
    let before = used(card)?;
    if card.plan.swap == Swap::Keep || before.is_empty() {
        return check(card, report);
    }
    card.programs.run("swapoff", &["--all"])?;
    let after = used(card)?;
    if !after.is_empty() {
        bail!("swap is still on after `swapoff --all`: {}", after.join(", "));
    }
    report.did(format!("turned swap off: {}", before.join(", ")));
    Ok(())
}

pub fn check(card: &Card, report: &mut Report) -> Result<()> {
    let used = used(card)?;
    if card.plan.swap == Swap::Keep {
        report.found("swap is left as it is");
    } else if used.is_empty() {
        report.found("no swap is on");
    } else {
        report.wrong(format!("swap is on: {}", used.join(", ")));
    }
    Ok(())
}

/// Files and devices that are swapped to: the lines of `/proc/swaps` after its heading. A kernel
/// without swap has no such file.
fn used(card: &Card) -> Result<Vec<String>> {
    let text = card.tree.read_if("/proc/swaps")?.unwrap_or_default();
    let names = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    Ok(names.map(|name| format!("`{name}`")).collect())
}

#[cfg(test)]
mod tests {
    use crate::fake;
    use crate::setup::{Phase, check, phase, run};

    const HEADING: &str = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n";

    fn swap() -> &'static Phase {
        phase("swap").unwrap()
    }

    fn swapping() -> fake::Fake {
        let fake = fake::virt();
        fake.file("/proc/swaps", &format!("{HEADING}/dev/vdb partition 1048572 0 -2\n"));
        fake
    }

    #[test]
    fn swap_is_turned_off() {
        let fake = swapping();
        assert_eq!(check(&fake.card(), swap()).wrong, ["swap is on: `/dev/vdb`"]);
        let record = run(&fake.card(), swap());
        assert_eq!(record.report.did, ["turned swap off: `/dev/vdb`"]);
        assert_eq!(fake.ran(), ["swapoff --all"]);
    }

    #[test]
    fn a_kernel_without_swap_is_good() {
        let fake = fake::virt();
        fake.remove("/proc/swaps");
        assert_eq!(run(&fake.card(), swap()).report.found, ["no swap is on"]);
    }

    #[test]
    fn swap_that_stays_on_is_told() {
        let fake = swapping();
        fake.idle("swapoff");
        let record = run(&fake.card(), swap());
        assert_eq!(record.report.wrong, ["swap is still on after `swapoff --all`: `/dev/vdb`"]);
    }

    #[test]
    fn swap_that_the_board_keeps_is_left() {
        let mut fake = swapping();
        fake.plan.swap = dpu_plan::Swap::Keep;
        assert!(run(&fake.card(), swap()).report.is_good());
        assert!(fake.ran().is_empty());
    }
}
