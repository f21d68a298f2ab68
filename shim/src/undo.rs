//! Takes back what an ADD did: for DEL, for an ADD that failed, for GC, and for pods that vanished.
//!
//! The card is told while the interface is on its way back: a pod that sends for some milliseconds more is not heard.
//! It goes as far as it can. What could not be undone stays on the disk as a tombstone, and is tried again by later
//! calls. The VF is free meanwhile, but nobody gets it before the tombstone is settled.

use std::borrow::Cow;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tracing::Span;

use crate::card::{Cards, messages};
use crate::claims::{Claim, Left, Lock};
use crate::cni::Invocation;
use crate::config::Config;
use crate::deadline::Deadline;
use crate::device;
use crate::host::Host;
use crate::ipam::Ipam;

/// One call's means of undoing.
pub struct Undo<'a> {
    /// The call.
    pub call: &'a Invocation,
    /// The call's configuration. Where it cannot be read, those that claims hold are used.
    pub config: Option<&'a Config>,
    /// The agents.
    pub cards: Cards,
}

impl<'a> Undo<'a> {
    /// Undoes what is left of a claim or a tombstone and frees its VF. What remains then, with the reasons
    /// in the log, is in the claim that is returned, and in a tombstone. Needs the attachment's lock.
    ///
    /// # Errors
    /// Where the disk refuses: then it is as if nothing had been undone.
    pub fn undo(
        &mut self,
        host: &mut Host,
        mut claim: Claim,
        deadline: Deadline,
        lock: &Lock,
    ) -> Result<Claim> {
        let span = Span::current();
        claim.left = thread::scope(|scope| {
            let bring_back =
                || span.in_scope(|| remains("the interface", bring_back(host, &claim, deadline)));
            // The kernel waits most of the time that it takes for this.
            let device = claim.left.device.then(|| scope.spawn(bring_back));
            let config = self.config_of(&claim);
            let config = config.as_deref();
            let (mut addresses, mut card) = (claim.left.addresses, claim.left.card);
            if addresses {
                let given = config.map_err(again).and_then(|config| self.give_back(config, &claim, deadline));
                addresses = remains("the addresses", given);
            }
            if card {
                let told = config.map_err(again).and_then(|config| self.tell_card(config, &claim, deadline));
                card = remains("the card's part", told);
            }
            // Where it panicked, it may be anywhere.
            Left { device: device.is_some_and(|device| device.join().unwrap_or(true)), addresses, card }
        });
        host.store.release(&claim, lock)?;
        Ok(claim)
    }

    /// Settles a tombstone: true where nothing of it is left. Waits until `lock` for other calls that do
    /// the same.
    pub fn settle(
        &mut self,
        host: &mut Host,
        tombstone: &Claim,
        lock: Deadline,
        deadline: Deadline,
    ) -> Result<bool> {
        let store = host.store.clone();
        let attachment = &tombstone.attachment;
        let Some(lock) = lock.wait_for(|| store.try_lock(attachment))? else { return Ok(false) };
        // Another call may have been faster.
        let Some(tombstone) = store.tombstone(attachment)? else { return Ok(true) };
        tracing::info!(%attachment, vf = tombstone.vf.address, "settling what an earlier call had to leave");
        Ok(self.undo(host, tombstone, deadline, &lock)?.left.is_nothing())
    }

    /// Settles what tombstones there are, as long as it goes well and quickly: it is an earlier call's
    /// work, and this call is done.
    pub fn settle_all(&mut self, host: &mut Host, deadline: Deadline) {
        const PATIENCE: Duration = Duration::from_millis(500);
        let deadline = deadline.at_most(PATIENCE);
        let settled = host.store.tombstones().and_then(|tombstones| {
            for tombstone in tombstones {
                let now = deadline.at_most(Duration::ZERO);
                if deadline.is_over() || !self.settle(host, &tombstone, now, deadline)? {
                    break;
                }
            }
            Ok(())
        });
        if let Err(error) = settled {
            tracing::warn!("settling what earlier calls had to leave: {error:#}");
        }
    }

    /// The configuration that a claim was made with, or this call's of the same network, which is newer.
    fn config_of(&self, claim: &Claim) -> Result<Cow<'a, Config>> {
        match self.config {
            Some(config) if config.network == claim.network => Ok(Cow::Borrowed(config)),
            _ => Ok(Cow::Owned(
                Config::of_json(claim.config.clone()).context("reading the claim's configuration")?,
            )),
        }
    }

    fn give_back(&self, config: &Config, claim: &Claim, deadline: Deadline) -> Result<()> {
        let Some(plugin) = &config.ipam else { return Ok(()) };
        Ipam { call: self.call, plugin, config }.del(&claim.attachment, deadline.part(80))
    }

    fn tell_card(&mut self, config: &Config, claim: &Claim, deadline: Deadline) -> Result<()> {
        // A tombstone takes care of an agent that is away for longer.
        let deadline = deadline.part(95).at_most(deadline.whole() * 2 / 5);
        self.cards.of(&config.agent)?.del(&messages::del(claim), deadline)
    }
}

fn bring_back(host: &mut Host, claim: &Claim, deadline: Deadline) -> Result<()> {
    // The VF of a tombstone may be another pod's; then its interface is not ours to touch.
    let claims = host.store.claims()?;
    let other = claims.iter().find(|other| other.vf.address == claim.vf.address);
    if let Some(other) = other.filter(|other| other.attachment != claim.attachment) {
        anyhow::bail!("`{}` is claimed by `{}`", claim.vf.address, other.attachment);
    }
    // The card needs a part of the time as well.
    device::bring_back(host, claim, deadline.part(50))
}

/// Whether something is still to be undone, by how undoing it ended.
fn remains(what: &str, undone: Result<()>) -> bool {
    undone.map_err(|error| tracing::warn!("undoing {what}: {error:#}")).is_err()
}

/// The same error for a second one who asks.
fn again(error: &anyhow::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}
