//! Tells the neighbours that an address lives here now: gratuitous ARP (RFC 5227, section 3) and
//! unsolicited neighbour advertisement (RFC 4861, section 7.2.6). Without them, whoever knew the
//! address at another VF goes on sending there until its table forgets.
//!
//! Where it can be, the kernel sends the ARP itself: to close a packet socket takes it many milliseconds,
//! for it waits until no processor looks at the socket any more.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::sockopt::Ipv6MulticastHops;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, SockaddrLike as _, bind, sendto,
    setsockopt, socket,
};

use crate::address::Mac;

/// Has the kernel announce the IPv4 addresses that an interface of this thread's namespace has when it goes
/// up with its cable in (`arp_notify` of Documentation/networking/ip-sysctl.rst).
pub fn by_kernel(interface: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{interface}/arp_notify");
    fs::write(&path, "1").with_context(|| format!("writing `1` to `{path}`"))
}

/// Announces IPv4 addresses through an interface of this thread's namespace.
pub fn announce_ipv4(interface: &str, mac: Mac, addresses: &[Ipv4Addr]) -> Result<()> {
    if addresses.is_empty() {
        return Ok(());
    }
    let mut wire = wire(interface).with_context(|| format!("opening the interface `{interface}`"))?;
    for address in addresses {
        let written = wire.write_all(&arp(mac, *address));
        written.with_context(|| format!("announcing {address} through `{interface}`"))?;
    }
    Ok(())
}

/// Announces an IPv6 address through the interface of this number, which has it.
pub fn announce_ipv6(index: u32, mac: Mac, address: Ipv6Addr) -> Result<()> {
    try_announce_ipv6(index, mac, address).with_context(|| format!("announcing {address}"))
}

fn try_announce_ipv6(index: u32, mac: Mac, address: Ipv6Addr) -> Result<()> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // Receivers insist on it.
    const HOPS: i32 = 255;
    let of = |address, scope| SockaddrIn6::from(SocketAddrV6::new(address, 0, 0, scope));
    let socket = socket(AddressFamily::Inet6, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::IcmpV6)?;
    setsockopt(&socket, Ipv6MulticastHops, &HOPS)?;
    let scope = if address.is_unicast_link_local() { index } else { 0 };
    bind(socket.as_raw_fd(), &of(address, scope))?;
    sendto(socket.as_raw_fd(), &advertisement(mac, address), &of(ALL_NODES, index), MsgFlags::empty())?;
    Ok(())
}

/// A socket that writes whole Ethernet frames to an interface.
fn wire(interface: &str) -> Result<File> {
    let link = getifaddrs()?
        .filter(|entry| entry.interface_name == interface)
        .find_map(|entry| entry.address.filter(|address| address.family() == Some(AddressFamily::Packet)))
        .context("there is no such interface")?;
    let link = link.as_link_addr().context("it has no hardware address")?;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
    bind(socket.as_raw_fd(), link)?;
    Ok(File::from(socket))
}

/// An ARP request from an address for itself, which is how hosts have always announced one.
fn arp(mac: Mac, ip: Ipv4Addr) -> [u8; 42] {
    let mut frame = [0; 42];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac.0);
    // ARP; hardware Ethernet, protocol IPv4, lengths 6 and 4, operation "request".
    frame[12..22].copy_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame[22..28].copy_from_slice(&mac.0);
    frame[28..32].copy_from_slice(&ip.octets());
    frame[38..42].copy_from_slice(&ip.octets());
    frame
}

/// A neighbour advertisement that overrides what is known. The kernel fills the sum in.
fn advertisement(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    // Type 136, code 0, the checksum's place, the flag "override".
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip.octets());
    // The option "target link-layer address", of 8 octets.
    message.extend([2, 1]);
    message.extend(mac.0);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([2, 0, 0, 0, 0, 7]);

    fn hex(octets: &[u8]) -> String {
        octets.iter().fold(String::new(), |text, octet| format!("{text}{octet:02x}"))
    }

    #[test]
    fn an_arp_announcement_asks_all_for_its_own_address() {
        assert_eq!(
            hex(&arp(MAC, Ipv4Addr::new(10, 1, 0, 7))),
            "ffffffffffff020000000007080600010800060400010200000000070a01000700000000000\
             00a010007"
        );
    }

    #[test]
    fn an_advertisement_names_the_address_and_where_it_lives() {
        let ip: Ipv6Addr = "fd00::7".parse().unwrap();
        assert_eq!(
            hex(&advertisement(MAC, ip)),
            "8800000020000000fd0000000000000000000000000000070201020000000007"
        );
    }
}
