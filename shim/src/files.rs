//! Files of the system below a root: `/` on a host, a folder in a test.
//!
//! Paths are absolute as the host sees them, in arguments and in errors alike.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The files below a root.
#[derive(Debug, Clone)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// The files below `root`.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
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

    /// A file's text, without white space at its ends; none where there is no such file, or its device
    /// has gone while it was read.
    pub fn read_if(&self, path: impl AsRef<Path>) -> Result<Option<String>> {
        let path = path.as_ref();
        match fs::read_to_string(self.at(path)) {
            Ok(text) => Ok(Some(text.trim().to_owned())),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading `{}`", path.display())),
        }
    }

    /// The names in a folder, sorted; none where there is no such folder.
    pub fn names(&self, path: impl AsRef<Path>) -> Result<Vec<String>> {
        let path = path.as_ref();
        let listing = || format!("listing `{}`", path.display());
        let entries = match fs::read_dir(self.at(path)) {
            Ok(entries) => entries,
            Err(error) if is_gone(&error) => return Ok(Vec::new()),
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
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading the link `{}`", path.display())),
        }
    }
}

fn is_gone(error: &io::Error) -> bool {
    // A device that goes away answers reads of its open attributes with ENODEV.
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENODEV)
}

/// Writes the file `path` anew, to the disk. It is to be linked or renamed to where others look.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let written = fs::File::create(path).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_data()
    });
    if written.is_err() {
        // What is half there is of no use; the first error is the one to tell.
        let _ = fs::remove_file(path);
    }
    written.with_context(|| format!("writing `{}`", path.display()))
}

/// Puts a file in place of whatever is at `path`, in one step and for good.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    place(path, bytes, None)
}

/// As [`replace`], for a file of this mode.
pub fn install(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    place(path, bytes, Some(mode))
}

fn place(path: &Path, bytes: &[u8], mode: Option<u32>) -> Result<()> {
    let folder = path.parent().unwrap_or_else(|| Path::new("/"));
    fs::create_dir_all(folder).with_context(|| format!("making the folder `{}`", folder.display()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = folder.join(format!(".{name}.new"));
    write(&beside, bytes)?;
    if let Some(mode) = mode {
        let set = fs::set_permissions(&beside, fs::Permissions::from_mode(mode));
        set.with_context(|| format!("setting the mode of `{}`", beside.display()))?;
    }
    // The name is on the disk once the folder is.
    let renamed = fs::rename(&beside, path).and_then(|()| fs::File::open(folder)?.sync_all());
    renamed.with_context(|| format!("renaming `{}` to `{name}`", beside.display()))
}

/// Removes a file; it may be gone already.
pub fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{}`", path.display()))
        }
        _ => Ok(()),
    }
}
