//! Addresses and routes.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteScope,
    RouteType,
};

use super::Netlink;
use super::message::Message;
use crate::address::Cidr;

/// A route through one interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hop {
    /// Where it leads.
    pub to: Cidr,
    /// The gateway; none on the link.
    pub gateway: Option<IpAddr>,
    /// The largest packet, in octets.
    pub mtu: Option<u32>,
}

impl Netlink {
    /// Gives an interface an address, which may be used at once: nobody else can have it, so the kernel
    /// is not to look for others that do.
    pub fn add_address(&mut self, index: u32, address: Cidr) -> Result<()> {
        let ip = address.address();
        let mut order = AddressMessage::default();
        order.header.family = family(ip);
        order.header.prefix_len = address.prefix();
        order.header.index = index;
        if ip.is_ipv6() {
            order.header.flags = AddressHeaderFlags::Nodad;
            order.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        order.attributes.push(AddressAttribute::Local(ip));
        order.attributes.push(AddressAttribute::Address(ip));
        self.order(Message::Address(order), NLM_F_CREATE | NLM_F_EXCL)
            .with_context(|| format!("adding the address {address}"))
    }

    /// The addresses of an interface.
    pub fn addresses(&mut self, index: u32) -> Result<Vec<Cidr>> {
        let ask = Message::GetAddresses(AddressMessage::default());
        let all = self.ask_all(&ask).context("listing the addresses")?;
        Ok(all.into_iter().filter_map(|message| address(message, index)).collect())
    }

    /// Adds a route through an interface.
    pub fn add_hop(&mut self, index: u32, hop: Hop) -> Result<()> {
        let mut order = RouteMessage::default();
        order.header = RouteHeader {
            address_family: family(hop.to.address()),
            destination_prefix_length: hop.to.prefix(),
            table: RouteHeader::RT_TABLE_MAIN,
            protocol: RouteProtocol::Static,
            scope: if hop.gateway.is_some() { RouteScope::Universe } else { RouteScope::Link },
            kind: RouteType::Unicast,
            ..RouteHeader::default()
        };
        order.attributes.push(RouteAttribute::Oif(index));
        if hop.to.prefix() > 0 {
            order.attributes.push(RouteAttribute::Destination(hop.to.address().into()));
        }
        order.attributes.extend(hop.gateway.map(|gateway| RouteAttribute::Gateway(gateway.into())));
        order.attributes.extend(hop.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
        self.order(Message::Route(order), NLM_F_CREATE | NLM_F_EXCL)
            .with_context(|| format!("adding the route {hop:?}"))
    }

    /// The routes through an interface, of both families, in the main table.
    pub fn hops(&mut self, index: u32) -> Result<Vec<Hop>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut ask = RouteMessage::default();
            ask.header.address_family = family;
            let all = self.ask_all(&Message::GetRoutes(ask)).context("listing the routes")?;
            found.extend(all.into_iter().filter_map(|message| hop(message, index)));
        }
        Ok(found)
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn address(message: Message, index: u32) -> Option<Cidr> {
    let Message::Address(message) = message else { return None };
    if message.header.index != index {
        return None;
    }
    let of = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(ip) => Some((1, *ip)),
        AddressAttribute::Address(ip) => Some((2, *ip)),
        _ => None,
    };
    // For IPv4, `Address` is the other end's where there is one, and `Local` is ours.
    let (_, ip) = message.attributes.iter().filter_map(of).min()?;
    Cidr::new(ip, message.header.prefix_len)
}

fn hop(message: Message, index: u32) -> Option<Hop> {
    let Message::Route(message) = message else { return None };
    if message.header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let nowhere = match message.header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        _ => IpAddr::from([0; 16]),
    };
    let (mut to, mut gateway, mut mtu, mut through) = (nowhere, None, None, None);
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(ip) => to = address_of(&ip)?,
            RouteAttribute::Gateway(ip) => gateway = address_of(&ip),
            RouteAttribute::Oif(index) => through = Some(index),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let to = Cidr::new(to, message.header.destination_prefix_length)?;
    (through == Some(index)).then_some(Hop { to, gateway, mtu })
}

fn address_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
