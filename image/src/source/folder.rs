//! A folder of files as a source: a developer's own in place of a component's, and a checkout to be copied.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::git::forget_variables;
use crate::hash::Hash;

/// A file of the folder: its path there.
type Files = Vec<PathBuf>;

/// The hash of all files that [`copy`] takes: their paths, kinds and contents.
pub fn hash(folder: &Path) -> Result<Hash> {
    let mut text = String::from("dpukit folder 1\n");
    for path in files(folder)? {
        let at = folder.join(&path);
        let context = || format!("reading `{}`", at.display());
        let meta = fs::symlink_metadata(&at).with_context(context)?;
        let (kind, hash) = if meta.is_symlink() {
            let target = fs::read_link(&at).with_context(context)?;
            ("link", Hash::of(target.to_string_lossy().as_bytes()))
        } else {
            let kind = if meta.permissions().mode() & 0o100 == 0 { "file" } else { "program" };
            (kind, Hash::of_file(&at).with_context(context)?)
        };
        text += &format!("{kind} {hash} {}\n", path.display());
    }
    Ok(Hash::of(text))
}

/// Copies the folder's files.
pub fn copy(folder: &Path, into: &Path) -> Result<()> {
    copy_files(folder, files(folder)?, into)
}

/// Copies the files of a git checkout that git knows or would add, as they are now.
///
/// # Errors
/// Where git does not know the folder.
pub fn copy_checkout(folder: &Path, into: &Path) -> Result<()> {
    copy_files(folder, of_checkout(folder)?, into)
}

fn copy_files(folder: &Path, files: Files, into: &Path) -> Result<()> {
    for path in files {
        let (from, to) = (folder.join(&path), into.join(&path));
        let context = || format!("copying `{}`", from.display());
        fs::create_dir_all(to.parent().unwrap_or(into)).with_context(context)?;
        if from.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from).with_context(context)?, &to)
                .with_context(context)?;
        } else {
            fs::copy(&from, &to).with_context(context)?;
        }
    }
    Ok(())
}

/// In a git checkout the files that git knows or would add, so that what a build left there does not count;
/// elsewhere all.
fn files(folder: &Path) -> Result<Files> {
    if !folder.is_dir() {
        bail!("`{}` is not a folder", folder.display());
    }
    let mut files = if folder.join(".git").exists() { of_checkout(folder)? } else { all(folder)? };
    files.sort();
    files.dedup();
    Ok(files)
}

fn of_checkout(folder: &Path) -> Result<Files> {
    let mut command = Command::new("git");
    forget_variables(&mut command, &[]);
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = command.args(list).current_dir(folder).output().context("starting git")?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!("git can't list the files of `{}`: {}", folder.display(), errors.trim_end());
    }
    let text = String::from_utf8(output.stdout).context("a file's name is not UTF-8")?;
    let mut files = Files::new();
    for path in text.split('\0').filter(|path| !path.is_empty()).map(PathBuf::from) {
        let at = folder.join(&path);
        if at.is_dir() && !at.is_symlink() {
            files.extend(all(&at)?.into_iter().map(|inner| path.join(inner)));
        } else if at.symlink_metadata().is_ok() {
            files.push(path);
        }
    }
    Ok(files)
}

fn all(folder: &Path) -> Result<Files> {
    let mut files = Files::new();
    let walk = walkdir::WalkDir::new(folder).into_iter().filter_entry(|entry| entry.file_name() != ".git");
    for entry in walk {
        let entry = entry.with_context(|| format!("reading `{}`", folder.display()))?;
        if !entry.file_type().is_dir() {
            files.push(entry.path().strip_prefix(folder)?.to_owned());
        }
    }
    Ok(files)
}
