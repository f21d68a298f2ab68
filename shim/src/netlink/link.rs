//! Interfaces.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use anyhow::{Context as _, Result};
use netlink_packet_route::link::{LinkAttribute, LinkExtentMask, LinkFlags, LinkMessage};

use super::Netlink;
use super::message::Message;
use crate::address::Mac;

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address; none where it is not Ethernet's.
    pub mac: Option<Mac>,
    /// The largest packet, in octets.
    pub mtu: u32,
    /// Whether it is to be up.
    pub up: bool,
    /// Whether its cable is in.
    pub carrier: bool,
    /// Whether the kernel has taken note of that, and lets packets through.
    pub running: bool,
    /// The device that it belongs to, by its PCI address; none for virtual ones, and on kernels before
    /// 5.14.
    pub device: Option<String>,
}

/// What is to become of an interface. What is not said stays.
#[derive(Debug, Default)]
pub struct Change<'a> {
    /// The namespace that it moves to.
    pub namespace: Option<BorrowedFd<'a>>,
    /// Its name.
    pub name: Option<&'a str>,
    /// Its hardware address.
    pub mac: Option<Mac>,
    /// The largest packet, in octets.
    pub mtu: Option<u32>,
    /// Whether it is up.
    pub up: Option<bool>,
}

impl Netlink {
    /// All interfaces.
    pub fn links(&mut self) -> Result<Vec<Link>> {
        let mut ask = LinkMessage::default();
        ask.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let all = self.ask_all(&Message::GetLink(ask)).context("listing the interfaces")?;
        Ok(all.into_iter().filter_map(link).collect())
    }

    /// The interface of this name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let mut ask = LinkMessage::default();
        ask.attributes.push(LinkAttribute::IfName(name.to_owned()));
        ask.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        let found = self.ask_one(Message::GetLink(ask));
        Ok(found.with_context(|| format!("asking for the interface `{name}`"))?.and_then(link))
    }

    /// Changes an interface. The kernel moves it first, then does the rest where it is then.
    pub fn change(&mut self, index: u32, change: &Change) -> Result<()> {
        let mut order = LinkMessage::default();
        order.header.index = index;
        if let Some(up) = change.up {
            order.header.change_mask = LinkFlags::Up;
            order.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
        }
        let attributes = &mut order.attributes;
        attributes.extend(change.namespace.map(|namespace| LinkAttribute::NetNsFd(namespace.as_raw_fd())));
        attributes.extend(change.name.map(|name| LinkAttribute::IfName(name.to_owned())));
        attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        self.order(Message::SetLink(order), 0)
            .with_context(|| format!("changing interface {index}: {change:?}"))
    }
}

fn link(message: Message) -> Option<Link> {
    let Message::Link(message) = message else { return None };
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        running: flags.contains(LinkFlags::LowerUp | LinkFlags::Running),
        device: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(octets) => link.mac = octets.try_into().ok().map(Mac),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::ParentDevName(device) => link.device = Some(device),
            _ => {}
        }
    }
    Some(link)
}
