//! What leaves the store: on request, and by itself where too much of it is old.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use walkdir::WalkDir;

use super::{Recipe, SHELVES, Store, WRITABLE, on_disk};
use crate::hint::WithHint as _;

/// What entries may take that no board's last build is made of: 16 GiB.
const OLD: u64 = 16 << 30;

/// That the store is in use, as long as it is held.
#[derive(Debug)]
pub struct Use(File);

impl Drop for Use {
    /// Said aloud: a program that is being started has our files too, and with them the lock, until it is another program.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

impl Store {
    /// Keeps [`Store::gc`] and [`Store::remove`] from taking what a build is using, as long as it is held.
    pub fn in_use(&self) -> Result<Use> {
        let file = self.users()?;
        file.lock_shared().context("waiting for the store")?;
        Ok(Use(file))
    }

    /// Waits for nobody: a build may take an hour.
    fn unused(&self) -> Result<Use> {
        self.if_unused()?
            .context("a build is using the store")
            .hint(|| "wait until it has ended, and try again".into())
    }

    /// None where a build is using the store.
    fn if_unused(&self) -> Result<Option<Use>> {
        let file = self.users()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Use(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error).context("locking the store"),
        }
    }

    fn users(&self) -> Result<File> {
        let path = self.cache.join("locks/users");
        let file = File::options().create(true).append(true).open(&path);
        file.with_context(|| format!("opening `{}`", path.display())).hint(|| WRITABLE.into())
    }

    /// Removes what no board's last build is made of, and what killed builds left. Returns the names
    /// removed and the bytes they took on the disk.
    ///
    /// # Errors
    /// A build is using the store.
    pub fn gc(&self, dry_run: bool) -> Result<(Vec<String>, u64)> {
        let _unused = self.unused()?;
        let used = self.of_last_builds()?;
        let (mut removed, mut bytes) = (Vec::new(), 0);
        for place in SHELVES.into_iter().chain(["work"]) {
            for file in fs::read_dir(self.cache.join(place)).context("reading the store")? {
                let file = file?;
                let name = file.file_name().to_string_lossy().into_owned();
                if place != "work" && used.contains(&name) {
                    continue;
                }
                bytes += tree_bytes(&file.path());
                if !dry_run {
                    self.take_away(&file.path())?;
                }
                removed.push(name);
            }
        }
        removed.sort();
        Ok((removed, bytes))
    }

    /// An entry goes as it came, by one rename: one that is half removed must not be taken for whole.
    fn take_away(&self, folder: &Path) -> Result<()> {
        let grave = self.cache.join("work/removed");
        remove_tree(&grave)?;
        let buried = match fs::symlink_metadata(folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            // Only a folder that may be written can be given another parent.
            Ok(meta) if meta.is_dir() => fs::set_permissions(folder, fs::Permissions::from_mode(0o700)),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        buried
            .and_then(|()| fs::rename(folder, &grave))
            .with_context(|| format!("removing `{}`", folder.display()))?;
        remove_tree(&grave)
    }

    /// Keeps the store from growing without end: of what no board's last build is made of goes first what was not
    /// used for longest, until the rest takes at most 16 GiB, and no more than the disk has free. Returns how many
    /// entries went, and the bytes that they took on the disk; none go while a build uses the store.
    pub fn trim(&self) -> Result<(usize, u64)> {
        let stat = rustix::fs::statvfs(&self.cache).context("asking for the room of the store's disk")?;
        self.trim_to(OLD, stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn trim_to(&self, most: u64, mut free: u64) -> Result<(usize, u64)> {
        let Some(_unused) = self.if_unused()? else { return Ok((0, 0)) };
        let used = self.of_last_builds()?;
        let old: Vec<_> = self.entries()?.into_iter().filter(|(name, ..)| !used.contains(name)).collect();
        // Entries of older builders do not say what they take on the disk.
        let sizes = old.iter().map(|(_, meta, _)| if meta.disk == 0 { meta.bytes } else { meta.disk });
        let mut left: u64 = sizes.clone().sum();
        let (mut count, mut freed) = (0, 0);
        for ((name, ..), size) in old.iter().zip(sizes) {
            if left <= most.min(free) {
                break;
            }
            self.take_away(&self.folder(name))?;
            (left, free) = (left - size, free.saturating_add(size));
            (count, freed) = (count + 1, freed + size);
        }
        Ok((count, freed))
    }

    /// The names of the entries that the boards' last builds are made of.
    fn of_last_builds(&self) -> Result<BTreeSet<String>> {
        let mut used = BTreeSet::new();
        for file in fs::read_dir(self.cache.join("last")).context("reading the store")? {
            let path = file?.path();
            let Some(board) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            used.extend(self.last(board)?.values().map(Recipe::entry));
        }
        Ok(used)
    }

    /// Removes one entry, so that the next build makes it anew.
    ///
    /// # Errors
    /// A build is using the store.
    pub fn remove(&self, entry: &str) -> Result<()> {
        let _unused = self.unused()?;
        self.take_away(&self.folder(entry))
    }
}

/// Bytes that a tree takes on the disk.
fn tree_bytes(root: &Path) -> u64 {
    WalkDir::new(root)
        .into_iter()
        .filter_map(|file| file.ok()?.metadata().ok())
        .filter(fs::Metadata::is_file)
        .map(|meta| on_disk(&meta))
        .sum()
}

/// Removes a tree, read-only folders in it too; nothing there is fine.
pub fn remove_tree(root: &Path) -> Result<()> {
    let context = || format!("removing `{}`", root.display());
    match fs::symlink_metadata(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        // What a link leads to is not in the tree.
        Ok(meta) if !meta.is_dir() => return fs::remove_file(root).with_context(context),
        other => other.with_context(context)?,
    };
    for file in WalkDir::new(root) {
        let file = file.with_context(context)?;
        if file.file_type().is_dir() {
            // A walk opens a folder after yielding it, so this also lets it read the folder.
            fs::set_permissions(file.path(), fs::Permissions::from_mode(0o700)).with_context(context)?;
        }
    }
    fs::remove_dir_all(root).with_context(context)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::MetadataExt as _;
    use std::time::{Duration, SystemTime};

    use super::super::tests::{put, recipe, store};
    use super::*;

    #[test]
    fn gc_keeps_the_last_build() {
        let (_folder, store) = store();
        put(&store, "kept");
        put(&store, "dropped");
        store.remember("virt", &BTreeMap::from([("sample".into(), recipe("kept"))])).unwrap();
        let (removed, bytes) = store.gc(false).unwrap();
        assert_eq!(removed, [recipe("dropped").entry()]);
        assert!(bytes > 0);
        assert!(store.has(&recipe("kept").entry()));
        assert_eq!(fs::read_dir(store.cache().join("work")).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_removed_under_a_build() {
        let (_folder, store) = store();
        put(&store, "a");
        let entry = recipe("a").entry();
        let users = [store.in_use().unwrap(), store.in_use().unwrap()];
        assert_eq!(store.gc(false).unwrap_err().root_cause().to_string(), "a build is using the store");
        assert!(store.remove(&entry).is_err() && store.has(&entry));
        drop(users);
        store.remove(&entry).unwrap();
        assert!(!store.has(&entry));
    }

    #[test]
    fn a_link_is_removed_and_what_it_leads_to_is_left() {
        let (_folder, store) = store();
        put(&store, "a");
        let (target, link) = (store.folder(&recipe("a").entry()), store.cache().join("store/link"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        store.take_away(&link).unwrap();
        assert!(!link.exists() && store.has(&recipe("a").entry()));
        assert_eq!(fs::metadata(&target).unwrap().mode() & 0o777, 0o555);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first_and_no_last_build() {
        let (_folder, store) = store();
        for (age, content) in ["of the last build", "old", "used again", "new"].into_iter().enumerate() {
            put(&store, content);
            let made = SystemTime::now() - Duration::from_secs(3600 - age as u64);
            File::open(store.folder(&recipe(content).entry())).unwrap().set_modified(made).unwrap();
        }
        let kept = BTreeMap::from([("sample".into(), recipe("of the last build"))]);
        store.remember("virt", &kept).unwrap();
        store.used(&recipe("used again").entry()).unwrap();
        let size = store.meta(&recipe("new").entry()).unwrap().disk;
        assert!(size > 0);
        let left = || {
            ["of the last build", "old", "used again", "new"]
                .map(|content| store.has(&recipe(content).entry()))
        };

        assert_eq!(store.trim_to(3 * size, u64::MAX).unwrap(), (0, 0));
        let user = store.in_use().unwrap();
        assert_eq!(store.trim_to(0, 0).unwrap(), (0, 0), "a build uses it");
        drop(user);
        assert_eq!(store.trim_to(2 * size, u64::MAX).unwrap(), (1, size));
        assert_eq!(left(), [true, false, true, true]);
        assert_eq!(store.trim_to(u64::MAX, 0).unwrap(), (1, size), "half of what is free and old together");
        assert_eq!(left(), [true, false, true, false]);
        assert_eq!(store.trim_to(0, u64::MAX).unwrap(), (1, size));
        assert_eq!(left(), [true, false, false, false]);
    }
}
