//! The link to the card: one PF's interface, up and with the host's address.

use anyhow::{Context as _, Result};

use super::Mode;
use crate::address::Cidr;
use crate::netlink::{Change, Link, Netlink};
use crate::service::machine::Machine;
use crate::service::pf::pfs;
use crate::service::report::Report;

pub fn work(machine: &Machine, mode: Mode, report: &mut Report) -> Result<()> {
    let config = &machine.config;
    let pfs = pfs(&machine.files, config.pf)?;
    let Some(pf) = pfs.get(config.link) else {
        report.wrong(format!("there is no PF {} to be the link: this host has {}", config.link, pfs.len()));
        return Ok(());
    };
    let Some(name) = pf.interface(&machine.files)? else {
        report.waits(format!("`{}`, which is the link, has no interface yet", pf.address));
        return Ok(());
    };
    let mut netlink = Netlink::here()?;
    let link = netlink.link(&name)?.with_context(|| format!("there is no interface `{name}`"))?;
    // Two ways to one network: what is meant for the card may leave by the other.
    let others = overlapping(&mut netlink, link.index, config.address)?;
    if !others.is_empty() {
        for (other, address) in others {
            report
                .wrong(format!("`{other}` has {address}, which is in the link's network {}", config.address));
        }
        return Ok(());
    }
    bring_up(&mut netlink, mode, &link, report)?;
    let there = netlink.addresses(link.index)?;
    if there.contains(&config.address) {
        report.found(format!("`{name}` has the address {}", config.address));
    } else if mode == Mode::Look {
        report.wrong(format!("`{name}` lacks its address {}", config.address));
    } else {
        netlink.add_address(link.index, config.address)?;
        report.did(format!("gave `{name}` the address {}", config.address));
    }
    Ok(())
}

fn bring_up(netlink: &mut Netlink, mode: Mode, link: &Link, report: &mut Report) -> Result<()> {
    let name = &link.name;
    if link.up {
        report.found(format!("`{name}` is up"));
    } else if mode == Mode::Look {
        report.wrong(format!("`{name}` is down"));
    } else {
        netlink.change(link.index, &Change { up: Some(true), ..Change::default() })?;
        report.did(format!("brought up `{name}`"));
    }
    Ok(())
}

/// Addresses of other interfaces in the same network, with their interfaces' names.
fn overlapping(netlink: &mut Netlink, index: u32, wanted: Cidr) -> Result<Vec<(String, Cidr)>> {
    let mut found = Vec::new();
    for link in netlink.links()?.into_iter().filter(|link| link.index != index) {
        let addresses = netlink.addresses(link.index)?;
        let same = addresses.into_iter().filter(|address| address.overlaps(wanted));
        found.extend(same.map(|address| (link.name.clone(), address)));
    }
    Ok(found)
}
