//! The VFs that pods get, as sysfs shows them: found by their id, on every PF.

use std::fmt;
use std::str::FromStr;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::files::Files;

const DEVICES: &str = "/sys/bus/pci/devices";

/// Vendor and device of a PCI function, written `177d:b903`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciId {
    vendor: u16,
    device: u16,
}

impl FromStr for PciId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let digits = text.strip_prefix("0x").unwrap_or(text);
            let fits = digits.len() == 4 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
            u16::from_str_radix(digits, 16).ok().filter(|_| fits)
        };
        text.split_once(':')
            .and_then(|(vendor, device)| Some(Self { vendor: number(vendor)?, device: number(device)? }))
            .ok_or_else(|| format!("`{}` is no vendor and device, like `177d:b903`", text.escape_debug()))
    }
}

impl fmt::Display for PciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

/// A VF, with the numbers that the card knows it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vf {
    /// Its PCI address: `0000:01:10.0`.
    pub address: String,
    /// Its number on its PF, from 0.
    pub number: u32,
    /// Its PF's number among those that make such VFs, from 0, in the order of their PCI addresses.
    pub pf: u32,
    /// How many such PFs there are.
    pub pfs: u32,
}

impl Vf {
    /// Whether the device is still there.
    pub fn exists(&self, files: &Files) -> bool {
        files.exists(path(&self.address, ""))
    }

    /// The names that the device's interface may have in the host's namespace; none while a pod has it.
    pub fn interfaces(&self, files: &Files) -> Result<Vec<String>> {
        files.names(path(&self.address, "net"))
    }
}

/// All VFs with this id, in the order of PFs, then of their numbers.
pub fn vfs(files: &Files, id: PciId) -> Result<Vec<Vf>> {
    let mut pfs = Vec::new();
    for address in files.names(DEVICES)? {
        // Only a PF has the attribute, and most devices are none.
        let Some(count) = files.read_if(path(&address, "sriov_numvfs"))? else { continue };
        let count: u32 = count.parse().unwrap_or(0);
        if makes(files, &address, id)? {
            pfs.push((address, count));
        }
    }
    let many = u32::try_from(pfs.len()).unwrap_or(u32::MAX);
    let mut found = Vec::new();
    for (pf, (address, count)) in (0..).zip(&pfs) {
        for number in numbers(files, address)?.into_iter().filter(|number| number < count) {
            // VFs come and go while the PF's number of them is changed.
            let vf = files.link_name(path(address, &format!("virtfn{number}")))?;
            found.extend(vf.map(|address| Vf { address, number, pf, pfs: many }));
        }
    }
    Ok(found)
}

/// The numbers of the VFs that a PF has links to, in their order. Links are listed and not counted up to, for
/// what a file says their number is may be anything.
fn numbers(files: &Files, pf: &str) -> Result<Vec<u32>> {
    let names = files.names(path(pf, ""))?;
    let mut numbers: Vec<u32> =
        names.iter().filter_map(|name| name.strip_prefix("virtfn")?.parse().ok()).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Whether a PF's VFs have this id. It is asked of the PF, so that a PF without VFs keeps its number.
fn makes(files: &Files, pf: &str, id: PciId) -> Result<bool> {
    let number = |path: String| -> Result<Option<u16>> {
        let text = files.read_if(path)?.unwrap_or_default();
        Ok(u16::from_str_radix(text.trim_start_matches("0x"), 16).ok())
    };
    // A VF has its PF's vendor (PCI Express, SR-IOV, "Vendor ID").
    let vendor = number(path(pf, "vendor"))?;
    let device = match number(path(pf, "sriov_vf_device"))? {
        Some(device) => Some(device),
        None => number(path(pf, "virtfn0/device"))?,
    };
    Ok((vendor, device) == (Some(id.vendor), Some(id.device)))
}

fn path(address: &str, attribute: &str) -> String {
    format!("{DEVICES}/{address}/{attribute}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    const ID: PciId = PciId { vendor: 0x177d, device: 0xb903 };

    fn found(fake: &Fake) -> Vec<(String, u32, u32, u32)> {
        let vfs = vfs(&Files::below(fake.root()), ID).unwrap();
        vfs.into_iter().map(|vf| (vf.address, vf.number, vf.pf, vf.pfs)).collect()
    }

    #[test]
    fn the_vfs_of_all_pfs_are_found_with_their_numbers() {
        let fake = Fake::new();
        fake.pf("0000:81:00.0", "177d:b903", 2);
        fake.pf("0000:01:00.0", "177d:b903", 2);
        let vf = |address: &str, number, pf| (address.to_owned(), number, pf, 2);
        let wanted = [
            vf("0000:01:10.0", 0, 0),
            vf("0000:01:10.1", 1, 0),
            vf("0000:81:10.0", 0, 1),
            vf("0000:81:10.1", 1, 1),
        ];
        assert_eq!(found(&fake), wanted);
    }

    #[test]
    fn vfs_of_other_cards_are_left_alone() {
        let fake = Fake::new();
        fake.pf("0000:01:00.0", "8086:10ca", 2);
        fake.pf("0000:02:00.0", "177d:b903", 1);
        assert_eq!(found(&fake), [("0000:02:10.0".to_owned(), 0, 0, 1)]);
    }

    #[test]
    fn a_pf_without_vfs_keeps_its_number() {
        let fake = Fake::new();
        fake.pf("0000:01:00.0", "177d:b903", 0);
        fake.pf("0000:02:00.0", "177d:b903", 1);
        assert_eq!(found(&fake), [("0000:02:10.0".to_owned(), 0, 1, 2)]);
    }

    #[test]
    fn an_older_kernel_tells_the_id_of_the_vfs_only() {
        let fake = Fake::new();
        fake.pf("0000:01:00.0", "177d:b903", 1);
        fake.remove("/sys/bus/pci/devices/0000:01:00.0/sriov_vf_device");
        assert_eq!(found(&fake).len(), 1);
    }

    #[test]
    fn a_vf_that_goes_away_meanwhile_is_left_out() {
        let fake = Fake::new();
        fake.pf("0000:01:00.0", "177d:b903", 3);
        fake.remove("/sys/bus/pci/devices/0000:01:00.0/virtfn1");
        assert_eq!(found(&fake).iter().map(|vf| vf.1).collect::<Vec<_>>(), [0, 2]);
    }

    #[test]
    fn an_absurd_number_of_vfs_costs_no_time() {
        let fake = Fake::new();
        fake.pf("0000:01:00.0", "177d:b903", 12);
        fake.file("/sys/bus/pci/devices/0000:01:00.0/sriov_numvfs", &u32::MAX.to_string());
        assert_eq!(found(&fake).iter().map(|vf| vf.1).collect::<Vec<_>>(), (0..12).collect::<Vec<_>>());
    }

    #[test]
    fn a_host_without_such_devices_has_no_vfs() {
        assert!(found(&Fake::new()).is_empty());
    }

    #[test]
    fn attributes_that_make_no_sense_are_no_panic() {
        let fake = Fake::new();
        fake.pf("0000:01:00.0", "177d:b903", 1);
        for (attribute, text) in [("sriov_numvfs", "many"), ("vendor", "0xzz"), ("sriov_vf_device", "")] {
            fake.file(&format!("/sys/bus/pci/devices/0000:01:00.0/{attribute}"), text);
            let _ = found(&fake);
        }
    }

    #[test]
    fn an_id_is_read_with_and_without_its_0x() {
        assert_eq!("177d:b903".parse(), Ok(ID));
        assert_eq!("0x177d:0xB903".parse(), Ok(ID));
        for text in ["177d", "177d:", "177d:b9031", "+17d:b903"] {
            assert!(text.parse::<PciId>().is_err(), "{text}");
        }
    }
}
