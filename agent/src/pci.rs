//! PCI devices as sysfs shows them, found by their id and never by their address.

use anyhow::Result;
use dpu_plan::PciId;

use crate::tree::Tree;

/// Where sysfs has the devices.
pub const DEVICES: &str = "/sys/bus/pci/devices";

/// One PCI function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// The address: `0000:01:10.0`.
    pub address: String,
}

/// The devices with this id, in the order of their addresses.
pub fn devices(tree: &Tree, id: PciId) -> Result<Vec<Device>> {
    let mut found = Vec::new();
    for address in tree.names(DEVICES)? {
        let device = Device { address };
        if device.id(tree)? == Some(id) {
            found.push(device);
        }
    }
    Ok(found)
}

impl Device {
    /// The path of one of the device's attributes.
    pub fn path(&self, attribute: &str) -> String {
        format!("{DEVICES}/{}/{attribute}", self.address)
    }

    /// The device's id; none where it is gone by now, or its attributes make no sense.
    fn id(&self, tree: &Tree) -> Result<Option<PciId>> {
        let number = |attribute| -> Result<Option<u16>> {
            let text = tree.read_if(self.path(attribute))?.unwrap_or_default();
            Ok(text.strip_prefix("0x").and_then(|digits| u16::from_str_radix(digits, 16).ok()))
        };
        Ok(number("vendor")?.zip(number("device")?).map(|(vendor, device)| PciId::new(vendor, device)))
    }

    /// The driver that the device is bound to.
    pub fn driver(&self, tree: &Tree) -> Result<Option<String>> {
        tree.link_name(self.path("driver"))
    }

    /// The device's network interface; the first where it has several.
    pub fn interface(&self, tree: &Tree) -> Result<Option<String>> {
        Ok(tree.names(self.path("net"))?.into_iter().next())
    }

    /// The number of the device's IOMMU group.
    pub fn iommu_group(&self, tree: &Tree) -> Result<Option<String>> {
        tree.link_name(self.path("iommu_group"))
    }

    /// The other devices of its IOMMU group.
    pub fn companions(&self, tree: &Tree) -> Result<Vec<Self>> {
        let addresses = tree.names(self.path("iommu_group/devices"))?;
        Ok(addresses.into_iter().filter(|a| *a != self.address).map(|address| Self { address }).collect())
    }

    /// The VFs that the PF has now, in the order of their numbers.
    pub fn vfs(&self, tree: &Tree) -> Result<Vec<Self>> {
        Ok(self.numbered_vfs(tree)?.into_iter().map(|(_, device)| device).collect())
    }

    /// The VFs that the PF has now, with their numbers, in the order of these.
    pub fn numbered_vfs(&self, tree: &Tree) -> Result<Vec<(u32, Self)>> {
        let mut found = Vec::new();
        for name in tree.names(self.path(""))? {
            let Some(number) = name.strip_prefix("virtfn").and_then(|number| number.parse().ok()) else {
                continue;
            };
            found.extend(tree.link_name(self.path(&name))?.map(|address| (number, Self { address })));
        }
        found.sort();
        Ok(found)
    }

    /// Whether the device is a PF whose VFs have this id. It is asked of the PF, so that a PF without VFs is
    /// known too; kernels before 4.14 tell by its first VF only.
    pub fn makes(&self, tree: &Tree, id: PciId) -> Result<bool> {
        // Only a PF has the attribute, and most devices are none.
        if !tree.exists(self.path("sriov_numvfs")) {
            return Ok(false);
        }
        let number = |attribute| -> Result<Option<u16>> {
            let text = tree.read_if(self.path(attribute))?.unwrap_or_default();
            Ok(u16::from_str_radix(text.trim_start_matches("0x"), 16).ok())
        };
        // A VF has its PF's vendor (PCI Express, SR-IOV, "Vendor ID").
        let vendor = number("vendor")?;
        let device = match number("sriov_vf_device")? {
            Some(device) => Some(device),
            None => number("virtfn0/device")?,
        };
        Ok((vendor, device) == (Some(id.vendor()), Some(id.device())))
    }
}
