//! The store: results of steps, each kept under the hash of all that entered it.
//!
//! ```text
//! <cache>/store/<hash>-<name>/out/        what the step made; read-only
//! <cache>/store/<hash>-<name>/entry.json  its recipe, size and content hash
//! <cache>/private/store/                  the same for entries with something in them that may not be shared
//! <cache>/work/<hash>-<name>/             a step that is running, or was killed
//! <cache>/locks/<hash>-<name>             held while a step runs
//! <cache>/locks/users                     held by all that use entries, against their removal
//! <cache>/last/<board>.json               recipes of a board's last whole build
//! <cache>/logs/<hash>-<name>.log          what a step printed
//! ```
//!
//! A step writes into `work`; the folder is synced and renamed into `store` as its last act, so an
//! entry is there whole or not at all, whatever was killed when. Whoever holds an entry's lock may
//! throw away what an earlier, killed holder left in `work`. When an entry was last used is the time of its
//! folder.

mod removal;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use crate::hash::Hash;
use crate::hint::WithHint as _;

pub use removal::{Use, remove_tree};

/// What a step is made from. Two recipes with the same inputs name the same entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// The step's name: `kernel`, `root`.
    pub name: String,
    /// Everything that enters, by a name that a person understands.
    pub inputs: BTreeMap<String, Input>,
    /// Whether what the user alone may have is in it, or in a step that it needs.
    #[serde(default)]
    pub private: bool,
}

/// Where entries are, in the cache.
const SHELVES: [&str; 2] = ["store", "private/store"];
/// What the names of entries begin with that may not be shared.
const PRIVATE: &str = "private-";

/// One thing that enters a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Input {
    /// Content: a file, a script, a value of the board.
    Content(Hash),
    /// The result of another step, by its entry's name.
    Step(String),
}

impl Recipe {
    /// The hash that names the entry: over the name and all inputs, never over a path or a time.
    pub fn hash(&self) -> Hash {
        let mut text = format!("dpukit step 1\n{}\n", self.name);
        for (name, input) in &self.inputs {
            match input {
                Input::Content(hash) => text += &format!("content {} {hash} {name}\n", name.len()),
                Input::Step(entry) => text += &format!("step {} {entry} {name}\n", name.len()),
            }
        }
        Hash::of(text)
    }

    /// The entry's folder name, `<hash>-<name>`, or `private-<hash>-<name>`.
    pub fn entry(&self) -> String {
        let mark = if self.private { PRIVATE } else { "" };
        format!("{mark}{}-{}", self.hash().short(), self.name)
    }
}

/// What is known of an entry beside its content.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Meta {
    /// What it was made from.
    pub recipe: Recipe,
    /// Hash over paths, modes and contents of all in `out`.
    pub content: Hash,
    /// Bytes of all files in `out`.
    pub bytes: u64,
    /// Bytes that they take on the disk: images have holes.
    #[serde(default)]
    pub disk: u64,
    /// How long the step took, in seconds.
    pub seconds: f64,
}

/// The recipes of a board's last whole build, by step.
pub type LastBuild = BTreeMap<String, Recipe>;

/// A store on disk.
#[derive(Debug, Clone)]
pub struct Store {
    cache: PathBuf,
}

/// The folder of a step while it runs.
#[derive(Debug)]
pub struct Workplace {
    /// Where the result goes.
    pub out: PathBuf,
    /// Scratch space, thrown away afterwards.
    pub scratch: PathBuf,
    /// Where the step's output is logged.
    pub log: PathBuf,
}

/// What helps where the cache can't be written.
pub(crate) const WRITABLE: &str = "name a folder that you can write to with `DPUKIT_CACHE`";

/// Where the caches live: `DPUKIT_CACHE`, else `$XDG_CACHE_HOME/dpukit`, else `~/.cache/dpukit`.
pub fn cache_folder() -> Result<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = match (set("DPUKIT_CACHE"), set("XDG_CACHE_HOME"), set("HOME")) {
        (Some(cache), _, _) => cache,
        (None, Some(xdg), _) => xdg.join("dpukit"),
        (None, None, Some(home)) => home.join(".cache/dpukit"),
        (None, None, None) => {
            return Err(anyhow::anyhow!("no place for the cache: neither `DPUKIT_CACHE` nor `HOME` is set"))
                .hint(|| "set `DPUKIT_CACHE` to a folder with 12 GiB of space".into());
        }
    };
    std::path::absolute(&folder).with_context(|| format!("finding `{}`", folder.display()))
}

impl Store {
    /// Opens the store in a cache folder, making the folder where it is missing.
    pub fn open(cache: &Path) -> Result<Self> {
        Self::laid_out(cache)
            .with_context(|| format!("opening the store at `{}`", cache.display()))
            .hint(|| WRITABLE.into())?;
        Ok(Self { cache: cache.to_owned() })
    }

    fn laid_out(cache: &Path) -> io::Result<()> {
        for part in ["store", "private/store", "work", "locks", "last", "logs"] {
            fs::create_dir_all(cache.join(part))?;
        }
        // The licence of what lies there is one person's.
        let private = cache.join("private");
        if fs::metadata(&private)?.permissions().mode() & 0o777 != 0o700 {
            fs::set_permissions(&private, fs::Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    /// The folder that holds the store and its neighbours.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Where an entry's result is, or will be.
    pub fn out(&self, entry: &str) -> PathBuf {
        self.folder(entry).join("out")
    }

    /// Whether an entry is there.
    pub fn has(&self, entry: &str) -> bool {
        self.folder(entry).join("entry.json").is_file()
    }

    /// The log of the step that made, or failed to make, an entry.
    pub fn log(&self, entry: &str) -> PathBuf {
        self.cache.join("logs").join(format!("{entry}.log"))
    }

    /// What is known of an entry.
    pub fn meta(&self, entry: &str) -> Result<Meta> {
        let path = self.folder(entry).join("entry.json");
        let text = fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("reading `{}`", path.display()))
            .hint(|| format!("remove `{}`: the next build makes it anew", self.folder(entry).display()))
    }

    /// Makes an entry unless it is there; builds that want the same entry at once share the work.
    ///
    /// `waiting` is called once if another process holds the entry. Returns whether `make` ran.
    pub fn produce(
        &self,
        recipe: &Recipe,
        waiting: impl FnOnce(),
        make: impl FnOnce(&Workplace) -> Result<()>,
    ) -> Result<bool> {
        let entry = recipe.entry();
        if self.has(&entry) {
            return Ok(false);
        }
        let _lock = self.lock(&entry, waiting)?;
        if self.has(&entry) {
            return Ok(false);
        }
        let work = self.cache.join("work").join(&entry);
        remove_tree(&work)?;
        let place = Workplace { out: work.join("out"), scratch: work.join("scratch"), log: self.log(&entry) };
        for folder in [&place.out, &place.scratch] {
            fs::create_dir_all(folder).with_context(|| format!("making `{}`", folder.display()))?;
        }
        let start = Instant::now();
        let made = make(&place).and_then(|()| self.publish(recipe, &work, start.elapsed()));
        if made.is_err() {
            // What a failed step wrote may be gigabytes; its log stays.
            let _ = remove_tree(&work);
        }
        made.map(|()| true)
    }

    fn publish(&self, recipe: &Recipe, made: &Path, took: Duration) -> Result<()> {
        // Before the rename: who is killed right after it must leave nothing that no build looks at again.
        remove_tree(&made.join("scratch"))?;
        let out = made.join("out");
        let Sealed { content, bytes, disk } = seal(&out)?;
        let meta = Meta { recipe: recipe.clone(), content, bytes, disk, seconds: took.as_secs_f64() };
        let path = made.join("entry.json");
        fs::write(&path, serde_json::to_string_pretty(&meta)?)
            .with_context(|| format!("writing `{}`", path.display()))?;
        let folder = File::open(made)?;
        // One flush of the whole file system: thousands of small files are not worth an fsync each.
        rustix::fs::syncfs(&folder).context("flushing the store to disk").hint(space_hint)?;
        let target = self.folder(&recipe.entry());
        remove_tree(&target)?;
        fs::rename(made, &target)
            .with_context(|| format!("moving `{}` into the store", recipe.name))
            .hint(space_hint)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(0o555))?;
        File::open(self.shelf(&recipe.entry()))?.sync_all().context("flushing the store to disk")
    }

    fn folder(&self, entry: &str) -> PathBuf {
        self.shelf(entry).join(entry)
    }

    /// The folder with an entry and its like.
    fn shelf(&self, entry: &str) -> PathBuf {
        self.cache.join(if entry.starts_with(PRIVATE) { "private/store" } else { "store" })
    }

    fn lock(&self, entry: &str, waiting: impl FnOnce()) -> Result<File> {
        let path = self.cache.join("locks").join(entry);
        let context = || format!("locking `{}`", path.display());
        let file = File::options().create(true).append(true).open(&path).with_context(context)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                waiting();
                file.lock().with_context(context)?;
            }
            Err(fs::TryLockError::Error(error)) => return Err(error).with_context(context),
        }
        Ok(file)
    }

    /// Remembers the recipes of a whole build, for [`Store::last`] and as roots of [`Store::gc`].
    pub fn remember(&self, board: &str, build: &LastBuild) -> Result<()> {
        write_atomically(&self.last_path(board), serde_json::to_string_pretty(build)?.as_bytes())
    }

    /// The recipes of a board's last whole build; empty if there was none.
    pub fn last(&self, board: &str) -> Result<LastBuild> {
        let path = self.last_path(board);
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)
                .with_context(|| format!("reading `{}`", path.display()))
                .hint(|| "remove the file: it is only a memory of the last build".into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(LastBuild::new()),
            Err(error) => Err(error).with_context(|| format!("reading `{}`", path.display())),
        }
    }

    fn last_path(&self, board: &str) -> PathBuf {
        self.cache.join("last").join(format!("{board}.json"))
    }

    /// What is known of an entry that a build uses now.
    pub fn used(&self, entry: &str) -> Result<Meta> {
        // A store that can't be written can be used all the same.
        let _ = File::open(self.folder(entry)).and_then(|folder| folder.set_modified(SystemTime::now()));
        self.meta(entry)
    }

    /// All entries, those first that were not used for longest.
    pub fn entries(&self) -> Result<Vec<(String, Meta, SystemTime)>> {
        let mut entries = Vec::new();
        let shelves = SHELVES.iter().map(|shelf| fs::read_dir(self.cache.join(shelf)));
        let shelves = shelves.collect::<io::Result<Vec<_>>>().context("reading the store")?;
        for file in shelves.into_iter().flatten() {
            let file = file.context("reading the store")?;
            let name = file.file_name().to_string_lossy().into_owned();
            if self.has(&name) {
                entries.push((name.clone(), self.meta(&name)?, file.metadata()?.modified()?));
            }
        }
        entries.sort_by(|a, b| (a.2, &a.0).cmp(&(b.2, &b.0)));
        Ok(entries)
    }

    /// Hashes every entry's content again; returns the names of those that are not what was made.
    pub fn verify(&self, progress: impl Fn(&str)) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        for (name, meta, _) in self.entries()? {
            progress(&name);
            if seal(&self.out(&name))?.content != meta.content {
                wrong.push(name);
            }
        }
        Ok(wrong)
    }
}

/// What to do about a full disk.
pub fn space_hint() -> String {
    "`cargo xtask store gc` frees what no build needs; `DPUKIT_CACHE` moves the store".into()
}

/// A tree as it went into the store.
struct Sealed {
    content: Hash,
    bytes: u64,
    disk: u64,
}

/// Makes a tree read-only and hashes it: paths, kinds, execute bits and contents.
fn seal(root: &Path) -> Result<Sealed> {
    let (mut hasher, mut bytes, mut disk) = (Sha256::new(), 0, 0);
    for file in WalkDir::new(root).sort_by_file_name() {
        let file = file.with_context(|| format!("reading `{}`", root.display()))?;
        let path = file.path();
        let meta = file.metadata()?;
        let name = path.strip_prefix(root)?.as_os_str().as_bytes();
        let executable = meta.mode() & 0o111 != 0;
        let context = || format!("sealing `{}`", path.display());
        if meta.is_symlink() {
            let target = fs::read_link(path).with_context(context)?;
            hasher.update([b"link\0", name, b"\0", target.as_os_str().as_bytes(), b"\0"].concat());
            continue;
        }
        if meta.is_file() {
            let content = Hash::of_file(path).with_context(context)?;
            let kind: &[u8] = if executable { b"program\0" } else { b"file\0" };
            hasher.update([kind, name, b"\0", content.bytes()].concat());
            bytes += meta.len();
            disk += on_disk(&meta);
        } else {
            hasher.update([b"folder\0", name, b"\0"].concat());
        }
        let mode = if meta.is_dir() || executable { 0o555 } else { 0o444 };
        if meta.mode() & 0o7777 != mode {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).with_context(context)?;
        }
    }
    Ok(Sealed { content: Hash::from(<[u8; 32]>::from(hasher.finalize())), bytes, disk })
}

/// Bytes that a file takes on the disk (`st_blocks` counts in 512, stat(2)).
fn on_disk(meta: &fs::Metadata) -> u64 {
    meta.blocks() * 512
}

/// Writes a file beside, syncs it and renames it over `path`.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let context = || format!("writing `{}`", path.display());
    let Some(folder) = path.parent() else { bail!("`{}` is not a file's path", path.display()) };
    fs::create_dir_all(folder).with_context(context)?;
    let mut file = tempfile::Builder::new()
        .prefix(".dpukit-")
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .with_context(context)?;
    file.write_all(content).with_context(context)?;
    file.as_file().sync_all().with_context(context)?;
    file.persist(path).with_context(context)?;
    File::open(folder)?.sync_all().with_context(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn recipe(content: &str) -> Recipe {
        Recipe {
            name: "sample".into(),
            inputs: BTreeMap::from([("text".into(), Input::Content(Hash::of(content)))]),
            private: false,
        }
    }

    pub(super) fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    pub(super) fn put(store: &Store, content: &str) -> bool {
        let make = |place: &Workplace| Ok(fs::write(place.out.join("file"), content)?);
        store.produce(&recipe(content), || {}, make).unwrap()
    }

    #[test]
    fn an_entry_is_made_once() {
        let (_folder, store) = store();
        assert!(put(&store, "a"));
        assert!(!put(&store, "a"));
        assert_eq!(fs::read_to_string(store.out(&recipe("a").entry()).join("file")).unwrap(), "a");
    }

    #[test]
    fn a_failed_step_leaves_nothing_but_can_be_tried_again() {
        let (_folder, store) = store();
        let failed = store.produce(
            &recipe("a"),
            || {},
            |place| {
                fs::write(place.out.join("file"), "half")?;
                bail!("broken")
            },
        );
        assert_eq!(failed.unwrap_err().to_string(), "broken");
        assert!(!store.has(&recipe("a").entry()));
        assert_eq!(fs::read_dir(store.cache().join("work")).unwrap().count(), 0);
        assert!(put(&store, "a"));
    }

    #[test]
    fn what_a_killed_build_left_is_replaced() {
        let (_folder, store) = store();
        let left = store.cache().join("work").join(recipe("a").entry()).join("out");
        fs::create_dir_all(&left).unwrap();
        fs::write(left.join("other"), "half").unwrap();
        assert!(put(&store, "a"));
        assert!(!store.out(&recipe("a").entry()).join("other").exists());
    }

    #[test]
    fn the_scratch_is_gone_before_the_entry_is_there() {
        let (_folder, store) = store();
        let mut work = PathBuf::new();
        let made = store.produce(
            &recipe("a"),
            || {},
            |place| {
                fs::write(place.scratch.join("file"), "of no use later")?;
                work = place.scratch.parent().unwrap().to_owned();
                Ok(())
            },
        );
        assert!(made.unwrap());
        assert!(!work.exists());
        assert!(!store.folder(&recipe("a").entry()).join("scratch").exists());
    }

    #[test]
    fn builds_at_once_share_the_work() {
        let (_folder, store) = store();
        let made = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let make = |place: &Workplace| {
                        made.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(20));
                        Ok(fs::write(place.out.join("file"), "a")?)
                    };
                    store.produce(&recipe("a"), || {}, make).unwrap();
                });
            }
        });
        assert_eq!(made.into_inner(), 1);
    }

    #[test]
    fn verify_names_an_altered_entry() {
        let (_folder, store) = store();
        put(&store, "a");
        let entry = recipe("a").entry();
        assert_eq!(store.verify(|_| {}).unwrap(), Vec::<String>::new());
        let file = store.out(&entry).join("file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&file, "b").unwrap();
        assert_eq!(store.verify(|_| {}).unwrap(), [entry]);
    }

    #[test]
    fn a_cache_that_is_a_file_is_a_clear_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = crate::hint::report(&Store::open(file.path()).unwrap_err());
        assert!(error.contains("opening the store at") && error.contains("DPUKIT_CACHE"), "{error}");
    }
}
