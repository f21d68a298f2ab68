//! The attachments of this card: what the calls do with them, one pod at a time and different pods at once.
//!
//! An attachment is noted before its network is made and after, so that whatever an end of the agent cuts short
//! is found at the next start and undone. The host is the one who gives out VFs: where it asks for a network on
//! a VF that another attachment has here, it has taken that VF back from it, and the older attachment is stale.
//! A request that is older than it looks can't do that: see [`Recent`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use dpu_plan::PciId;
use tokio::sync::RwLock;
use tokio::time::timeout_at;

use super::locks::{Held, Locks};
use super::network::{Attachment, Made, Network, Reconciled, Refusal, Vf};
use super::request::{Add, Check, Del, Key};
use super::state::{Record, Store, now};
use super::vfs;
use crate::Card;
use crate::metrics::Metrics;
use crate::pci::Device;

/// Why a call failed.
#[derive(Debug)]
pub enum Failure {
    /// There is no such attachment.
    Unknown(String),
    /// The same call may succeed later.
    Later(anyhow::Error),
    /// It will not.
    Never(anyhow::Error),
    /// The time was over.
    Late(&'static str),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Later(error) => Self::Later(error),
            Refusal::Never(error) => Self::Never(error),
        }
    }
}

/// The books.
pub struct Books {
    card: Arc<Card>,
    vf: PciId,
    finder: vfs::Finder,
    network: Arc<dyn Network>,
    store: Store,
    metrics: Arc<Metrics>,
    records: Mutex<BTreeMap<Key, Record>>,
    recent: Mutex<Recent>,
    /// Held by each call for its container and its VFs.
    locks: Locks,
    /// Held, shared, by each call; held alone while all is being compared with what exists.
    calls: RwLock<()>,
    /// The last comparison with what exists; none before the first.
    compared: Mutex<Option<Compared>>,
}

/// A comparison of the attachments with what exists.
struct Compared {
    at: Instant,
    /// What the VFs of pods were like, by their addresses.
    vfs: BTreeMap<String, String>,
    /// For how long it is good.
    good: Duration,
}

/// Attachments that were taken away not long ago. An ADD may be read late, after the host gave up on it, took
/// everything back and gave the VF to another pod; such a one must not take the VF from that pod.
#[derive(Default)]
struct Recent {
    gone: VecDeque<(Instant, Key)>,
}

impl Recent {
    const MEMORY: Duration = Duration::from_mins(10);
    const MOST: usize = 4096;

    fn note(&mut self, key: Key) {
        let now = Instant::now();
        self.gone.retain(|(at, gone)| *gone != key && now.duration_since(*at) < Self::MEMORY);
        if self.gone.len() >= Self::MOST {
            self.gone.pop_front();
        }
        self.gone.push_back((now, key));
    }

    fn has(&self, key: &Key) -> bool {
        self.gone.iter().any(|(at, gone)| gone == key && at.elapsed() < Self::MEMORY)
    }
}

/// How long a step of the agent's own may take, where no caller waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a comparison with what exists counts, where nothing seems to have changed.
const COMPARE_AGAIN: Duration = Duration::from_mins(5);
/// How soon what could not be put right is tried again: all calls wait meanwhile.
const MEND_AGAIN: Duration = Duration::from_mins(1);

impl Books {
    /// The books as the disk has them. Nothing is compared with what exists yet.
    ///
    /// # Errors
    /// Where the disk can't be read or written.
    pub fn open(
        card: Arc<Card>,
        vf: PciId,
        network: Arc<dyn Network>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let store = Store::of(&card.tree);
        let loaded = store.load()?;
        for (name, reason) in &loaded.damaged {
            tracing::error!(file = name, "put a damaged file aside: {reason}");
        }
        metrics.damaged(loaded.damaged.len());
        for record in loaded.records.iter().filter(|record| record.network != network.name()) {
            tracing::warn!(attachment = %record.key(), network = record.network, "its network is no longer this card's");
        }
        let records = loaded.records.into_iter().map(|record| (record.key(), record)).collect();
        Ok(Self {
            card,
            vf,
            finder: vfs::Finder::default(),
            network,
            store,
            metrics,
            records: Mutex::new(records),
            recent: Mutex::default(),
            locks: Locks::default(),
            calls: RwLock::default(),
            compared: Mutex::default(),
        })
    }

    /// Makes a pod's network, or finds it made.
    pub async fn add(&self, wish: Add, deadline: Instant) -> Result<Made, Failure> {
        let _calls = until(deadline, "comparing the attachments with what exists", self.calls.read()).await?;
        if lock(&self.compared).is_none() {
            return Err(Failure::Later(anyhow!("the agent has just started and does not know all pods yet")));
        }
        let _pod = self.lock_container(&wish.key.container, deadline).await?;
        let vf = self.finder.find(&self.card, self.vf, wish.host)?;
        let own = self.record(&wish.key);
        let mut turns = vec![turn_of(&vf.address)];
        turns.extend(own.as_ref().map(|own| turn_of(&own.attachment.vf.address)));
        let _vfs = until(deadline, "another call for this VF", self.locks.lock_all(turns)).await?;
        in_time(deadline, "waiting for other calls")?;

        let attachment = Attachment {
            container: wish.key.container.clone(),
            interface: wish.key.interface.clone(),
            pod: wish.pod.clone(),
            mac: wish.mac.clone(),
            vf,
            given: wish.given.clone(),
        };
        if let Some(own) = own {
            if let Some(made) = self.is_made(&own, &wish, &attachment, deadline).await? {
                return Ok(made);
            }
            tracing::info!(attachment = %wish.key, "replacing what an earlier ADD left");
            self.take_away(&own, deadline).await?;
        }
        self.clear(&wish.key, &attachment.vf, deadline).await?;
        self.make(&wish, attachment, deadline).await
    }

    /// What was made, where the same was asked for before and is as it should be.
    async fn is_made(
        &self,
        own: &Record,
        wish: &Add,
        attachment: &Attachment,
        deadline: Instant,
    ) -> Result<Option<Made>, Failure> {
        let Some(made) = own.made.clone().filter(|_| !own.leaving && own.host == wish.host) else {
            return Ok(None);
        };
        let before = Attachment { vf: attachment.vf.clone(), ..own.attachment.clone() };
        let same_device = own.attachment.vf.address == attachment.vf.address;
        if before != *attachment || !same_device || own.network != self.network.name() {
            return Ok(None);
        }
        match self.network.check(attachment, &made, deadline).await {
            Ok(()) => Ok(Some(made)),
            Err(Refusal::Never(reason)) => {
                tracing::warn!(attachment = %wish.key, "not as it was left: {reason:#}");
                Ok(None)
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Takes older attachments off a VF.
    async fn clear(&self, key: &Key, vf: &Vf, deadline: Instant) -> Result<(), Failure> {
        let stale: Vec<_> = {
            let records = lock(&self.records);
            let on_vf = |record: &&Record| record.attachment.vf.address == vf.address && record.key() != *key;
            records.values().filter(on_vf).cloned().collect()
        };
        let Some(first) = stale.first() else { return Ok(()) };
        if lock(&self.recent).has(key) {
            return Err(Failure::Never(anyhow!(
                "`{key}` was taken away, and its VF `{}` is `{}`'s since: this request is an old one",
                vf.address,
                first.key()
            )));
        }
        for record in stale {
            tracing::warn!(
                attachment = %record.key(), vf = vf.address, by = %key,
                "taken away without a DEL: the host gave its VF to another pod"
            );
            self.take_away(&record, deadline).await?;
            self.metrics.leaks(1);
        }
        Ok(())
    }

    async fn make(&self, wish: &Add, attachment: Attachment, deadline: Instant) -> Result<Made, Failure> {
        let mut record = Record {
            network: self.network.name().to_owned(),
            host: wish.host,
            since: now(),
            leaving: false,
            attachment,
            made: None,
        };
        self.write(&record, false).await.map_err(Failure::Later)?;
        let made = match self.network.add(&record.attachment, deadline).await {
            Ok(made) => made,
            Err(refusal) => {
                // The network left nothing behind.
                self.forget(&wish.key).await.unwrap_or_else(|error| tracing::error!("{error:#}"));
                return Err(refusal.into());
            }
        };
        record.made = Some(made.clone());
        if let Err(error) = self.write(&record, true).await {
            let undone = self.take_away(&record, Instant::now() + PATIENCE).await;
            undone.unwrap_or_else(
                |failure| tracing::error!(attachment = %wish.key, "undoing the ADD: {failure:?}"),
            );
            return Err(Failure::Later(error));
        }
        self.note(&record.attachment.vf.address);
        Ok(made)
    }

    /// Takes networks away; gives how many there were.
    pub async fn del(&self, del: Del, deadline: Instant) -> Result<u32, Failure> {
        let Del::Of { container, interface } = del else {
            tracing::warn!(
                "a DEL says no container: a VF or a pod's name may be another's by now, nothing is done"
            );
            return Ok(0);
        };
        let _calls = until(deadline, "comparing the attachments with what exists", self.calls.read()).await?;
        let _pod = self.lock_container(&container, deadline).await?;
        let keys: Vec<_> = {
            let records = lock(&self.records);
            let asked = |key: &&Key| {
                key.container == container && interface.as_ref().is_none_or(|name| *name == key.interface)
            };
            records.keys().filter(asked).cloned().collect()
        };
        if let Some(interface) = interface {
            lock(&self.recent).note(Key { container, interface });
        }
        let mut removed = 0;
        for key in keys {
            removed += u32::from(self.remove(&key, deadline).await?);
        }
        Ok(removed)
    }

    /// Takes all networks away that are of none of these; gives how many.
    pub async fn gc(&self, valid: &BTreeSet<Key>, deadline: Instant) -> Result<u32, Failure> {
        let _calls = until(deadline, "comparing the attachments with what exists", self.calls.read()).await?;
        let keys: Vec<_> = lock(&self.records).keys().filter(|key| !valid.contains(*key)).cloned().collect();
        let (mut removed, mut failed) = (0, None);
        for key in keys {
            let _pod = self.lock_container(&key.container, deadline).await?;
            match self.remove(&key, deadline).await {
                Ok(was_there) => removed += u32::from(was_there),
                // One that can't be taken away is no reason to leave the others.
                Err(failure) => {
                    tracing::error!(attachment = %key, "collecting it: {failure:?}");
                    failed.get_or_insert(failure);
                }
            }
        }
        failed.map_or(Ok(removed), Err)
    }

    /// Whether an attachment's network is as ADD left it; gives what was made.
    pub async fn check(&self, check: &Check, deadline: Instant) -> Result<Made, Failure> {
        let _calls = until(deadline, "comparing the attachments with what exists", self.calls.read()).await?;
        let _pod = self.lock_container(&check.key.container, deadline).await?;
        let unknown = || Failure::Unknown(format!("this card has no attachment `{}`", check.key));
        let record = self.record(&check.key).ok_or_else(unknown)?;
        let made = record.made.clone().filter(|_| !record.leaving).ok_or_else(unknown)?;
        if let Some(address) = check.address
            && made.ends.iter().all(|end| end.address != address)
        {
            return Err(Failure::Never(anyhow!("`{}` does not have the address {address}", check.key)));
        }
        let vf = self.finder.find(&self.card, self.vf, record.host)?;
        if vf.address != record.attachment.vf.address {
            let (is, was) = (vf.address, record.attachment.vf.address);
            return Err(Failure::Never(anyhow!(
                "`{}` was made on the VF `{was}`, which is `{is}` now",
                check.key
            )));
        }
        let attachment = Attachment { vf, ..record.attachment };
        self.network.check(&attachment, &made, deadline).await?;
        Ok(made)
    }

    /// Compares with what exists, where that is to be done: after the start, when a VF has changed, and now and
    /// then. Makes right what is wrong, ends what was cut short, and frees what is nobody's.
    ///
    /// # Errors
    /// Where it could not: then it is to be tried again. No pod is added before the first success.
    pub async fn compare(&self) -> anyhow::Result<()> {
        let vfs = self.state_of_vfs();
        let is_done = |last: &Compared| last.vfs == vfs && last.at.elapsed() < last.good;
        if lock(&self.compared).as_ref().is_some_and(is_done) {
            return Ok(());
        }
        let _alone = self.calls.write().await;
        let (mut freed, mut good) = (0, COMPARE_AGAIN);
        for record in self.all().into_iter().filter(|record| record.leaving || record.made.is_none()) {
            match self.take_away(&record, Instant::now() + PATIENCE).await {
                Ok(()) => freed += 1,
                // One that can't be ended is no reason to leave the others.
                Err(failure) => {
                    good = Duration::ZERO;
                    tracing::error!(attachment = %record.key(), "ending what was cut short: {failure:?}");
                }
            }
        }
        let known = self.map_anew().await;
        let Reconciled { freed: leaks, wrong } =
            self.network.reconcile(&known).await.context("comparing the attachments with what exists")?;
        freed += leaks;
        for error in wrong {
            good = good.min(MEND_AGAIN);
            tracing::error!("this could not be put right: {error:#}");
        }
        if freed > 0 {
            tracing::warn!(freed, "freed what was nobody's");
        }
        self.metrics.leaks(freed);
        *lock(&self.compared) = Some(Compared { at: Instant::now(), vfs: self.state_of_vfs(), good });
        Ok(())
    }

    /// The attachments of this network, on the VFs that they have now, the newest last. One whose VF has no
    /// interface at this moment has an empty name for it.
    async fn map_anew(&self) -> Vec<(Attachment, Made)> {
        let mut known = Vec::new();
        let ours = |record: &Record| !record.leaving && record.network == self.network.name();
        let mut records: Vec<_> = self.all().into_iter().filter(ours).collect();
        records.sort_by_key(|record| record.since);
        for mut record in records {
            let vf = self.finder.find(&self.card, self.vf, record.host).unwrap_or_else(|refusal| {
                let (Refusal::Later(reason) | Refusal::Never(reason)) = refusal;
                tracing::warn!(attachment = %record.key(), "its VF is not there: {reason:#}");
                Vf { interface: String::new(), ..record.attachment.vf.clone() }
            });
            if vf != record.attachment.vf {
                record.attachment.vf = vf;
                lock(&self.records).insert(record.key(), record.clone());
                // It would be found again.
                self.write(&record, true).await.unwrap_or_else(|error| tracing::error!("{error:#}"));
            }
            known.extend(record.made.map(|made| (record.attachment, made)));
        }
        known
    }

    /// Whether an ADD could succeed now.
    pub async fn ready(&self) -> anyhow::Result<()> {
        if lock(&self.compared).is_none() {
            anyhow::bail!("the attachments are not compared with what exists yet");
        }
        self.network.ready().await
    }

    /// How many VFs pods have, and how many there are.
    pub fn usage(&self) -> anyhow::Result<(usize, usize)> {
        let used: BTreeSet<_> =
            lock(&self.records).values().map(|record| record.attachment.vf.address.clone()).collect();
        Ok((used.len(), vfs::all(&self.card, self.vf)?.len()))
    }

    /// Takes the attachment of this key away, if there is one. Its container is locked.
    async fn remove(&self, key: &Key, deadline: Instant) -> Result<bool, Failure> {
        let Some(record) = self.record(key) else { return Ok(false) };
        let turns = vec![turn_of(&record.attachment.vf.address)];
        let _vf = until(deadline, "another call for this VF", self.locks.lock_all(turns)).await?;
        in_time(deadline, "waiting for other calls")?;
        // An ADD for the VF may have found it stale meanwhile.
        let Some(record) = self.record(key) else { return Ok(false) };
        self.take_away(&record, deadline).await?;
        lock(&self.recent).note(key.clone());
        Ok(true)
    }

    /// Takes an attachment away. Its VF is locked.
    async fn take_away(&self, record: &Record, deadline: Instant) -> Result<(), Failure> {
        let mut leaving = Record { leaving: true, ..record.clone() };
        // A disk that is full is no reason to keep it.
        self.write(&leaving, false).await.unwrap_or_else(|error| tracing::error!("{error:#}"));
        if record.network == self.network.name() {
            leaving.attachment.vf.interface = self.interface_of(record);
            self.network.del(&leaving.attachment, leaving.made.as_ref(), deadline).await?;
        }
        self.forget(&record.key()).await.map_err(Failure::Later)
    }

    /// The interface that an attachment's VF has now: its name may be another VF's by now. It is empty where
    /// there is none, and where the VF is another attachment's, whose network is not to be touched.
    fn interface_of(&self, record: &Record) -> String {
        let Record { attachment: Attachment { vf, .. }, .. } = record;
        let (key, records) = (record.key(), lock(&self.records));
        if records.values().any(|other| other.attachment.vf.address == vf.address && other.key() != key) {
            return String::new();
        }
        let device = Device { address: vf.address.clone() };
        device.interface(&self.card.tree).ok().flatten().unwrap_or_default()
    }

    async fn lock_container(&self, container: &str, deadline: Instant) -> Result<Held, Failure> {
        until(deadline, "another call for this pod", self.locks.lock(&format!("pod {container}"))).await
    }

    async fn write(&self, record: &Record, lasting: bool) -> anyhow::Result<()> {
        let (store, written) = (self.store.clone(), record.clone());
        blocking(move || store.save(&written, lasting)).await?;
        lock(&self.records).insert(record.key(), record.clone());
        Ok(())
    }

    /// What a call of our own did to a VF is nothing to compare all for.
    fn note(&self, address: &str) {
        let is_in_use = lock(&self.records).values().any(|record| record.attachment.vf.address == address);
        let state = is_in_use.then(|| vfs::state_of(&self.card, address));
        if let Some(compared) = lock(&self.compared).as_mut() {
            match state {
                Some(state) => compared.vfs.insert(address.to_owned(), state),
                None => compared.vfs.remove(address),
            };
        }
    }

    async fn forget(&self, key: &Key) -> anyhow::Result<()> {
        let (store, removed) = (self.store.clone(), key.clone());
        blocking(move || store.remove(&removed)).await?;
        let gone = lock(&self.records).remove(key);
        if let Some(gone) = gone {
            self.note(&gone.attachment.vf.address);
        }
        Ok(())
    }

    fn record(&self, key: &Key) -> Option<Record> {
        lock(&self.records).get(key).cloned()
    }

    fn all(&self) -> Vec<Record> {
        lock(&self.records).values().cloned().collect()
    }

    fn state_of_vfs(&self) -> BTreeMap<String, String> {
        let addresses: BTreeSet<_> =
            lock(&self.records).values().map(|record| record.attachment.vf.address.clone()).collect();
        let state = |address: String| (address.clone(), vfs::state_of(&self.card, &address));
        addresses.into_iter().map(state).collect()
    }
}

/// The addresses of what was made, for people.
pub fn addresses(made: Option<&Made>) -> Vec<IpAddr> {
    made.iter().flat_map(|made| &made.ends).map(|end| end.address).collect()
}

/// Containers are locked before VFs, and VFs in the order of these names.
fn turn_of(address: &str) -> String {
    format!("vf {address}")
}

fn in_time(deadline: Instant, what: &'static str) -> Result<(), Failure> {
    if Instant::now() < deadline { Ok(()) } else { Err(Failure::Late(what)) }
}

async fn until<T>(
    deadline: Instant,
    what: &'static str,
    wait: impl Future<Output = T>,
) -> Result<T, Failure> {
    timeout_at(deadline.into(), wait).await.map_err(|_| Failure::Late(what))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await.context("working in the background")?
}

/// What a panic left is whole: nothing is changed step by step under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
