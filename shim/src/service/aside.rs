//! Files of others, moved aside: renamed where they are, with an ending that no runtime reads.
//!
//! To rename is one step, which keeps owner, mode and link, and the name tells where a file belongs even
//! where all of our own books are lost.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::report::Report;
use crate::files::Files;

/// What the name of a file that was moved aside ends with. Where a file of the same name was moved aside
/// before, a dot and a number follow.
pub const ENDING: &str = ".dpukit-aside";

/// A file that was moved aside.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Aside {
    /// The name that it had.
    pub name: String,
    /// How many of this name had been moved aside with it, from 1.
    pub number: u32,
}

impl Aside {
    fn read(name: &str) -> Option<Self> {
        let (before, after) = name.rsplit_once(ENDING)?;
        let number = match after.strip_prefix('.') {
            None if after.is_empty() => 1,
            Some(digits) => digits.parse().ok().filter(|number| *number > 1)?,
            None => return None,
        };
        (!before.is_empty()).then(|| Self { name: before.to_owned(), number })
    }

    /// The name that it has now.
    pub fn file(&self) -> String {
        let number = if self.number > 1 { format!(".{}", self.number) } else { String::new() };
        format!("{}{ENDING}{number}", self.name)
    }
}

/// Moves a file aside, and gives its new name.
pub fn put(files: &Files, folder: &Path, name: &str) -> Result<String> {
    /// More than a sane fight over a file's name takes.
    const MOST: u32 = 20;
    for number in 1..=MOST {
        let new = Aside { name: name.to_owned(), number }.file();
        if rename(files, folder, name, &new)? {
            return Ok(new);
        }
    }
    anyhow::bail!(
        "`{}` was moved aside {MOST} times, and something keeps making it anew: find out what does, or set `cni.others` to \"none\"",
        folder.join(name).display()
    )
}

/// The files of a folder that were moved aside, the last of each name last.
pub fn list(files: &Files, folder: &Path) -> Result<Vec<Aside>> {
    let mut found: Vec<_> = files.names(folder)?.iter().filter_map(|name| Aside::read(name)).collect();
    found.sort();
    Ok(found)
}

/// Gives the files of a folder that `is_meant` names their old names back. Of several with one name it is
/// the last that gets it; the others stay as they are.
pub fn restore(files: &Files, folder: &Path, is_meant: impl Fn(&str) -> bool, report: &mut Report) {
    report.try_to(|report| {
        for aside in list(files, folder)?.iter().rev().filter(|aside| is_meant(&aside.name)) {
            let path = folder.join(&aside.name);
            report.try_to(|report| {
                if rename(files, folder, &aside.file(), &aside.name)? {
                    report.did(format!("put `{}` back", path.display()));
                } else {
                    report.found(format!("`{}` is there; `{}` stays", path.display(), aside.file()));
                }
                Ok(())
            });
        }
        Ok(())
    });
}

/// Renames within a folder: false where the new name is taken.
fn rename(files: &Files, folder: &Path, old: &str, new: &str) -> Result<bool> {
    let at = |name: &str| -> PathBuf { files.at(folder).join(OsStr::new(name)) };
    match renameat2(AT_FDCWD, &at(old), AT_FDCWD, &at(new), RenameFlags::RENAME_NOREPLACE) {
        Ok(()) => Ok(true),
        Err(Errno::EEXIST) => Ok(false),
        Err(error) => {
            Err(error).with_context(|| format!("renaming `{}` to `{new}`", folder.join(old).display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fake::Fake;

    #[test]
    fn what_was_moved_aside_comes_back() {
        let fake = Fake::new();
        let files = Files::below(fake.root());
        fake.file("/etc/cni/net.d/10-calico.conflist", "theirs");
        let folder = Path::new("/etc/cni/net.d");
        assert_eq!(put(&files, folder, "10-calico.conflist").unwrap(), "10-calico.conflist.dpukit-aside");
        assert!(!files.exists("/etc/cni/net.d/10-calico.conflist"));
        let mut report = Report::default();
        restore(&files, folder, |_| true, &mut report);
        assert_eq!(report.did, ["put `/etc/cni/net.d/10-calico.conflist` back"]);
        assert_eq!(files.read_if("/etc/cni/net.d/10-calico.conflist").unwrap().unwrap(), "theirs");
        assert!(list(&files, folder).unwrap().is_empty());
    }

    #[test]
    fn a_file_that_was_made_anew_loses_nothing() {
        let fake = Fake::new();
        let files = Files::below(fake.root());
        let folder = Path::new("/d");
        for text in ["first", "second"] {
            fake.file("/d/a.conf", text);
            put(&files, folder, "a.conf").unwrap();
        }
        fake.file("/d/b.conf", "b");
        put(&files, folder, "b.conf").unwrap();
        let mut report = Report::default();
        restore(&files, folder, |name| name == "a.conf", &mut report);
        assert_eq!(files.read_if("/d/a.conf").unwrap().unwrap(), "second");
        assert_eq!(files.read_if("/d/a.conf.dpukit-aside").unwrap().unwrap(), "first");
        assert!(files.exists("/d/b.conf.dpukit-aside"), "it was not meant");
        assert_eq!(report.found, ["`/d/a.conf` is there; `a.conf.dpukit-aside` stays"]);
    }

    #[test]
    fn a_fight_over_a_name_ends() {
        let fake = Fake::new();
        let files = Files::below(fake.root());
        let error = (0..30).find_map(|_| {
            fake.file("/d/a.conf", "again");
            put(&files, Path::new("/d"), "a.conf").err()
        });
        let error = error.unwrap().to_string();
        assert!(error.starts_with("`/d/a.conf` was moved aside 20 times"), "{error}");
        assert_eq!(files.read_if("/d/a.conf").unwrap().unwrap(), "again");
    }

    proptest! {
        #[test]
        fn a_name_is_read_as_it_is_written(name in "[^/]{1,20}", number in 1_u32..30) {
            let aside = Aside { name, number };
            prop_assert_eq!(Aside::read(&aside.file()), Some(aside));
        }

        #[test]
        fn no_name_makes_it_panic(name: String) {
            let _ = Aside::read(&name);
        }
    }
}
