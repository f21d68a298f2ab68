//! CHECK: a pod's network is as ADD left it.

use anyhow::{Context as _, Result, ensure};

use crate::card::{Cards, messages};
use crate::claims::Claim;
use crate::cni::{Code, Interface, Invocation, Outcome, Version};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::device;
use crate::host::Host;
use crate::ipam::Ipam;
use crate::namespace::Namespace;
use crate::netlink::Netlink;

/// Compares a pod's interface with `prevResult`, and has the card and the IPAM plugin compare theirs.
///
/// # Errors
/// [`Code::DIFFERENT`] where something is not as it was, [`Code::TRY_AGAIN`] where the card cannot be
/// asked, which says nothing of the pod's network.
pub fn check(host: &mut Host, call: &Invocation, config: &Config, deadline: Deadline) -> Result<()> {
    config.version.must_know("CHECK", Version::V0_4_0)?;
    let previous = config.previous()?;
    let attachment = call.attachment()?;
    let namespace = Namespace::open(call.namespace.as_deref().unwrap_or_else(|| "".as_ref()))?;
    let _lock = host.store.lock(attachment, deadline)?;
    let claim = host.store.claim(attachment)?;
    let claim = claim.ok_or_else(|| Code::DIFFERENT.because("no VF is claimed for this interface"))?;
    compare(&claim, &namespace, &previous).context(Code::DIFFERENT)?;
    if let Some(plugin) = &config.ipam {
        Ipam { call, plugin, config }.check(attachment, deadline)?;
    }
    let mut cards = Cards::default();
    let checked = cards.of(&config.agent)?.check(&messages::check(&claim), deadline);
    checked.map_err(|error| match error.downcast_ref() {
        Some(&Code::REFUSED) => error.context(Code::DIFFERENT),
        _ => error,
    })
}

fn compare(claim: &Claim, namespace: &Namespace, previous: &Outcome) -> Result<()> {
    let name = &claim.attachment.interface;
    let mut inside = Netlink::inside(namespace)?;
    let link = device::find(&mut inside, claim)?;
    let link = link.with_context(|| format!("the VF `{}` is not in the pod", claim.vf.address))?;
    ensure!(link.name == *name, "the interface is called `{}`, and was called `{name}`", link.name);
    ensure!(link.up, "`{name}` is down");
    let is_ours = |interface: &&Interface| interface.name == *name && interface.sandbox.is_some();
    let at = previous.interfaces.iter().position(|interface| is_ours(&interface));
    let at = at.with_context(|| format!("`prevResult` knows no interface `{name}` of the pod"))?;
    let mac = previous.interfaces[at].mac;
    ensure!(
        mac.is_none() || mac == link.mac,
        "`{name}` has the hardware address {:?}, and had {mac:?}",
        link.mac
    );

    let addresses = inside.addresses(link.index)?;
    let hops = inside.hops(link.index)?;
    let ours = previous.ips.iter().filter(|ip| ip.interface == Some(at));
    for ip in ours {
        ensure!(addresses.contains(&ip.address), "`{name}` has lost the address {}", ip.address);
        let by_it = previous.routes.iter().filter(|route| route.gw.is_some() && route.gw == ip.gateway);
        for route in by_it {
            let is_there = hops.iter().any(|hop| (hop.to, hop.gateway) == (route.dst, route.gw));
            ensure!(is_there, "`{name}` has lost the route to {}", route.dst);
        }
    }
    Ok(())
}
