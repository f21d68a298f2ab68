//! Which pod has which VF, on the disk, so that no two calls ever give one VF to two pods and every
//! later call can undo what an earlier one did.
//!
//! | file in `/var/lib/dpukit` | what it is |
//! | --- | --- |
//! | `claims/<PCI address>` | a claim: the pod that has the VF, and all that is needed to undo it |
//! | `tombstones/<container>:<interface>` | a claim whose VF is free again, with what could not be undone yet |
//! | `locks/<container>:<interface>` | held while a call works on that attachment |
//! | `locks/all` | held, shared, by each ADD; held alone by GC |
//!
//! A claim is made by linking a finished file to its name, which the kernel does for one process only. It is on
//! the disk before the runtime hears of it, and not before the VF is touched: a process that is killed leaves it in
//! the kernel, and where the host loses its power, pods and VFs are gone, and the card takes its part for stale once
//! the VF is another pod's.
//! Whoever changes or removes a claim or a tombstone holds its attachment's lock. Locks end with the
//! process that holds them, however it ends.

use std::fs::{self, File, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context as _, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::address::Mac;
use crate::cni::{Attachment, Code, Pod};
use crate::deadline::Deadline;
use crate::files::{self, Files};
use crate::namespace::Place;
use crate::vf::Vf;

const FOLDER: &str = "/var/lib/dpukit";

/// A VF that is a pod's, or that was one's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Whose it is.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// The network's name.
    pub network: String,
    /// The pod, for the card and for people.
    pub pod: Pod,
    /// The pod's network namespace.
    pub namespace: Place,
    /// The VF.
    pub vf: Vf,
    /// The VF's interface as it was on the host.
    pub before: Before,
    /// What is to be undone.
    pub left: Left,
    /// The configuration of the ADD.
    pub config: Map<String, Value>,
}

/// An interface as it was before a pod got it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: Mac,
    /// The largest packet, in octets.
    pub mtu: u32,
    /// Whether it was up.
    pub up: bool,
}

/// What of an ADD is not undone yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// The VF's interface is not back as it was.
    pub device: bool,
    /// The host's IPAM plugin may hold addresses.
    pub addresses: bool,
    /// The card may hold the pod's network.
    pub card: bool,
}

impl Left {
    /// All of it.
    pub const ALL: Self = Self { device: true, addresses: true, card: true };

    /// Nothing.
    pub const NOTHING: Self = Self { device: false, addresses: false, card: false };

    /// Whether nothing is left.
    pub fn is_nothing(self) -> bool {
        self == Self::NOTHING
    }
}

/// The claims, tombstones and locks of a host.
#[derive(Debug, Clone)]
pub struct Store {
    claims: PathBuf,
    tombstones: PathBuf,
    locks: PathBuf,
}

/// A lock, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// The file to remove with the lock.
    path: Option<PathBuf>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // A file that stays is used by the next one.
            let _ = fs::remove_file(path);
        }
        let _ = self.file.unlock();
    }
}

impl Store {
    /// The store of this host.
    ///
    /// # Errors
    /// [`Code::IO`] where its folders cannot be made.
    pub fn open(files: &Files) -> Result<Self> {
        let folder = |name| -> Result<PathBuf> {
            let path = files.at(format!("{FOLDER}/{name}"));
            fs::create_dir_all(&path)
                .with_context(|| format!("making the folder `{}`", path.display()))
                .context(Code::IO)?;
            Ok(path)
        };
        Ok(Self { claims: folder("claims")?, tombstones: folder("tombstones")?, locks: folder("locks")? })
    }

    /// The store of this host for reading alone: nothing is made, and there may be nothing.
    pub fn look(files: &Files) -> Self {
        let folder = |name| files.at(format!("{FOLDER}/{name}"));
        Self { claims: folder("claims"), tombstones: folder("tombstones"), locks: folder("locks") }
    }

    /// Waits for the lock of an attachment.
    ///
    /// # Errors
    /// [`Code::TRY_AGAIN`] where another call holds it until the deadline.
    pub fn lock(&self, attachment: &Attachment, deadline: Deadline) -> Result<Lock> {
        deadline
            .wait_for(|| self.try_lock(attachment))?
            .ok_or_else(|| Code::TRY_AGAIN.because(format_args!("another call works on `{attachment}`")))
    }

    /// The lock of an attachment; none where another call holds it.
    pub fn try_lock(&self, attachment: &Attachment) -> Result<Option<Lock>> {
        let path = self.locks.join(attachment.to_string());
        let Some(file) = try_lock(&path, File::try_lock)? else { return Ok(None) };
        // Who held it before may have removed the file on leaving: then this lock keeps nobody out.
        let same = fs::metadata(&path).is_ok_and(|there| {
            file.metadata().is_ok_and(|held| (held.dev(), held.ino()) == (there.dev(), there.ino()))
        });
        if !same {
            return Ok(None);
        }
        for folder in [&self.claims, &self.tombstones] {
            // What a killed call had begun to write.
            files::remove(&beside(folder, attachment))?;
        }
        Ok(Some(Lock { file, path: Some(path) }))
    }

    /// Waits until no GC runs, and keeps GC waiting for as long as the lock is held.
    ///
    /// # Errors
    /// [`Code::TRY_AGAIN`] where GC runs until the deadline.
    pub fn keep_gc_waiting(&self, deadline: Deadline) -> Result<Lock> {
        self.lock_all(deadline, File::try_lock_shared, "GC is running")
    }

    /// Waits until no ADD runs, and keeps them waiting for as long as the lock is held.
    ///
    /// # Errors
    /// [`Code::TRY_AGAIN`] where ADDs run until the deadline.
    pub fn keep_adds_waiting(&self, deadline: Deadline) -> Result<Lock> {
        self.lock_all(deadline, File::try_lock, "ADDs are running")
    }

    fn lock_all(&self, deadline: Deadline, lock: TryLock, reason: &str) -> Result<Lock> {
        let path = self.locks.join("all");
        let file = deadline.wait_for(|| try_lock(&path, lock))?;
        let file = file.ok_or_else(|| Code::TRY_AGAIN.because(reason))?;
        Ok(Lock { file, path: None })
    }

    /// Waits for the turn to move an interface, which ends with what is returned. The kernel lets nobody change
    /// any interface while it moves one, and takes those who ask in their order: who has one moved already would
    /// wait again for all the others with each further step. Whoever waits in vain goes on without.
    pub fn turn_to_move(&self, deadline: Deadline) -> Option<File> {
        let folder = File::open(&self.locks).ok()?;
        if folder.try_lock().is_ok() {
            return Some(folder);
        }
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || folder.lock().is_ok().then(|| sender.send(folder)));
        receiver.recv_timeout(deadline.left()).ok()
    }

    /// Claims a VF: true where it is claimed now, false where it was claimed already. Needs the attachment's
    /// lock.
    ///
    /// # Errors
    /// [`Code::IO`] where the claim cannot be written.
    pub fn take(&self, claim: &Claim, _: &Lock) -> Result<bool> {
        self.try_take(claim).with_context(|| format!("claiming `{}`", claim.vf.address)).context(Code::IO)
    }

    fn try_take(&self, claim: &Claim) -> Result<bool> {
        let path = self.claims.join(&claim.vf.address);
        if path.exists() {
            return Ok(false);
        }
        let beside = beside(&self.claims, &claim.attachment);
        let written = fs::write(&beside, serde_json::to_vec(claim)?);
        written.with_context(|| format!("writing `{}`", beside.display()))?;
        let linked = fs::hard_link(&beside, &path);
        files::remove(&beside)?;
        match linked {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error).context("linking it to its name"),
        }
    }

    /// Has a claim on the disk for good.
    ///
    /// # Errors
    /// [`Code::IO`] where the disk refuses.
    pub fn keep(&self, claim: &Claim) -> Result<()> {
        let path = self.claims.join(&claim.vf.address);
        let synced = File::open(&path).and_then(|file| file.sync_all());
        synced.with_context(|| format!("writing `{}`", path.display())).context(Code::IO)
    }

    /// Whether a VF is claimed at this moment.
    pub fn is_claimed(&self, vf: &Vf) -> bool {
        self.claims.join(&vf.address).exists()
    }

    /// All claims.
    pub fn claims(&self) -> Result<Vec<Claim>> {
        read_all(&self.claims)
    }

    /// The claim of an attachment.
    pub fn claim(&self, attachment: &Attachment) -> Result<Option<Claim>> {
        Ok(self.claims()?.into_iter().find(|claim| claim.attachment == *attachment))
    }

    /// All tombstones.
    pub fn tombstones(&self) -> Result<Vec<Claim>> {
        read_all(&self.tombstones)
    }

    /// The tombstone of an attachment.
    pub fn tombstone(&self, attachment: &Attachment) -> Result<Option<Claim>> {
        read(&self.tombstones.join(attachment.to_string()))
    }

    /// Makes the VF free again. What is left to undo stays as a tombstone, which is there before the VF
    /// is free. Needs the attachment's lock.
    ///
    /// # Errors
    /// [`Code::IO`] where the disk refuses; then the claim stays.
    pub fn release(&self, claim: &Claim, _: &Lock) -> Result<()> {
        self.try_release(claim).with_context(|| format!("freeing `{}`", claim.vf.address)).context(Code::IO)
    }

    fn try_release(&self, claim: &Claim) -> Result<()> {
        let tombstone = self.tombstones.join(claim.attachment.to_string());
        if claim.left.is_nothing() {
            files::remove(&tombstone)?;
        } else {
            let beside = beside(&self.tombstones, &claim.attachment);
            files::write(&beside, &serde_json::to_vec(claim)?)?;
            fs::rename(&beside, &tombstone)
                .with_context(|| format!("renaming it to `{}`", tombstone.display()))?;
        }
        // A tombstone's VF may have become another pod's.
        let path = self.claims.join(&claim.vf.address);
        match read::<Claim>(&path)? {
            Some(there) if there.attachment == claim.attachment => files::remove(&path),
            _ => Ok(()),
        }
    }

    /// Removes the claim on a VF if it cannot be read: a disk that failed may leave such, and nobody else
    /// could ever free the VF. Its interface is known to be the host's.
    pub fn remove_unreadable(&self, vf: &Vf) -> Result<()> {
        let path = self.claims.join(&vf.address);
        if let Err(error) = read::<Claim>(&path) {
            tracing::warn!("removing a claim: {error:#}");
            files::remove(&path)?;
        }
        Ok(())
    }
}

type TryLock = fn(&File) -> Result<(), TryLockError>;

/// Locks a file, which is made where it is missing; none where it is locked.
fn try_lock(path: &Path, lock: TryLock) -> Result<Option<File>> {
    let locking = || format!("locking `{}`", path.display());
    let file = File::options().write(true).create(true).truncate(false).open(path);
    let file = file.with_context(locking).context(Code::IO)?;
    match lock(&file) {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error).with_context(locking).context(Code::IO),
    }
}

/// Where an attachment's call writes before it links or renames.
fn beside(folder: &Path, attachment: &Attachment) -> PathBuf {
    folder.join(format!(".{attachment}.new"))
}

/// The files of a folder that are finished.
fn visible(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let names = Files::below("/").names(folder)?;
    let finished = names.into_iter().filter(|name| !name.starts_with('.'));
    Ok(finished.map(|name| (name.clone(), folder.join(name))).collect())
}

fn read_all(folder: &Path) -> Result<Vec<Claim>> {
    let mut found = Vec::new();
    for (_, path) in visible(folder)? {
        match read(&path) {
            Ok(claim) => found.extend(claim),
            // One that is damaged is no reason to leave the others.
            Err(error) => tracing::warn!("{error:#}"),
        }
    }
    Ok(found)
}

/// What a file holds; none where it is gone.
fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let reading = || format!("reading `{}`", path.display());
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).with_context(reading)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(reading).context(Code::IO),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::fake::Fake;

    #[test]
    fn interfaces_are_moved_in_turn_and_nobody_waits_for_ever() {
        let fake = Fake::new();
        let store = Store::open(&Files::below(fake.root())).unwrap();
        let soon = || Deadline::after(Instant::now(), Duration::from_millis(50));
        let turn = store.turn_to_move(soon()).unwrap();
        assert!(store.turn_to_move(soon()).is_none(), "it was another's turn");
        let (other, long) = (store.clone(), Deadline::after(Instant::now(), Duration::from_secs(30)));
        let waiting = thread::spawn(move || other.turn_to_move(long).is_some());
        thread::sleep(Duration::from_millis(20));
        assert!(!waiting.is_finished());
        drop(turn);
        assert!(waiting.join().unwrap());
        assert!(fake.at("/var/lib/dpukit/locks").read_dir().unwrap().next().is_none(), "no file is needed");
    }
}
