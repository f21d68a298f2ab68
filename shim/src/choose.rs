//! Which VF a pod gets.

use anyhow::Result;

use crate::claims::{Before, Claim, Left, Lock};
use crate::cni::Code;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::device;
use crate::host::Host;
use crate::netlink::Link;
use crate::undo::Undo;
use crate::vf::{self, Vf};

/// A VF is wanted.
pub struct Wish<'a> {
    /// What kind of VF, and perhaps which one.
    pub config: &'a Config,
    /// By when.
    pub deadline: Deadline,
    /// The lock of the attachment that it is for.
    pub lock: &'a Lock,
    /// The claim on a VF whose interface is as told.
    pub claim: &'a dyn Fn(Vf, Before) -> Claim,
}

/// Claims a VF; gives the number of its interface, too.
///
/// # Errors
/// [`Code::TRY_AGAIN`] where none is free, [`Code::CONFIGURATION`] where the device that was asked for
/// is none of ours.
pub fn choose(host: &mut Host, undo: &mut Undo, wish: &Wish) -> Result<(Claim, u32)> {
    let vfs = candidates(host, wish.config)?;
    if let Some(claim) = try_all(host, undo, wish, &vfs)? {
        return Ok(claim);
    }
    recover(host, undo, &vfs, wish.deadline)?;
    match try_all(host, undo, wish, &vfs)? {
        Some(claim) => Ok(claim),
        None => Err(none_is_free(host, &vfs)?),
    }
}

fn candidates(host: &Host, config: &Config) -> Result<Vec<Vf>> {
    let mut vfs = vf::vfs(&host.files, config.vf)?;
    if vfs.is_empty() {
        return Err(Code::TRY_AGAIN.because(format_args!(
            "this host has no VF `{}`: is the card up, and `sriov_numvfs` of its PF set?",
            config.vf
        )));
    }
    if let Some(device) = &config.device {
        let known = vfs.len();
        vfs.retain(|vf| vf.address.eq_ignore_ascii_case(device));
        if vfs.is_empty() {
            return Err(Code::CONFIGURATION.because(format_args!(
                "the device plugin chose `{}`, which is none of the {known} VFs `{}` of this host",
                device.escape_debug(),
                config.vf
            )));
        }
    }
    Ok(vfs)
}

fn try_all(host: &mut Host, undo: &mut Undo, wish: &Wish, vfs: &[Vf]) -> Result<Option<(Claim, u32)>> {
    let tombstones = host.store.tombstones()?;
    let of = |vf: &Vf| tombstones.iter().find(|tombstone| tombstone.vf.address == vf.address);
    for vf in vfs.iter().filter(|vf| of(vf).is_none()) {
        if let Some(claim) = try_one(host, wish, vf)? {
            return Ok(Some(claim));
        }
    }
    // The card may still have an older pod's network on these, and must hear first that it is gone.
    for (vf, tombstone) in vfs.iter().filter_map(|vf| Some((vf, of(vf)?))) {
        // Each takes its moment, even where there is no time to ask the card; there may be as many as VFs.
        if wish.deadline.is_over() {
            break;
        }
        if undo.settle(host, tombstone, wish.deadline, wish.deadline)?
            && let Some(claim) = try_one(host, wish, vf)?
        {
            return Ok(Some(claim));
        }
    }
    Ok(None)
}

fn try_one(host: &mut Host, wish: &Wish, vf: &Vf) -> Result<Option<(Claim, u32)>> {
    if host.store.is_claimed(vf) {
        return Ok(None);
    }
    let Some(link) = host.interface(vf)? else { return Ok(None) };
    let before = match device::as_it_is(&link) {
        Ok(before) => before,
        Err(error) => {
            tracing::warn!(vf = vf.address, "this VF cannot be used: {error:#}");
            return Ok(None);
        }
    };
    let claim = (wish.claim)(vf.clone(), before);
    if !host.store.take(&claim, wish.lock)? {
        return Ok(None);
    }
    // Before the claim, another pod may have come and gone.
    let is_same =
        |now: Link| now.index == link.index && device::as_it_is(&now).ok() == Some(claim.before.clone());
    let is_clean = host.store.tombstones()?.iter().all(|tombstone| tombstone.vf.address != vf.address);
    if is_clean && host.interface(vf)?.is_some_and(is_same) {
        return Ok(Some((claim, link.index)));
    }
    host.store.release(&Claim { left: Left::NOTHING, ..claim }, wish.lock)?;
    Ok(None)
}

/// Frees VFs whose pods have gone without a DEL: after a start of the host, or where a runtime forgot.
pub fn recover(host: &mut Host, undo: &mut Undo, vfs: &[Vf], deadline: Deadline) -> Result<()> {
    for claim in host.store.claims()? {
        if !vfs.iter().any(|vf| vf.address == claim.vf.address) {
            continue;
        }
        // Where another call works on it, it is that call's.
        let Some(lock) = host.store.try_lock(&claim.attachment)? else { continue };
        let Some(claim) = host.store.claim(&claim.attachment)? else { continue };
        if claim.namespace.open(&host.files)?.is_none() && host.interface(&claim.vf)?.is_some() {
            tracing::warn!(attachment = %claim.attachment, vf = claim.vf.address, "its pod has gone without a DEL");
            undo.undo(host, claim, deadline, &lock)?;
        }
    }
    for vf in vfs {
        if host.interface(vf)?.is_some() {
            host.store.remove_unreadable(vf)?;
        }
    }
    Ok(())
}

fn none_is_free(host: &Host, vfs: &[Vf]) -> Result<anyhow::Error> {
    let tombstones = host.store.tombstones()?;
    let claimed = vfs.iter().filter(|vf| host.store.is_claimed(vf)).count();
    let is_buried = |vf: &&Vf| tombstones.iter().any(|tombstone| tombstone.vf.address == vf.address);
    let buried = vfs.iter().filter(|vf| !host.store.is_claimed(vf)).filter(is_buried).count();
    let other = vfs.len() - claimed - buried;
    Ok(Code::TRY_AGAIN.because(format_args!(
        "none of {} VFs is free: pods have {claimed}, {buried} wait for the card to hear of their last pod's end, {other} have no interface in the host's namespace",
        vfs.len()
    )))
}
