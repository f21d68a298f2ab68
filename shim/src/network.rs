//! A pod's network as the card and the host's IPAM plugin have it, and what follows for the interface
//! and for ADD's answer.
//!
//! As the Go plugin does it: the address is the pod's alone (/32, /128), with a route to its gateway on
//! the link and everything else by the gateway.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail};
use dpu_api::{CniAddResponse, IpDetails};

use crate::address::Cidr;
use crate::cni::{Address, Code, Dns, Outcome, Route};
use crate::device::Setting;
use crate::netlink::Hop;

/// A pod's network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    ends: Vec<End>,
    /// Further destinations, by the gateway of their family.
    further: Vec<Cidr>,
    /// The largest packet, in octets.
    mtu: u32,
    dns: Dns,
}

/// An address of the pod, and the gateway to the rest of its family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    address: IpAddr,
    gateway: IpAddr,
}

/// What the card is told of addresses that the host's IPAM plugin made: the first of each family.
pub fn details(held: &Outcome) -> (Option<IpDetails>, Option<IpDetails>) {
    let first = |family: &str, is_it: fn(&IpAddr) -> bool| {
        let held = held.ips.iter().find(|held| is_it(&held.address.address()))?;
        Some(IpDetails {
            version: family.to_owned(),
            address: held.address.address().to_string(),
            gateway: held.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
            dns: String::new(),
        })
    };
    (first("4", IpAddr::is_ipv4), first("6", IpAddr::is_ipv6))
}

impl Network {
    /// The network that the card has made, with the addresses that the host made, if it did, and packets
    /// of `mtu` octets at most.
    ///
    /// # Errors
    /// [`Code::REFUSED`] where there is no address, no gateway, or a text is neither.
    pub fn of(card: &CniAddResponse, held: Option<&Outcome>, mtu: u32) -> Result<Self> {
        Self::try_of(card, held, mtu).context("reading the card's answer").context(Code::REFUSED)
    }

    fn try_of(card: &CniAddResponse, held: Option<&Outcome>, mtu: u32) -> Result<Self> {
        let said: Vec<_> = [&card.ip_info, &card.ip6_info].into_iter().flatten().collect();
        let mut gateways = Vec::new();
        for details in &said {
            gateways.extend(ip(&details.gateway)?);
        }
        let mut ends = Vec::new();
        let addresses = if let Some(held) = held {
            gateways.extend(held.ips.iter().filter_map(|held| held.gateway));
            held.ips.iter().map(|held| held.address.address()).collect()
        } else {
            let said = said.iter().map(|details| ip(&details.address));
            said.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>()
        };
        for address in addresses {
            let gateway = gateways.iter().find(|gateway| gateway.is_ipv4() == address.is_ipv4());
            let gateway =
                *gateway.with_context(|| format!("there is no gateway for the address {address}"))?;
            ends.push(End { address, gateway });
        }
        if ends.is_empty() {
            bail!("there is no address in it, and `hostIPAM` is off");
        }
        let mtu = if card.mtu == 0 { mtu } else { mtu.min(card.mtu) };
        let dns =
            said.iter().flat_map(|details| details.dns.split([',', ' '])).filter(|text| !text.is_empty());
        let mut dns = Dns { nameservers: dns.map(ToOwned::to_owned).collect(), ..Dns::default() };
        if let Some(held) = held.filter(|held| held.dns != Dns::default()) {
            dns = held.dns.clone();
        }
        let held = held.into_iter().flat_map(|held| &held.routes).map(|route| route.dst);
        Ok(Self { ends, further: held.filter(|to| to.prefix() > 0).collect(), mtu, dns })
    }

    /// What the pod's interface gets.
    pub fn setting(&self) -> Setting {
        Setting {
            addresses: self.ends.iter().map(|end| Cidr::host(end.address)).collect(),
            hops: self.hops(),
        }
    }

    fn hops(&self) -> Vec<Hop> {
        let mut hops: Vec<Hop> = Vec::new();
        // Two addresses of one family share its gateway.
        let mut add = |hop: Hop| {
            if hops.iter().all(|known| known.to != hop.to) {
                hops.push(hop);
            }
        };
        for end in &self.ends {
            add(Hop { to: Cidr::host(end.gateway), gateway: None, mtu: None });
            let all = Cidr::everything_like(end.address);
            add(Hop { to: all, gateway: Some(end.gateway), mtu: Some(self.mtu) });
        }
        for to in &self.further {
            let alike = self.ends.iter().find(|end| end.address.is_ipv4() == to.address().is_ipv4());
            if let Some(end) = alike {
                add(Hop { to: *to, gateway: Some(end.gateway), mtu: Some(self.mtu) });
            }
        }
        hops
    }

    /// Addresses, routes and name servers as ADD answers them, for the first interface of the answer.
    pub fn outcome(&self) -> Outcome {
        let address = |end: &End| Address {
            family: None,
            interface: Some(0),
            address: Cidr::host(end.address),
            gateway: Some(end.gateway),
        };
        Outcome {
            ips: self.ends.iter().map(address).collect(),
            routes: self
                .hops()
                .iter()
                .map(|hop| Route { dst: hop.to, gw: hop.gateway, mtu: hop.mtu })
                .collect(),
            dns: self.dns.clone(),
            ..Outcome::default()
        }
    }
}

/// An address; none where the card says nothing.
fn ip(text: &str) -> Result<Option<IpAddr>> {
    if text.is_empty() {
        return Ok(None);
    }
    // Some agents pass on what their IPAM says, which has a prefix.
    let address = text.split('/').next().unwrap_or(text);
    let address = address.parse().with_context(|| format!("`{}` is no IP address", text.escape_debug()))?;
    Ok(Some(address))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(address: &str, gateway: &str) -> IpDetails {
        IpDetails { address: address.into(), gateway: gateway.into(), ..IpDetails::default() }
    }

    fn answer(ip: Option<IpDetails>, ip6: Option<IpDetails>) -> CniAddResponse {
        CniAddResponse { ip_info: ip, ip6_info: ip6, ..CniAddResponse::default() }
    }

    fn held() -> Outcome {
        serde_json::from_str(
            r#"{"ips": [{"address": "10.9.0.4/24", "gateway": "10.9.0.1"}],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "192.0.2.0/24", "gw": "10.9.0.254"}],
                "dns": {"nameservers": ["10.9.0.53"]}}"#,
        )
        .unwrap()
    }

    fn shown(network: &Network) -> String {
        let setting = network.setting();
        let hops = setting.hops.iter().map(|hop| format!("{} by {:?}, {:?}", hop.to, hop.gateway, hop.mtu));
        format!("{:?}\n{}", setting.addresses, hops.collect::<Vec<_>>().join("\n"))
    }

    #[test]
    fn a_pod_gets_its_address_and_two_routes_for_each_family() {
        let card = answer(Some(said("10.1.0.7", "10.1.0.1")), Some(said("fd00::7", "fe80::1")));
        insta::assert_snapshot!(shown(&Network::of(&card, None, 1450).unwrap()), @r#"
        [10.1.0.7/32, fd00::7/128]
        10.1.0.1/32 by None, None
        0.0.0.0/0 by Some(10.1.0.1), Some(1450)
        fe80::1/128 by None, None
        ::/0 by Some(fe80::1), Some(1450)
        "#);
    }

    #[test]
    fn the_card_may_ask_for_smaller_packets_and_not_for_larger_ones() {
        for (asked, wanted) in [(0, 1450), (1400, 1400), (9000, 1450)] {
            let card = CniAddResponse { mtu: asked, ..answer(Some(said("10.1.0.7", "10.1.0.1")), None) };
            assert_eq!(Network::of(&card, None, 1450).unwrap().mtu, wanted);
        }
    }

    #[test]
    fn what_the_host_made_counts_and_the_card_may_name_another_gateway() {
        let network = Network::of(&answer(None, None), Some(&held()), 1450).unwrap();
        insta::assert_snapshot!(shown(&network), @r#"
        [10.9.0.4/32]
        10.9.0.1/32 by None, None
        0.0.0.0/0 by Some(10.9.0.1), Some(1450)
        192.0.2.0/24 by Some(10.9.0.1), Some(1450)
        "#);
        assert_eq!(network.outcome().dns.nameservers, ["10.9.0.53"]);
        let card = answer(Some(said("10.9.0.4", "169.254.1.1")), None);
        let network = Network::of(&card, Some(&held()), 1450).unwrap();
        assert_eq!(network.ends[0].gateway, "169.254.1.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn the_card_is_told_what_the_host_made() {
        let (ip, ip6) = details(&held());
        let ip = ip.unwrap();
        assert_eq!(
            (ip.version.as_str(), ip.address.as_str(), ip.gateway.as_str()),
            ("4", "10.9.0.4", "10.9.0.1")
        );
        assert_eq!(ip6, None);
    }

    #[test]
    fn an_answer_that_makes_no_network_is_refused() {
        let refused = |card| format!("{:#}", Network::of(&card, None, 1450).unwrap_err());
        let wrong = [
            answer(None, None),
            answer(Some(said("10.1.0.7", "")), None),
            answer(Some(said("10.1.0.7", "fe80::1")), None),
            answer(Some(said("ten", "10.1.0.1")), None),
        ];
        insta::assert_snapshot!(wrong.map(refused).join("\n"), @r#"
        the card refused: reading the card's answer: there is no address in it, and `hostIPAM` is off
        the card refused: reading the card's answer: there is no gateway for the address 10.1.0.7
        the card refused: reading the card's answer: there is no gateway for the address 10.1.0.7
        the card refused: reading the card's answer: `ten` is no IP address: invalid IP address syntax
        "#);
    }

    #[test]
    fn name_servers_are_told_apart() {
        let ip = IpDetails { dns: "10.0.0.53, 10.0.0.54".into(), ..said("10.1.0.7", "10.1.0.1") };
        let outcome = Network::of(&answer(Some(ip), None), None, 1450).unwrap().outcome();
        assert_eq!(outcome.dns.nameservers, ["10.0.0.53", "10.0.0.54"]);
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(texts in prop::collection::vec("[0-9a-f.:/]{0,12}|.*", 4), mtu: u32) {
            let card = answer(Some(said(&texts[0], &texts[1])), Some(said(&texts[2], &texts[3])));
            let _ = Network::of(&CniAddResponse { mtu, ..card }, None, 1450).map(|network| network.outcome());
        }
    }
}
