//! Takes back what an ADD did: for DEL, for an ADD that failed, for GC, and for pods that vanished.
//!
//! The card is told while the interface is on its way back: a pod that sends for some milliseconds more is not heard.
//! It goes as far as it can. What could not be undone stays on the disk as a tombstone, and is tried again by later
//! calls. The VF is free meanwhile, but nobody gets it before the tombstone is settled.

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
    /// The call's configuration, which tells the way to the agent. Where it cannot be read, those that claims hold
    /// do. Addresses are always given back as the claim's says.
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
        let made_with = Config::of_json(claim.config.clone()).context("reading the claim's configuration");
        claim.left = thread::scope(|scope| {
            let bring_back =
                || span.in_scope(|| remains("the interface", bring_back(host, &claim, deadline)));
            // The kernel waits most of the time that it takes for this.
            let device = claim.left.device.then(|| scope.spawn(bring_back));
            let (mut addresses, mut card) = (claim.left.addresses, claim.left.card);
            if addresses {
                // Those of the ADD: by now, the network may have another IPAM plugin, or none.
                let config = made_with.as_ref().map_err(again);
                let given = config.and_then(|config| self.give_back(config, &claim, deadline));
                addresses = remains("the addresses", given);
            }
            if card {
                // The way to the agent of today.
                let config = self.newer(&claim).map_or_else(|| made_with.as_ref().map_err(again), Ok);
                let told = config.and_then(|config| self.tell_card(config, &claim, deadline));
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

    /// The call's configuration, if it is of the claim's network.
    fn newer(&self, claim: &Claim) -> Option<&'a Config> {
        self.config.filter(|config| config.network == claim.network)
    }

    fn give_back(&self, config: &Config, claim: &Claim, deadline: Deadline) -> Result<()> {
        let Some(plugin) = &config.ipam else { return Ok(()) };
        let is_there = self.call.path.iter().any(|folder| folder.join(plugin).is_file());
        let has_changed = self.newer(claim).is_some_and(|newer| newer.ipam.as_ref() != Some(plugin));
        if !is_there && has_changed {
            // A misspelt one never was there, and one that was removed will not come back: no reason to keep a VF
            // from pods for ever.
            tracing::warn!(
                plugin,
                "the network has another IPAM plugin now, and this one is gone: it is not asked"
            );
            return Ok(());
        }
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

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant;

    use serde_json::{Value, json};

    use super::*;
    use crate::fake::Fake;
    use crate::files::Files;

    fn config(json: &Value) -> Config {
        Config::of_json(json.as_object().unwrap().clone()).unwrap()
    }

    /// Whatever the network's configuration has become since.
    #[test]
    fn addresses_are_given_back_to_who_gave_them() {
        let plain =
            json!({"cniVersion": "1.0.0", "name": "offload", "type": "offload-cni", "insecure": true});
        let with = |ipam: Value| {
            let mut config = plain.clone();
            config["ipam"] = ipam;
            config
        };
        let made_with = with(json!({"type": "gives", "dataDir": "/old"}));
        for newer in [plain.clone(), with(json!({"type": "other"})), with(json!({"type": "gives"}))] {
            let fake = Fake::new();
            let script = "#!/bin/sh\necho $CNI_COMMAND $CNI_CONTAINERID >$0.asked; cat >>$0.asked\n";
            fake.file("/plugins/gives", script);
            fs::set_permissions(fake.at("/plugins/gives"), fs::Permissions::from_mode(0o755)).unwrap();
            let claim: Claim = serde_json::from_value(json!({
                "containerID": "c1", "ifname": "eth0", "network": "offload",
                "pod": {"namespace": "default", "name": "pod", "uid": ""},
                "namespace": {"path": "/run/netns/c1", "device": 1, "inode": 1, "boot": ""},
                "vf": {"address": "0000:01:10.0", "number": 0, "pf": 0, "pfs": 1},
                "before": {"name": "vf0", "mac": "02:00:00:00:00:01", "mtu": 1500, "up": false},
                "left": {"device": false, "addresses": true, "card": false},
                "config": made_with,
            }))
            .unwrap();
            let mut host = Host::open(Files::below(fake.root())).unwrap();
            let folder = fake.at("/plugins");
            let call = Invocation::read(|name| match name {
                "CNI_COMMAND" => Some(OsString::from("STATUS")),
                "CNI_PATH" => Some(folder.clone().into()),
                _ => None,
            });
            let (call, newer) = (call.unwrap(), config(&newer));
            let mut undo = Undo { call: &call, config: Some(&newer), cards: Cards::default() };
            let deadline = Deadline::after(Instant::now(), Duration::from_secs(30));
            let lock = host.store.lock(&claim.attachment, deadline).unwrap();
            let undone = undo.undo(&mut host, claim, deadline, &lock).unwrap();
            assert!(undone.left.is_nothing());
            let asked = fs::read_to_string(fake.at("/plugins/gives.asked")).unwrap();
            assert!(asked.starts_with("DEL c1\n") && asked.contains("\"/old\""), "{asked}");
        }
    }
}
