//! The way of a VF's interface into a pod, and back.

use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::net::if_::if_nametoindex;

use crate::address::{Cidr, Mac};
use crate::announce;
use crate::claims::{Before, Claim};
use crate::cni::Code;
use crate::deadline::Deadline;
use crate::host::Host;
use crate::namespace::Namespace;
use crate::netlink::{Change, Hop, Link, Netlink};

/// What the pod's interface is to have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setting {
    /// Addresses.
    pub addresses: Vec<Cidr>,
    /// Routes, in the order in which they are made.
    pub hops: Vec<Hop>,
}

/// Moves the interface of this number into the pod, where it gets its name. It stays down.
pub fn hand_over(netlink: &mut Netlink, index: u32, pod: &Namespace, name: &str) -> Result<()> {
    netlink.change(index, &Change { namespace: Some(pod.as_fd()), name: Some(name), ..Change::default() })
}

/// Sets a claim's interface up in the pod.
pub fn set_up(claim: &Claim, pod: &Namespace, setting: &Setting, deadline: Deadline) -> Result<Link> {
    let name = &claim.attachment.interface;
    pod.within(|| {
        let mut inside = Netlink::here()?;
        // Unlike netlink, this does not wait for interfaces that are being moved.
        let index =
            if_nametoindex(name.as_str()).with_context(|| format!("`{name}` did not arrive in the pod"))?;
        let (ipv6, ipv4): (Vec<Cidr>, Vec<Cidr>) =
            setting.addresses.iter().copied().partition(|address| address.address().is_ipv6());
        if !ipv6.is_empty() {
            prepare_ipv6(name)?;
        }
        announce::by_kernel(name)?;
        for address in ipv4 {
            inside.add_address(index, address)?;
        }
        inside.change(index, &Change { up: Some(true), ..Change::default() })?;
        for address in ipv6 {
            inside.add_address(index, address)?;
        }
        for hop in &setting.hops {
            inside.add_hop(index, *hop)?;
        }
        let (link, was_in) = wait_for_carrier(&mut inside, name, deadline)?;
        if let Err(error) = announce_all(&link, claim.before.mac, setting, was_in) {
            // The neighbours find out by themselves, only later.
            tracing::warn!("{error:#}");
        }
        Ok(link)
    })
}

/// Runtimes switch IPv6 off in pods that had none; and addresses and routes of a pod come from us alone.
fn prepare_ipv6(name: &str) -> Result<()> {
    for (attribute, value) in [("disable_ipv6", "0"), ("accept_ra", "0")] {
        // The folder shows the interfaces of the namespace of the thread that opens it.
        let path = format!("/proc/sys/net/ipv6/conf/{name}/{attribute}");
        // To write it, even what it is, is to try again and again until nobody changes an interface.
        if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
            continue;
        }
        fs::write(&path, value).with_context(|| format!("writing `{value}` to `{path}`"))?;
    }
    Ok(())
}

/// Announces what the kernel has not: of IPv4, what it tried before the cable was in.
fn announce_all(link: &Link, mac: Mac, setting: &Setting, was_in: bool) -> Result<()> {
    let mut late = Vec::new();
    for address in &setting.addresses {
        match address.address() {
            IpAddr::V4(ip) if !was_in => late.push(ip),
            IpAddr::V4(_) => {}
            IpAddr::V6(ip) => announce::announce_ipv6(link.index, mac, ip)?,
        }
    }
    announce::announce_ipv4(&link.name, mac, &late)
}

/// Waits a little for the cable: what is sent before is lost. True where it was in from the first.
fn wait_for_carrier(inside: &mut Netlink, name: &str, deadline: Deadline) -> Result<(Link, bool)> {
    const PATIENCE: Duration = Duration::from_millis(250);
    let mut look = || inside.link(name)?.with_context(|| format!("`{name}` has gone"));
    let link = look()?;
    // A cable that is in when the interface goes up carries packets at once; for one that comes later, the
    // kernel has to take note first.
    if link.carrier {
        return Ok((link, true));
    }
    let running = deadline.at_most(PATIENCE).wait_for(|| Ok(Some(look()?).filter(|link| link.running)))?;
    if running.is_none() {
        tracing::warn!("no carrier after {PATIENCE:?}, the pod starts without");
    }
    Ok((running.unwrap_or(link), false))
}

/// Gets a claim's interface back from wherever it is, and makes it what it was.
///
/// # Errors
/// Where it is nowhere to be found until the deadline, and its device is still there; and where the
/// kernel does not let it be changed.
pub fn bring_back(host: &mut Host, claim: &Claim, deadline: Deadline) -> Result<()> {
    let vf = &claim.vf;
    let fetched = fetch(host, claim, deadline);
    // A namespace that has just ended gives its interfaces back a moment later.
    let patience = if fetched.is_ok() { deadline } else { deadline.at_most(Duration::ZERO) };
    let link = patience.wait_for(|| {
        Ok(match host.interface(vf)? {
            None if !vf.exists(&host.files) => Some(None),
            link => link.map(Some),
        })
    })?;
    match link {
        Some(Some(link)) => restore(&mut host.netlink, &link, &claim.before).context(Code::KERNEL),
        Some(None) => {
            tracing::warn!(vf = vf.address, "the VF itself has gone, there is nothing to bring back");
            Ok(())
        }
        None => fetched.context(Code::KERNEL).and_then(|()| {
            bail!(
                "the interface of `{}` is neither the host's nor the pod's: is its driver bound?",
                vf.address
            )
        }),
    }
}

/// Takes the interface out of the pod, if it is there, under whatever name it has by now.
fn fetch(host: &Host, claim: &Claim, deadline: Deadline) -> Result<()> {
    let pod = claim.namespace.open(&host.files)?;
    let Some(pod) = pod.filter(|pod| !pod.is(&host.namespace)) else { return Ok(()) };
    let mut inside = Netlink::inside(&pod)?;
    let Some(link) = find(&mut inside, claim)? else { return Ok(()) };
    let _turn = host.store.turn_to_move(deadline);
    let back =
        |name| Change { namespace: Some(host.namespace.as_fd()), name: Some(name), ..Change::default() };
    inside.change(link.index, &back(&claim.before.name)).or_else(|error| {
        // Its name may be another interface's by now: better back under any name than not back.
        tracing::warn!("bringing the interface back: {error:#}");
        inside.change(link.index, &back("dpu%d"))
    })
}

/// The claim's interface among those of a namespace.
pub fn find(inside: &mut Netlink, claim: &Claim) -> Result<Option<Link>> {
    let links = inside.links()?;
    // Where the kernel does not tell the device, the address does, or else the name: a pod may change both.
    let untold = |link: &&Link| link.device.is_none();
    let found = links
        .iter()
        .find(|link| link.device.as_ref() == Some(&claim.vf.address))
        .or_else(|| links.iter().filter(untold).find(|link| link.mac == Some(claim.before.mac)))
        .or_else(|| links.iter().filter(untold).find(|link| link.name == claim.attachment.interface));
    Ok(found.cloned())
}

/// Makes an interface what it was; only what differs is touched, for drivers refuse some changes.
fn restore(netlink: &mut Netlink, link: &Link, before: &Before) -> Result<()> {
    let is_as_before = |link: &Link| {
        (link.name.as_str(), link.mac, link.mtu) == (before.name.as_str(), Some(before.mac), before.mtu)
    };
    if link.up == before.up && is_as_before(link) {
        return Ok(());
    }
    if link.up {
        // Up, neither name nor hardware address can be changed on all kernels and drivers.
        netlink.change(link.index, &Change { up: Some(false), ..Change::default() })?;
    }
    let change = Change {
        mac: (link.mac != Some(before.mac)).then_some(before.mac),
        mtu: (link.mtu != before.mtu).then_some(before.mtu),
        up: before.up.then_some(true),
        ..Change::default()
    };
    netlink.change(link.index, &change)?;
    if link.name != before.name {
        let renamed = netlink.change(link.index, &Change { name: Some(&before.name), ..Change::default() });
        if let Err(error) = renamed {
            // The name is another interface's by now. A VF serves under any name.
            tracing::warn!("`{}` was `{}` before: {error:#}", link.name, before.name);
        }
    }
    Ok(())
}

/// What is told of a VF's interface before a pod gets it.
///
/// # Errors
/// Where it has no hardware address of its own: neighbours could not find it.
pub fn as_it_is(link: &Link) -> Result<Before> {
    let mac = link.mac.filter(|mac: &Mac| mac.is_usable());
    let mac = mac.with_context(|| format!("`{}` has no hardware address", link.name))?;
    Ok(Before { name: link.name.clone(), mac, mtu: link.mtu, up: link.up })
}
