//! What calls of the plugin had to leave: tombstones, and VFs whose pods went without a DEL.

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
