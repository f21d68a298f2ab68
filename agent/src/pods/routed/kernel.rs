//! What the routed network has in the kernel: routes to pods, their neighbour entries, and the gateways'
//! addresses on VFs, through rtnetlink.
//!
//! Routes and addresses carry [`OURS`], so that ours are told from others', whatever is in the state on the disk.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::sync::Mutex;
use tokio_stream::{Stream, StreamExt as _};

/// The number by which our routes and addresses are known (`rtm_protocol`, `IFA_PROTO`): none of those in
/// iproute2's `rt_protos`.
pub const OURS: u8 = 177;

/// The interface group of pods' VFs, by which the firewall knows them (`etc/nftables.conf` of the image).
pub const GROUP: u32 = 78;

/// An address that an interface has or leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The interface's number.
    pub interface: u32,
    /// The address.
    pub address: IpAddr,
}

/// An interface.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    /// Its number.
    pub index: u32,
    /// Whether it is up.
    pub up: bool,
    /// Its group.
    pub group: u32,
}

/// The kernel's tables, of the network namespace in which this was made.
pub struct Kernel {
    handles: Vec<Handle>,
    /// Whose turn it is.
    next: AtomicUsize,
    /// Held while a table is told, by the first way: the kernel tells one at a time on a socket, and is busy for
    /// others.
    telling: Mutex<()>,
}

/// How many ways to the kernel there are: the kernel makes whoever asks for a change wait for all who changed
/// interfaces before, which for some takes it tens of milliseconds, and other calls are to go on meanwhile.
const WAYS: usize = 4;

impl Kernel {
    /// Opens the ways to the kernel.
    pub fn connect() -> Result<Self> {
        let handles = (0..WAYS).map(|_| open()).collect::<Result<_>>()?;
        Ok(Self { handles, next: AtomicUsize::new(0), telling: Mutex::new(()) })
    }

    fn handle(&self) -> &Handle {
        &self.handles[self.next.fetch_add(1, Ordering::Relaxed) % WAYS]
    }

    /// The interface of this name.
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        let asked = self.handle().link().get().match_name(name.to_owned()).execute();
        match first(asked).await {
            Ok(found) => Ok(found.map(|message| Link {
                index: message.header.index,
                up: message.header.flags.contains(LinkFlags::Up),
                group: message.attributes.iter().find_map(group).unwrap_or_default(),
            })),
            Err(error) if error.raw_os_error() == Some(ENODEV) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("asking for the interface `{name}`")),
        }
    }

    /// Puts an interface into [`GROUP`], and brings it up.
    pub async fn bring_up(&self, index: u32) -> Result<()> {
        let group = LinkAttribute::Group(GROUP);
        let order = LinkUnspec::new_with_index(index).append_extra_attribute(group).up().build();
        done(self.handle().link().set(order).execute().await)
            .with_context(|| format!("bringing up interface {index}"))
    }

    /// Lets an interface answer for a gateway's address, which the kernel is not to look for elsewhere first.
    pub async fn add_gateway(&self, at: At) -> Result<()> {
        let mut order = self.handle().address().add(at.interface, at.address, bits(at.address)).replace();
        let message = order.message_mut();
        // Of the link alone: never a source towards others.
        message.header.scope = AddressScope::Link;
        message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(OURS)));
        if at.address.is_ipv6() {
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        done(order.execute().await).with_context(|| format!("adding the gateway {at:?}"))
    }

    /// Takes a gateway's address away; it may be gone.
    pub async fn del_gateway(&self, at: At) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(at.address);
        message.header.prefix_len = bits(at.address);
        message.header.index = at.interface;
        message.attributes.push(AddressAttribute::Local(at.address));
        unless_gone(self.handle().address().del(message).execute().await)
            .with_context(|| format!("deleting the gateway {at:?}"))
    }

    /// The gateways' addresses that are ours.
    pub async fn gateways(&self) -> Result<Vec<At>> {
        let _telling = self.telling.lock().await;
        let all = all(self.handles[0].address().get().execute()).await.context("listing the addresses")?;
        Ok(all.iter().filter_map(gateway).collect())
    }

    /// Says which hardware address a pod has, so that it is never asked for.
    pub async fn add_neighbour(&self, at: At, mac: [u8; 6]) -> Result<()> {
        let order =
            self.handle().neighbours().add(at.interface, at.address).link_layer_address(&mac).replace();
        done(order.execute().await).with_context(|| format!("adding the neighbour {at:?}"))
    }

    /// Forgets a pod's hardware address; it may be forgotten.
    pub async fn del_neighbour(&self, at: At) -> Result<()> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(at.address);
        message.header.ifindex = at.interface;
        message.attributes.push(NeighbourAttribute::Destination(match at.address {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        }));
        unless_gone(self.handle().neighbours().del(message).execute().await)
            .with_context(|| format!("deleting the neighbour {at:?}"))
    }

    /// Leads a pod's address to an interface, from wherever it led before.
    pub async fn add_route(&self, at: At) -> Result<()> {
        done(self.handle().route().add(route_to(at)).replace().execute().await)
            .with_context(|| format!("adding the route {at:?}"))
    }

    /// Deletes the route to a pod's address through this interface; it may be gone, or lead elsewhere.
    pub async fn del_route(&self, at: At) -> Result<()> {
        unless_gone(self.handle().route().del(route_to(at)).execute().await)
            .with_context(|| format!("deleting the route {at:?}"))
    }

    /// The routes that are ours.
    pub async fn routes(&self) -> Result<Vec<At>> {
        let _telling = self.telling.lock().await;
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut ask = RouteMessage::default();
            ask.header.address_family = family;
            ask.header.protocol = RouteProtocol::Other(OURS);
            let all = all(self.handles[0].route().get(ask).execute()).await.context("listing the routes")?;
            found.extend(all.iter().filter_map(route));
        }
        Ok(found)
    }
}

/// Opens a way to the kernel, with a thread of its own.
fn open() -> Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    let runtime = runtime.context("starting the runtime for netlink")?;
    // Strict: the kernel then filters by protocol, and a table of thousands of routes is not told.
    let opened = {
        let _inside = runtime.enter();
        rtnetlink::new_connection_with_strict_check()
    };
    let (connection, handle, _) = opened.context("opening a netlink socket")?;
    // It ends when the handle is gone.
    let thread = std::thread::Builder::new().name("netlink".into());
    thread.spawn(move || runtime.block_on(connection)).context("starting a thread for netlink")?;
    Ok(handle)
}

const ENODEV: i32 = 19;
const ESRCH: i32 = 3;

fn group(attribute: &LinkAttribute) -> Option<u32> {
    match attribute {
        LinkAttribute::Group(group) => Some(*group),
        _ => None,
    }
}

fn route_to(at: At) -> RouteMessage {
    let mut message = match at.address {
        IpAddr::V4(ip) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32).build(),
        IpAddr::V6(ip) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128).build(),
    };
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(OURS);
    message.header.scope = RouteScope::Link;
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Oif(at.interface));
    message
}

fn route(message: &RouteMessage) -> Option<At> {
    let (mut address, mut interface) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(ip)) => address = Some(IpAddr::V4(*ip)),
            RouteAttribute::Destination(RouteAddress::Inet6(ip)) => address = Some(IpAddr::V6(*ip)),
            RouteAttribute::Oif(index) => interface = Some(*index),
            _ => {}
        }
    }
    let header = &message.header;
    let is_ours = header.protocol == RouteProtocol::Other(OURS) && header.table == RouteHeader::RT_TABLE_MAIN;
    let at = At { interface: interface?, address: address? };
    (is_ours && header.destination_prefix_length == bits(at.address)).then_some(at)
}

fn gateway(message: &AddressMessage) -> Option<At> {
    let attributes = &message.attributes;
    let is_ours = attributes.contains(&AddressAttribute::Protocol(AddressProtocol::Other(OURS)));
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        _ => None,
    });
    // IPv6 has the address in `Address` alone.
    let other = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(ip) => Some(*ip),
        _ => None,
    });
    let address = local.or(other)?;
    is_ours.then_some(At { interface: message.header.index, address })
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

async fn first<T>(answers: impl Stream<Item = Result<T, rtnetlink::Error>>) -> io::Result<Option<T>> {
    let mut answers = pin!(answers);
    answers.next().await.transpose().map_err(plain)
}

async fn all<T>(answers: impl Stream<Item = Result<T, rtnetlink::Error>>) -> io::Result<Vec<T>> {
    let mut answers = pin!(answers);
    let mut found = Vec::new();
    while let Some(answer) = answers.next().await {
        found.push(answer.map_err(plain)?);
    }
    Ok(found)
}

fn done(answer: Result<(), rtnetlink::Error>) -> io::Result<()> {
    answer.map_err(plain)
}

/// That what is to be deleted is gone is told in several ways.
fn unless_gone(answer: Result<(), rtnetlink::Error>) -> io::Result<()> {
    match done(answer) {
        Err(error)
            if matches!(error.raw_os_error(), Some(ENODEV | ESRCH))
                || matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AddrNotAvailable) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The kernel's own words, without the message around them.
fn plain(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
