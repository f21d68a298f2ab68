//! What is remembered on the disk of networks that were begun: enough to take each of them down, whatever
//! happens to the agent, the configuration or the card meanwhile.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::pods::network::Attachment;

/// The entries, one file for each attachment.
#[derive(Debug, Clone)]
pub struct Journal {
    folder: PathBuf,
}

/// A network that was begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// For what.
    pub attachment: Attachment,
    /// The list that it was begun with, as it was written.
    pub list: Value,
    /// The run of the card's kernel in which it was made.
    pub boot: String,
    /// What the last plugin answered; none while the first is at work. After a network was made anew it is newer
    /// than what [`Made`](crate::pods::network::Made) keeps.
    pub result: Option<Value>,
}

impl Journal {
    /// The journal in `folder`, which is made with the first entry.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The entry of an attachment; none where there is none, or it cannot be understood.
    pub fn get(&self, attachment: &Attachment) -> Result<Option<Entry>> {
        read(&self.place(attachment))
    }

    /// All entries that can be understood, in the order of their names.
    pub fn all(&self) -> Result<Vec<Entry>> {
        let listing = || format!("listing `{}`", self.folder.display());
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(listing),
        };
        let mut paths = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()
            .with_context(listing)?;
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "json"));
        paths.sort();
        Ok(paths.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Keeps an entry, in the place of the attachment's earlier one.
    pub async fn put(&self, entry: Entry) -> Result<()> {
        let place = self.place(&entry.attachment);
        let writing = format!("writing `{}`", place.display());
        let written = tokio::task::spawn_blocking(move || write(&place, &serde_json::to_vec(&entry)?)).await;
        written.map_err(Into::into).flatten().context(writing)
    }

    /// Forgets the entry of an attachment; it may be forgotten already.
    pub fn remove(&self, attachment: &Attachment) -> Result<()> {
        let place = self.place(attachment);
        match fs::remove_file(&place) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing `{}`", place.display()))
            }
            _ => Ok(()),
        }
    }

    /// Neither part can hold a colon or a slash: calls with such names are refused before.
    fn place(&self, attachment: &Attachment) -> PathBuf {
        self.folder.join(format!("{}:{}.json", attachment.container, attachment.interface))
    }
}

/// A file that makes no sense is of an older or newer agent, or damaged: there is nothing to be had from it,
/// and it must not stop what comes after.
fn read(path: &Path) -> Result<Option<Entry>> {
    match fs::read(path) {
        Ok(octets) => match serde_json::from_slice(&octets) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) => {
                tracing::warn!("leaving `{}` unread: {error}", path.display());
                Ok(None)
            }
        },
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading `{}`", path.display())),
    }
}

/// Writes beside, to the disk, then renames. A list may hold what is secret, so only root reads it.
fn write(place: &Path, octets: &[u8]) -> Result<()> {
    let folder = place.parent().context("the path names no file")?;
    fs::create_dir_all(folder)?;
    let beside = place.with_extension("new");
    let mut file =
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    let written = file.write_all(octets).and_then(|()| file.sync_all()).and_then(|()| {
        fs::rename(&beside, place)?;
        fs::File::open(folder)?.sync_all()
    });
    if written.is_err() {
        // What is half there is of no use; the first error is the one to tell.
        let _ = fs::remove_file(&beside);
    }
    Ok(written?)
}

/// The name of this run of the card's kernel; empty where it can't be found out.
pub fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::pods::delegate::fake::attachment;

    #[tokio::test]
    async fn an_entry_is_kept_for_root_alone_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().join("cni"));
        assert_eq!(journal.all().unwrap(), []);
        let entry = Entry { attachment: attachment(), list: Value::Null, boot: boot(), result: None };
        journal.put(entry.clone()).await.unwrap();
        journal.put(entry.clone()).await.unwrap();
        assert_eq!(journal.get(&attachment()).unwrap(), Some(entry.clone()));
        assert_eq!(journal.all().unwrap(), [entry]);
        let file = folder.path().join("cni/c01:eth0.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path().join("cni")).unwrap().count(), 1);

        journal.remove(&attachment()).unwrap();
        journal.remove(&attachment()).unwrap();
        assert_eq!(journal.get(&attachment()).unwrap(), None);
    }

    #[tokio::test]
    async fn a_damaged_entry_hides_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().to_owned());
        fs::write(folder.path().join("a:eth0.json"), "{").unwrap();
        let entry = Entry { attachment: attachment(), list: Value::Null, boot: String::new(), result: None };
        journal.put(entry.clone()).await.unwrap();
        assert_eq!(journal.all().unwrap(), [entry]);
    }
}
