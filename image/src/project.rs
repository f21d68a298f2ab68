//! A checkout opened for one board: its configuration, its lock made current, its store.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Result, anyhow, bail};

use crate::config::Config;
use crate::fetch::{Fetcher, Options};
use crate::hash::Hash;
use crate::hint::{self, WithHint as _};
use crate::lock::{self, Difference, Lock, LockedComponent};
use crate::recipes::{Request, Sources};
use crate::rules;
use crate::source::Origins;
use crate::store::{Store, Use};

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
    /// Held as long as the project is open: nothing of the store may be removed meanwhile.
    _in_use: Use,
}

/// Where a board's lock is.
pub fn lock_path(root: &Path, board: &str) -> PathBuf {
    root.join("image/locks").join(format!("{board}.toml"))
}

impl Project {
    /// Opens a checkout with its lock made current: components that the lock lacks are resolved and written
    /// into it, unless `terms` say otherwise.
    pub fn open(config: Config, cache: &Path, terms: Terms, request: Request) -> Result<Self> {
        let mut project = Self::opened(config, cache, terms, request)?;
        project.make_current()?;
        Ok(project)
    }

    /// Opens a checkout with its lock as it is.
    pub fn opened(config: Config, cache: &Path, terms: Terms, request: Request) -> Result<Self> {
        let store = Store::open(cache)?;
        let fetcher = fetcher(&config, cache, terms)?;
        let origins = origins(&config, cache, terms);
        let lock = Lock::read(&lock_path(&config.root, &config.board.name))?;
        let sources = Sources { config, lock, fetcher, origins, request };
        let in_use = store.in_use()?;
        Ok(Self { sources, store, resolved: Vec::new(), terms, _in_use: in_use })
    }

    /// Resolves what the lock lacks, and fails where the board's parts do not go together.
    pub fn make_current(&mut self) -> Result<()> {
        rules::enforce(&self.sources.config, &self.sources.lock)?;
        let missing = self.missing();
        if missing.is_empty() {
            return Ok(());
        }
        if let Some(flag) = self.lock_is_closed() {
            let path = lock_path(&self.sources.config.root, &self.sources.config.board.name);
            return Err(anyhow!(
                "the lock `{}` lacks, or has for another request: {}",
                path.display(),
                missing.join(", ")
            ))
            .hint(|| format!("run `cargo xtask lock` without `{flag}`, and commit what it writes"));
        }
        let Sources { config, lock, fetcher, origins, .. } = &mut self.sources;
        self.resolved = resolve(config, fetcher, origins, lock, &missing)?;
        Ok(())
    }

    /// The components that the lock lacks, or has for another request.
    pub fn missing(&self) -> Vec<String> {
        self.sources.lock.missing(&self.sources.config)
    }

    /// The flag that forbids to change the lock, if there is one.
    pub fn lock_is_closed(&self) -> Option<&'static str> {
        let Terms { locked, offline } = self.terms;
        if locked { Some("--locked") } else { offline.then_some("--offline") }
    }

    /// Resolves the components anew whose packages no mirror has any more, and rewrites the lock;
    /// returns what changed.
    ///
    /// # Errors
    /// Where `terms` forbid it, or the archives' indexes still name what their mirrors don't have.
    pub fn replace_gone(&mut self, gone: &[Hash]) -> Result<Vec<Difference>> {
        let has_gone = |locked: &LockedComponent| {
            locked.content.packages().iter().any(|package| gone.contains(&package.sha256))
        };
        let lock = &self.sources.lock;
        let components: Vec<_> = lock
            .components
            .iter()
            .filter(|(_, locked)| has_gone(locked))
            .map(|(name, _)| name.clone())
            .collect();
        if self.lock_is_closed().is_some() {
            bail!("the lock may not be changed, and names packages that are gone: {}", components.join(", "));
        }
        let Sources { config, fetcher, origins, .. } = &self.sources;
        let mut lock = self.sources.lock.clone();
        one_error(renew(config, fetcher, origins, &mut lock, &components))?;
        if lock.components.values().any(has_gone) {
            return Err(anyhow!("the mirrors' indexes still name what the mirrors don't have"))
                .hint(|| "they may be in the middle of an update: try again in some minutes".into());
        }
        rules::enforce(config, &lock)?;
        lock.write(&lock_path(&config.root, &config.board.name))?;
        let differences = self.sources.lock.differences(&lock);
        self.sources.lock = lock;
        Ok(differences)
    }
}

/// Opens the downloads of a cache.
pub fn fetcher(config: &Config, cache: &Path, terms: Terms) -> Result<Fetcher> {
    Fetcher::new(cache, &config.suites, options(terms))
}

fn options(terms: Terms) -> Options {
    Options { offline: terms.offline, ..Options::default() }
}

/// Opens what brings components that are not of packages.
pub fn origins(config: &Config, cache: &Path, terms: Terms) -> Origins {
    Origins::new(cache, &config.local, options(terms))
}

/// Resolves `components` anew and rewrites the lock with those that can be; returns what changed.
///
/// # Errors
/// One error for all that can't be resolved.
pub fn resolve(
    config: &Config,
    fetcher: &Fetcher,
    origins: &Origins,
    lock: &mut Lock,
    components: &[String],
) -> Result<Vec<Difference>> {
    let before = lock.clone();
    let failures = renew(config, fetcher, origins, lock, components);
    rules::enforce(config, lock)?;
    if *lock != before {
        lock.write(&lock_path(&config.root, &config.board.name))?;
    }
    one_error(failures)?;
    Ok(before.differences(lock))
}

/// Resolves `components` anew; returns why some of them could not be.
fn renew(
    config: &Config,
    fetcher: &Fetcher,
    origins: &Origins,
    lock: &mut Lock,
    components: &[String],
) -> Vec<anyhow::Error> {
    let known = |name: &String| config.components.get(name);
    let (packages, others): (Vec<_>, Vec<_>) = components
        .iter()
        .partition(|name| known(name).is_some_and(|component| component.source.kind() == "deb"));
    let mut failures = Vec::new();
    if !packages.is_empty() {
        let names: Vec<_> = packages.into_iter().map(String::as_str).collect();
        let newer = lock::resolve(config, &names, fetcher, SystemTime::now());
        match newer.and_then(|newer| lock.refuse_older(&newer).map(|()| newer)) {
            Ok(newer) => lock.update(config, newer),
            Err(error) => failures.push(error),
        }
    }
    for component in others.into_iter().filter_map(known) {
        match origins.resolve(component) {
            Ok(content) => lock.update(config, Lock::with(component, content)),
            Err(error) => {
                failures.push(error.context(format!("resolving the component `{}`", component.name)));
            }
        }
    }
    failures
}

fn one_error(mut failures: Vec<anyhow::Error>) -> Result<()> {
    match failures.len() {
        0 => Ok(()),
        1 => Err(failures.remove(0).context("making the lock current")),
        count => {
            let texts: Vec<_> = failures.iter().map(hint::report).collect();
            bail!("{count} components can't be resolved\n\n{}", texts.join("\n\n"))
        }
    }
}

#[cfg(test)]
mod tests;
