//! What the kernel is told of VFs to pods.

use std::fs;

use anyhow::{Context as _, Result};

/// Of a VF to a pod, in `net.ipv4.conf`.
const IPV4: &[(&str, &str)] = &[
    // On a wire with several VFs every VF hears a pod's question: only the one that leads to the pod answers,
    // for its own address.
    ("arp_filter", "1"),
    ("arp_ignore", "1"),
    ("arp_announce", "2"),
    // A pod sends with its own address only.
    ("rp_filter", "1"),
    ("accept_redirects", "0"),
    ("send_redirects", "0"),
    ("forwarding", "1"),
];

/// Of a VF to a pod, in `net.ipv6.conf`.
const IPV6: &[(&str, &str)] = &[
    ("disable_ipv6", "0"),
    // A pod is no router of the card's.
    ("accept_ra", "0"),
    ("autoconf", "0"),
    ("accept_redirects", "0"),
    ("forwarding", "1"),
];

/// Of the whole card.
const ALL: &[&str] = &["ipv4/ip_forward", "ipv6/conf/all/forwarding"];

/// Sets a VF's interface up for a pod.
pub fn set_up(interface: &str) -> Result<()> {
    for (family, settings) in [("ipv4", IPV4), ("ipv6", IPV6)] {
        // A kernel without IPv6 can't be told of it.
        let folder = format!("{family}/conf/{interface}");
        if family == "ipv6" && !fs::exists(path(&folder)).unwrap_or(false) {
            continue;
        }
        for (name, value) in settings {
            set(&format!("{folder}/{name}"), value)?;
        }
    }
    Ok(())
}

/// Lets the card forward, where it does not yet: writing it would reset what interfaces have of their own.
pub fn let_forward() -> Result<()> {
    for name in ALL {
        if !forwards(name)? {
            set(name, "1")?;
        }
    }
    Ok(())
}

/// Whether the card forwards.
pub fn is_forwarding() -> Result<bool> {
    ALL.iter().try_fold(true, |all, name| Ok(all && forwards(name)?))
}

fn forwards(name: &str) -> Result<bool> {
    let path = path(name);
    if !fs::exists(&path).unwrap_or(false) {
        return Ok(true);
    }
    let text = fs::read_to_string(&path).with_context(|| format!("reading `{path}`"))?;
    Ok(text.trim() != "0")
}

fn set(name: &str, value: &str) -> Result<()> {
    let path = path(name);
    // To write some of these, even what they are, is to try again and again until nobody changes an interface
    // (`addrconf_sysctl_forward` in the kernel's `net/ipv6/addrconf.c`).
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    // Not made where it is missing: a misspelt name must not pass.
    let written = fs::OpenOptions::new().write(true).open(&path);
    let written = written.and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()));
    written.with_context(|| format!("writing `{value}` to `{path}`"))
}

fn path(name: &str) -> String {
    format!("/proc/sys/net/{name}")
}
