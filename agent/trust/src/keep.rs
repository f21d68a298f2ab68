//! Files that only their owner may read, written so that they are whole or as they were.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// The largest file that is read: the list of hosts, with room for a thousand of them.
const LARGEST: u64 = 1 << 20;

/// Makes a folder, with those above it, for its owner alone.
///
/// # Errors
/// Where it can't be made, or its mode can't be set.
pub fn folder(path: &Path) -> Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("making `{}`", path.display()))?;
    let set = fs::set_permissions(path, Permissions::from_mode(0o700));
    set.with_context(|| format!("closing `{}` to others", path.display()))
}

/// Writes a file beside its place, to the disk, and renames it there.
///
/// # Errors
/// Where that fails; the file is then as it was.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("`{}` names no file", path.display());
    };
    let beside = folder.join(format!(".{}.new", name.to_string_lossy()));
    let write = || {
        // One that a crash left behind may have another mode.
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Nobody else gets to open it before its mode is set: it is made with it.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(folder)?.sync_all()
    };
    write()
        .inspect_err(|_| drop(fs::remove_file(&beside)))
        .with_context(|| format!("writing `{}`", path.display()))
}

/// Reads a file of ours; none where there is none.
///
/// # Errors
/// Where it can't be read, is far too large, or, where it is a secret, others may read it.
pub fn read(path: &Path) -> Result<Option<String>> {
    let reading = || format!("reading `{}`", path.display());
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(reading),
    };
    let mode = file.permissions().mode() & 0o7777;
    if !file.is_file() {
        bail!("`{}` is no file", path.display());
    } else if mode & 0o077 != 0 {
        bail!(
            "`{}` has mode {mode:04o}, so others may have read it: `chmod 600` it if nobody did, or make all keys anew",
            path.display()
        );
    } else if file.len() > LARGEST {
        bail!("`{}` has {} octets, {LARGEST} are the most that make sense", path.display(), file.len());
    }
    fs::read_to_string(path).map(Some).with_context(reading)
}

/// Keeps other processes from changing the files of a folder while it lives.
#[derive(Debug)]
pub struct Lock(#[allow(dead_code, reason = "its end is the lock's end")] File);

impl Lock {
    /// Waits until nobody else has it.
    ///
    /// # Errors
    /// Where the folder can't be locked.
    pub fn take(folder: &Path) -> Result<Self> {
        let path = folder.join("lock");
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let locked = file.and_then(|file| {
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(Self(file))
        });
        locked.with_context(|| format!("locking `{}`", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_and_folders_are_their_owners_alone_whatever_was_there_before() {
        let at = tempfile::tempdir().unwrap();
        let inside = at.path().join("a/b");
        fs::create_dir_all(&inside).unwrap();
        fs::set_permissions(&inside, Permissions::from_mode(0o777)).unwrap();
        folder(&inside).unwrap();
        assert_eq!(mode(&inside), 0o700);
        let file = inside.join("key");
        fs::write(inside.join(".key.new"), "left by a crash").unwrap();
        fs::write(&file, "old").unwrap();
        write(&file, b"new", 0o600).unwrap();
        assert_eq!((mode(&file), read(&file).unwrap().as_deref()), (0o600, Some("new")));
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 1);
    }

    #[test]
    fn a_secret_that_others_may_read_is_not_used() {
        let at = tempfile::tempdir().unwrap();
        let file = at.path().join("key");
        write(&file, b"secret", 0o640).unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("has mode 0640, so others may have read it"), "{error}");
        fs::remove_file(&file).unwrap();
        assert_eq!(read(&file).unwrap(), None);
        std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
        assert!(read(&file).unwrap_err().to_string().ends_with("is no file"));
    }

    #[test]
    fn a_write_that_fails_leaves_all_as_it_was() {
        let at = tempfile::tempdir().unwrap();
        fs::create_dir_all(at.path().join("key/in-the-way")).unwrap();
        assert!(write(&at.path().join("key"), b"new", 0o600).is_err());
        assert_eq!(fs::read_dir(at.path()).unwrap().count(), 1);
    }
}
