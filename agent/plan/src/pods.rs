//! `[pods]`: whether and how the card makes the networks of the host's pods.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::repeated;
use crate::values::{PciId, Subnet};

/// Where a card keeps a `[pods]` table of its own, which wins over that of its plan: subnets differ from card
/// to card, and the plan is the same in every card that has the image.
pub const OVERRIDE: &str = "/etc/dpukit/pods.toml";

/// Where programs of CNI are looked for when nothing else is said: `cni` as Kubernetes has it, then Debian's
/// package.
const PLUGINS: [&str; 2] = ["/opt/cni/bin", "/usr/lib/cni"];

/// `[pods]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pods {
    /// The id of the VFs that are wired to the host's; that of the link when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vf: Option<PciId>,
    /// What connects a pod.
    pub network: Network,
}

/// The file [`OVERRIDE`]: a `[pods]` table and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// The table.
    pub pods: Pods,
}

/// `network = { routed = { … } }`, or one of the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", try_from = "RawNetwork")]
pub enum Network {
    /// The card routes by itself.
    Routed(Routed),
    /// A list of CNI plugins that is installed on the card.
    Delegate(Delegate),
    /// The Cilium agent that runs on the card.
    Cilium(Cilium),
}

/// `routed = { subnets = ["10.244.0.0/24", "fd00:10:244::/64"] }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, try_from = "RawRouted")]
pub struct Routed {
    /// Where pods' addresses are taken from, at most one subnet of each family. None where the host's IPAM
    /// makes all addresses.
    pub subnets: Vec<Subnet>,
    /// The gateways that pods send to, at most one of each family. When left out, they are link-local:
    /// 169.254.1.1, and for IPv6 one of each pod's own, so that on a wire with several VFs one alone answers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// The largest packet that a pod may send, in octets.
    pub mtu: u16,
    /// Whether pods' packets to destinations outside `subnets` leave with the card's own address: for a network
    /// that knows no way back to the subnets.
    pub masquerade: bool,
    /// The folders in which the IPAM plugin `host-local` is looked for.
    pub plugins: Vec<PathBuf>,
}

/// `delegate = { list = "cep" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Delegate {
    /// The name of the network list to run.
    #[serde(default = "delegate_list")]
    pub list: String,
    /// The folder in which the list is looked for.
    #[serde(default = "delegate_folder")]
    pub folder: PathBuf,
    /// The folders in which its plugins are looked for.
    #[serde(default = "plugins")]
    pub plugins: Vec<PathBuf>,
}

/// `cilium = { socket = "/var/run/cilium/cilium.sock" }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Cilium {
    /// Where the Cilium agent answers.
    #[serde(default = "cilium_socket")]
    pub socket: PathBuf,
}

impl Routed {
    /// The MTU when none is named: what the host's plugin gives its routes.
    pub const MTU: u16 = 1450;
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawNetwork {
    routed: Option<Routed>,
    delegate: Option<Delegate>,
    cilium: Option<Cilium>,
}

impl TryFrom<RawNetwork> for Network {
    type Error = String;

    fn try_from(raw: RawNetwork) -> Result<Self, String> {
        match (raw.routed, raw.delegate, raw.cilium) {
            (Some(routed), None, None) => Ok(Self::Routed(routed)),
            (None, Some(delegate), None) => Ok(Self::Delegate(delegate)),
            (None, None, Some(cilium)) => Ok(Self::Cilium(cilium)),
            _ => Err("`network` is one of `routed`, `delegate` and `cilium`: \
                      write `network = { routed = { subnets = [\"10.244.0.0/24\"] } }`"
                .to_owned()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct RawRouted {
    #[serde(default)]
    subnets: Vec<Subnet>,
    #[serde(default)]
    gateways: Vec<IpAddr>,
    #[serde(default = "mtu")]
    mtu: u16,
    #[serde(default)]
    masquerade: bool,
    #[serde(default = "plugins")]
    plugins: Vec<PathBuf>,
}

impl TryFrom<RawRouted> for Routed {
    type Error = String;

    fn try_from(raw: RawRouted) -> Result<Self, String> {
        let RawRouted { subnets, gateways, mtu, masquerade, plugins } = raw;
        let routed = Self { subnets, gateways, mtu, masquerade, plugins };
        match routed.problems() {
            problems if problems.is_empty() => Ok(routed),
            problems => Err(problems.join("; ")),
        }
    }
}

impl Routed {
    fn problems(&self) -> Vec<String> {
        /// What every link of IPv6 takes (RFC 8200, section 5).
        const LEAST_MTU: u16 = 1280;
        let mut problems = Vec::new();
        let families: Vec<_> = self.subnets.iter().map(|subnet| family(subnet.address())).collect();
        problems.extend(repeated(&families).map(|family| format!("`subnets` has two of {family}")));
        let families: Vec<_> = self.gateways.iter().map(|gateway| family(*gateway)).collect();
        problems.extend(repeated(&families).map(|family| format!("`gateways` has two of {family}")));
        for gateway in &self.gateways {
            if gateway.is_unspecified() || gateway.is_loopback() || gateway.is_multicast() {
                problems.push(format!("`gateways` has `{gateway}`, which no machine can have"));
            }
        }
        if self.mtu < LEAST_MTU {
            problems.push(format!("`mtu` is {}: write {LEAST_MTU} or more", self.mtu));
        }
        for folder in self.plugins.iter().filter(|folder| !folder.is_absolute()) {
            problems.push(format!("`plugins` has `{}`, not an absolute path", folder.display()));
        }
        problems
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn mtu() -> u16 {
    Routed::MTU
}

fn plugins() -> Vec<PathBuf> {
    PLUGINS.map(PathBuf::from).to_vec()
}

fn delegate_list() -> String {
    "cep".to_owned()
}

fn delegate_folder() -> PathBuf {
    "/etc/cni/net.d".into()
}

fn cilium_socket() -> PathBuf {
    "/var/run/cilium/cilium.sock".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Pods, String> {
        toml::from_str::<Override>(&format!("[pods]\n{text}"))
            .map(|file| file.pods)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn each_network_is_read_and_survives_being_written() {
        for text in [
            "network = { routed = { subnets = [\"10.244.0.0/24\", \"fd00:10:244::/64\"] } }",
            "vf = \"177d:a0f7\"\nnetwork = { routed = { gateways = [\"10.1.0.1\"], mtu = 9000, masquerade = true } }",
            "network = { delegate = {} }",
            "[pods.network.delegate]\nlist = \"other\"\nplugins = [\"/usr/lib/cni\"]",
            "[pods.network.cilium]",
        ] {
            let pods = read(text).unwrap();
            let written = toml::to_string(&pods).unwrap();
            assert_eq!(toml::from_str::<Pods>(&written).unwrap(), pods, "{written}");
        }
    }

    #[test]
    fn what_is_left_out_has_its_usual_value() {
        let Network::Routed(routed) = read("network = { routed = {} }").unwrap().network else {
            panic!("not routed")
        };
        assert_eq!((routed.mtu, routed.masquerade, routed.plugins), (1450, false, plugins()));
        assert_eq!(routed.subnets, []);
        let Network::Delegate(delegate) = read("network = { delegate = {} }").unwrap().network else {
            panic!("not a delegate")
        };
        assert_eq!(delegate.list, "cep");
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_write() {
        for (text, says) in [
            ("network = {}", "`network` is one of `routed`, `delegate` and `cilium`"),
            ("network = { routed = {}, cilium = {} }", "`network` is one of"),
            ("network = { router = {} }", "unknown field `router`"),
            ("network = { routed = { subnet = [] } }", "unknown field `subnet`"),
            ("network = { cilium = { sock = \"\" } }", "unknown field `sock`"),
            ("vfs = 1\nnetwork = { routed = {} }", "unknown field `vfs`"),
            ("network = { routed = { subnets = [\"10.0.0.0/24\", \"10.0.1.0/24\"] } }", "two of IPv4"),
            ("network = { routed = { subnets = [\"10.0.0.1/24\"] } }", "write `10.0.0.0/24`"),
            ("network = { routed = { gateways = [\"::\"] } }", "`::`, which no machine can have"),
            ("network = { routed = { gateways = [\"fe80::1\", \"fe80::2\"] } }", "two of IPv6"),
            ("network = { routed = { mtu = 1279 } }", "write 1280 or more"),
            ("network = { routed = { plugins = [\"cni\"] } }", "`cni`, not an absolute path"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
