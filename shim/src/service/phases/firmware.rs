//! The card's firmware: it is ready once the PF's driver has made its interface.
//!
//! The driver asks the card when it is bound, and gives up for the time being where the firmware is not
//! ready ("Firmware not ready; defer probe" of the kernel's `octep_probe` in
//! `drivers/net/ethernet/marvell/octeon_ep/octep_main.c`). The kernel tries such a device again only when
//! another driver was bound to something, so it is told to.

use anyhow::Result;

use super::Mode;
use crate::service::machine::Machine;
use crate::service::pf::pfs;
use crate::service::report::Report;
use std::time::Instant;

const PROBE: &str = "/sys/bus/pci/drivers_probe";

pub fn work(machine: &Machine, mode: Mode, report: &mut Report) -> Result<()> {
    let mut late = Vec::new();
    let pfs = pfs(&machine.files, machine.config.pf)?;
    for pf in &pfs {
        if mode == Mode::SetUp && pf.driver(&machine.files)?.is_none() {
            // The kernel's answer is whether a driver was bound, which is looked at next.
            if let Err(error) = machine.kernel.set(PROBE, &pf.address) {
                tracing::debug!("{error:#}");
            }
        }
        match pf.interface(&machine.files)? {
            Some(name) => report.found(format!("the firmware behind `{}` (`{name}`) is ready", pf.address)),
            None => late.push(format!("`{}`", pf.address)),
        }
    }
    if pfs.is_empty() {
        report.wrong("there is no PF to ask for its firmware");
    }
    if late.is_empty() {
        machine.waiting.set(None);
        return Ok(());
    }
    let text = format!("the firmware behind {} is not ready", late.join(", "));
    if mode == Mode::Look {
        report.wrong(text);
        return Ok(());
    }
    let since = machine.waiting.get().unwrap_or_else(Instant::now);
    machine.waiting.set(Some(since));
    let (waited, patience) = (since.elapsed(), machine.config.firmware);
    if waited < patience {
        report.waits(format!("{text}; it has {patience:?}"));
    } else {
        report.wrong(format!("{text} after {patience:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::{Mode, PHASES, Record};
    use crate::service::fake::{Host, PF};
    use crate::service::report::State;

    fn run(host: &Host, mode: Mode) -> Record {
        PHASES[1].run(&host.machine, mode)
    }

    #[test]
    fn the_driver_is_told_to_try_again_until_the_firmware_is_ready() {
        let host = Host::new("");
        let record = run(&host, Mode::SetUp);
        assert_eq!(record.state, State::Waiting);
        assert_eq!(record.report.waits, [format!("the firmware behind `{PF}` is not ready; it has 300s")]);
        assert_eq!(host.asked(), [format!("drivers_probe={PF}")]);
        assert_eq!(run(&host, Mode::Look).state, State::Failed);
        assert_eq!(host.asked(), [""; 0], "a look changes nothing");
        host.start_firmware();
        let record = run(&host, Mode::SetUp);
        assert_eq!(record.report.found, [format!("the firmware behind `{PF}` (`enp1s0`) is ready")]);
        assert_eq!(host.machine.waiting.get(), None);
    }

    #[test]
    fn after_its_time_it_is_wrong_and_waited_for_all_the_same() {
        let host = Host::new("card.firmware-seconds = 2");
        let before = Instant::now().checked_sub(Duration::from_secs(3)).unwrap();
        host.machine.waiting.set(Some(before));
        let wrong = run(&host, Mode::SetUp).report.wrong;
        assert_eq!(wrong, [format!("the firmware behind `{PF}` is not ready after 2s")]);
        assert_eq!(host.asked(), [format!("drivers_probe={PF}")]);
    }
}
