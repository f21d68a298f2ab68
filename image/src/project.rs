//! A checkout opened for one board: its configuration, its lock made current, its store.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::config::Config;
use crate::fetch::{Fetcher, Options};
use crate::hash::Hash;
use crate::hint::WithHint as _;
use crate::lock::{self, Difference, Lock, LockedComponent};
use crate::recipes::{Request, Sources};
use crate::store::Store;

/// What may be done about the lock and the network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Terms {
    /// Fail rather than resolve what the lock lacks.
    pub locked: bool,
    /// Open no connection.
    pub offline: bool,
}

/// A checkout with the store that its builds share.
#[derive(Debug)]
pub struct Project {
    /// What recipes are made from.
    pub sources: Sources,
    /// Where results are kept.
    pub store: Store,
    /// What was resolved anew when the project was opened; empty when the lock was whole.
    pub resolved: Vec<Difference>,
    terms: Terms,
}

/// Where a board's lock is.
pub fn lock_path(root: &Path, board: &str) -> PathBuf {
    root.join("image/locks").join(format!("{board}.toml"))
}

impl Project {
    /// Opens a checkout. Components that the lock lacks are resolved and written into it, unless `terms`
    /// say otherwise.
    pub fn open(config: Config, cache: &Path, terms: Terms, request: Request) -> Result<Self> {
        let store = Store::open(cache)?;
        let fetcher = fetcher(&config, cache, terms)?;
        let path = lock_path(&config.root, &config.board.name);
        let mut lock = Lock::read(&path)?;
        let missing = lock.missing(&config);
        let mut resolved = Vec::new();
        if !missing.is_empty() {
            if terms.locked || terms.offline {
                let flag = if terms.locked { "--locked" } else { "--offline" };
                return Err(anyhow!(
                    "the lock `{}` lacks, or has for another request: {}",
                    path.display(),
                    missing.join(", ")
                ))
                .hint(|| format!("run `cargo xtask lock` without `{flag}`, and commit what it writes"));
            }
            resolved = resolve(&config, &fetcher, &mut lock, &missing)?;
        }
        Ok(Self { sources: Sources { config, lock, fetcher, request }, store, resolved, terms })
    }
}

impl Project {
    /// Resolves the components anew whose packages no mirror has any more, and rewrites the lock;
    /// returns what changed.
    ///
    /// # Errors
    /// Where `terms` forbid it, or the archives' indexes still name what their mirrors don't have.
    pub fn replace_gone(&mut self, gone: &[Hash]) -> Result<Vec<Difference>> {
        let has_gone =
            |locked: &LockedComponent| locked.packages.iter().any(|package| gone.contains(&package.sha256));
        let lock = &mut self.sources.lock;
        let components: Vec<_> = lock
            .components
            .iter()
            .filter(|(_, locked)| has_gone(locked))
            .map(|(name, _)| name.clone())
            .collect();
        if self.terms.locked || self.terms.offline {
            bail!("the lock may not be changed, and names packages that are gone: {}", components.join(", "));
        }
        let differences = resolve(&self.sources.config, &self.sources.fetcher, lock, &components)?;
        if lock.components.values().any(has_gone) {
            return Err(anyhow!("the mirrors' indexes still name what the mirrors don't have"))
                .hint(|| "they may be in the middle of an update: try again in some minutes".into());
        }
        Ok(differences)
    }
}

/// Opens the downloads of a cache.
pub fn fetcher(config: &Config, cache: &Path, terms: Terms) -> Result<Fetcher> {
    Fetcher::new(cache, &config.suites, Options { offline: terms.offline, ..Options::default() })
}

/// Resolves `components` anew and rewrites the lock; returns what changed.
pub fn resolve(
    config: &Config,
    fetcher: &Fetcher,
    lock: &mut Lock,
    components: &[String],
) -> Result<Vec<Difference>> {
    let names: Vec<_> = components.iter().map(String::as_str).collect();
    let newer =
        lock::resolve(config, &names, fetcher, SystemTime::now()).context("making the lock current")?;
    let before = lock.clone();
    lock.update(config, newer);
    lock.write(&lock_path(&config.root, &config.board.name))?;
    Ok(before.differences(lock))
}
