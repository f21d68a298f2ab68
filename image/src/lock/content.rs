//! What a component comes down to, by the kind of its source: the lines of its part of the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};

use anyhow::{Result, bail, ensure};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::LockedPackage;
use super::text::{Misplaced, RawPackage, quote};
use crate::config::{Component, OciSource, Revision, Source};
use crate::hash::Hash;

/// All that a component comes down to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Of source `deb`; sorted by name and architecture.
    Packages(Vec<LockedPackage>),
    /// Of source `git`.
    Git(LockedGit),
    /// Of source `oci`.
    Oci(LockedOci),
    /// Of source `user`; sorted by name.
    Files(Vec<LockedFile>),
}

/// A commit, and what its files are.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedGit {
    /// 40 hexadecimal digits.
    pub commit: String,
    /// See [`crate::source::git`]: over names, kinds and contents of all files.
    pub content: Hash,
}

/// A container image for one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedOci {
    pub manifest: Blob,
    /// The image's configuration, then its layers, as the manifest has them.
    pub blobs: Vec<Blob>,
}

/// Content in a registry.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Blob {
    pub media_type: String,
    /// Bytes.
    pub size: u64,
    pub sha256: Hash,
}

/// A file that the user brought.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedFile {
    /// As the component names it; below a folder, with its path there.
    pub name: String,
    /// The file's own name.
    pub file: String,
    /// Bytes.
    pub size: u64,
    pub sha256: Hash,
}

/// The hash of all that decides what a component of another source than packages comes down to; none for
/// packages, whose request depends on suites too, and for crates, which need no lock.
pub(super) fn request(component: &Component) -> Option<Hash> {
    let mut text = format!("request 1 {}\n", component.source.kind());
    match &component.source {
        Source::Deb(_) | Source::Local(_) => return None,
        Source::Git(git) => {
            let _ = match &git.revision {
                Revision::Commit { commit, .. } => writeln!(text, "commit {commit}"),
                Revision::Branch(branch) => writeln!(text, "url {}\nbranch {branch}", git.url),
            };
            let _ = writeln!(text, "submodules {}", git.submodules);
        }
        Source::Oci(OciSource { registry, repository, tag, digest, .. }) => {
            let _ = match digest {
                Some(digest) => writeln!(text, "digest {digest}"),
                None => writeln!(text, "{registry}/{repository}:{}", tag.as_deref().unwrap_or_default()),
            };
        }
        Source::User(user) => {
            let _ = writeln!(text, "version {}", component.version.as_deref().unwrap_or_default());
            for (what, patterns) in [("file", &user.files), ("folder", &user.folders)] {
                for (name, pattern) in patterns {
                    let _ = writeln!(text, "{what} {name} {pattern}");
                }
            }
        }
    }
    Some(Hash::of(text))
}

impl Content {
    /// The packages; none for another source.
    pub fn packages(&self) -> &[LockedPackage] {
        match self {
            Self::Packages(packages) => packages,
            _ => &[],
        }
    }

    /// By name, what people compare, and what decides whether it is the same.
    pub(super) fn listed(&self) -> BTreeMap<String, (String, String)> {
        let short = |hash: &Hash| hash.short()[..12].to_owned();
        match self {
            Self::Packages(packages) => packages
                .iter()
                .map(|package| (package.key(), (package.version.clone(), package.sha256.to_string())))
                .collect(),
            Self::Git(git) => {
                BTreeMap::from([("commit".into(), (git.commit.clone(), git.content.to_string()))])
            }
            Self::Oci(image) => {
                let digest = image.manifest.sha256;
                BTreeMap::from([("image".into(), (short(&digest), digest.to_string()))])
            }
            Self::Files(files) => files
                .iter()
                .map(|file| (file.name.clone(), (short(&file.sha256), file.sha256.to_string())))
                .collect(),
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packages(packages) => lines(f, "packages", packages),
            Self::Git(LockedGit { commit, content }) => {
                writeln!(f, "git = {{ commit = {}, content = \"{content}\" }}", quote(commit))
            }
            Self::Oci(LockedOci { manifest, blobs }) => {
                writeln!(f, "manifest = {manifest}")?;
                lines(f, "blobs", blobs)
            }
            Self::Files(files) => lines(f, "files", files),
        }
    }
}

fn lines<T: fmt::Display>(f: &mut fmt::Formatter<'_>, key: &str, items: &[T]) -> fmt::Result {
    writeln!(f, "{key} = [")?;
    items.iter().try_for_each(|item| writeln!(f, "  {item},"))?;
    f.write_str("]\n")
}

impl fmt::Display for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { media_type, size, sha256 } = self;
        write!(f, "{{ media-type = {}, size = {size}, sha256 = \"{sha256}\" }}", quote(media_type))
    }
}

impl fmt::Display for LockedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, file, size, sha256 } = self;
        let (name, file) = (quote(name), quote(file));
        write!(f, "{{ name = {name}, file = {file}, size = {size}, sha256 = \"{sha256}\" }}")
    }
}

/// A component's part of the lock, as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawComponent {
    pub request: Hash,
    pub packages: Option<Vec<Spanned<RawPackage>>>,
    git: Option<Spanned<LockedGit>>,
    manifest: Option<Spanned<Blob>>,
    blobs: Option<Vec<Blob>>,
    files: Option<Spanned<Vec<LockedFile>>>,
}

impl RawComponent {
    /// What is there beside packages, checked; none where there are only packages, or nothing.
    pub fn content(&mut self, name: &str) -> Result<Option<Content>, Misplaced> {
        let kinds = [
            self.packages.is_some(),
            self.git.is_some(),
            self.manifest.is_some() || self.blobs.is_some(),
            self.files.is_some(),
        ];
        if kinds.iter().filter(|there| **there).count() != 1 {
            let error =
                anyhow::anyhow!("`{name}` has to have one of `packages`, `git`, `manifest` and `files`");
            return Err((0..0, error));
        }
        if let Some(git) = self.git.take() {
            let span = git.span();
            let git = git.into_inner();
            return match check_commit(&git.commit) {
                Ok(()) => Ok(Some(Content::Git(git))),
                Err(error) => Err((span, error)),
            };
        }
        if let Some(files) = self.files.take() {
            let span = files.span();
            let mut files = files.into_inner();
            check_files(&files).map_err(|error| (span, error))?;
            files.sort();
            return Ok(Some(Content::Files(files)));
        }
        let Some(manifest) = self.manifest.take() else {
            return match self.packages {
                Some(_) => Ok(None),
                None => Err((0..0, anyhow::anyhow!("`{name}` has blobs without a `manifest`"))),
            };
        };
        let blobs = self.blobs.take().unwrap_or_default();
        Ok(Some(Content::Oci(LockedOci { manifest: manifest.into_inner(), blobs })))
    }
}

fn check_commit(commit: &str) -> Result<()> {
    let digits = commit.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    ensure!(commit.len() == 40 && digits, "`{}` is not a commit", commit.escape_debug());
    Ok(())
}

/// Names become paths in an image.
fn check_files(files: &[LockedFile]) -> Result<()> {
    let mut seen = BTreeSet::new();
    for LockedFile { name, .. } in files {
        let is_path = name.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
        ensure!(is_path && !name.contains('\0'), "`{}` is not a file's name", name.escape_debug());
        if !seen.insert(name) {
            bail!("the file `{name}` is there twice");
        }
    }
    Ok(())
}
