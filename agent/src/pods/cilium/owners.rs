//! Whose addresses are being taken or given back: one at a time for each owner.
//!
//! Between `POST /ipam` and `PUT /endpoint` no endpoint has the pod's addresses, and whoever looks for unused ones
//! (of an earlier sandbox of the pod, in the background) would find them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::anyhow;
use tokio::sync::OwnedMutexGuard;
use tokio::time::timeout_at;

use super::Refusal;

/// Who has the turn, by owner.
#[derive(Debug, Default)]
pub struct Owners(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Owners {
    /// Waits for the owner's turn, which lasts as long as what is given back.
    pub async fn turn(&self, owner: &str, deadline: Instant) -> Result<OwnedMutexGuard<()>, Refusal> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(locks.entry(owner.to_owned()).or_default())
        };
        timeout_at(deadline.into(), lock.lock_owned()).await.map_err(|_| {
            Refusal::Later(anyhow!("other addresses of `{owner}` are still being taken or given back"))
        })
    }
}
