//! What calls of the plugin had to leave: tombstones, VFs whose pods went without a DEL, and networks on the card
//! that are no pod's.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use super::machine::Machine;
use super::phases::PACKAGED;
use super::report::Report;
use crate::card::Cards;
use crate::choose::recover;
use crate::claims::Store;
use crate::cni::Invocation;
use crate::deadline::Deadline;
use crate::gc;
use crate::host::Host;
use crate::undo::Undo;
use crate::vf;

/// How long all of it may take; the rest is the next time's.
const PATIENCE: Duration = Duration::from_secs(5);

/// Settles what can be settled. One tombstone that cannot holds up no other.
pub fn settle(machine: &Machine, report: &mut Report) -> Result<()> {
    let store = Store::look(&machine.files);
    let tombstones = store.tombstones()?;
    if tombstones.is_empty() && store.claims()?.is_empty() {
        return Ok(());
    }
    let deadline = Deadline::after(Instant::now(), PATIENCE);
    let call = call(machine)?;
    let mut host = Host::open(machine.files.clone())?;
    let mut undo = Undo { call: &call, config: Some(&machine.config.plugin), cards: Cards::default() };
    for tombstone in tombstones {
        let attachment = &tombstone.attachment;
        report.try_to(|report| {
            // A call that works on it does this work.
            let now = deadline.at_most(Duration::ZERO);
            if undo.settle(&mut host, &tombstone, now, deadline)? {
                report.did(format!("settled what `{attachment}` had left"));
            } else {
                report.waits(format!("what `{attachment}` left is not settled yet"));
            }
            Ok(())
        });
    }
    let vfs = vf::vfs(&host.files, machine.config.vf)?;
    recover(&mut host, &mut undo, &vfs, deadline)
}

/// Has the card forget the networks of pods that this host does not know: an ADD that the agent read after its DEL
/// leaves one, and so do claims that are lost. Runtimes that call GC do the same, and not all do. False where ADDs
/// are under way, which would lose theirs.
///
/// It is left undone where a VF is neither the host's nor claimed by a claim that can be read: somebody else may have
/// asked the card for its network.
pub fn reconcile(machine: &Machine, report: &mut Report) -> Result<bool> {
    let deadline = Deadline::after(Instant::now(), PATIENCE);
    let mut host = Host::open(machine.files.clone())?;
    let Ok(_adds) = host.store.keep_adds_waiting(deadline.at_most(Duration::ZERO)) else { return Ok(false) };
    let claims = host.store.claims()?;
    for vf in vf::vfs(&host.files, machine.config.vf)? {
        let is_claimed = claims.iter().any(|claim| claim.vf.address == vf.address);
        if !is_claimed && (host.store.is_claimed(&vf) || host.interface(&vf)?.is_none()) {
            let address = vf.address;
            report
                .notes
                .push(format!("the card is not asked to clean up: whose `{address}` is cannot be told"));
            return Ok(true);
        }
    }
    let agent = &machine.config.plugin.agent;
    gc::tell_card(&host.store, &mut Cards::default(), agent, Vec::new(), deadline)?;
    Ok(true)
}

/// What an IPAM plugin hears of who runs it.
fn call(machine: &Machine) -> Result<Invocation> {
    let packaged = Path::new(PACKAGED).parent().into_iter();
    let folders = env::join_paths(machine.config.plugins.iter().map(AsRef::as_ref).chain(packaged))?;
    Invocation::read(|name| match name {
        "CNI_COMMAND" => Some(OsString::from("STATUS")),
        "CNI_PATH" => Some(folders.clone()),
        _ => None,
    })
}
