//! Values that are read from text once, and cannot be wrong afterwards.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Vendor and device of a PCI function, written as `177d:a080`: four hexadecimal digits each, as
/// `lspci -n` shows them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PciId {
    vendor: u16,
    device: u16,
}

/// A number of bytes, never zero, written with a binary unit: `32MiB`, `1GiB`, `64KiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Size(u64);

/// An address with the length of its network's prefix: `192.168.1.1/24`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceAddress {
    address: IpAddr,
    prefix: u8,
}

/// A network that addresses are taken from: `10.244.0.0/24`, `fd00:10:244::/64`. It has room for two pods at
/// least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

/// The end of a host name: letters, digits and hyphens, at most 32, not ending in a hyphen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostSuffix(String);

impl PciId {
    /// The id of a vendor's device.
    pub const fn new(vendor: u16, device: u16) -> Self {
        Self { vendor, device }
    }

    /// The vendor's number, as in sysfs' `vendor`.
    pub fn vendor(self) -> u16 {
        self.vendor
    }

    /// The device's number, as in sysfs' `device`.
    pub fn device(self) -> u16 {
        self.device
    }
}

impl FromStr for PciId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = |part: &str| {
            (part.len() == 4 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
                .then(|| u16::from_str_radix(part, 16).ok())
                .flatten()
        };
        text.split_once(':')
            .and_then(|(vendor, device)| Some(Self { vendor: digits(vendor)?, device: digits(device)? }))
            .ok_or_else(|| format!("`{text}` is not a PCI id: write vendor and device as `177d:a080`"))
    }
}

impl fmt::Display for PciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

const UNITS: [(&str, u32); 4] = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];

impl Size {
    /// A size of so many bytes; none where that is zero.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes == 0 { None } else { Some(Self(bytes)) }
    }

    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size: write a number and KiB, MiB, GiB or TiB, as `32MiB`");
        let (unit, shift) = UNITS.iter().find(|(unit, _)| text.ends_with(unit)).ok_or_else(wrong)?;
        let digits = &text[..text.len() - unit.len()];
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .and_then(Self::new)
            .ok_or_else(|| format!("`{text}` is out of range: a size is from 1KiB to less than 16777216TiB"))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match UNITS.iter().find(|(_, shift)| self.0.trailing_zeros() >= *shift) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{} bytes", self.0),
        }
    }
}

impl InterfaceAddress {
    /// The address itself.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits of the address name the network.
    pub fn prefix(self) -> u8 {
        self.prefix
    }
}

impl FromStr for InterfaceAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not an interface address: write address and prefix length as `192.168.1.1/24`"
            )
        };
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let prefix = prefix.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        if prefix == 0 || prefix > most {
            return Err(format!("`{text}` has a prefix length that is not from 1 to {most}"));
        }
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(format!("`{text}` cannot be an interface's address: it is not of one other machine"));
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for InterfaceAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Subnet {
    /// The network's own address, the lowest.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// How many bits of the address name the network.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether an address lies in it.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && lowest(address, self.prefix) == self.address
    }
}

/// The lowest address that has the same first bits.
fn lowest(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Ipv4Addr::from_bits(ip.to_bits() & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            Ipv6Addr::from_bits(ip.to_bits() & mask).into()
        }
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a subnet: write it as `10.244.0.0/24`");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 30 } else { 126 };
        if !(8..=most).contains(&prefix) {
            return Err(format!("`{text}` has a prefix length that is not from 8 to {most}"));
        }
        if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
            return Err(format!("`{text}` has no addresses for pods"));
        }
        let first = lowest(address, prefix);
        if first != address {
            return Err(format!("`{text}` is an address in a subnet: write `{first}/{prefix}`"));
        }
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl HostSuffix {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for HostSuffix {
    fn default() -> Self {
        Self("-dpu".to_owned())
    }
}

impl FromStr for HostSuffix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let letters = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if text.is_empty() || text.len() > 32 || !letters || text.ends_with('-') {
            return Err(format!(
                "`{text}` cannot end a host name: write letters, digits and hyphens, at most 32, as `-dpu`"
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for HostSuffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text is how all of these are written in TOML.
macro_rules! written_as_text {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> Self {
                value.to_string()
            }
        }
    )*};
}

written_as_text!(PciId, Size, InterfaceAddress, Subnet, HostSuffix);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_a_pci_id_is_refused() {
        for text in ["", "177d", "177d:", "177d:a08", "177d:a0800", "+77d:a080", "177d:a080:1", "177g:a080"] {
            assert!(text.parse::<PciId>().is_err(), "{text}");
        }
        assert_eq!("177D:A080".parse(), Ok(PciId::new(0x177d, 0xa080)));
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for text in ["", "MiB", "0MiB", "32", "32MB", "32 MiB", "-1MiB", "+1MiB", "1.5GiB", "99999999TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
        assert_eq!("1024MiB".parse::<Size>().unwrap().to_string(), "1GiB");
    }

    #[test]
    fn what_is_not_an_interface_address_is_refused() {
        for text in [
            "192.168.1.1",
            "192.168.1.1/",
            "192.168.1.1/0",
            "192.168.1.1/33",
            "192.168.1.1/+4",
            "192.168.1/24",
            "0.0.0.0/24",
            "127.0.0.1/8",
            "224.0.0.1/8",
            "fd00::1/129",
            "/24",
        ] {
            assert!(text.parse::<InterfaceAddress>().is_err(), "{text}");
        }
        assert_eq!("fd00::1/64".parse::<InterfaceAddress>().unwrap().prefix(), 64);
    }

    #[test]
    fn what_is_not_a_subnet_is_refused() {
        for text in
            ["10.0.0.0", "10.0.0.0/31", "10.0.0.0/7", "0.0.0.0/8", "127.0.0.0/8", "fd00::/127", "fd00::/+64"]
        {
            assert!(text.parse::<Subnet>().is_err(), "{text}");
        }
        let error = "fd00::1:0:0:0:5/64".parse::<Subnet>().unwrap_err();
        assert!(error.contains("write `fd00:0:0:1::/64`"), "{error}");
    }

    #[test]
    fn a_subnet_knows_its_addresses() {
        let subnet: Subnet = "10.244.3.0/24".parse().unwrap();
        for (address, inside) in [("10.244.3.255", true), ("10.244.4.0", false), ("fd00::1", false)] {
            assert_eq!(subnet.contains(address.parse().unwrap()), inside, "{address}");
        }
    }

    #[test]
    fn what_cannot_end_a_host_name_is_refused() {
        for text in ["", "-", "_dpu", "-dpü", ".dpu", &"a".repeat(33)] {
            assert!(text.parse::<HostSuffix>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn values_are_read_as_they_were_written(vendor: u16, device: u16, bytes in 1..=u64::MAX >> 10) {
            let id = PciId::new(vendor, device);
            prop_assert_eq!(id.to_string().parse(), Ok(id));
            let size = Size::new(bytes << 10).unwrap();
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,24}") {
            let _ = text.parse::<PciId>();
            let _ = text.parse::<Size>();
            let _ = text.parse::<HostSuffix>();
            let _ = text.parse::<Subnet>();
            if let Ok(address) = text.parse::<InterfaceAddress>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
