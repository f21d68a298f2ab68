//! The lock of a board: which packages, to the byte, its components come down to.
//!
//! ```toml
//! version = 1
//!
//! [[suite]]
//! name = "trixie"
//! archive = "debian"
//! date = "2026-11-21T09:15:44Z"   # when the archive wrote the Release file
//! sha256 = "…"                    # of the InRelease file
//!
//! [component.octep]
//! request = "…"
//! git = { commit = "…", content = "…" }
//!
//! [component.root]
//! request = "…"                   # hash of what the component asks for; another one means stale
//! packages = [
//!   { name = "bash", version = "5.2.37-2", arch = "arm64", suite = "trixie", archive = "debian", path = "pool/…", size = 1, sha256 = "…" },
//! ]
//! ```
//!
//! A build only reads it. One line for each package makes a change readable, and a merge easy.

mod content;
mod difference;
mod resolve;
mod text;

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, anyhow};

use crate::config::{Component, Config, Source};
use crate::debian::sources::SOURCE;
use crate::hash::Hash;
use crate::hint::WithHint as _;

pub use content::{Blob, Content, LockedFile, LockedGit, LockedOci};
pub use difference::{Change, Difference};
pub use resolve::{request, resolve};

use resolve::{Scope, Wish};

/// What a board's components come down to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lock {
    /// The suites that packages are from, by name.
    pub suites: BTreeMap<String, LockedSuite>,
    /// By name; all that do not lie in the checkout.
    pub components: BTreeMap<String, LockedComponent>,
}

/// The state of a suite when a component was last resolved from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedSuite {
    /// See [`crate::config::Suites::archives`].
    pub archive: String,
    /// When the archive wrote the Release file, as `2026-11-21T09:15:44Z`.
    pub date: String,
    /// Of the `InRelease` file.
    pub sha256: Hash,
}

/// What a component comes down to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedComponent {
    /// The hash of what the component asked for; see [`request`].
    pub request: Hash,
    pub content: Content,
}

/// One package, to the byte.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LockedPackage {
    /// The package's name, without an architecture.
    pub name: String,
    /// `all` or the architecture that it was built for; `source` for an archive of a source package.
    pub arch: String,
    /// With its epoch, as in the index.
    pub version: String,
    /// The suite that it was found in.
    pub suite: String,
    /// The archive of that suite.
    pub archive: String,
    /// Below the archive's base address.
    pub path: String,
    /// Of the package's file, in bytes.
    pub size: u64,
    /// Of the package's file.
    pub sha256: Hash,
}

impl LockedPackage {
    /// What a component has once: `bash:arm64`, or of a source package an archive's name.
    fn key(&self) -> String {
        match self.arch.as_str() {
            SOURCE => self.path.rsplit('/').next().unwrap_or_default().to_owned(),
            arch => format!("{}:{arch}", self.name),
        }
    }
}

impl Lock {
    /// The components of `config`'s board that the lock lacks, or has for another request. One that a
    /// folder stands in for needs no lock.
    pub fn missing(&self, config: &Config) -> Vec<String> {
        let mut missing = self.missing_of(&Scope::of_board(config));
        let others = board_components(config).into_iter().filter_map(|component| {
            let request = content::request(component)?;
            let is_locked =
                self.components.get(&component.name).is_some_and(|locked| locked.request == request);
            (component.instead.is_none() && !is_locked).then(|| component.name.clone())
        });
        missing.extend(others);
        missing.sort();
        missing
    }

    fn missing_of(&self, scope: &Scope<'_>) -> Vec<String> {
        let is_missing = |(name, wish): &(&&str, &Wish<'_>)| {
            self.components.get(**name).is_none_or(|locked| locked.request != wish.hash(scope.suites))
        };
        scope.wishes.iter().filter(is_missing).map(|(name, _)| (*name).to_owned()).collect()
    }

    /// Takes over what was resolved anew, and drops what the board has no more.
    pub fn update(&mut self, config: &Config, newer: Self) {
        self.update_for(&component_names(config), newer);
    }

    /// The part of a component that is not of packages.
    pub fn with(component: &Component, content: Content) -> Self {
        let request = content::request(component).unwrap_or_else(|| Hash::of(""));
        let locked = LockedComponent { request, content };
        Self { suites: BTreeMap::new(), components: BTreeMap::from([(component.name.clone(), locked)]) }
    }

    fn update_for(&mut self, components: &[&str], newer: Self) {
        self.suites.extend(newer.suites);
        self.components.extend(newer.components);
        self.components.retain(|name, _| components.contains(&name.as_str()));
        let used: BTreeSet<_> = self.packages().map(|package| package.suite.clone()).collect();
        self.suites.retain(|name, _| used.contains(name));
    }

    /// Fails where a mirror gave a Release file that is older than the one that this lock was made from: it is
    /// signed all the same, so its date is all that tells an attack with old packages.
    pub fn refuse_older(&self, newer: &Self) -> Result<()> {
        for (name, suite) in &newer.suites {
            // Dates are written as `2026-11-21T09:15:44Z`, so that their texts are in order too.
            if let Some(before) = self.suites.get(name).filter(|before| before.date > suite.date) {
                return Err(anyhow!(
                    "the mirror's Release file of `{name}` is of {}, older than the lock's, which is of {}",
                    suite.date,
                    before.date
                ))
                .hint(|| {
                    format!(
                        "name a mirror that is current with `DPUKIT_MIRROR_{}`; to go back on purpose, take the suite's line out of the lock",
                        suite.archive.to_uppercase().replace('-', "_")
                    )
                });
            }
        }
        Ok(())
    }

    /// What `newer` has otherwise, by component; components without a change are not named.
    pub fn differences(&self, newer: &Self) -> Vec<Difference> {
        let names: BTreeSet<_> = self.components.keys().chain(newer.components.keys()).collect();
        let listed = |lock: &Self, name| {
            lock.components.get(name).map_or_else(BTreeMap::new, |found| found.content.listed())
        };
        let all = names
            .into_iter()
            .map(|name| Difference::between(name, &listed(self, name), &listed(newer, name)));
        all.filter(|difference| !difference.changes.is_empty()).collect()
    }

    fn packages(&self) -> impl Iterator<Item = &LockedPackage> {
        self.components.values().flat_map(|component| component.content.packages())
    }
}

/// The names of the board's components that the lock has, each once.
pub fn component_names(config: &Config) -> Vec<&str> {
    let is_locked = |component: &&Component| !matches!(component.source, Source::Local(_));
    board_components(config).into_iter().filter(is_locked).map(|component| component.name.as_str()).collect()
}

/// The components that the board names, each once, by name.
pub fn board_components(config: &Config) -> Vec<&Component> {
    let board = &config.board;
    let (tools, parts) = (&board.tools, &board.parts);
    let named = [
        &tools.base,
        &tools.kernel,
        &tools.rust,
        &board.kernel.source,
        &board.root.packages,
        &board.root.oracle,
        &board.root.agent,
    ];
    let perhaps =
        [&parts.firmware, &parts.octep_agent, &parts.host_drivers, &parts.cilium, &parts.cilium_agent];
    let names: BTreeSet<_> = named
        .into_iter()
        .chain(board.emulator.as_ref().map(|emulator| &emulator.tools))
        .chain(&tools.cross)
        .chain(&tools.go)
        .chain(&tools.bundle)
        .chain(board.u_boot.iter().flat_map(|u_boot| [&u_boot.source, &u_boot.tools]))
        .chain(board.kernel.vendor.as_ref().map(|vendor| &vendor.source))
        .chain(perhaps.into_iter().flatten())
        .collect();
    names.into_iter().filter_map(|name| config.components.get(name)).collect()
}

#[cfg(test)]
pub(crate) mod tests;
