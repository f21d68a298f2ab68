//! What the components of Debian packages come down to, by what the archives hold now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::{Content, Lock, LockedComponent, LockedPackage, LockedSuite, board_components, component_names};
use crate::config::{Config, DebSource, Source as ComponentSource, Suite, Suites};
use crate::debian::Source;
use crate::debian::keyring::Keyring;
use crate::debian::packages::Index;
use crate::debian::release::{Packing, Release};
use crate::debian::resolve::{self, Request, Wanted};
use crate::debian::sources::{self, SOURCE, SourcePackage};
use crate::hash::Hash;
use crate::hint::WithHint as _;

/// Resolves the named components from what the archives hold now. Their suites and they themselves
/// are all that the returned lock has; see [`Lock::update`].
pub fn resolve(config: &Config, components: &[&str], source: &dyn Source, now: SystemTime) -> Result<Lock> {
    resolve_all(&Scope::of(config, components)?, source, now)
}

pub(super) fn resolve_all(scope: &Scope<'_>, source: &dyn Source, now: SystemTime) -> Result<Lock> {
    let mut archives = Archives {
        scope,
        source,
        now,
        releases: BTreeMap::new(),
        indexes: BTreeMap::new(),
        sources: BTreeMap::new(),
    };
    for (name, wish) in &scope.wishes {
        archives.load(wish).with_context(|| format!("resolving the component `{name}`"))?;
    }
    let mut lock = Lock::default();
    for (name, wish) in &scope.wishes {
        let locked = archives.resolve(wish).with_context(|| format!("resolving the component `{name}`"))?;
        lock.components.insert((*name).to_owned(), locked);
    }
    for suite in lock.packages().map(|package| package.suite.clone()).collect::<BTreeSet<_>>() {
        let locked = archives.locked_suite(&suite)?;
        lock.suites.insert(suite, locked);
    }
    Ok(lock)
}

/// The hash of all that decides which packages a component comes down to, but for the archives'
/// content. It does not change with the order of packages, nor with reasons and descriptions.
pub fn request(config: &Config, source: &DebSource) -> Hash {
    Wish::of(source).hash(&config.suites)
}

/// What of a configuration decides the content of a lock.
pub(super) struct Scope<'a> {
    /// The folder of the key files.
    pub keys: PathBuf,
    pub suites: &'a Suites,
    /// By component.
    pub wishes: BTreeMap<&'a str, Wish<'a>>,
}

/// What of a component decides its packages.
#[derive(Clone)]
pub(super) struct Wish<'a> {
    pub suites: &'a [String],
    pub architecture: &'a str,
    pub packages: &'a [String],
    pub dependencies: bool,
    pub without: BTreeSet<&'a str>,
}

impl<'a> Scope<'a> {
    /// The components that the board names and that are of Debian packages.
    pub fn of_board(config: &'a Config) -> Self {
        let wishes = board_components(config).into_iter().filter_map(|component| match &component.source {
            ComponentSource::Deb(deb) if component.instead.is_none() => {
                Some((component.name.as_str(), Wish::of(deb)))
            }
            _ => None,
        });
        Self::new(config, wishes.collect())
    }

    /// The components of these names.
    fn of(config: &'a Config, names: &[&'a str]) -> Result<Self> {
        let mut wishes = BTreeMap::new();
        for name in names {
            match config.components.get(*name).map(|component| &component.source) {
                Some(ComponentSource::Deb(deb)) => wishes.insert(*name, Wish::of(deb)),
                Some(_) => bail!("the component `{name}` has no packages"),
                None => {
                    let known = component_names(config).join("`, `");
                    return Err(anyhow!("there is no component `{name}`"))
                        .hint(|| format!("the board's are `{known}`"));
                }
            };
        }
        Ok(Self::new(config, wishes))
    }

    fn new(config: &'a Config, wishes: BTreeMap<&'a str, Wish<'a>>) -> Self {
        Self { keys: config.root.join("image/keys"), suites: &config.suites, wishes }
    }
}

impl<'a> Wish<'a> {
    fn of(source: &'a DebSource) -> Self {
        Self {
            suites: &source.suites,
            architecture: &source.architecture,
            packages: &source.packages,
            dependencies: source.dependencies,
            without: source.without.keys().map(String::as_str).collect(),
        }
    }

    /// See [`request`].
    pub fn hash(&self, suites: &Suites) -> Hash {
        let mut text =
            format!("request 1\narchitecture {}\ndependencies {}\n", self.architecture, self.dependencies);
        for name in self.suites {
            let Some(Suite { archive, path, only_when_named, .. }) = suites.suites.get(name) else {
                continue;
            };
            let _ = writeln!(text, "suite {name} {archive} {path} {only_when_named}");
        }
        let packages: BTreeSet<_> =
            self.packages.iter().map(|package| ("package", package.as_str())).collect();
        for (what, name) in packages.into_iter().chain(self.without.iter().map(|name| ("without", *name))) {
            let _ = writeln!(text, "{what} {name}");
        }
        Hash::of(text)
    }

    /// The architectures that packages are taken of.
    fn architectures(&self) -> Result<BTreeSet<&'a str>> {
        let mut architectures = BTreeSet::from([self.architecture]);
        for package in self.packages {
            architectures.extend(Wanted::parse(package)?.architecture);
        }
        Ok(architectures)
    }
}

/// Release files and indexes, each read once for all components.
struct Archives<'a> {
    scope: &'a Scope<'a>,
    source: &'a dyn Source,
    now: SystemTime,
    releases: BTreeMap<&'a str, Release>,
    /// By suite and architecture.
    indexes: BTreeMap<(&'a str, &'a str), Index>,
    /// By suite, the source packages that any component asks for.
    sources: BTreeMap<&'a str, Vec<SourcePackage>>,
}

impl<'a> Archives<'a> {
    /// Reads what a component needs.
    fn load(&mut self, wish: &Wish<'a>) -> Result<()> {
        for name in wish.suites {
            let suite = self.suite(name)?;
            for architecture in wish.architectures()? {
                let key = (name.as_str(), architecture);
                if architecture == SOURCE {
                    if !self.sources.contains_key(name.as_str()) {
                        let packages = self.read_sources(name, suite)?;
                        self.sources.insert(name, packages);
                    }
                } else if !self.indexes.contains_key(&key) {
                    let index = self.read_index(name, suite, architecture)?;
                    self.indexes.insert(key, index);
                }
            }
        }
        Ok(())
    }

    fn suite(&self, name: &str) -> Result<&'a Suite> {
        self.scope
            .suites
            .suites
            .get(name)
            .with_context(|| format!("there is no suite `{name}` in `image/suites.toml`"))
    }

    fn read_index(&mut self, name: &'a str, suite: &Suite, architecture: &str) -> Result<Index> {
        let (bytes, packing) = self.index_bytes(name, suite, architecture)?;
        let mut index = Index::read_packed(&format!("{name}/{architecture}"), &bytes, packing)?;
        if suite.is_flat() {
            index.keep(architecture);
        }
        tracing::debug!(suite = name, architecture, packages = index.len(), "read a package index");
        Ok(index)
    }

    fn read_sources(&mut self, name: &'a str, suite: &Suite) -> Result<Vec<SourcePackage>> {
        let wishes = self.scope.wishes.values().filter(|wish| wish.architecture == SOURCE);
        let wanted = wishes.flat_map(|wish| wish.packages).map(|package| Wanted::parse(package));
        let names = wanted.map(|wanted| Ok(wanted?.name)).collect::<Result<BTreeSet<_>>>()?;
        let (bytes, _) = self.index_bytes(name, suite, SOURCE)?;
        sources::read_xz(&format!("{name}/{SOURCE}"), &bytes, &names)
    }

    /// A suite's index for an architecture, as it is fetched: compressed, and what the Release file names.
    fn index_bytes(
        &mut self,
        name: &'a str,
        suite: &Suite,
        architecture: &str,
    ) -> Result<(Vec<u8>, Packing)> {
        let release = self.release(name, suite)?;
        let file = release.index(architecture).with_context(|| format!("the suite `{name}`"))?;
        let path = suite.file(&file.path);
        let bytes = self.source.get(&suite.archive, &path, Some((file.size, file.hash)))?;
        ensure!(
            Hash::of(&bytes) == file.hash,
            "`{path}` of `{}` is not what the Release file names",
            suite.archive
        );
        Ok((bytes, file.packing))
    }

    fn release(&mut self, name: &'a str, suite: &Suite) -> Result<&Release> {
        if !self.releases.contains_key(name) {
            let keyring = Keyring::read(&self.scope.keys, &suite.keys)?;
            let bytes = self.source.get(&suite.archive, &suite.file("InRelease"), None)?;
            let release = Release::read(&suite.path, suite.origin.as_deref(), &bytes, &keyring, self.now)?;
            self.releases.insert(name, release);
        }
        self.releases.get(name).with_context(|| format!("the suite `{name}` was not read"))
    }

    fn resolve(&self, wish: &Wish<'_>) -> Result<LockedComponent> {
        let mut packages = if wish.architecture == SOURCE {
            self.resolve_sources(wish)?
        } else {
            self.resolve_packages(wish)?
        };
        packages.sort();
        let content = Content::Packages(packages);
        Ok(LockedComponent { request: wish.hash(self.scope.suites), content })
    }

    fn resolve_sources(&self, wish: &Wish<'_>) -> Result<Vec<LockedPackage>> {
        let suites = wish.suites.iter().map(|name| {
            let packages = self.sources.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
            Ok(sources::Suite { name, only_when_named: self.suite(name)?.only_when_named, packages })
        });
        let suites = suites.collect::<Result<Vec<_>>>()?;
        let mut locked = Vec::new();
        for package in wish.packages {
            let (suite, SourcePackage { name, version, files }) =
                sources::newest(&Wanted::parse(package)?, &suites)?;
            for (path, (size, sha256)) in files {
                locked.push(LockedPackage {
                    name: name.clone(),
                    version: version.clone(),
                    arch: SOURCE.into(),
                    suite: suite.to_owned(),
                    archive: self.suite(suite)?.archive.clone(),
                    path: path.clone(),
                    size: *size,
                    sha256: *sha256,
                });
            }
        }
        Ok(locked)
    }

    fn resolve_packages(&self, wish: &Wish<'_>) -> Result<Vec<LockedPackage>> {
        let suites = wish.suites.iter().map(|name| {
            let of_suite = self.indexes.iter().filter(|((suite, _), _)| suite == name);
            let wanted = wish.architectures()?;
            Ok(resolve::Suite {
                name,
                only_when_named: self.suite(name)?.only_when_named,
                indexes: of_suite
                    .filter(|((_, architecture), _)| wanted.contains(architecture))
                    .map(|((_, architecture), index)| (*architecture, index))
                    .collect(),
            })
        });
        let wanted = wish.packages.iter().map(|package| Wanted::parse(package));
        let request = Request {
            wanted: wanted.collect::<Result<_>>()?,
            suites: suites.collect::<Result<_>>()?,
            architecture: wish.architecture,
            without: wish.without.clone(),
            dependencies: wish.dependencies,
        };
        resolve::resolve(&request)?.into_iter().map(|chosen| self.locked_package(chosen)).collect()
    }

    fn locked_package(&self, chosen: resolve::Chosen<'_>) -> Result<LockedPackage> {
        let package = chosen.package;
        Ok(LockedPackage {
            name: package.name().to_owned(),
            version: package.version_text().to_owned(),
            arch: package.architecture().to_owned(),
            suite: chosen.suite.to_owned(),
            archive: self.suite(chosen.suite)?.archive.clone(),
            path: package.path().to_owned(),
            size: package.size(),
            sha256: package.sha256(),
        })
    }

    fn locked_suite(&self, name: &str) -> Result<LockedSuite> {
        let release = self.releases.get(name).with_context(|| format!("the suite `{name}` was not read"))?;
        let archive = self.suite(name)?.archive.clone();
        Ok(LockedSuite { archive, date: release.date.to_string(), sha256: release.hash })
    }
}
