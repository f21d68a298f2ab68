//! GC: what belongs to no valid attachment is undone, on the host and on the card.

use anyhow::{Result, bail};
use dpu_api::{CniAttachment, CnigcRequest};

use crate::card::Cards;
use crate::claims::Store;
use crate::cni::{Attachment, Invocation, Version};
use crate::config::{Config, Peer};
use crate::deadline::Deadline;
use crate::host::Host;
use crate::ipam::Ipam;
use crate::undo::Undo;

/// Undoes all attachments of this network that are not valid, and settles tombstones.
///
/// # Errors
/// Where something could not be undone; the rest is done nevertheless.
pub fn gc(host: &mut Host, call: &Invocation, config: &Config, deadline: Deadline) -> Result<()> {
    config.version.must_know("GC", Version::V1_1_0)?;
    let valid = config.valid()?;
    // An ADD that is under way is no leak.
    let _adds = host.store.keep_adds_waiting(deadline)?;
    let mut undo = Undo { call, config: Some(config), cards: Cards::default() };
    let mut wrong = Vec::new();
    for claim in host.store.claims()? {
        if claim.network != config.network || valid.contains(&claim.attachment) {
            continue;
        }
        tracing::info!(attachment = %claim.attachment, vf = claim.vf.address, "not valid");
        if let Err(error) = forget(host, &mut undo, &claim.attachment, deadline) {
            wrong.push(format!("`{}`: {error:#}", claim.attachment));
        }
    }
    for tombstone in host.store.tombstones()? {
        match undo.settle(host, &tombstone, deadline, deadline) {
            Ok(true) => {}
            Ok(false) => wrong.push(format!("`{}`: see the log", tombstone.attachment)),
            Err(error) => wrong.push(format!("`{}`: {error:#}", tombstone.attachment)),
        }
    }
    if let Err(error) = tell_card(&host.store, &mut undo.cards, &config.agent, valid, deadline) {
        wrong.push(format!("{error:#}"));
    }
    if let Some(plugin) = &config.ipam
        && let Err(error) = (Ipam { call, plugin, config }).gc(deadline)
    {
        wrong.push(format!("{error:#}"));
    }
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => bail!(crate::cni::Code::TRY_AGAIN.because(wrong.join("; "))),
    }
}

fn forget(host: &mut Host, undo: &mut Undo, attachment: &Attachment, deadline: Deadline) -> Result<()> {
    let lock = host.store.lock(attachment, deadline)?;
    // A DEL may have been faster.
    let Some(claim) = host.store.claim(attachment)? else { return Ok(()) };
    undo.undo(host, claim, deadline, &lock).map(drop)
}

/// Has the card forget all that this host does not know. Other networks' attachments are valid too. Needs
/// [`Store::keep_adds_waiting`].
pub fn tell_card(
    store: &Store,
    cards: &mut Cards,
    agent: &Peer,
    mut valid: Vec<Attachment>,
    deadline: Deadline,
) -> Result<()> {
    valid.extend(store.claims()?.into_iter().map(|claim| claim.attachment));
    valid.sort();
    valid.dedup();
    let attachment =
        |valid: Attachment| CniAttachment { container_id: valid.container, ifname: valid.interface };
    let request = CnigcRequest { valid: valid.into_iter().map(attachment).collect() };
    cards.of(agent)?.gc(&request, deadline)
}
