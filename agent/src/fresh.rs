//! A card that starts fresh: for the first time, or as if, after a factory reset. The systems in its slots stay.
//!
//! A file on the data partition says that nothing there counts yet: whoever starts the card next begins with an empty
//! one. The first process ([`crate::init`]) writes that file where the partition is as the image has it, and a factory
//! reset is the same file, written in the running system. What a first start makes counts once all of it is on the disk,
//! and only then the file goes; a first start that is cut short is made again.

use std::fs::{self, DirEntry, File};
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::storage::{FALLBACK, MOUNT};
use crate::tree::Tree;

/// The file on the data partition.
const FRESH: &str = "fresh";
/// What stays: the file system's own folder (mke2fs(8)), and the container images that the card came with.
const STAYS: [&str; 2] = ["lost+found", "images"];

/// Whether the next start begins with an empty data partition.
pub fn is_fresh(tree: &Tree) -> bool {
    tree.exists(Path::new(MOUNT).join(FRESH))
}

/// Lets the next start begin with an empty data partition.
///
/// # Errors
/// The data partition is not there, or can't be written.
pub fn ask(tree: &Tree) -> Result<()> {
    if let Some(reason) = tree.read_if(FALLBACK)? {
        bail!("`{MOUNT}` is in memory and lost at the next start anyway: {reason}");
    }
    tree.save(Path::new(MOUNT).join(FRESH), b"")
}

/// Takes it back; whether it was asked for.
///
/// # Errors
/// The data partition can't be written.
pub fn take_back(tree: &Tree) -> Result<bool> {
    let folder = tree.at(MOUNT);
    match fs::remove_file(folder.join(FRESH)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        removed => removed.with_context(|| format!("removing `{MOUNT}/{FRESH}`"))?,
    }
    sync(&folder)?;
    Ok(true)
}

/// Begins with an empty data partition, where it is asked for, or where there is nothing on it yet; whether something
/// was removed.
///
/// # Errors
/// Something can't be removed: what could be is gone, and the next start tries again. Or the partition can't be written.
pub fn begin(tree: &Tree) -> Result<bool> {
    if is_fresh(tree) {
        empty(&tree.at(MOUNT))?;
        return Ok(true);
    }
    if others(&tree.at(MOUNT))?.is_empty() {
        ask(tree)?;
    }
    Ok(false)
}

/// Keeps what the first start made, from here on.
///
/// # Errors
/// It can't be written to the disk.
pub fn settle(tree: &Tree) -> Result<bool> {
    let folder = tree.at(MOUNT);
    // Of all files, whoever wrote them: that of a folder alone has only the names.
    let open = File::open(&folder).with_context(|| format!("opening `{MOUNT}`"))?;
    rustix::fs::syncfs(&open).with_context(|| format!("writing all of `{MOUNT}`"))?;
    take_back(tree)
}

/// What lies in the data partition beside what stays.
fn others(folder: &Path) -> Result<Vec<DirEntry>> {
    let entries = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut entries = entries.with_context(|| format!("reading `{}`", folder.display()))?;
    entries.retain(|entry| {
        let name = entry.file_name();
        name != FRESH && STAYS.iter().all(|stays| name != *stays)
    });
    Ok(entries)
}

fn empty(folder: &Path) -> Result<()> {
    let mut failed = None;
    for entry in others(folder)? {
        let path = entry.path();
        // A link is removed, never followed.
        let removed =
            if entry.file_type()?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed {
            failed.get_or_insert_with(|| {
                anyhow::Error::new(error).context(format!("removing `{}`", path.display()))
            });
        }
    }
    sync(folder)?;
    failed.map_or(Ok(()), Err)
}

/// What was done in a folder is on the disk when this is back.
fn sync(folder: &Path) -> Result<()> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.with_context(|| format!("writing `{}`", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{Fake, virt};

    fn card() -> Fake {
        let fake = virt();
        fake.file("/data/images/cilium.tar", "");
        fake.file("/data/var/lib/kept", "kept");
        fake.file("/data/lost+found/1", "found");
        fake.file("/elsewhere/precious", "precious");
        fake.link("/data/link", "/elsewhere");
        fake
    }

    fn names(fake: &Fake) -> Vec<String> {
        let entries = fs::read_dir(fake.card().tree.at(MOUNT)).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn all_but_what_the_card_came_with_goes_and_links_are_not_followed() {
        let fake = card();
        assert!(!begin(&fake.card().tree).unwrap());
        assert!(!is_fresh(&fake.card().tree));
        ask(&fake.card().tree).unwrap();
        assert!(begin(&fake.card().tree).unwrap());
        assert_eq!(names(&fake), ["fresh", "images", "lost+found"]);
        assert_eq!(fake.read("/elsewhere/precious"), "precious");
    }

    #[test]
    fn what_a_first_start_made_counts_once_it_settled() {
        let fake = virt();
        fake.file("/data/lost+found/1", "found");
        assert!(!begin(&fake.card().tree).unwrap());
        fake.file("/data/var/lib/kept", "half");
        assert!(begin(&fake.card().tree).unwrap());
        assert_eq!(names(&fake), ["fresh", "lost+found"]);
        fake.file("/data/var/lib/kept", "whole");
        assert!(settle(&fake.card().tree).unwrap());
        assert!(!begin(&fake.card().tree).unwrap());
        assert_eq!(names(&fake), ["lost+found", "var"]);
        assert!(!settle(&fake.card().tree).unwrap());
    }

    #[test]
    fn it_can_be_taken_back() {
        let fake = card();
        assert!(!take_back(&fake.card().tree).unwrap());
        ask(&fake.card().tree).unwrap();
        assert!(take_back(&fake.card().tree).unwrap());
        assert_eq!(names(&fake), ["images", "link", "lost+found", "var"]);
    }

    #[test]
    fn a_card_without_its_data_partition_is_not_asked() {
        let fake = card();
        fake.file(FALLBACK, "mounting `/dev/vda5`: Structure needs cleaning\n");
        let error = ask(&fake.card().tree).unwrap_err().to_string();
        assert_eq!(
            error,
            "`/data` is in memory and lost at the next start anyway: mounting `/dev/vda5`: Structure needs cleaning"
        );
    }
}
