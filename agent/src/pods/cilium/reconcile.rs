//! After a start: endpoints of no known attachment go, those that are missing or different are made anew.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use super::connect::{self, Side};
use super::undo::{Tried, is_kept_for, owner, undo};
use super::words::Endpoint;
use super::{Attachment, Attempt, Cilium, Made, Reconciled, kept, reason};
use crate::pci;

/// How long one call may take where nobody waits for it; Cilium may hold an endpoint back for 15 s to keep its
/// rate.
const PATIENCE: Duration = Duration::from_mins(1);

impl Cilium {
    pub(super) async fn put_right(&self, known: &[(Attachment, Made)]) -> Result<Reconciled> {
        let endpoints = self.api.endpoints(Instant::now() + PATIENCE).await.map_err(reason)?;
        let vfs = self.interfaces()?;
        let mut freed = 0;
        let mut wrong = Vec::new();
        let mut good = vec![false; known.len()];
        for endpoint in &endpoints {
            let place = known.iter().position(|(attachment, _)| endpoint.is_of(attachment));
            let leak = match place {
                Some(place) if !good[place] && self.is_same(endpoint, &known[place]) => {
                    good[place] = true;
                    continue;
                }
                Some(_) => false,
                None if vfs.contains(endpoint.interface()) => true,
                // Of a pod of the card's own, or Cilium's.
                None => continue,
            };
            tracing::info!("taking away {}", endpoint.whose());
            let id = format!("cilium-local:{}", endpoint.id);
            match self.api.delete(&id, Instant::now() + PATIENCE).await {
                Ok(_) => freed += u32::from(leak),
                Err(refusal) => wrong.push(reason(refusal).context(endpoint.whose())),
            }
        }
        for ((attachment, made), _) in known.iter().zip(good).filter(|(_, good)| !good) {
            if let Err(error) = self.restore(attachment, made).await {
                let Attachment { container, interface, .. } = attachment;
                wrong.push(error.context(format!("{container}:{interface}")));
            }
        }
        Ok(Reconciled { freed, wrong })
    }

    /// The interfaces of the card's VFs.
    fn interfaces(&self) -> Result<BTreeSet<String>> {
        let mut names = BTreeSet::new();
        for device in pci::devices(&self.tree, self.vf).context("looking for VFs")? {
            names.extend(device.interface(&self.tree)?);
        }
        Ok(names)
    }

    fn is_same(&self, endpoint: &Endpoint, (attachment, made): &(Attachment, Made)) -> bool {
        let Ok(side) = Side::of(&self.tree, &attachment.vf) else { return false };
        let addresses: BTreeSet<_> = made.ends.iter().map(|end| end.address).collect();
        endpoint.is_as_made(attachment, side.index) && endpoint.addresses() == addresses
    }

    /// Makes a known endpoint anew, with the addresses that the pod has.
    async fn restore(&self, attachment: &Attachment, made: &Made) -> Result<()> {
        let kept = kept(made).context("what was kept of it makes no sense")?;
        let side = Side::of(&self.tree, &attachment.vf)?;
        let deadline = Instant::now() + PATIENCE;
        let mut attempt = Attempt { of: self, attachment, tried: Tried::default() };
        let tried = &mut attempt.tried;
        let making = async {
            let _turn = self.api.owners.turn(&owner(attachment), deadline).await.map_err(reason)?;
            if !kept.external {
                for held in &kept.addresses {
                    let taken = self.api.claim(held, &owner(attachment), deadline).await.map_err(reason)?;
                    if taken {
                        tried.held.push(held.clone());
                    } else if !is_kept_for(&self.api, attachment, held.address, deadline)
                        .await
                        .map_err(reason)?
                    {
                        return Err(anyhow!(
                            "Cilium does not give the pod its address {} again: make the pod anew",
                            held.address
                        ));
                    }
                }
            }
            let put =
                connect::put(&self.api, attachment, &side, &kept.addresses, kept.external, tried, deadline);
            put.await.map_err(reason)
        };
        let done = making.await;
        if done.is_err()
            && let Err(left) =
                undo(&self.api, attachment, &mut attempt.tried, Instant::now() + PATIENCE).await
        {
            tracing::warn!("undoing it: {:#}", reason(left));
        }
        done.map(drop)
    }
}
