//! What ADD answers, in each version's shape, and what IPAM plugins and earlier calls answered.
//!
//! Shapes: 0.3.1 and 0.4.0 give each address its family in `ips[].version`; 1.0.0 dropped that; 1.1.0
//! added `interfaces[].mtu`, `interfaces[].pciID` and `routes[].mtu` to what is used here.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::Version;
use crate::address::{Cidr, Mac};

/// The network of one interface, as CNI describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// The version of CNI that it is written in.
    #[serde(default, rename = "cniVersion")]
    pub version: String,
    /// Interfaces that were made or moved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub interfaces: Vec<Interface>,
    /// Addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ips: Vec<Address>,
    /// Routes inside the container.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Route>,
    /// Name servers.
    #[serde(default)]
    pub dns: Dns,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// The largest packet, in octets; from CNI 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// The network namespace that it is in; none for the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// The device's PCI address; from CNI 1.1.0.
    #[serde(default, rename = "pciID", skip_serializing_if = "Option::is_none")]
    pub pci: Option<String>,
}

/// One address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// `4` or `6`; up to CNI 0.4.0.
    #[serde(default, rename = "version", skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// The place of its interface in `interfaces`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<usize>,
    /// The address with its prefix.
    pub address: Cidr,
    /// The gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<IpAddr>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads.
    pub dst: Cidr,
    /// By which gateway; none on the link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gw: Option<IpAddr>,
    /// The largest packet, in octets; from CNI 1.1.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// Name servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Their addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The domain of the host's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// Domains in which short names are looked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Outcome {
    /// The same in the shape of `version`.
    #[must_use]
    pub fn in_version(mut self, version: Version) -> Self {
        version.text().clone_into(&mut self.version);
        for ip in &mut self.ips {
            let family = if ip.address.address().is_ipv4() { "4" } else { "6" };
            ip.family = (version < Version::V1_0_0).then(|| family.to_owned());
        }
        if version < Version::V1_1_0 {
            for interface in &mut self.interfaces {
                interface.mtu = None;
                interface.pci = None;
            }
            for route in &mut self.routes {
                route.mtu = None;
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            interfaces: vec![Interface {
                name: "eth0".into(),
                mac: Some("02:00:00:00:00:07".parse().unwrap()),
                mtu: Some(1500),
                sandbox: Some("/run/netns/p".into()),
                pci: Some("0000:01:10.0".into()),
            }],
            ips: vec![
                Address {
                    family: None,
                    interface: Some(0),
                    address: "10.1.0.7/32".parse().unwrap(),
                    gateway: Some("10.1.0.1".parse().unwrap()),
                },
                Address {
                    family: None,
                    interface: Some(0),
                    address: "fd00::7/128".parse().unwrap(),
                    gateway: None,
                },
            ],
            routes: vec![Route {
                dst: "0.0.0.0/0".parse().unwrap(),
                gw: Some("10.1.0.1".parse().unwrap()),
                mtu: Some(1450),
            }],
            ..Outcome::default()
        }
    }

    fn written(version: Version) -> String {
        serde_json::to_string(&outcome().in_version(version)).unwrap()
    }

    #[test]
    fn each_version_gets_its_shape() {
        insta::assert_snapshot!(Version::ALL.map(written).join("\n"), @r#"
        {"cniVersion":"0.3.1","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:07","sandbox":"/run/netns/p"}],"ips":[{"version":"4","interface":0,"address":"10.1.0.7/32","gateway":"10.1.0.1"},{"version":"6","interface":0,"address":"fd00::7/128"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1"}],"dns":{}}
        {"cniVersion":"0.4.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:07","sandbox":"/run/netns/p"}],"ips":[{"version":"4","interface":0,"address":"10.1.0.7/32","gateway":"10.1.0.1"},{"version":"6","interface":0,"address":"fd00::7/128"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1"}],"dns":{}}
        {"cniVersion":"1.0.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:07","sandbox":"/run/netns/p"}],"ips":[{"interface":0,"address":"10.1.0.7/32","gateway":"10.1.0.1"},{"interface":0,"address":"fd00::7/128"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1"}],"dns":{}}
        {"cniVersion":"1.1.0","interfaces":[{"name":"eth0","mac":"02:00:00:00:00:07","mtu":1500,"sandbox":"/run/netns/p","pciID":"0000:01:10.0"}],"ips":[{"interface":0,"address":"10.1.0.7/32","gateway":"10.1.0.1"},{"interface":0,"address":"fd00::7/128"}],"routes":[{"dst":"0.0.0.0/0","gw":"10.1.0.1","mtu":1450}],"dns":{}}
        "#);
    }

    #[test]
    fn every_shape_is_read_back() {
        for version in Version::ALL {
            let read: Outcome = serde_json::from_str(&written(version)).unwrap();
            assert_eq!(read, outcome().in_version(version));
        }
    }

    #[test]
    fn a_result_of_few_words_is_read() {
        let read: Outcome = serde_json::from_str(r#"{"ips":[{"address":"10.0.0.9/24"}]}"#).unwrap();
        assert_eq!(read.ips[0].address.address(), "10.0.0.9".parse::<IpAddr>().unwrap());
        assert_eq!(read.ips[0].interface, None);
    }
}
