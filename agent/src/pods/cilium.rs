//! Pods' networks made by Cilium on the card, which is asked over its API's socket as its own CNI plugin asks it:
//! an endpoint whose node side is the VF.
//!
//! # What an ADD does
//! `GET /config` (addresses of the node, MTUs, who gives addresses), `POST /ipam` with an expiration, `PUT
//! /endpoint` with the VF's interface, the pod's hardware address and the addresses. Where the host gave addresses,
//! there is no `POST /ipam`, and the endpoint is marked `external-ipam`.
//!
//! | Cilium answers | what is done |
//! | --- | --- |
//! | 429, 502, 503 | asked again with growing, random pauses until the deadline |
//! | 400 with `already`, 409 | the endpoint of the attachment is looked up: the same one is taken over, another is replaced; another endpoint with the address is taken away where it is on this very VF |
//! | nothing (connection lost, no end) | the endpoint is looked up: it may have been made |
//! | 500, other 5xx | the call fails, and may be tried later |
//! | other 4xx | the call fails for good |
//! | no JSON, too much | the call fails, and may be tried later |
//!
//! A failed ADD takes away what it made, for which a quarter of its time is kept; what Cilium does not let go of in
//! time is taken away in the background ([`leftovers`]), or by the next call for the same attachment.
//! A Cilium that can't be reached is not waited for.
//!
//! # Whose an address is
//! Deletion of an endpoint gives its addresses back, and `DELETE /ipam/{ip}` asks nobody's leave: an address that is
//! given back twice may by then be another pod's. So after an endpoint went, its addresses are left alone; where it
//! had gone before, those are given back that Cilium's books (`GET /healthz`, `ipam.allocations`) name as the pod's
//! and no endpoint has.
//!
//! # Whose an endpoint is
//! DEL is by attachment (`cni-attachment-id:CONTAINER:INTERFACE`), not by container, so that other interfaces of the pod
//! stay. [`Network::reconcile`] takes away endpoints of no known attachment only where their interface is a VF of the
//! card by its PCI id: Cilium's own plugin makes endpoints on interfaces that it creates, and on no other.
//! It must not run while an ADD does.
//!
//! # What was read
//! Cilium's description of its API (`api/v1/openapi.yaml`), its plugin (`plugins/cilium-cni/cmd`) and what serves the calls
//! (`daemon/cmd/endpoint.go`), in public copies around version 1.17: statuses and bodies; that `PUT` answers 400
//! where attachment or address exist; that a failed `PUT` leaves the addresses to the caller, and a deletion does not
//! unless `external-ipam` is set; that `POST /ipam` without a family takes one of each that is on.
//!
//! # What a run with a real Cilium still has to show
//! All tests here are against a stand-in that was written from those facts. Open are:
//! - that Cilium's programs, attached to a VF in place of a veth, see the pod's packets, and that what they redirect to
//!   it arrives (legacy host routing avoids `bpf_redirect_peer`, which needs a veth);
//! - that Cilium makes the route to the pod by itself (`cilium_host`, or one to the VF with endpoint routes), that
//!   the VF needs no address, proxy ARP or `rp_filter` setting, and who answers the pod's ARP for its gateway;
//! - the pod's labels: Cilium resolves them only for pods of its own node, so the endpoint may stay `reserved:init`;
//! - the text of 400s, and that `GET /healthz` names owners as `NAMESPACE/NAME`, with ` [restored]` after a restart;
//! - how long `PUT` takes when programs are compiled, against the host's deadline, and the limits of its rate;
//! - that endpoints on VFs are restored after a restart of Cilium alone.

mod api;
mod connect;
mod http;
mod leftovers;
mod owners;
mod reconcile;
mod undo;
mod words;

#[cfg(test)]
mod failures;
#[cfg(test)]
mod stand_in;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use dpu_plan::PciId;
use serde::Deserialize as _;

use self::api::{Api, Gone, attachment_id};
use self::connect::{Kept, Side};
use self::leftovers::Leftovers;
use self::owners::Owners;
use self::undo::{Tried, release_unused, undo};
use super::network::{Attachment, Made, Network, Reconciled, Refusal};
use crate::tree::Tree;

/// Who is asked, and what is the card's.
pub struct Settings {
    /// The socket of Cilium's API: `/var/run/cilium/cilium.sock`.
    pub socket: PathBuf,
    /// The PCI id of the card's VFs towards the host: `177d:a0f7`.
    pub vf: PciId,
    /// The card's files, for what the kernel says of VFs.
    pub tree: Tree,
    /// The first pause before a busy Cilium is asked again: 50 ms. It doubles, to a second at most.
    pub pause: Duration,
}

/// Networks that Cilium makes.
pub struct Cilium {
    api: Arc<Api>,
    vf: PciId,
    tree: Tree,
    leftovers: Leftovers,
}

impl Cilium {
    /// Networks of the Cilium that listens there. Nothing is asked before it is needed.
    pub fn new(settings: Settings) -> Self {
        let Settings { socket, vf, tree, pause } = settings;
        let api = Arc::new(Api { client: http::Client { socket }, pause, owners: Owners::default() });
        Self { leftovers: Leftovers::new(Arc::clone(&api)), api, vf, tree }
    }

    /// Waits until what failed calls left behind is gone, or given up.
    pub async fn settle(&self) {
        self.leftovers.settle().await;
    }

    /// Takes away what an earlier try of the attachment left.
    async fn clear(&self, attachment: &Attachment, deadline: Instant) -> Result<(), Refusal> {
        let mut earlier =
            Attempt { of: self, attachment, tried: self.leftovers.take(attachment, deadline).await? };
        undo(&self.api, attachment, &mut earlier.tried, deadline)
            .await
            .map_err(|refusal| Refusal::Later(reason(refusal).context("taking away an earlier try")))
    }

    /// Takes away the endpoint of an attachment, where Cilium does not know it by the attachment.
    async fn delete_listed(&self, attachment: &Attachment, deadline: Instant) -> Result<Gone, Refusal> {
        let mut gone = Gone::Before;
        for endpoint in self.api.endpoints(deadline).await? {
            if endpoint.is_of(attachment) && endpoint.interface() == attachment.vf.interface {
                gone = self.api.delete(&format!("cilium-local:{}", endpoint.id), deadline).await?;
            }
        }
        Ok(gone)
    }
}

/// What one call may leave behind; whatever is left when it ends, or is dropped, goes in the background.
struct Attempt<'a> {
    of: &'a Cilium,
    attachment: &'a Attachment,
    tried: Tried,
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        self.of.leftovers.keep(self.attachment, std::mem::take(&mut self.tried));
    }
}

#[tonic::async_trait]
impl Network for Cilium {
    fn name(&self) -> &'static str {
        "cilium"
    }

    async fn add(&self, attachment: &Attachment, deadline: Instant) -> Result<Made, Refusal> {
        let now = Instant::now();
        let work = now + deadline.saturating_duration_since(now) * 3 / 4;
        self.clear(attachment, work).await?;
        let mut attempt = Attempt { of: self, attachment, tried: Tried::default() };
        let made = connect::connect(&self.api, &self.tree, attachment, &mut attempt.tried, work).await;
        // What a success leaves, addresses that an endpoint which was there does not need, goes in the background:
        // were this call dropped from here on, nobody would know of the endpoint.
        if made.is_err()
            && let Err(left) = undo(&self.api, attachment, &mut attempt.tried, deadline).await
        {
            tracing::warn!(container = attachment.container, "undoing an ADD: {:#}", reason(left));
        }
        made
    }

    async fn del(
        &self,
        attachment: &Attachment,
        made: Option<&Made>,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        self.clear(attachment, deadline).await?;
        let gone = match self.api.delete(&attachment_id(attachment), deadline).await {
            // Before 1.14 there were no ids of attachments.
            Err(Refusal::Never(_)) => self.delete_listed(attachment, deadline).await?,
            gone => gone?,
        };
        let external = made.and_then(|made| kept(made).ok()).map_or(
            // The host's addresses are none of Cilium's, whatever became of the ADD.
            !attachment.given.is_empty(),
            |kept| kept.external,
        );
        if gone == Gone::Before && !external {
            release_unused(&self.api, attachment, deadline).await?;
        }
        Ok(())
    }

    async fn check(&self, attachment: &Attachment, made: &Made, deadline: Instant) -> Result<(), Refusal> {
        let id = attachment_id(attachment);
        let missing = || Refusal::Never(anyhow!("Cilium has no endpoint `{id}`"));
        let health = self.api.health(&id, deadline).await?.ok_or_else(missing)?;
        if health.overall_health == "Failure" {
            return Err(Refusal::Never(anyhow!("Cilium says that the endpoint `{id}` fails")));
        }
        let endpoint = self.api.endpoint(&id, deadline).await?.ok_or_else(missing)?;
        let side = Side::of(&self.tree, &attachment.vf).map_err(Refusal::Never)?;
        let addresses: BTreeSet<IpAddr> = made.ends.iter().map(|end| end.address).collect();
        if endpoint.is_as_made(attachment, side.index) && endpoint.addresses() == addresses {
            return Ok(());
        }
        Err(Refusal::Never(anyhow!(
            "{} has the addresses {:?}, and is not as it was made: {addresses:?} on `{}`, number {}, for {}",
            endpoint.whose(),
            endpoint.addresses(),
            attachment.vf.interface,
            side.index,
            attachment.mac
        )))
    }

    async fn reconcile(&self, known: &[(Attachment, Made)]) -> Result<Reconciled> {
        self.put_right(known).await
    }

    async fn ready(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(3);
        let status = self.api.status(true, deadline).await.map_err(reason)?;
        let cilium = status.cilium.context("asking Cilium: `GET /healthz` says nothing of itself")?;
        match cilium.state.as_str() {
            "Ok" | "Warning" => Ok(()),
            state => bail!("Cilium is in the state `{}`: {}", state.escape_debug(), cilium.msg),
        }
    }
}

fn kept(made: &Made) -> Result<Kept> {
    Ok(Kept::deserialize(&made.kept)?)
}

/// Why it was refused.
fn reason(refusal: Refusal) -> anyhow::Error {
    match refusal {
        Refusal::Later(error) | Refusal::Never(error) => error,
    }
}
