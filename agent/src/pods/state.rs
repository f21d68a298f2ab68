//! The attachments on the disk: one file each, so that a damaged one costs no other.
//!
//! | in `/var/lib/dpukit/agent` | what it is |
//! | --- | --- |
//! | `attachments/<container>:<interface>` | a [`Record`], as JSON |
//! | `damaged/` | files of `attachments/` that could not be read, put aside for people |
//! | `ipam/` | what the IPAM plugin of the routed network keeps |
//!
//! A file is written beside, then renamed, so that none is ever half there. Three waits for the disk remain: what
//! an attachment has is on it before the host hears of it (the file, then its name), for a card that starts anew
//! gives pods their addresses back; and so is that it has gone (the name), for it would be made again, and the host
//! has nothing left to undo it by. That one is about to be made or taken away is left to the kernel to write down in
//! its own time: the note is for a killed agent, and a power cut ends what it tells of.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::network::{Attachment, Made};
use super::request::Key;
use super::vfs::HostVf;
use crate::tree::Tree;

/// Where the agent keeps its state.
pub const FOLDER: &str = "/var/lib/dpukit/agent";

/// An attachment, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The kind of network that made it.
    pub network: String,
    /// The host's end.
    pub host: HostVf,
    /// When it was asked for: milliseconds since 1970, by the card's clock.
    pub since: u64,
    /// Whether it is being taken away.
    #[serde(default)]
    pub leaving: bool,
    /// What was asked for.
    pub attachment: Attachment,
    /// What was made of it; none while it is being made.
    pub made: Option<Made>,
}

/// What the disk held.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The attachments.
    pub records: Vec<Record>,
    /// Files that could not be read, with the reason.
    pub damaged: Vec<(String, String)>,
}

/// The folder of the attachments.
#[derive(Debug, Clone)]
pub struct Store {
    attachments: PathBuf,
    damaged: PathBuf,
}

impl Record {
    /// The attachment's key.
    pub fn key(&self) -> Key {
        Key { container: self.attachment.container.clone(), interface: self.attachment.interface.clone() }
    }
}

/// Now, as records have it.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Store {
    /// The store of a card.
    pub fn of(tree: &Tree) -> Self {
        let folder = |name| tree.at(format!("{FOLDER}/{name}"));
        Self { attachments: folder("attachments"), damaged: folder("damaged") }
    }

    /// Makes the folders.
    pub fn prepare(&self) -> Result<()> {
        for folder in [&self.attachments, &self.damaged] {
            fs::create_dir_all(folder)
                .with_context(|| format!("making the folder `{}`", folder.display()))?;
        }
        Ok(())
    }

    /// All that is there; nothing is changed.
    pub fn look(&self) -> Result<Loaded> {
        let listing = || format!("listing `{}`", self.attachments.display());
        let entries = match fs::read_dir(&self.attachments) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Loaded::default()),
            Err(error) => return Err(error).with_context(listing),
        };
        let mut loaded = Loaded::default();
        for entry in entries {
            let name = entry.with_context(listing)?.file_name();
            let Some(name) = name.to_str() else {
                loaded.damaged.push((name.to_string_lossy().into_owned(), "its name is no text".into()));
                continue;
            };
            // What was being written when the agent was killed.
            if name.starts_with('.') {
                continue;
            }
            match read(&self.attachments.join(name), name) {
                Ok(record) => loaded.records.extend(record),
                Err(error) => loaded.damaged.push((name.to_owned(), format!("{error:#}"))),
            }
        }
        loaded.records.sort_by_key(|record| record.since);
        Ok(loaded)
    }

    /// How many damaged files were put aside, ever.
    pub fn put_aside(&self) -> usize {
        fs::read_dir(&self.damaged).map_or(0, Iterator::count)
    }

    /// As [`Store::look`], at the start of the agent: damaged files are put aside, and what was half written
    /// is removed.
    pub fn load(&self) -> Result<Loaded> {
        self.prepare()?;
        let loaded = self.look()?;
        for (name, _) in &loaded.damaged {
            let aside = self.damaged.join(format!("{name}.{}", now()));
            fs::rename(self.attachments.join(name), &aside)
                .with_context(|| format!("putting `{name}` aside as `{}`", aside.display()))?;
        }
        for entry in fs::read_dir(&self.attachments)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with('.') {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(loaded)
    }

    /// Writes a record; where it is `lasting`, it is on the disk when this returns.
    pub fn save(&self, record: &Record, lasting: bool) -> Result<()> {
        let name = record.key().to_string();
        let path = self.attachments.join(&name);
        let beside = self.attachments.join(format!(".{name}"));
        let written = serde_json::to_vec_pretty(record)
            .map_err(io::Error::from)
            .and_then(|json| write(&beside, &json, lasting))
            .and_then(|()| fs::rename(&beside, &path))
            .and_then(|()| if lasting { self.sync() } else { Ok(()) });
        if written.is_err() {
            // What is half there is of no use; the first error is the one to tell.
            let _ = fs::remove_file(&beside);
        }
        written.with_context(|| format!("writing `{}`", path.display()))
    }

    /// Removes a record; it may be gone already.
    pub fn remove(&self, key: &Key) -> Result<()> {
        let path = self.attachments.join(key.to_string());
        let removing = || format!("removing `{}`", path.display());
        match fs::remove_file(&path) {
            Ok(()) => self.sync().with_context(removing),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error).with_context(removing),
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.attachments)?.sync_all()
    }
}

fn write(path: &Path, bytes: &[u8], lasting: bool) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    if lasting { file.sync_all() } else { Ok(()) }
}

/// What a file holds; none where it has gone meanwhile.
fn read(path: &Path, name: &str) -> Result<Option<Record>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).context("reading it"),
    };
    let record: Record = serde_json::from_slice(&bytes).context("it is no record")?;
    // What a record names becomes paths, arguments and addresses, so it is held to the same as a request.
    let key = record.key().to_string().parse::<Key>().map_err(anyhow::Error::msg)?;
    if key.to_string() != name {
        bail!("it is the record of `{key}`");
    }
    Ok(Some(record))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;
    use crate::fake;
    use crate::pods::network::{End, Pod, Vf};

    fn record(container: &str) -> Record {
        Record {
            network: "routed".into(),
            host: HostVf { pf: 0, pfs: 1, vf: 3 },
            since: now(),
            leaving: false,
            attachment: Attachment {
                container: container.into(),
                interface: "eth0".into(),
                pod: Pod { namespace: "default".into(), name: "p".into(), uid: String::new() },
                mac: "02:00:00:00:00:0a".into(),
                vf: Vf { address: "0000:01:10.4".into(), interface: "eth3".into() },
                given: Vec::new(),
            },
            made: Some(Made {
                ends: vec![End { address: IpAddr::from([10, 244, 0, 2]), gateway: None }],
                mtu: 1450,
                ..Made::default()
            }),
        }
    }

    fn store() -> (fake::Fake, Store) {
        let fake = fake::virt();
        let store = Store::of(&fake.card().tree);
        store.prepare().unwrap();
        (fake, store)
    }

    const ATTACHMENTS: &str = "/var/lib/dpukit/agent/attachments";

    #[test]
    fn a_record_is_read_as_it_was_written_and_goes_when_removed() {
        let (_fake, store) = store();
        let (one, two) = (record("c1"), Record { made: None, ..record("c2") });
        store.save(&one, true).unwrap();
        store.save(&two, false).unwrap();
        store.save(&one, true).unwrap();
        let loaded = store.load().unwrap();
        assert_eq!((loaded.records.len(), loaded.damaged.len()), (2, 0));
        assert!(loaded.records.contains(&one) && loaded.records.contains(&two));
        store.remove(&one.key()).unwrap();
        store.remove(&one.key()).unwrap();
        assert_eq!(store.load().unwrap().records, [two]);
    }

    #[test]
    fn damaged_files_are_put_aside_and_cost_no_other() {
        let (fake, store) = store();
        store.save(&record("c1"), true).unwrap();
        let text = fake.read(&format!("{ATTACHMENTS}/c1:eth0"));
        for (name, text) in [
            ("c2:eth0", &text[..text.len() / 2]),
            ("c3:eth0", ""),
            ("c4:eth0", text.as_str()),
            ("no-key", text.as_str()),
        ] {
            fake.file(&format!("{ATTACHMENTS}/{name}"), text);
        }
        fake.file(&format!("{ATTACHMENTS}/.c5:eth0"), "half");
        assert_eq!(store.look().unwrap().damaged.len(), 4, "a look changes nothing");
        let loaded = store.load().unwrap();
        assert_eq!((loaded.records.len(), loaded.damaged.len()), (1, 4), "{loaded:?}");
        assert!(
            loaded.damaged.iter().any(|(name, why)| name == "c4:eth0" && why.contains("record of `c1:eth0`"))
        );
        assert_eq!(store.put_aside(), 4);
        assert!(store.load().unwrap().damaged.is_empty());
        assert_eq!(fake.card().tree.names(ATTACHMENTS).unwrap(), ["c1:eth0"]);
    }

    #[test]
    fn a_disk_that_refuses_is_an_error_that_names_the_file() {
        let (fake, store) = store();
        fake.folder(&format!("{ATTACHMENTS}/c1:eth0/in-the-way"));
        let error = format!("{:#}", store.save(&record("c1"), true).unwrap_err());
        assert!(error.contains("attachments/c1:eth0"), "{error}");
        assert_eq!(fake.card().tree.names(ATTACHMENTS).unwrap(), ["c1:eth0"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_file_makes_the_load_panic_or_fail(at in 0..900usize, byte: u8, cut in 0..900usize) {
            let (fake, store) = store();
            store.save(&record("c1"), false).unwrap();
            let path = format!("{ATTACHMENTS}/c1:eth0");
            let mut bytes = fake.read(&path).into_bytes();
            bytes.truncate(cut.max(1));
            let at = at % bytes.len();
            bytes[at] = byte;
            fake.file(&path, &String::from_utf8_lossy(&bytes));
            let loaded = store.load().unwrap();
            prop_assert_eq!(loaded.records.len() + loaded.damaged.len(), 1);
        }
    }
}
