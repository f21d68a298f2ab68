//! Tells the neighbours that an address lives here now: gratuitous ARP (RFC 5227, section 3) and
//! unsolicited neighbour advertisement (RFC 4861, section 7.2.6). Without them, whoever knew the
//! address at another VF goes on sending there until its table forgets.

use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use anyhow::{Context as _, Result};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrLike as _, bind, socket};

use crate::address::Mac;

/// Sends the announcement of each address through an interface of this thread's namespace.
pub fn announce(interface: &str, mac: Mac, addresses: &[IpAddr]) -> Result<()> {
    let mut wire = wire(interface).with_context(|| format!("opening the interface `{interface}`"))?;
    for address in addresses {
        let frame = match *address {
            IpAddr::V4(ip) => arp(mac, ip).to_vec(),
            IpAddr::V6(ip) => advertisement(mac, ip),
        };
        wire.write_all(&frame).with_context(|| format!("announcing {address} through `{interface}`"))?;
    }
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

/// A neighbour advertisement to all nodes, which overrides what they know.
fn advertisement(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    const ICMP: u8 = 58;
    // Type 136, code 0, the checksum's place, the flag "override".
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(ip.octets());
    // The option "target link-layer address", of 8 octets.
    message.extend([2, 1]);
    message.extend(mac.0);
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let pseudo = [&ip.octets()[..], &ALL_NODES.octets(), &[0, 0, 0, length, 0, 0, 0, ICMP]].concat();
    let sum = checksum(&[pseudo, message.clone()].concat());
    message[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac.0);
    // IPv6; version 6, length, next header, hop limit 255, which receivers insist on.
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, length, ICMP, 255]);
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

/// The Internet checksum (RFC 1071) of an even number of octets.
fn checksum(octets: &[u8]) -> u16 {
    let sum: u32 = octets.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded & 0xffff).unwrap_or(0)
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
    fn an_advertisement_has_a_sum_that_receivers_take() {
        let ip: Ipv6Addr = "fd00::7".parse().unwrap();
        let frame = advertisement(MAC, ip);
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(hex(&frame[..22]), "33330000000102000000000786dd6000000000203aff");
        // RFC 1071: the sum over the data with its checksum is all ones, so that its complement is zero.
        let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
        assert_eq!(checksum(&[&pseudo[..], &frame[54..]].concat()), 0);
    }
}
