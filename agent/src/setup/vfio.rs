//! Devices given to a program: bound to `vfio-pci` by `driver_override`
//! (Documentation/ABI/testing/sysfs-bus-pci of the kernel).

use anyhow::{Context as _, Result, bail};
use dpu_plan::Vfio;

use super::report_missing;
use crate::Card;
use crate::pci::{self, Device};
use crate::report::Report;

/// The kernel's driver that gives devices to programs.
pub const DRIVER: &str = "vfio-pci";
const DRIVERS: &str = "/sys/bus/pci/drivers";

pub fn apply(card: &Card, report: &mut Report) -> Result<()> {
    let mut wanted = Vec::new();
    for plan in card.plan.bound() {
        report.try_to(|report| {
            wanted.extend(find(card, plan, report)?.into_iter().map(|device| (plan, device)));
            Ok(())
        });
    }
    if !wanted.is_empty() {
        load(card)?;
    }
    for (plan, device) in wanted {
        report.try_to(|report| bind(card, plan, &device, report));
    }
    Ok(())
}

pub fn check(card: &Card, report: &mut Report) -> Result<()> {
    for plan in card.plan.bound() {
        for device in find(card, plan, report)? {
            let address = &device.address;
            match device.driver(&card.tree)?.as_deref() {
                Some(DRIVER) => match group_trouble(card, &device)? {
                    Some(trouble) => report.wrong(trouble),
                    None => report.found(format!("`{}` (`{address}`) is on `{DRIVER}`", plan.name)),
                },
                Some(other) => report.wrong(format!("`{}` (`{address}`) is on `{other}`", plan.name)),
                None => report.wrong(format!("`{}` (`{address}`) is on no driver", plan.name)),
            }
        }
    }
    Ok(())
}

/// The devices that one entry of the plan means, as far as they are there.
pub fn devices(card: &Card, plan: &Vfio) -> Result<Vec<Device>> {
    let most = plan.count.map_or(usize::MAX, |count| count.get().into());
    Ok(pci::devices(&card.tree, plan.id)?.into_iter().skip(plan.skip.into()).take(most).collect())
}

/// As [`devices`], and reports what is missing.
fn find(card: &Card, plan: &Vfio, report: &mut Report) -> Result<Vec<Device>> {
    let devices = devices(card, plan)?;
    let what = format!("device `{}` with the id `{}`", plan.name, plan.id);
    if devices.is_empty() {
        report_missing(report, plan.expected, &what);
    } else if let Some(count) = plan.count.filter(|count| devices.len() < usize::from(count.get())) {
        report.wrong(format!("only {} of {count} was found: {what}", devices.len()));
    }
    Ok(devices)
}

/// Loads the driver, unless it is there or built in.
fn load(card: &Card) -> Result<()> {
    let folder = format!("{DRIVERS}/{DRIVER}");
    if card.tree.exists(&folder) {
        return Ok(());
    }
    card.programs.run("modprobe", &[DRIVER])?;
    card.wait_for(|| Ok(card.tree.exists(&folder).then_some(())))?
        .with_context(|| format!("`modprobe {DRIVER}` ended well, but `{folder}` is not there"))
}

fn bind(card: &Card, plan: &Vfio, device: &Device, report: &mut Report) -> Result<()> {
    let (name, address) = (&plan.name, &device.address);
    let before = device.driver(&card.tree)?;
    if before.as_deref() == Some(DRIVER) {
        report.found(format!("`{name}` (`{address}`) is on `{DRIVER}`"));
    } else {
        if let Err(error) = hand_over(card, device, before.as_deref()) {
            give_back(card, device);
            return Err(error).with_context(|| format!("binding `{name}` to `{DRIVER}`"));
        }
        report.did(match before {
            Some(before) => format!("moved `{name}` (`{address}`) from `{before}` to `{DRIVER}`"),
            None => format!("bound `{name}` (`{address}`) to `{DRIVER}`"),
        });
    }
    match group_trouble(card, device)? {
        Some(trouble) => bail!(trouble),
        None => Ok(()),
    }
}

fn hand_over(card: &Card, device: &Device, before: Option<&str>) -> Result<()> {
    card.tree.set(device.path("driver_override"), DRIVER)?;
    if before.is_some() {
        card.tree.set(device.path("driver/unbind"), &device.address)?;
    }
    card.tree.set("/sys/bus/pci/drivers_probe", &device.address)?;
    match device.driver(&card.tree)?.as_deref() {
        // Where a device tree describes the IOMMU, as on these cards, a device joins its group only when
        // a driver is tried on it (drivers/of/device.c), so its group can't be asked for before.
        Some(DRIVER) if device.iommu_group(&card.tree)?.is_none() => {
            bail!("`{}` is in no IOMMU group, so no program may have it: is the IOMMU on", device.address)
        }
        Some(DRIVER) => Ok(()),
        Some(other) => bail!("`{}` went to `{other}`", device.address),
        None => bail!("`{DRIVER}` did not take `{}`: see `dmesg`; is the IOMMU on", device.address),
    }
}

/// Lets the device's own driver have it again. The failure that led here is the one to tell, so
/// what goes wrong now is only logged.
fn give_back(card: &Card, device: &Device) {
    let given = card
        .tree
        .set(device.path("driver_override"), "\n")
        .and_then(|()| card.tree.set("/sys/bus/pci/drivers_probe", &device.address));
    if let Err(error) = given {
        tracing::warn!(address = device.address, "giving the device back: {error:#}");
    }
}

/// Why the device's group cannot be handed to a program: VFIO gives out whole groups, in which no
/// other device may be on a driver of the kernel (Documentation/driver-api/vfio.rst).
fn group_trouble(card: &Card, device: &Device) -> Result<Option<String>> {
    const HARMLESS: [&str; 3] = [DRIVER, "pcieport", "pci-stub"];
    for other in device.companions(&card.tree)? {
        if let Some(driver) = other.driver(&card.tree)?.filter(|driver| !HARMLESS.contains(&driver.as_str()))
        {
            let group = device.iommu_group(&card.tree)?.unwrap_or_default();
            return Ok(Some(format!(
                "`{}` shares IOMMU group {group} with `{}`, which is on `{driver}`: a program cannot have it",
                device.address, other.address
            )));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use dpu_plan::Vfio;

    use crate::fake::{self, Fake};
    use crate::report::State;
    use crate::setup::{Phase, check, phase, run};

    const DPI: &str = "0000:06:00.0";

    /// The plan's entry of the device that tests look at.
    fn dpi(fake: &mut Fake) -> &mut Vfio {
        &mut fake.plan.octep.as_mut().unwrap().devices[0]
    }

    fn vfio() -> &'static Phase {
        phase("vfio").unwrap()
    }

    #[test]
    fn devices_are_moved_from_their_drivers() {
        let fake = fake::cn106();
        fake.bind(DPI, Some("octeontx2-dpi"));
        let record = run(&fake.card(), vfio());
        assert_eq!(
            record.report.did,
            [
                "moved `dpi` (`0000:06:00.0`) from `octeontx2-dpi` to `vfio-pci`",
                "bound `pem` (`0001:00:10.0`) to `vfio-pci`"
            ]
        );
        assert_eq!(
            fake.written()[..3],
            ["driver_override=vfio-pci", "unbind=0000:06:00.0", "drivers_probe=0000:06:00.0"]
        );
        assert_eq!(fake.ran(), ["modprobe vfio-pci"]);
    }

    #[test]
    fn a_driver_that_is_there_is_not_loaded() {
        let fake = fake::cn106();
        fake.folder("/sys/bus/pci/drivers/vfio-pci");
        assert_eq!(run(&fake.card(), vfio()).state, State::Good);
        assert!(fake.ran().is_empty());
    }

    #[test]
    fn only_as_many_devices_as_are_asked_for_are_taken() {
        let mut fake = fake::cn106();
        fake.device("0000:06:00.1", "177d:a080");
        run(&fake.card(), vfio());
        assert_eq!(fake.driver("0000:06:00.1"), None);
        dpi(&mut fake).count = None;
        run(&fake.card(), vfio());
        assert_eq!(fake.driver("0000:06:00.1").as_deref(), Some("vfio-pci"));
    }

    #[test]
    fn the_first_devices_can_be_left_to_others() {
        let mut fake = fake::cn106();
        fake.device("0000:06:00.1", "177d:a080");
        dpi(&mut fake).skip = 1;
        run(&fake.card(), vfio());
        assert_eq!(fake.driver(DPI), None);
        assert_eq!(fake.driver("0000:06:00.1").as_deref(), Some("vfio-pci"));
    }

    #[test]
    fn too_few_devices_are_told_with_both_numbers() {
        let mut fake = fake::cn106();
        dpi(&mut fake).count = 2.try_into().ok();
        let record = run(&fake.card(), vfio());
        assert_eq!(record.report.wrong, ["only 1 of 2 was found: device `dpi` with the id `177d:a080`"]);
        assert_eq!(fake.driver(DPI).as_deref(), Some("vfio-pci"));
    }

    #[test]
    fn a_missing_device_does_not_hold_up_the_others() {
        let mut fake = fake::cn106();
        fake.remove("/sys/bus/pci/devices/0000:06:00.0");
        let record = run(&fake.card(), vfio());
        assert_eq!(record.report.wrong, ["no device `dpi` with the id `177d:a080` was found"]);
        assert_eq!(record.report.did, ["bound `pem` (`0001:00:10.0`) to `vfio-pci`"]);
        dpi(&mut fake).expected = false;
        assert_eq!(run(&fake.card(), vfio()).state, State::Good);
    }

    #[test]
    fn a_device_in_no_iommu_group_is_given_back() {
        let fake = fake::cn106();
        fake.remove("/sys/bus/pci/devices/0000:06:00.0/iommu_group");
        let record = run(&fake.card(), vfio());
        assert!(record.report.wrong[0].contains("is in no IOMMU group"), "{}", record.text());
        assert!(fake.written().contains(&"driver_override=\\n".to_owned()), "{:?}", fake.written());
    }

    #[test]
    fn a_device_that_vfio_does_not_take_is_given_back() {
        let fake = fake::cn106();
        fake.bind(DPI, Some("octeontx2-dpi"));
        fake.refuse("drivers_probe", ErrorKind::InvalidInput);
        let record = run(&fake.card(), vfio());
        assert!(
            record.report.wrong[0].starts_with("binding `dpi` to `vfio-pci`: writing"),
            "{}",
            record.text()
        );
        assert!(fake.written().contains(&"driver_override=\\n".to_owned()), "{:?}", fake.written());
    }

    #[test]
    fn a_device_that_goes_to_no_driver_is_told() {
        let fake = fake::cn106();
        fake.stubborn(DPI);
        let record = run(&fake.card(), vfio());
        assert_eq!(
            record.report.wrong,
            [
                "binding `dpi` to `vfio-pci`: `vfio-pci` did not take `0000:06:00.0`: see `dmesg`; is the IOMMU on"
            ]
        );
    }

    #[test]
    fn a_group_that_the_kernel_uses_as_well_is_told() {
        let fake = fake::cn106();
        fake.device("0000:06:00.1", "177d:a081");
        fake.bind("0000:06:00.1", Some("nic"));
        fake.join_group(DPI, "0000:06:00.1");
        let says = "`0000:06:00.0` shares IOMMU group 4 with `0000:06:00.1`, which is on `nic`: \
                    a program cannot have it";
        assert_eq!(run(&fake.card(), vfio()).report.wrong, [says]);
        assert_eq!(check(&fake.card(), vfio()).wrong, [says]);
        fake.bind("0000:06:00.1", Some("pcieport"));
        assert!(check(&fake.card(), vfio()).is_good());
    }

    #[test]
    fn a_driver_that_cannot_be_loaded_is_told() {
        let fake = fake::cn106();
        fake.fail("modprobe", "FATAL: Module vfio-pci not found");
        let record = run(&fake.card(), vfio());
        assert!(record.report.wrong[0].contains("FATAL: Module vfio-pci not found"), "{}", record.text());
    }

    #[test]
    fn a_device_on_another_driver_or_none_is_wrong() {
        let fake = fake::cn106();
        fake.bind(DPI, Some("octeontx2-dpi"));
        let report = check(&fake.card(), vfio());
        assert_eq!(
            report.wrong,
            ["`dpi` (`0000:06:00.0`) is on `octeontx2-dpi`", "`pem` (`0001:00:10.0`) is on no driver"]
        );
    }
}
