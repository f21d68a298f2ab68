//! The routed network: a small data path of the card's own, for cards without Cilium.
//!
//! A pod's address is taken from the plan's subnets by `host-local`, or is what the host's IPAM made. The pod
//! sends everything to a gateway, for which the VF that is wired to it answers; the card forwards, and a route
//! for the pod's address alone leads back to that VF. There is no bridge and nothing to learn: pods are not
//! neighbours of each other, and the hardware address of each is told to the kernel for good.
//!
//! On a card, each VF is a wire of its own. On the emulated card, all VFs share one, so whatever a pod asks all is
//! heard on every VF: for IPv4 the kernel is told to answer only on the VF that leads to who asks, for IPv6,
//! which has no such setting, each pod has a gateway of its own.

mod ipam;
mod kernel;
mod sysctl;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::timeout_at;
use tokio::{join, try_join};

use super::network::{Attachment, End, Made, Network, Reconciled, Refusal};
use super::request::Key;
use super::state::FOLDER;
use crate::tree::Tree;
use ipam::Ipam;
pub use kernel::GROUP;
use kernel::{At, Kernel};

/// The gateway of IPv4, link-local (RFC 3927) and the same for every pod.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// How long undoing may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// The routed network.
pub struct Routed {
    plan: dpu_plan::Routed,
    ipam: Ipam,
    kernel: Kernel,
}

/// What is to be told again at DEL.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    /// Whether the addresses are of `host-local`.
    reserved: bool,
}

impl Routed {
    /// The network of a plan; needs a runtime.
    pub fn new(tree: &Tree, plan: dpu_plan::Routed) -> Result<Self> {
        let ipam = Ipam::new(&plan, tree.at(format!("{FOLDER}/ipam")));
        Ok(Self { plan, ipam, kernel: Kernel::connect()? })
    }

    /// The gateway of a pod's address.
    fn gateway(&self, end: &End) -> IpAddr {
        let alike = |gateway: &IpAddr| gateway.is_ipv4() == end.address.is_ipv4();
        let planned = self.plan.gateways.iter().copied().find(alike);
        end.gateway.or(planned).unwrap_or_else(|| own_gateway(end.address))
    }

    async fn addresses(
        &self,
        attachment: &Attachment,
        deadline: Instant,
    ) -> Result<(Vec<End>, Kept), Refusal> {
        if !attachment.given.is_empty() {
            return Ok((attachment.given.clone(), Kept { reserved: false }));
        }
        if !self.ipam.has_subnets() {
            return Err(Refusal::Never(anyhow!(
                "there is no address: the host made none, and the card's plan has no `subnets` for the routed network"
            )));
        }
        let addresses = self.ipam.add(&key(attachment), deadline).await?;
        let ends = addresses.into_iter().map(|address| End { address, gateway: None }).collect();
        Ok((ends, Kept { reserved: true }))
    }

    /// Makes a VF's interface ready for pods, whatever of it is; gives its number.
    async fn prepare(&self, interface: &str) -> Result<u32> {
        let link = self.kernel.link(interface).await?;
        let link = link.with_context(|| format!("there is no interface `{interface}`"))?;
        let told = interface.to_owned();
        tokio::task::spawn_blocking(move || sysctl::set_up(&told)).await.context("setting sysctls")??;
        if !link.up || link.group != GROUP {
            self.kernel.bring_up(link.index).await?;
        }
        Ok(link.index)
    }

    /// Leads all of a pod's addresses to an interface, wherever they lead.
    async fn lead(&self, attachment: &Attachment, interface: u32, ends: &[End]) -> Result<()> {
        let (kernel, mac) = (&self.kernel, octets(&attachment.mac)?);
        for end in ends {
            let pod = At { interface, address: end.address };
            let gateway = At { interface, address: self.gateway(end) };
            try_join!(kernel.add_gateway(gateway), kernel.add_neighbour(pod, mac), kernel.add_route(pod))?;
        }
        Ok(())
    }

    /// Takes away all of ours that is on an interface: a VF is one attachment's at a time.
    async fn disconnect(&self, interface: &str) -> Result<()> {
        // Without its interface, the kernel has forgotten all that was on it.
        if interface.is_empty() {
            return Ok(());
        }
        let Some(link) = self.kernel.link(interface).await? else { return Ok(()) };
        for route in self.kernel.routes().await?.into_iter().filter(|route| route.interface == link.index) {
            self.kernel.del_route(route).await?;
            self.kernel.del_neighbour(route).await?;
        }
        for gateway in self.kernel.gateways().await?.into_iter().filter(|at| at.interface == link.index) {
            self.kernel.del_gateway(gateway).await?;
        }
        Ok(())
    }

    /// Makes right what the kernel has, and gives the addresses whose routes were nobody's.
    async fn put_right(&self, known: &[(Attachment, Made)]) -> Result<BTreeSet<IpAddr>> {
        let (mut routes, mut gateways) = (BTreeSet::new(), BTreeSet::new());
        for (attachment, made) in known.iter().filter(|(attachment, _)| !attachment.vf.interface.is_empty()) {
            let Some(link) = self.kernel.link(&attachment.vf.interface).await? else { continue };
            for end in &made.ends {
                routes.insert(At { interface: link.index, address: end.address });
                gateways.insert(At { interface: link.index, address: self.gateway(end) });
            }
        }
        let mut freed = BTreeSet::new();
        for route in self.kernel.routes().await?.into_iter().filter(|route| !routes.contains(route)) {
            self.kernel.del_route(route).await?;
            self.kernel.del_neighbour(route).await?;
            freed.insert(route.address);
        }
        for gateway in self.kernel.gateways().await?.into_iter().filter(|at| !gateways.contains(at)) {
            self.kernel.del_gateway(gateway).await?;
        }
        for (attachment, made) in known.iter().filter(|(attachment, _)| !attachment.vf.interface.is_empty()) {
            // One that can't be mended is no reason to leave the others.
            let connected = async {
                let interface = self.prepare(&attachment.vf.interface).await?;
                self.lead(attachment, interface, &made.ends).await
            };
            if let Err(error) = connected.await {
                tracing::error!(attachment = %key(attachment), "restoring its network: {error:#}");
            }
        }
        // An address that moved to another VF was nobody's leak.
        freed.retain(|address| routes.iter().all(|route| route.address != *address));
        Ok(freed)
    }

    /// Makes right what `host-local` keeps, and gives the addresses that were nobody's.
    async fn put_addresses_right(&self, known: &[(Attachment, Made)]) -> Result<BTreeSet<IpAddr>> {
        let mut taken: BTreeMap<Key, Vec<IpAddr>> = BTreeMap::new();
        for one in self.ipam.taken()? {
            taken.entry(one.key).or_default().push(one.address);
        }
        let reserved: BTreeMap<Key, Vec<IpAddr>> = known
            .iter()
            .filter(|(_, made)| kept(made).reserved)
            .map(|(attachment, made)| (key(attachment), made.ends.iter().map(|end| end.address).collect()))
            .collect();
        let mut freed = BTreeSet::new();
        for (key, addresses) in &taken {
            let wanted = reserved.get(key).map_or(&[][..], Vec::as_slice);
            if addresses.iter().any(|address| !wanted.contains(address)) {
                self.ipam.del(key, Instant::now() + PATIENCE).await?;
                freed.extend(addresses.iter().filter(|address| !wanted.contains(address)));
            }
        }
        for (key, addresses) in &reserved {
            if taken.get(key).is_none_or(|taken| !alike(taken, addresses)) {
                tracing::warn!(attachment = %key, "`host-local` did not know its addresses: they are taken again");
                // What it knew of them is in the way.
                self.ipam.del(key, Instant::now() + PATIENCE).await?;
                let again = self.ipam.take_again(key, addresses, Instant::now() + PATIENCE).await;
                again.unwrap_or_else(|error| tracing::error!(attachment = %key, "{error:#}"));
            }
        }
        Ok(freed)
    }

    /// Packets of pods that leave the subnets get the card's address, where the plan has it so.
    async fn masquerade(&self) -> Result<()> {
        if !self.plan.masquerade || self.plan.subnets.is_empty() {
            return Ok(());
        }
        let mut nft = Command::new("nft");
        nft.args(["-f", "-"]).env("LC_ALL", "C.UTF-8");
        let rules = masquerade_rules(&self.plan.subnets);
        let output = ipam::feed(nft, &rules, Instant::now() + PATIENCE).await.context("running `nft`")?;
        if !output.status.success() {
            bail!(
                "`nft` refused the rules for masquerading: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Network for Routed {
    fn name(&self) -> &'static str {
        "routed"
    }

    async fn add(&self, attachment: &Attachment, deadline: Instant) -> Result<Made, Refusal> {
        let prepare = within(deadline, self.prepare(&attachment.vf.interface));
        let (addresses, prepared) = join!(self.addresses(attachment, deadline), prepare);
        let (mut ends, kept) = addresses?;
        let reserved = kept.reserved;
        let connected = match prepared {
            Ok(interface) => within(deadline, self.lead(attachment, interface, &ends)).await,
            Err(error) => Err(error),
        };
        let kept = serde_json::to_value(kept).context("noting what was made");
        match connected.and(kept) {
            Ok(kept) => {
                for end in &mut ends {
                    end.gateway = Some(self.gateway(end));
                }
                Ok(Made { ends, dns: Vec::new(), mtu: self.plan.mtu.into(), kept })
            }
            Err(error) => {
                let undone =
                    within(Instant::now() + PATIENCE, self.disconnect(&attachment.vf.interface)).await;
                undone.unwrap_or_else(|error| tracing::error!("undoing the ADD: {error:#}"));
                if reserved {
                    let given = self.ipam.del(&key(attachment), Instant::now() + PATIENCE).await;
                    given.unwrap_or_else(|error| tracing::error!("undoing the ADD: {error:#}"));
                }
                Err(Refusal::Later(error))
            }
        }
    }

    async fn del(
        &self,
        attachment: &Attachment,
        made: Option<&Made>,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        let reserved = made.map_or(attachment.given.is_empty(), |made| kept(made).reserved);
        let give_back = async {
            if reserved && self.ipam.has_subnets() {
                self.ipam.del(&key(attachment), deadline).await
            } else {
                Ok(())
            }
        };
        // An address may be another pod's before its route is gone here: then that leads to the other's VF, and
        // what is deleted is the one through this.
        let disconnect = within(deadline, self.disconnect(&attachment.vf.interface));
        let (disconnected, given) = join!(disconnect, give_back);
        disconnected.and(given).map_err(Refusal::Later)
    }

    async fn check(&self, attachment: &Attachment, made: &Made, deadline: Instant) -> Result<(), Refusal> {
        let name = &attachment.vf.interface;
        let look = async {
            let link = self.kernel.link(name).await?;
            Ok((link, self.kernel.routes().await?, self.kernel.gateways().await?))
        };
        let (link, routes, gateways) = within(deadline, look).await.map_err(Refusal::Later)?;
        let Some(link) = link.filter(|link| link.up) else {
            return Err(Refusal::Never(anyhow!("the interface `{name}` is down or gone")));
        };
        for end in &made.ends {
            if !routes.contains(&At { interface: link.index, address: end.address }) {
                return Err(Refusal::Never(anyhow!(
                    "the route to {} does not lead to `{name}`",
                    end.address
                )));
            }
            let gateway = self.gateway(end);
            if !gateways.contains(&At { interface: link.index, address: gateway }) {
                return Err(Refusal::Never(anyhow!(
                    "`{name}` does not have the gateway's address {gateway}"
                )));
            }
        }
        Ok(())
    }

    async fn reconcile(&self, known: &[(Attachment, Made)]) -> anyhow::Result<Reconciled> {
        sysctl::let_forward()?;
        self.masquerade().await?;
        let mut freed = self.put_right(known).await?;
        if self.ipam.has_subnets() {
            freed.extend(self.put_addresses_right(known).await?);
        }
        Ok(Reconciled { freed: u32::try_from(freed.len()).unwrap_or(u32::MAX), wrong: Vec::new() })
    }

    async fn ready(&self) -> anyhow::Result<()> {
        if self.ipam.has_subnets() {
            self.ipam.program()?;
        }
        if !sysctl::is_forwarding()? {
            bail!("the card does not forward: see `net.ipv4.ip_forward` and `net.ipv6.conf.all.forwarding`");
        }
        Ok(())
    }
}

/// The gateway of an address where neither host nor plan names one.
fn own_gateway(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => GATEWAY.into(),
        IpAddr::V6(ip) => {
            /// `fe80::1:…`: the rest is the pod's, whose addresses differ there.
            const FIRST: u128 = 0xfe80_0000_0000_0000_0001 << 48;
            const REST: u128 = (1 << 48) - 1;
            Ipv6Addr::from_bits(FIRST | (ip.to_bits() & REST)).into()
        }
    }
}

fn masquerade_rules(subnets: &[dpu_plan::Subnet]) -> String {
    let rules = subnets.iter().map(|subnet| {
        let family = if subnet.address().is_ipv4() { "ip" } else { "ip6" };
        format!("\t\t{family} saddr {subnet} {family} daddr != {subnet} masquerade\n")
    });
    // Made where it is missing, so that it can be taken away; `destroy` needs Linux 6.3.
    format!(
        "table inet dpukit-pods\ndelete table inet dpukit-pods\ntable inet dpukit-pods {{\n\tchain postrouting {{\n\
         \t\ttype nat hook postrouting priority srcnat; policy accept;\n{}\t}}\n}}\n",
        rules.collect::<String>()
    )
}

fn key(attachment: &Attachment) -> Key {
    Key { container: attachment.container.clone(), interface: attachment.interface.clone() }
}

fn kept(made: &Made) -> Kept {
    Kept::deserialize(&made.kept).unwrap_or_default()
}

fn alike(one: &[IpAddr], other: &[IpAddr]) -> bool {
    one.iter().collect::<BTreeSet<_>>() == other.iter().collect()
}

fn octets(mac: &str) -> Result<[u8; 6]> {
    let octets: Result<Vec<u8>, _> = mac.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
    let octets = octets.ok().and_then(|octets| octets.try_into().ok());
    octets.with_context(|| format!("`{}` is no hardware address", mac.escape_debug()))
}

async fn within<T>(deadline: Instant, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout_at(deadline.into(), work).await.map_err(|_| anyhow!("the kernel took too long")).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pod_has_a_gateway_of_ipv6_of_its_own() {
        let gateway = |text: &str| own_gateway(text.parse().unwrap()).to_string();
        assert_eq!(gateway("10.244.0.2"), "169.254.1.1");
        assert_eq!(gateway("fd00:10:244::2"), "fe80::1:0:0:2");
        assert_eq!(gateway("fd00:10:244::a:b:c:d"), "fe80::1:b:c:d");
    }

    #[test]
    fn rules_for_masquerading_spare_what_stays_inside() {
        let subnets = ["10.244.0.0/24", "fd00:10:244::/64"].map(|subnet| subnet.parse().unwrap());
        insta::assert_snapshot!(masquerade_rules(&subnets), @r"
        table inet dpukit-pods
        delete table inet dpukit-pods
        table inet dpukit-pods {
        	chain postrouting {
        		type nat hook postrouting priority srcnat; policy accept;
        		ip saddr 10.244.0.0/24 ip daddr != 10.244.0.0/24 masquerade
        		ip6 saddr fd00:10:244::/64 ip6 daddr != fd00:10:244::/64 masquerade
        	}
        }
        ");
    }

    #[test]
    fn a_hardware_address_is_six_octets() {
        assert_eq!(octets("02:00:00:00:00:0a").unwrap(), [2, 0, 0, 0, 0, 10]);
        for text in ["", "02:00:00:00:00", "02:00:00:00:00:0a:00", "02:00:00:00:00:xx"] {
            assert!(octets(text).is_err(), "{text}");
        }
    }
}
