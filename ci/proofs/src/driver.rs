//! The VFs' driver, and the card's wiring: what the kernel and the hardware do by themselves.
//!
//! A VF of the host is a veth `vfN`, and its end on the card a veth `sdpM`. Both lead into the namespace
//! `wire`, where a bridge joins them, so that either can vanish without the other. For where a pod's
//! namespace ends, the kernel gives a VF's interface back to the host, and destroys a veth: then the driver
//! makes it anew, under a name as the kernel would give it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::run::{ip, show};
use crate::traffic::within;

/// The MTU that VFs have on the host.
pub const MTU: u64 = 1600;

/// A VF of the host and its end on the card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vf {
    /// Its number among all of the stage.
    pub number: u32,
    /// Its number on its PF.
    pub on_pf: u32,
    /// Its PF's number.
    pub pf: u32,
    /// Its PCI address on the host.
    pub address: String,
    /// The number of its end among the card's devices of that id.
    pub end: u32,
}

impl Vf {
    /// Its interface on the host.
    pub fn name(&self) -> String {
        format!("vf{}", self.number)
    }

    /// The name that the kernel gives the interface where it comes back by itself.
    pub fn other_name(&self) -> String {
        format!("dev{}", self.number)
    }

    /// Its hardware address.
    pub fn mac(&self) -> String {
        format!("02:00:00:00:{:02x}:{:02x}", self.pf, self.on_pf)
    }

    /// Its interface on the card.
    pub fn card(&self) -> String {
        format!("sdp{}", self.end)
    }

    fn plug(&self, name: &str) -> [String; 2] {
        let (number, mac) = (self.number, self.mac());
        // `ip -n wire` makes them, and gives one end to this process's namespace.
        [
            format!(
                "link add h{number} master b{number} type veth peer name {name} address {mac} mtu {MTU} netns {}",
                std::process::id()
            ),
            format!("link set dev h{number} up mtu {MTU}"),
        ]
    }
}

/// Wires all VFs: through bridges, or each to its end directly.
pub fn wire(vfs: &[Vf], bridged: bool) {
    let mut lines = Vec::new();
    if !bridged {
        for vf in vfs {
            let (name, mac, card, own) = (vf.name(), vf.mac(), vf.card(), std::process::id());
            let host = format!("name {name} address {mac} mtu {MTU} netns {own}");
            lines.push(format!("link add {card} mtu {MTU} type veth peer {host}"));
            lines.push(format!("link set dev {card} up"));
        }
        return ip("card", &lines);
    }
    for vf in vfs {
        let (number, card) = (vf.number, vf.card());
        lines.extend([
            format!("link add b{number} mtu {MTU} type bridge mcast_snooping 0"),
            format!("link set dev b{number} up"),
            format!("link add w{number} mtu {MTU} master b{number} type veth peer name {card} mtu {MTU} netns card"),
            format!("link set dev w{number} up"),
        ]);
        lines.extend(vf.plug(&vf.name()));
    }
    ip("wire", &lines);
    ip("card", &vfs.iter().map(|vf| format!("link set dev {} up", vf.card())).collect::<Vec<_>>());
}

/// Gives VFs back that vanished with a pod's namespace.
pub struct Driver {
    stop: Arc<AtomicBool>,
    given_back: Arc<AtomicU64>,
    running: Option<JoinHandle<()>>,
}

impl Driver {
    /// Starts to look after these VFs.
    pub fn start(vfs: &[Vf]) -> Self {
        let (stop, given_back) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, count, vfs) = (Arc::clone(&stop), Arc::clone(&given_back), vfs.to_vec());
        let running = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                count.fetch_add(give_back(&vfs), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self { stop, given_back, running: Some(running) }
    }

    /// How often a VF came back by itself.
    pub fn given_back(&self) -> u64 {
        self.given_back.load(Ordering::Relaxed)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}

/// Makes the interfaces anew that have gone; gives their number.
pub fn give_back(vfs: &[Vf]) -> u64 {
    let there = within("wire", || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
    let is_there = |name: &str| there.lines().any(|line| line.trim_start().starts_with(&format!("{name}:")));
    let gone: Vec<_> = vfs.iter().filter(|vf| !is_there(&format!("h{}", vf.number))).collect();
    for vf in &gone {
        ip("wire", &vf.plug(&vf.other_name()));
    }
    gone.len() as u64
}

/// Says which VFs are not on the host as they were at first.
pub fn strays(vfs: &[Vf]) -> Vec<String> {
    let links = show("", "link");
    let is_home = |vf: &Vf| {
        links.iter().any(|link| {
            link["ifname"] == vf.name()
                && link["address"] == vf.mac()
                && link["mtu"] == MTU
                && !link["flags"].to_string().contains("\"UP\"")
        })
    };
    let stray = vfs.iter().filter(|vf| !is_home(vf));
    stray
        .map(|vf| {
            let found = links.iter().find(|link| link["address"] == vf.mac());
            format!("{}: {}", vf.name(), found.map_or("not on the host".to_owned(), ToString::to_string))
        })
        .collect()
}
