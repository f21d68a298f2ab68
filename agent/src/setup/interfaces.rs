//! Network interfaces of the board's devices, brought up.

use anyhow::{Context as _, Result, bail};
use dpu_plan::Interface;

use super::report_missing;
use crate::Card;
use crate::pci::{self, Device};
use crate::report::Report;

pub fn apply(card: &Card, report: &mut Report) -> Result<()> {
    let mut devices = Vec::new();
    for plan in &card.plan.interfaces {
        report.try_to(|report| {
            devices.extend(find(card, plan, report)?);
            Ok(())
        });
    }
    for device in &devices {
        card.wait_for(|| device.interface(&card.tree))?;
    }
    settle(card);
    for device in &devices {
        report.try_to(|report| bring_up(card, device, report));
    }
    Ok(())
}

pub fn check(card: &Card, report: &mut Report) -> Result<()> {
    for plan in &card.plan.interfaces {
        for device in find(card, plan, report)? {
            match device.interface(&card.tree)? {
                Some(name) if is_up(card, &device, &name)? => report.found(format!("`{name}` is up")),
                Some(name) => report.wrong(format!("`{name}` (`{}`) is down", device.address)),
                None => report.wrong(format!("`{}` has no interface", device.address)),
            }
        }
    }
    Ok(())
}

/// The devices of one id that should have an interface.
fn find(card: &Card, plan: &Interface, report: &mut Report) -> Result<Vec<Device>> {
    let devices = pci::devices(&card.tree, plan.id)?;
    if devices.is_empty() {
        report_missing(report, plan.expected, &format!("device with the id `{}`", plan.id));
    }
    let mut kernels = Vec::new();
    for device in devices {
        // A program has it: what it does with it is its own affair.
        if device.driver(&card.tree)?.as_deref() != Some("vfio-pci") {
            kernels.push(device);
        }
    }
    Ok(kernels)
}

fn bring_up(card: &Card, device: &Device, report: &mut Report) -> Result<()> {
    let name = interface(card, device)?;
    if is_up(card, device, &name)? {
        report.found(format!("`{name}` is up"));
        return Ok(());
    }
    card.programs.run("ip", &["link", "set", "dev", &name, "up"])?;
    report.did(format!("brought up `{name}` (`{}`)", device.address));
    Ok(())
}

/// Waits until udev has renamed what is new: an interface that is up can no longer be renamed, and
/// a name that was read before is gone after it. Where udev does not answer, the names stand as they
/// are, and whoever uses them tells what became of it.
pub fn settle(card: &Card) {
    if let Err(error) = card.programs.run("udevadm", &["settle", "--timeout=20"]) {
        tracing::warn!("waiting for udev: {error:#}");
    }
}

/// The device's interface; waits for a driver that is still at it.
pub fn interface(card: &Card, device: &Device) -> Result<String> {
    if let Some(name) = card.wait_for(|| device.interface(&card.tree))? {
        return Ok(name);
    }
    let address = &device.address;
    match device.driver(&card.tree)? {
        Some(driver) => bail!("`{address}` has no interface, although it is on the driver `{driver}`"),
        None => bail!("`{address}` has no interface: no driver is bound to it"),
    }
}

/// Whether the interface is set up, whatever the cable says: `IFF_UP` of netdevice(7).
pub fn is_up(card: &Card, device: &Device, name: &str) -> Result<bool> {
    let path = device.path(&format!("net/{name}/flags"));
    let text = card.tree.read(&path)?;
    let digits = text.strip_prefix("0x").unwrap_or(&text);
    let flags = u32::from_str_radix(digits, 16)
        .with_context(|| format!("`{path}` holds `{text}`, not a hexadecimal number"))?;
    Ok(flags & 1 == 1)
}

#[cfg(test)]
mod tests {
    use crate::fake;
    use crate::report::State;
    use crate::setup::{Phase, check, phase, run};

    fn interfaces() -> &'static Phase {
        phase("interfaces").unwrap()
    }

    fn sriov(fake: &fake::Fake) {
        run(&fake.card(), phase("sriov").unwrap());
        fake.forget();
    }

    #[test]
    fn the_pf_and_its_vfs_are_brought_up() {
        let fake = fake::virt();
        sriov(&fake);
        let record = run(&fake.card(), interfaces());
        assert_eq!(record.state, State::Good, "{}", record.text());
        assert_eq!(fake.ran().len(), 9);
        assert_eq!(fake.ran()[..2], ["udevadm settle --timeout=20", "ip link set dev eth0 up"]);
    }

    #[test]
    fn a_device_that_a_program_has_is_passed_over() {
        let fake = fake::virt();
        sriov(&fake);
        fake.bind("0000:01:10.2", Some("vfio-pci"));
        assert_eq!(run(&fake.card(), interfaces()).state, State::Good);
        assert_eq!(fake.ran().len(), 8);
        assert!(check(&fake.card(), interfaces()).is_good());
    }

    #[test]
    fn one_device_without_a_driver_does_not_hold_up_the_others() {
        let fake = fake::virt();
        sriov(&fake);
        fake.bind("0000:01:10.0", None);
        let record = run(&fake.card(), interfaces());
        assert_eq!(record.report.wrong, ["`0000:01:10.0` has no interface: no driver is bound to it"]);
        assert_eq!(record.report.did.len(), 7);
    }

    #[test]
    fn without_udev_the_interfaces_are_brought_up_all_the_same() {
        let fake = fake::virt();
        sriov(&fake);
        fake.without("udevadm");
        let record = run(&fake.card(), interfaces());
        assert_eq!((record.state, record.report.did.len()), (State::Good, 8), "{}", record.text());
    }

    #[test]
    fn an_interface_that_will_not_come_up_is_told_with_what_ip_said() {
        let fake = fake::virt();
        sriov(&fake);
        fake.fail("ip", "RTNETLINK answers: Cannot allocate memory");
        let record = run(&fake.card(), interfaces());
        assert!(record.report.wrong[0].contains("Cannot allocate memory"), "{}", record.text());
        let down = check(&fake.card(), interfaces());
        assert_eq!(down.wrong[0], "`eth0` (`0000:01:00.0`) is down");
    }

    #[test]
    fn missing_devices_fail_or_are_absent_as_the_board_says() {
        let mut fake = fake::virt();
        let record = run(&fake.card(), interfaces());
        assert_eq!(record.report.wrong, ["no device with the id `8086:10ca` was found"]);
        fake.plan.interfaces[1].expected = false;
        assert_eq!(run(&fake.card(), interfaces()).state, State::Good);
    }
}
