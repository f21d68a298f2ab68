//! Where components come from that are neither Debian packages nor crates of this workspace. All is brought
//! before a step runs, and enters it by the hash that the lock has of it.

pub mod archive;
pub mod folder;
pub mod git;
pub mod oci;
pub mod user;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use crate::config::{Component, Local, OciSource, Source};
use crate::fetch::Options;
use crate::hint::WithHint as _;
use crate::lock::Content;

/// What brings components to this machine.
#[derive(Debug)]
pub struct Origins {
    cache: PathBuf,
    local: Local,
    options: Options,
}

impl Origins {
    /// Keeps what comes in `cache`.
    pub fn new(cache: &Path, local: &Local, options: Options) -> Self {
        Self { cache: cache.to_owned(), local: local.clone(), options }
    }

    /// What a component comes down to now, for the lock; it is then on this machine, but for an image's
    /// layers.
    pub fn resolve(&self, component: &Component) -> Result<Content> {
        match &component.source {
            Source::Git(source) => self.git()?.resolve(source).map(Content::Git),
            Source::Oci(source) => self.oci(source).resolve().map(Content::Oci),
            Source::User(_) => self.user(component)?.bring(None).map(Content::Files),
            Source::Deb(_) | Source::Local(_) => {
                bail!("`{}` is not of a source that is resolved by itself", component.name)
            }
        }
    }

    /// Whether what the lock has of a component is on this machine.
    pub fn has(&self, component: &Component, locked: &Content) -> Result<bool> {
        Ok(match (&component.source, locked) {
            (Source::Git(source), Content::Git(locked)) => self.git()?.has(source, &locked.commit),
            (Source::Oci(source), Content::Oci(locked)) => self.oci(source).has(locked),
            (Source::User(_), Content::Files(files)) => user::has(&self.cache, files),
            _ => true,
        })
    }

    /// Asks whether a component's source can be had, without fetching it.
    ///
    /// # Errors
    /// What every place said.
    pub fn probe(&self, component: &Component, patience: Duration) -> Result<()> {
        if self.options.offline && !matches!(component.source, Source::Git(_) | Source::User(_)) {
            return Err(anyhow!("it is not downloaded, and `--offline` forbids to"))
                .hint(|| "run the same command once without `--offline`".into());
        }
        match &component.source {
            Source::Git(source) => self.git()?.probe(source, patience),
            Source::Oci(source) => self.oci(source).probe(patience),
            _ => Ok(()),
        }
    }

    /// The folder that all is kept in.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Repositories, kept below the cache.
    pub fn git(&self) -> Result<git::Git> {
        git::Git::new(&self.cache, self.local.git_mirrors.as_deref(), self.options.offline)
    }

    /// An image's registries.
    pub fn oci<'a>(&'a self, source: &'a OciSource) -> oci::Registry<'a> {
        oci::Registry::new(&self.cache, source, &self.options)
    }

    /// A component of source `user`.
    pub fn user<'a>(&'a self, component: &'a Component) -> Result<user::Brought<'a>> {
        let given = component.instead.as_ref().or_else(|| self.local.files.get(&component.name));
        user::Brought::new(&self.cache, component, given.map(PathBuf::as_path))
    }
}
