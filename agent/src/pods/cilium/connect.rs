//! Makes an endpoint for an attachment: addresses from Cilium's IPAM or the host, then the endpoint on the VF.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};

use super::api::{Put, address_id, attachment_id};
use super::undo::{Tried, owner};
use super::words::{Change, Configuration, Datapath, Endpoint, Held};
use super::{Api, Attachment, Refusal};
use crate::pods::network::{End, Made, Vf};
use crate::tree::Tree;

/// How often an endpoint that is in the way is looked at.
const ROUNDS: u32 = 4;

/// What is told again at DEL and CHECK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The pod's addresses.
    pub addresses: Vec<Held>,
    /// Whether they are the host's, and no matter of Cilium's IPAM.
    pub external: bool,
}

/// The card's end of an endpoint.
#[derive(Debug)]
pub struct Side {
    /// The number of the VF's interface.
    pub index: i64,
    /// Its hardware address.
    pub mac: String,
}

impl Side {
    /// What the kernel says of a VF's interface.
    pub fn of(tree: &Tree, vf: &Vf) -> Result<Self> {
        let folder = format!("/sys/bus/pci/devices/{}/net/{}", vf.address, vf.interface);
        let looking = || format!("looking at the interface `{}` of the VF `{}`", vf.interface, vf.address);
        let index = tree.number(format!("{folder}/ifindex")).with_context(looking)?;
        let index = i64::try_from(index).with_context(looking)?;
        Ok(Self { index, mac: tree.read(format!("{folder}/address")).with_context(looking)? })
    }
}

/// Makes the network of an attachment. What may be left of it where it fails is in `tried`.
pub async fn connect(
    api: &Api,
    tree: &Tree,
    attachment: &Attachment,
    tried: &mut Tried,
    deadline: Instant,
) -> Result<Made, Refusal> {
    let side = Side::of(tree, &attachment.vf).map_err(Refusal::Later)?;
    let configuration = api.configuration(deadline).await?;
    let external = !attachment.given.is_empty();
    let _turn = api.owners.turn(&owner(attachment), deadline).await?;
    if !external {
        if configuration.ipam_mode == "delegated-plugin" {
            return Err(Refusal::Never(anyhow!(
                "Cilium leaves addresses to a plugin (`ipam: delegated-plugin`): let the host give them, or use another IPAM mode"
            )));
        }
        // There may be some where this call is dropped, or its answer is lost.
        tried.addresses = true;
        match api.allocate(&owner(attachment), deadline).await {
            Ok(held) => *tried = Tried { held, endpoint: false, addresses: false },
            Err((refusal, unsure)) => {
                tried.addresses = unsure;
                return Err(refusal);
            }
        }
    }
    let given = attachment.given.iter().map(|end| Held {
        address: end.address,
        pool: String::new(),
        expiry: String::new(),
    });
    let wanted = if external { given.collect() } else { tried.held.clone() };
    let held = put(api, attachment, &side, &wanted, external, tried, deadline).await?;
    Ok(made(attachment, &configuration, held, external))
}

/// Makes the endpoint, and gives its addresses: `wanted`, or those of an endpoint that was there and is the same.
pub async fn put(
    api: &Api,
    attachment: &Attachment,
    side: &Side,
    wanted: &[Held],
    external: bool,
    tried: &mut Tried,
    deadline: Instant,
) -> Result<Vec<Held>, Refusal> {
    let change = change(attachment, side, wanted, external);
    let mut last = String::new();
    for _ in 0..ROUNDS {
        // From here on nobody but Cilium knows whose the addresses are, also where this call is dropped.
        let before = std::mem::take(tried);
        *tried = Tried { held: Vec::new(), endpoint: true, addresses: before.addresses || !external };
        match api.put(&change, deadline).await {
            Put::Made => {
                *tried = Tried { held: Vec::new(), endpoint: false, addresses: before.addresses };
                return Ok(wanted.to_vec());
            }
            Put::Refused(refusal) => {
                *tried = before;
                return Err(refusal);
            }
            // Cilium takes the endpoint back by itself, and leaves the addresses to who brought them.
            Put::Failed(refusal) => return Err(refusal),
            Put::Lost(refusal) if Instant::now() >= deadline => return Err(refusal),
            Put::Lost(refusal) => last = format!("{:#}", super::reason(refusal)),
            Put::Exists(why) => {
                *tried = Tried { endpoint: true, ..before };
                last = why;
            }
        }
        let Some(found) = api.endpoint(&attachment_id(attachment), deadline).await? else {
            make_room(api, attachment, wanted, external, tried, deadline).await?;
            continue;
        };
        let addresses: BTreeSet<IpAddr> = wanted.iter().map(|held| held.address).collect();
        let same = found.is_as_made(attachment, side.index)
            && if external { found.addresses() == addresses } else { !found.held().is_empty() };
        if same {
            return Ok(adopt(&found, wanted, tried));
        }
        tracing::info!("replacing {}", found.whose());
        api.delete(&attachment_id(attachment), deadline).await?;
        if found.addresses().intersection(&addresses).next().is_some() && !external {
            // They went with it, and may be another's by now.
            *tried = Tried { held: Vec::new(), endpoint: false, addresses: true };
            return Err(Refusal::Later(anyhow!("an earlier endpoint took the pod's addresses with it")));
        }
    }
    Err(Refusal::Later(anyhow!("no endpoint could be made in {ROUNDS} tries: {last}")))
}

/// Takes over an endpoint that is there; addresses that it does not have are given back.
fn adopt(found: &Endpoint, wanted: &[Held], tried: &mut Tried) -> Vec<Held> {
    let has = found.addresses();
    tried.endpoint = false;
    tried.held.retain(|held| !has.contains(&held.address));
    tracing::info!("taking over {}", found.whose());
    // What we know of an address's pool is more than the endpoint says.
    let known = |held: Held| wanted.iter().find(|one| one.address == held.address).cloned().unwrap_or(held);
    found.held().into_iter().map(known).collect()
}

/// Looks for who has the addresses, where it is not the attachment itself.
async fn make_room(
    api: &Api,
    attachment: &Attachment,
    wanted: &[Held],
    external: bool,
    tried: &mut Tried,
    deadline: Instant,
) -> Result<(), Refusal> {
    for held in wanted {
        let Some(other) = api.endpoint(&address_id(held.address), deadline).await? else { continue };
        let error = anyhow!("{} has the address {}", other.whose(), held.address);
        if !external {
            // It is not ours to give back.
            tried.held.retain(|one| one.address != held.address);
            return Err(Refusal::Later(error));
        }
        if other.interface() != attachment.vf.interface {
            return Err(Refusal::Never(error));
        }
        // The VF is this pod's now, so nobody else is behind that endpoint any more.
        tracing::info!("taking away {}, whose VF is another pod's now", other.whose());
        api.delete(&format!("cilium-local:{}", other.id), deadline).await?;
    }
    Ok(())
}

fn change(attachment: &Attachment, side: &Side, wanted: &[Held], external: bool) -> Change {
    Change {
        state: "waiting-for-identity".into(),
        container_id: attachment.container.clone(),
        container_interface_name: attachment.interface.clone(),
        interface_name: attachment.vf.interface.clone(),
        interface_index: side.index,
        mac: attachment.mac.clone(),
        host_mac: side.mac.clone(),
        addressing: wanted.into(),
        k8s_pod_name: attachment.pod.name.clone(),
        k8s_namespace: attachment.pod.namespace.clone(),
        k8s_uid: attachment.pod.uid.clone(),
        datapath_configuration: Datapath { external_ipam: external },
        sync_build_endpoint: true,
    }
}

fn made(attachment: &Attachment, configuration: &Configuration, held: Vec<Held>, external: bool) -> Made {
    let node = configuration.addressing.as_ref();
    let ends = held.iter().map(|held| {
        let given = attachment.given.iter().find(|end| end.address == held.address);
        let gateway = given.and_then(|end| end.gateway);
        End {
            address: held.address,
            gateway: gateway.or_else(|| node.and_then(|node| node.gateway(held.address))),
        }
    });
    let ends = ends.collect();
    let mtu = [configuration.route_mtu, configuration.device_mtu].into_iter().find(|mtu| *mtu > 0);
    let kept = Kept { addresses: held, external };
    Made {
        ends,
        dns: Vec::new(),
        mtu: mtu.and_then(|mtu| u32::try_from(mtu).ok()).unwrap_or(0),
        // Such a type is always JSON.
        kept: serde_json::to_value(kept).unwrap_or_default(),
    }
}
