//! DEL: what ADD did is undone.
//!
//! It acts on a claim or a tombstone of its own attachment and on nothing else, so that one that comes
//! late, when another pod has the VF, touches nothing. It succeeds where the host's part is done; what
//! the card could not be told yet stays as a tombstone.

use anyhow::Result;

use crate::card::Cards;
use crate::cni::Invocation;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::host::Host;
use crate::ipam::Ipam;
use crate::undo::Undo;

/// Takes a pod's interface away. A configuration that cannot be read stops nothing: claims hold theirs.
///
/// # Errors
/// Where another call works on the attachment until the deadline, the disk refuses, or there is no
/// claim and the host's IPAM plugin fails.
pub fn del(host: &mut Host, call: &Invocation, config: Option<&Config>, deadline: Deadline) -> Result<()> {
    let attachment = call.attachment()?;
    let lock = host.store.lock(attachment, deadline)?;
    let mut undo = Undo { call, config, cards: Cards::default() };
    let found = [host.store.claim(attachment)?, host.store.tombstone(attachment)?];
    if found.iter().all(Option::is_none) {
        tracing::info!("there is nothing to undo");
        return forget_addresses(call, config, deadline);
    }
    let mut all_undone = true;
    for claim in found.into_iter().flatten() {
        let claim = undo.undo(host, claim, deadline, &lock)?;
        tracing::info!(vf = claim.vf.address, left = ?claim.left, "undone");
        all_undone &= claim.left.is_nothing();
    }
    drop(lock);
    if all_undone {
        undo.settle_all(host, deadline);
    }
    Ok(())
}

/// The IPAM plugin keeps its own books, by container: it is told even where ours hold nothing.
fn forget_addresses(call: &Invocation, config: Option<&Config>, deadline: Deadline) -> Result<()> {
    match config.and_then(|config| Some((config, config.ipam.as_ref()?))) {
        Some((config, plugin)) => Ipam { call, plugin, config }.del(call.attachment()?, deadline),
        None => Ok(()),
    }
}
