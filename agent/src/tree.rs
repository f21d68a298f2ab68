//! Files of the system below a root: `/` on a card, a folder in a test.
//!
//! Paths are absolute as the card sees them, in arguments and in errors alike.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// How a value is written to an attribute of sysfs or procfs. A test puts a small kernel here, that
/// answers a write as the real one would.
pub type SetAttribute = dyn Fn(&Path, &str) -> io::Result<()> + Send + Sync;

/// The files below a root.
pub struct Tree {
    root: PathBuf,
    set: Box<SetAttribute>,
}

impl Tree {
    /// The running system.
    pub fn system() -> Self {
        Self::below("/")
    }

    /// The running system, with its files below `root`.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self::new(root.into(), Box::new(write_attribute))
    }

    /// The files below `root`, whose attributes are written by `set`, which gets the real path.
    pub fn new(root: PathBuf, set: Box<SetAttribute>) -> Self {
        Self { root, set }
    }

    /// Where `path` really is.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Whether something is at `path`.
    pub fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.at(path).exists()
    }

    /// A file's text, without white space at its ends.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<String> {
        let path = path.as_ref();
        let text =
            fs::read_to_string(self.at(path)).with_context(|| format!("reading `{}`", path.display()))?;
        Ok(text.trim().to_owned())
    }

    /// As [`Tree::read`]; none where there is no such file.
    pub fn read_if(&self, path: impl AsRef<Path>) -> Result<Option<String>> {
        let path = path.as_ref();
        match fs::read_to_string(self.at(path)) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading `{}`", path.display())),
        }
    }

    /// The decimal number that a file holds.
    pub fn number(&self, path: impl AsRef<Path>) -> Result<u64> {
        let path = path.as_ref();
        let text = self.read(path)?;
        text.parse().with_context(|| format!("`{}` holds `{text}`, not a number", path.display()))
    }

    /// The names in a folder, sorted; none where there is no such folder.
    pub fn names(&self, path: impl AsRef<Path>) -> Result<Vec<String>> {
        let path = path.as_ref();
        let listing = || format!("listing `{}`", path.display());
        let entries = match fs::read_dir(self.at(path)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(listing),
        };
        let mut names = entries
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<Vec<_>>>()
            .with_context(listing)?;
        names.sort();
        Ok(names)
    }

    /// The last part of what a symbolic link points to; none where there is no such link.
    pub fn link_name(&self, path: impl AsRef<Path>) -> Result<Option<String>> {
        let path = path.as_ref();
        match fs::read_link(self.at(path)) {
            Ok(target) => Ok(target.file_name().map(|name| name.to_string_lossy().into_owned())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading the link `{}`", path.display())),
        }
    }

    /// `path` with all links followed, as the card sees it.
    pub fn real(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let path = path.as_ref();
        let following = || format!("following `{}`", path.display());
        let root = self.root.canonicalize().with_context(following)?;
        let real = self.at(path).canonicalize().with_context(following)?;
        match real.strip_prefix(&root) {
            Ok(inside) => Ok(Path::new("/").join(inside)),
            Err(_) => bail!("`{}` leads out of `{}`", path.display(), root.display()),
        }
    }

    /// Writes an attribute of sysfs or procfs, in one call, as the kernel wants it.
    pub fn set(&self, path: impl AsRef<Path>, value: &str) -> Result<()> {
        let path = path.as_ref();
        tracing::debug!(path = %path.display(), value, "writing");
        (self.set)(&self.at(path), value)
            .with_context(|| format!("writing `{}` to `{}`", value.escape_default(), path.display()))
    }

    /// Makes a folder, with those above it.
    pub fn make_folder(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        fs::create_dir_all(self.at(path)).with_context(|| format!("making the folder `{}`", path.display()))
    }

    /// Writes a whole file of mode 0644: beside, to the disk, then renamed, so that a reader or a
    /// power cut never meets half of it.
    pub fn save(&self, path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
        let path = path.as_ref();
        save(&self.at(path), bytes).with_context(|| format!("writing `{}`", path.display()))
    }
}

/// Writes an attribute as the running system takes it.
fn write_attribute(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}

fn save(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(ErrorKind::InvalidInput, "the path names no file"));
    };
    fs::create_dir_all(folder)?;
    let beside = folder.join(format!(".{}.{}", name.to_string_lossy(), std::process::id()));
    let written = fs::File::create(&beside).and_then(|mut file| {
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.write_all(bytes)?;
        file.sync_all()
    });
    let renamed = written.and_then(|()| fs::rename(&beside, path));
    if renamed.is_err() {
        // What is half there is of no use; the first error is the one to tell.
        let _ = fs::remove_file(&beside);
    }
    renamed?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let folder = tempfile::tempdir().unwrap();
        let tree = Tree::new(folder.path().to_owned(), Box::new(write_attribute));
        (folder, tree)
    }

    #[test]
    fn errors_name_the_path_as_the_card_sees_it() {
        let (_folder, tree) = tree();
        let error = format!("{:#}", tree.read("/sys/nothing").unwrap_err());
        assert!(error.starts_with("reading `/sys/nothing`: "), "{error}");
        let error = format!("{:#}", tree.set("/sys/nothing", "1").unwrap_err());
        assert!(error.starts_with("writing `1` to `/sys/nothing`: "), "{error}");
    }

    #[test]
    fn what_is_missing_is_none_and_no_error() {
        let (_folder, tree) = tree();
        assert_eq!(tree.read_if("/a").unwrap(), None);
        assert_eq!(tree.link_name("/a").unwrap(), None);
        assert!(tree.names("/a").unwrap().is_empty());
    }

    #[test]
    fn an_attribute_is_never_made() {
        let (_folder, tree) = tree();
        assert!(tree.set("/attribute", "1").is_err());
        assert!(!tree.exists("/attribute"));
    }

    #[test]
    fn a_saved_file_is_whole_and_alone() {
        let (folder, tree) = tree();
        tree.save("/etc/name", b"one").unwrap();
        tree.save("/etc/name", b"two").unwrap();
        assert_eq!(tree.read("/etc/name").unwrap(), "two");
        assert_eq!(tree.names("/etc").unwrap(), ["name"]);
        let mode = fs::metadata(folder.path().join("etc/name")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[test]
    fn a_save_that_fails_leaves_nothing_behind() {
        let (_folder, tree) = tree();
        tree.make_folder("/etc/name/in-the-way").unwrap();
        assert!(tree.save("/etc/name", b"one").is_err());
        assert_eq!(tree.names("/etc").unwrap(), ["name"]);
    }

    #[test]
    fn links_are_followed_inside_the_tree_only() {
        let (folder, tree) = tree();
        tree.make_folder("/sys/devices/disk/part").unwrap();
        tree.make_folder("/sys/dev").unwrap();
        std::os::unix::fs::symlink("../devices/disk/part", folder.path().join("sys/dev/8:1")).unwrap();
        std::os::unix::fs::symlink("/usr", folder.path().join("sys/dev/out")).unwrap();
        assert_eq!(tree.real("/sys/dev/8:1").unwrap(), Path::new("/sys/devices/disk/part"));
        let error = tree.real("/sys/dev/out").unwrap_err().to_string();
        assert!(error.contains("leads out of"), "{error}");
    }
}
