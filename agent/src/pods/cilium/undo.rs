//! What a try may have left in Cilium, and how it is taken away.
//!
//! An address is given back only where it is surely the pod's: it was given to this very try and never came near an
//! endpoint, or Cilium's books name the pod as its owner and no endpoint has it. For deletion of an endpoint
//! gives its addresses back, and what is given back twice may by then be another pod's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use super::api::{Gone, attachment_id};
use super::words::Held;
use super::{Api, Attachment, Refusal};

/// What a try may have left.
#[derive(Debug, Clone, Default)]
pub struct Tried {
    /// Addresses that are its own, and were never sent with an endpoint.
    pub held: Vec<Held>,
    /// Whether there may be an endpoint, with or without the addresses.
    pub endpoint: bool,
    /// Whether there may be addresses of the pod that nobody uses.
    pub addresses: bool,
}

impl Tried {
    /// Whether there is nothing to take away.
    pub fn is_nothing(&self) -> bool {
        self.held.is_empty() && !self.endpoint && !self.addresses
    }
}

/// Takes away what a try left, and forgets of `tried` what is gone.
pub async fn undo(
    api: &Api,
    attachment: &Attachment,
    tried: &mut Tried,
    deadline: Instant,
) -> Result<(), Refusal> {
    if tried.endpoint {
        let gone = api.delete(&attachment_id(attachment), deadline).await?;
        tried.endpoint = false;
        // Addresses that were sent with it went with it; else they may be there without it.
        tried.addresses |= gone == Gone::Before && attachment.given.is_empty();
    }
    while let Some(held) = tried.held.last() {
        api.release(held.address, &held.pool, deadline).await?;
        tried.held.pop();
    }
    if tried.addresses {
        release_unused(api, attachment, deadline).await?;
        tried.addresses = false;
    }
    Ok(())
}

/// Gives back the addresses that Cilium gave to the pod and no endpoint has.
pub async fn release_unused(api: &Api, attachment: &Attachment, deadline: Instant) -> Result<(), Refusal> {
    let _turn = api.owners.turn(&owner(attachment), deadline).await?;
    let given = given_to(api, attachment, deadline).await?;
    if given.is_empty() {
        return Ok(());
    }
    let used = used(api, deadline).await?;
    for held in given.iter().filter(|held| !used.contains(&held.address)) {
        tracing::info!(owner = owner(attachment), "giving back {}, which no endpoint has", held.address);
        api.release(held.address, &held.pool, deadline).await?;
    }
    Ok(())
}

/// Whether Cilium gave this address to the pod, and no endpoint has it; in the owner's turn.
pub async fn is_kept_for(
    api: &Api,
    attachment: &Attachment,
    address: IpAddr,
    deadline: Instant,
) -> Result<bool, Refusal> {
    let given = given_to(api, attachment, deadline).await?;
    if !given.iter().any(|held| held.address == address) {
        return Ok(false);
    }
    Ok(!used(api, deadline).await?.contains(&address))
}

async fn given_to(api: &Api, attachment: &Attachment, deadline: Instant) -> Result<Vec<Held>, Refusal> {
    let status = api.status(false, deadline).await?;
    let Some(allocations) = status.ipam.and_then(|ipam| ipam.allocations) else { return Ok(Vec::new()) };
    let owner = owner(attachment);
    // Cilium adds ` [restored]` after a restart of its own.
    let is_owner = |name: &str| {
        name.strip_prefix(owner.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(" ["))
    };
    let held = allocations.iter().filter(|(_, name)| is_owner(name)).filter_map(|(place, _)| {
        let (pool, address) = place.rsplit_once('/').unwrap_or(("", place));
        Some(Held { address: address.parse().ok()?, pool: pool.to_owned(), expiry: String::new() })
    });
    Ok(held.collect())
}

async fn used(api: &Api, deadline: Instant) -> Result<BTreeSet<IpAddr>, Refusal> {
    Ok(api.endpoints(deadline).await?.iter().flat_map(super::words::Endpoint::addresses).collect())
}

/// Who gets addresses in Cilium's books: the pod, as Cilium's own plugin writes it.
pub fn owner(attachment: &Attachment) -> String {
    let pod = &attachment.pod;
    if pod.name.is_empty() || pod.namespace.is_empty() {
        return format!("{}:{}", attachment.container, attachment.interface);
    }
    format!("{}/{}", pod.namespace, pod.name)
}
