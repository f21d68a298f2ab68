//! Addresses as text: hardware addresses, and IP addresses with a prefix.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A hardware address of Ethernet, written `02:00:00:00:00:07`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Whether it can be the address of one interface: neither zero nor a group's.
    pub fn is_usable(self) -> bool {
        self.0 != [0; 6] && self.0[0] & 1 == 0
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is no hardware address", text.escape_debug());
        let mut octets = [0; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part =
                parts.next().filter(|part| part.len() == 2 && !part.starts_with('+')).ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self(octets))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, octet) in self.0.iter().enumerate() {
            write!(f, "{}{octet:02x}", if at > 0 { ":" } else { "" })?;
        }
        Ok(())
    }
}

/// An IP address with the length of its prefix, written `10.1.0.7/32`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// An address with a prefix; none where the prefix is longer than the address.
    pub fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        (prefix <= bits(address)).then_some(Self { address, prefix })
    }

    /// This one address, with the whole as its prefix.
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: bits(address) }
    }

    /// Everything of the address's family.
    pub fn everything_like(address: IpAddr) -> Self {
        let address = match address {
            IpAddr::V4(_) => IpAddr::from([0; 4]),
            IpAddr::V6(_) => IpAddr::from([0; 16]),
        };
        Self { address, prefix: 0 }
    }

    /// The address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The length of the prefix, in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether there is an address that is in both networks.
    pub fn overlaps(self, other: Self) -> bool {
        let whole = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        let differing = whole(self.address) ^ whole(other.address);
        self.address.is_ipv4() == other.address.is_ipv4()
            && differing.leading_zeros() >= u32::from(self.prefix.min(other.prefix))
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is no address with a prefix, like `10.1.0.7/32`", text.escape_debug());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let prefix = prefix.parse().ok().filter(|_| !prefix.starts_with('+')).ok_or_else(wrong)?;
        Self::new(address, prefix).ok_or_else(wrong)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Debugs, writes and reads a type as its text.
macro_rules! as_text {
    ($type:ty) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(D::Error::custom)
            }
        }
    };
}
as_text!(Mac);
as_text!(Cidr);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_hardware_address_is_read_as_it_is_written(octets: [u8; 6]) {
            prop_assert_eq!(Mac(octets).to_string().parse(), Ok(Mac(octets)));
        }

        #[test]
        fn an_address_with_a_prefix_is_read_as_it_is_written(address: IpAddr, prefix in 0_u8..=32) {
            let cidr = Cidr { address, prefix };
            prop_assert_eq!(cidr.to_string().parse(), Ok(cidr));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = text.parse::<Mac>();
            let _ = text.parse::<Cidr>();
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "02:00:00:00:00", "02:00:00:00:00:07:08", "2:0:0:0:0:7", "+2:00:00:00:00:07"] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
        for text in ["", "10.0.0.1", "10.0.0.1/33", "::1/129", "10.0.0.1/-1", "10.0.0/8", "10.0.0.1/+8"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn networks_overlap_where_one_is_in_the_other() {
        for (one, other, overlap) in [
            ("192.168.1.2/24", "192.168.1.77/32", true),
            ("192.168.1.2/24", "192.168.0.1/16", true),
            ("192.168.1.2/24", "192.168.2.1/24", false),
            ("10.0.0.1/0", "192.168.2.1/24", true),
            ("fd00::1/64", "fd00::2/64", true),
            ("fd00::1/64", "fd00:0:0:1::1/64", false),
            ("::/0", "10.0.0.1/8", false),
        ] {
            let (one, other): (Cidr, Cidr) = (one.parse().unwrap(), other.parse().unwrap());
            assert_eq!((one.overlaps(other), other.overlaps(one)), (overlap, overlap), "{one} {other}");
        }
    }

    #[test]
    fn groups_and_zero_are_no_address_of_an_interface() {
        for (text, usable) in
            [("00:00:00:00:00:00", false), ("ff:ff:ff:ff:ff:ff", false), ("02:00:00:00:00:07", true)]
        {
            assert_eq!(text.parse::<Mac>().unwrap().is_usable(), usable, "{text}");
        }
    }
}
