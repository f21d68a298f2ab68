//! Which VF of the card is wired to a VF of the host.
//!
//! VF 0 of each of the card's PFs is the link to the host's PF of the same number; the host's VF n on that PF is
//! wired to the card's VF n + 1. A PF tells the numbers of its VFs by its links `virtfnN`
//! (Documentation/ABI/testing/sysfs-bus-pci of the kernel), so the order of addresses does not matter.
//!
//! A card that has one PF for several of the host's gives them its VFs in turn: the host's VF n on PF p of P is wired
//! to its VF P * n + p + 1.
//!
//! Where no PF is to be seen, as in a virtual machine that was given VFs alone, the order of addresses is all
//! there is: the host's VF n on PF p of P is the entry P * n + p + 1, as older agents have it.
//!
//! Names of interfaces change, and so do addresses with the firmware: nothing of this is kept on the disk, and in
//! memory only which device it is, for as long as the bus has the same addresses ([`Finder`]).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, anyhow};
use dpu_plan::PciId;
use serde::{Deserialize, Serialize};

use super::network::{Refusal, Vf};
use crate::Card;
use crate::pci::{self, Device};
use crate::setup::find_link;

/// A VF by the host's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HostVf {
    /// The PF's number, from 0.
    pub pf: u32,
    /// How many PFs the host has.
    pub pfs: u32,
    /// The VF's number on its PF, from 0.
    pub vf: u32,
}

impl fmt::Display for HostVf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VF {} of the host's PF {}", self.vf, self.pf)
    }
}

/// The card's end of a VF of the host, as it is now.
///
/// # Errors
/// [`Refusal::Later`] where a driver may be on its way, or sysfs can't be read; [`Refusal::Never`] where there is
/// no such VF, or a program has it.
pub fn find(card: &Card, id: PciId, host: HostVf) -> Result<Vf, Refusal> {
    Finder::default().find(card, id, host)
}

/// Finds as [`find`] does, and remembers the device while no other comes or goes: to read the ids of all takes
/// longer than what is then done with the VF.
#[derive(Default)]
pub struct Finder {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// What the bus had.
    addresses: Vec<String>,
    devices: BTreeMap<HostVf, Device>,
}

impl Finder {
    /// As the function [`find`], with VFs of one id.
    pub fn find(&self, card: &Card, id: PciId, host: HostVf) -> Result<Vf, Refusal> {
        let device = self.device(card, id, host)?;
        match device.interface(&card.tree).map_err(Refusal::Later)? {
            Some(interface) => Ok(Vf { address: device.address, interface }),
            None => Err(without_interface(card, host, &device)),
        }
    }

    fn device(&self, card: &Card, id: PciId, host: HostVf) -> Result<Device, Refusal> {
        let addresses = card.tree.names(pci::DEVICES).map_err(Refusal::Later)?;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.addresses != addresses {
            *known = Known { addresses, devices: BTreeMap::new() };
        }
        if let Some(device) = known.devices.get(&host) {
            return Ok(device.clone());
        }
        let device = device(card, id, host)?;
        if find_link(card).is_ok_and(|link| link == device) {
            return Err(Refusal::Never(anyhow!(
                "{host} would be `{}`, which is the link to the host",
                device.address
            )));
        }
        known.devices.insert(host, device.clone());
        Ok(device)
    }
}

fn device(card: &Card, id: PciId, host: HostVf) -> Result<Device, Refusal> {
    let pfs = pfs(card, id).map_err(Refusal::Later)?;
    let (pf, number) = match pfs.as_slice() {
        [] => return by_order(card, id, host),
        [pf] => (pf, in_turn(host)),
        pfs => match usize::try_from(host.pf).ok().and_then(|pf| pfs.get(pf)) {
            Some(pf) => (pf, u64::from(host.vf) + 1),
            None => {
                return Err(Refusal::Never(anyhow!(
                    "{host}: the card has {} PFs with VFs `{id}`",
                    pfs.len()
                )));
            }
        },
    };
    let vfs = pf.numbered_vfs(&card.tree).map_err(Refusal::Later)?;
    let many = vfs.len();
    let found = vfs.into_iter().find(|(vf, _)| u64::from(*vf) == number).map(|(_, device)| device);
    found.ok_or_else(|| {
        let address = &pf.address;
        Refusal::Never(anyhow!(
            "{host} is wired to VF {number} of the card's PF `{address}`, which has {many} VFs"
        ))
    })
}

/// The card's PFs that make such VFs, in the order of their addresses.
fn pfs(card: &Card, id: PciId) -> Result<Vec<Device>> {
    let mut found = Vec::new();
    for address in card.tree.names(pci::DEVICES)? {
        let device = Device { address };
        if device.makes(&card.tree, id)? {
            found.push(device);
        }
    }
    Ok(found)
}

/// The number of a VF among those that all the host's PFs share; 0 is the link.
fn in_turn(host: HostVf) -> u64 {
    u64::from(host.pfs) * u64::from(host.vf) + u64::from(host.pf) + 1
}

fn by_order(card: &Card, id: PciId, host: HostVf) -> Result<Device, Refusal> {
    let entry = in_turn(host);
    let mut devices = pci::devices(&card.tree, id).map_err(Refusal::Later)?;
    let many = devices.len();
    match usize::try_from(entry).ok().filter(|entry| *entry < many) {
        Some(entry) => Ok(devices.swap_remove(entry)),
        None => Err(Refusal::Never(anyhow!(
            "{host} is wired to entry {entry} of the card's VFs `{id}`, of which there are {many}"
        ))),
    }
}

fn without_interface(card: &Card, host: HostVf, device: &Device) -> Refusal {
    let address = &device.address;
    match device.driver(&card.tree) {
        Ok(Some(driver)) if driver == "vfio-pci" => Refusal::Never(anyhow!(
            "{host} is wired to `{address}`, which is bound to vfio-pci: a program has it, no pod can"
        )),
        Ok(Some(driver)) => Refusal::Later(anyhow!(
            "{host} is wired to `{address}`, for which the driver `{driver}` has no interface"
        )),
        Ok(None) => Refusal::Later(anyhow!(
            "{host} is wired to `{address}`, which no driver is bound to: see `dmesg`"
        )),
        Err(error) => Refusal::Later(error),
    }
}

/// The host's VFs that the card has an end for, with an interface or without.
pub fn all(card: &Card, id: PciId) -> Result<Vec<HostVf>> {
    let makers = pfs(card, id)?;
    if makers.is_empty() {
        let many = pci::devices(&card.tree, id)?.len().saturating_sub(1);
        return Ok((0..).take(many).map(|vf| HostVf { pf: 0, pfs: 1, vf }).collect());
    }
    let pfs = u32::try_from(makers.len()).unwrap_or(u32::MAX);
    let mut found = Vec::new();
    for (pf, maker) in (0..).zip(&makers) {
        // VF 0 is the link.
        let numbers =
            maker.numbered_vfs(&card.tree)?.into_iter().filter_map(|(number, _)| number.checked_sub(1));
        found.extend(numbers.map(|vf| HostVf { pf, pfs, vf }));
    }
    Ok(found)
}

/// What tells that a device is another than it was: its interface, the interface's number, and whether it is up.
pub fn state_of(card: &Card, address: &str) -> String {
    let device = Device { address: address.to_owned() };
    let name = device.interface(&card.tree).ok().flatten().unwrap_or_default();
    let read = |attribute| {
        card.tree.read_if(device.path(&format!("net/{name}/{attribute}"))).ok().flatten().unwrap_or_default()
    };
    format!("{name} {} {}", read("ifindex"), read("flags"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fake::{self, Fake};
    use crate::setup::{self, phase};

    const IGB: PciId = PciId::new(0x8086, 0x10ca);
    const SDP: PciId = PciId::new(0x177d, 0xa0f7);

    /// The emulated card with its VFs made.
    fn virt() -> Fake {
        let fake = fake::virt();
        setup::run(&fake.card(), phase("sriov").unwrap());
        fake
    }

    fn host(vf: u32) -> HostVf {
        HostVf { pf: 0, pfs: 1, vf }
    }

    fn found(fake: &Fake, id: PciId, host: HostVf) -> Result<String, String> {
        match find(&fake.card(), id, host) {
            Ok(vf) => Ok(format!("{} {}", vf.address, vf.interface)),
            Err(Refusal::Later(error)) => Err(format!("later: {error:#}")),
            Err(Refusal::Never(error)) => Err(format!("never: {error:#}")),
        }
    }

    #[test]
    fn vfs_are_found_by_their_number_to_the_last() {
        let fake = virt();
        assert_eq!(found(&fake, IGB, host(0)).unwrap(), "0000:01:10.2 eth2");
        assert_eq!(found(&fake, IGB, host(5)).unwrap(), "0000:01:11.4 eth7");
        assert_eq!(all(&fake.card(), IGB).unwrap().len(), 6);
        let error = found(&fake, IGB, host(6)).unwrap_err();
        assert_eq!(
            error,
            "never: VF 6 of the host's PF 0 is wired to VF 7 of the card's PF `0000:01:00.0`, which has 7 VFs"
        );
        assert!(found(&fake, IGB, host(u32::MAX)).is_err());
    }

    #[test]
    fn numbers_count_and_not_the_order_of_addresses() {
        let fake = virt();
        for (number, address) in [(1, "0000:01:11.4"), (6, "0000:01:10.2")] {
            let link = format!("/sys/bus/pci/devices/0000:01:00.0/virtfn{number}");
            fake.remove(&link);
            fake.link(&link, &format!("../{address}"));
        }
        assert_eq!(found(&fake, IGB, host(0)).unwrap(), "0000:01:11.4 eth7");
        assert_eq!(found(&fake, IGB, host(5)).unwrap(), "0000:01:10.2 eth2");
    }

    #[test]
    fn each_pf_of_the_host_has_its_own_on_the_card() {
        let fake = virt();
        fake.second_pf("0000:81:00.0", IGB, 2);
        let vf = |pf, vf| found(&fake, IGB, HostVf { pf, pfs: 2, vf });
        assert_eq!(vf(0, 0).unwrap(), "0000:01:10.2 eth2");
        assert_eq!(vf(1, 0).unwrap(), "0000:81:10.1 second1");
        assert!(vf(1, 1).unwrap_err().contains("which has 2 VFs"));
        assert_eq!(
            vf(2, 0).unwrap_err(),
            "never: VF 0 of the host's PF 2: the card has 2 PFs with VFs `8086:10ca`"
        );
        assert_eq!(all(&fake.card(), IGB).unwrap().len(), 7);
    }

    #[test]
    fn one_pf_of_the_card_serves_several_of_the_host_in_turn() {
        let fake = virt();
        let vf = |pf, vf| found(&fake, IGB, HostVf { pf, pfs: 2, vf });
        assert_eq!(vf(0, 0).unwrap(), "0000:01:10.2 eth2");
        assert_eq!(vf(1, 0).unwrap(), "0000:01:10.4 eth3");
        assert_eq!(vf(1, 2).unwrap(), "0000:01:11.4 eth7");
        assert!(vf(0, 3).unwrap_err().contains("which has 7 VFs"));
    }

    #[test]
    fn without_a_pf_the_order_of_addresses_tells() {
        let fake = fake::cn106();
        assert_eq!(found(&fake, SDP, host(0)).unwrap(), "0002:01:00.2 sdp2");
        assert_eq!(found(&fake, SDP, host(1)).unwrap(), "0002:01:00.3 sdp3");
        let second = HostVf { pf: 1, pfs: 2, vf: 0 };
        assert_eq!(found(&fake, SDP, second).unwrap(), "0002:01:00.3 sdp3");
        assert!(
            found(&fake, SDP, host(2))
                .unwrap_err()
                .contains("entry 3 of the card's VFs `177d:a0f7`, of which there are 3")
        );
        assert_eq!(all(&fake.card(), SDP).unwrap().len(), 2);
    }

    #[test]
    fn a_vf_without_an_interface_is_refused_with_the_reason() {
        let fake = virt();
        fake.bind("0000:01:10.2", None);
        assert!(found(&fake, IGB, host(0)).unwrap_err().starts_with("later: "));
        fake.bind("0000:01:10.2", Some("vfio-pci"));
        assert!(found(&fake, IGB, host(0)).unwrap_err().contains("a program has it, no pod can"));
        fake.remove("/sys/bus/pci/devices/0000:01:11.4/net");
        assert!(found(&fake, IGB, host(5)).unwrap_err().contains("the driver `igbvf` has no interface"));
    }

    #[test]
    fn the_link_is_never_a_pods() {
        let mut fake = virt();
        fake.plan.link.index = 1;
        assert!(found(&fake, IGB, host(0)).unwrap_err().contains("which is the link to the host"));
    }

    #[test]
    fn what_a_finder_remembers_ends_with_a_device_that_comes_or_goes() {
        let fake = virt();
        let finder = Finder::default();
        let found = |host| {
            let vf = finder.find(&fake.card(), IGB, host).ok()?;
            Some(format!("{} {}", vf.address, vf.interface))
        };
        let first = || found(HostVf { pf: 0, pfs: 2, vf: 0 });
        assert_eq!((first().unwrap(), found(host(9))), ("0000:01:10.2 eth2".to_owned(), None));
        fake.rename("0000:01:10.2", "eth2", "enp1s0v1");
        assert_eq!(first().unwrap(), "0000:01:10.2 enp1s0v1", "names are never remembered");
        // A second PF: the host's first VF of its second is its own now, and no longer in turn.
        let second = || found(HostVf { pf: 1, pfs: 2, vf: 0 });
        assert_eq!(second().unwrap(), "0000:01:10.4 eth3");
        fake.second_pf("0000:81:00.0", IGB, 2);
        assert_eq!(second().unwrap(), "0000:81:10.1 second1");
    }

    #[test]
    fn a_new_name_is_another_state() {
        let fake = virt();
        let state = || state_of(&fake.card(), "0000:01:10.2");
        let before = state();
        assert_eq!(before, state());
        fake.rename("0000:01:10.2", "eth2", "enp1s0v1");
        assert_ne!(before, state());
        assert_eq!(found(&fake, IGB, host(0)).unwrap(), "0000:01:10.2 enp1s0v1");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn whatever_sysfs_holds_nothing_panics(text in "\\PC{0,12}", vf: u32, pf in 0..4u32, pfs in 0..4u32) {
            let fake = virt();
            for attribute in ["vendor", "device", "sriov_vf_device", "sriov_numvfs"] {
                fake.file(&format!("/sys/bus/pci/devices/0000:01:00.0/{attribute}"), &text);
                let _ = found(&fake, IGB, HostVf { pf, pfs, vf });
            }
            fake.link("/sys/bus/pci/devices/0000:01:00.0/virtfn99999999999", "../nowhere");
            fake.link("/sys/bus/pci/devices/0000:01:00.0/virtfnx", "..");
            fake.file("/sys/bus/pci/devices/0000:01:00.0/virtfn77", &text);
            let _ = found(&fake, IGB, HostVf { pf, pfs, vf });
            let _ = all(&fake.card(), IGB);
        }
    }
}
