//! Network namespaces: how they are opened, entered and known again.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};

use crate::cni::Code;
use crate::files::Files;

/// A network namespace that is open, and stays while it is.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    device: u64,
    inode: u64,
}

/// Which namespace it was: its path may lead to another one later, or nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Where the runtime put it.
    pub path: PathBuf,
    device: u64,
    inode: u64,
    /// The start of the host that it lives in: the numbers above are given out anew with the next one.
    boot: String,
}

impl Namespace {
    /// Opens the namespace at `path`.
    ///
    /// # Errors
    /// [`Code::CONTAINER`] where there is none.
    pub fn open(path: &Path) -> Result<Self> {
        Self::try_open(path)
            .with_context(|| format!("opening the network namespace `{}`", path.display()))
            .context(Code::CONTAINER)
    }

    /// The namespace that this thread is in.
    pub fn own() -> Result<Self> {
        let path = Path::new("/proc/thread-self/ns/net");
        Self::try_open(path).with_context(|| format!("opening `{}`", path.display())).context(Code::IO)
    }

    fn try_open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let meta = file.metadata()?;
        Ok(Self { file, device: meta.dev(), inode: meta.ino() })
    }

    /// Whether both are the same namespace.
    pub fn is(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Does something inside, in a thread of its own, so that this one stays where it is. Sockets that
    /// are made inside stay inside.
    ///
    /// # Errors
    /// [`Code::CONTAINER`] where it cannot be entered, which is so for a file that is no namespace; and
    /// those of `work`.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .context("entering the network namespace")
                .context(Code::CONTAINER)?;
            work()
        };
        let ended = thread::scope(|scope| scope.spawn(inside).join());
        ended.map_err(|_| anyhow!("the work inside a network namespace panicked").context(Code::INTERNAL))?
    }

    /// By what it can be known again.
    pub fn place(&self, path: &Path, files: &Files) -> Result<Place> {
        Ok(Place { path: path.to_owned(), device: self.device, inode: self.inode, boot: boot(files)? })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Place {
    /// The namespace, if it is still at its path; none where it is gone, or another one is there.
    ///
    /// It is not looked for elsewhere: the kernel gives a namespace's number to another one as soon as it
    /// is free, so that only number and path together name one.
    pub fn open(&self, files: &Files) -> Result<Option<Namespace>> {
        if boot(files)? != self.boot {
            return Ok(None);
        }
        // Opening a file of another kind could block, or do something.
        match fs::metadata(&self.path) {
            Ok(meta) if (meta.dev(), meta.ino()) != (self.device, self.inode) => return Ok(None),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            _ => {}
        }
        let opened = Namespace::open(&self.path)?;
        Ok(Some(opened).filter(|opened| (opened.device, opened.inode) == (self.device, self.inode)))
    }
}

/// What names this start of the host.
fn boot(files: &Files) -> Result<String> {
    const PATH: &str = "/proc/sys/kernel/random/boot_id";
    // In a test's folder there is none, and one start is like another.
    Ok(files.read_if(PATH)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_no_namespace_is_an_unknown_container() {
        let error = Namespace::open(Path::new("/nowhere")).unwrap_err();
        assert_eq!(error.downcast_ref(), Some(&Code::CONTAINER));
        assert!(format!("{error:#}").contains("opening the network namespace `/nowhere`"), "{error:#}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let entered = Namespace::open(file.path()).unwrap().within(|| Ok(()));
        assert_eq!(entered.unwrap_err().downcast_ref(), Some(&Code::CONTAINER));
    }

    #[test]
    fn a_namespace_is_known_again_by_its_number_and_its_path() {
        let fake = crate::fake::Fake::new();
        let files = Files::below(fake.root());
        let own = Namespace::own().unwrap();
        let place = own.place(Path::new("/proc/self/ns/net"), &files).unwrap();
        assert!(place.open(&files).unwrap().expect("it is there").is(&own));
        for gone in [
            Place { inode: place.inode + 1, ..place.clone() },
            Place { path: "/nowhere".into(), ..place.clone() },
            Place { path: "/proc/self/ns/ipc".into(), ..place.clone() },
            Place { boot: "the start before".to_owned(), ..place.clone() },
        ] {
            assert!(gone.open(&files).unwrap().is_none(), "{gone:?}");
        }
    }
}
