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

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;
use toml::Spanned;

use crate::config::{Component, Config, DebSource, Source as ComponentSource, Suite, Suites};
use crate::debian::Source;
use crate::debian::keyring::Keyring;
use crate::debian::packages::{Index, is_safe_path};
use crate::debian::relation::{is_architecture, is_name};
use crate::debian::release::{Packing, Release};
use crate::debian::resolve::{self, Request, Wanted};
use crate::debian::sources::{self, SOURCE, SourcePackage};
use crate::debian::version::Version;
use crate::hash::Hash;
use crate::hint::WithHint as _;

pub use content::{Blob, Content, LockedFile, LockedGit, LockedOci};
pub use difference::{Change, Difference};

use content::RawComponent;

/// The form of the file that this module reads and writes.
const VERSION: i64 = 1;

const HEADER: &str = "\
# Written by `cargo xtask lock`; what is changed here by hand is lost.
# After a merge conflict take either side and run `cargo xtask lock`.
";

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
    /// Reads a lock file. One that is not there is an empty lock.
    pub fn read(path: &Path) -> Result<Self> {
        let reading = || format!("reading the lock `{}`", path.display());
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.with_context(reading)?,
        };
        let lock = String::from_utf8(bytes).context("it is not UTF-8").and_then(|text| Self::parse(&text));
        lock.with_context(reading)
            .hint(|| "take the file as it was committed, or remove it and run `cargo xtask lock`".into())
    }

    /// Reads the text of a lock file; errors name the line.
    pub fn parse(text: &str) -> Result<Self> {
        refuse_conflict_marks(text)?;
        let raw: RawLock = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(String::new(), |span| format!("line {}: ", line_of(text, &span)));
            anyhow!("{line}{}", error.message())
        })?;
        check(raw).map_err(|(span, error)| error.context(format!("line {}", line_of(text, &span))))
    }

    /// Writes the lock file: beside it first, so that it is there whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_whole(path, self.to_string().as_bytes())
            .with_context(|| format!("writing the lock `{}`", path.display()))
    }

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

/// The text of the lock file; the same lock always gives the same bytes.
impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}version = {VERSION}")?;
        for (name, suite) in &self.suites {
            let (name, archive, date) = (quote(name), quote(&suite.archive), quote(&suite.date));
            write!(
                f,
                "\n[[suite]]\nname = {name}\narchive = {archive}\ndate = {date}\nsha256 = \"{}\"\n",
                suite.sha256
            )?;
        }
        for (name, component) in &self.components {
            let LockedComponent { request, content } = component;
            write!(f, "\n[component.{}]\nrequest = \"{request}\"\n{content}", key(name))?;
        }
        Ok(())
    }
}

impl fmt::Display for LockedPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = [
            ("name", &self.name),
            ("version", &self.version),
            ("arch", &self.arch),
            ("suite", &self.suite),
            ("archive", &self.archive),
            ("path", &self.path),
        ];
        f.write_str("{ ")?;
        texts.into_iter().try_for_each(|(key, text)| write!(f, "{key} = {}, ", quote(text)))?;
        write!(f, "size = {}, sha256 = \"{}\" }}", self.size, self.sha256)
    }
}

/// Resolves the named components from what the archives hold now. Their suites and they themselves
/// are all that the returned lock has; see [`Lock::update`].
pub fn resolve(config: &Config, components: &[&str], source: &dyn Source, now: SystemTime) -> Result<Lock> {
    resolve_all(&Scope::of(config, components)?, source, now)
}

fn resolve_all(scope: &Scope<'_>, source: &dyn Source, now: SystemTime) -> Result<Lock> {
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

/// The names of the board's components that the lock has, each once.
pub fn component_names(config: &Config) -> Vec<&str> {
    let is_locked = |component: &&Component| !matches!(component.source, ComponentSource::Local(_));
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

/// The hash of all that decides which packages a component comes down to, but for the archives'
/// content. It does not change with the order of packages, nor with reasons and descriptions.
pub fn request(config: &Config, source: &DebSource) -> Hash {
    Wish::of(source).hash(&config.suites)
}

/// What of a configuration decides the content of a lock.
struct Scope<'a> {
    /// The folder of the key files.
    keys: PathBuf,
    suites: &'a Suites,
    /// By component.
    wishes: BTreeMap<&'a str, Wish<'a>>,
}

/// What of a component decides its packages.
#[derive(Clone)]
struct Wish<'a> {
    suites: &'a [String],
    architecture: &'a str,
    packages: &'a [String],
    dependencies: bool,
    without: BTreeSet<&'a str>,
}

impl<'a> Scope<'a> {
    /// The components that the board names and that are of Debian packages.
    fn of_board(config: &'a Config) -> Self {
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
    fn hash(&self, suites: &Suites) -> Hash {
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLock {
    version: Spanned<i64>,
    #[serde(default)]
    suite: Vec<Spanned<RawSuite>>,
    #[serde(default)]
    component: BTreeMap<String, Spanned<RawComponent>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSuite {
    name: String,
    archive: String,
    date: String,
    sha256: Hash,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPackage {
    name: String,
    version: String,
    arch: String,
    suite: String,
    archive: String,
    path: String,
    size: u64,
    sha256: Hash,
}

/// Where in the text an error is, and the error.
type Misplaced = (Range<usize>, anyhow::Error);

fn check(raw: RawLock) -> Result<Lock, Misplaced> {
    let mut lock = Lock::default();
    if *raw.version.get_ref() != VERSION {
        let error = anyhow!(
            "the lock is of version {}, and this builder reads version {VERSION}",
            raw.version.get_ref()
        );
        return Err((raw.version.span(), error));
    }
    for suite in raw.suite {
        let span = suite.span();
        let RawSuite { name, archive, date, sha256 } = suite.into_inner();
        if lock.suites.insert(name.clone(), LockedSuite { archive, date, sha256 }).is_some() {
            return Err((span, anyhow!("the suite `{name}` is there twice")));
        }
    }
    for (name, component) in raw.component {
        let at = component.span();
        let mut component = component.into_inner();
        let other = component
            .content(&name)
            .map_err(|(span, error)| (if span.is_empty() { at } else { span }, error))?;
        if let Some(content) = other {
            lock.components.insert(name, LockedComponent { request: component.request, content });
            continue;
        }
        let mut packages: Vec<LockedPackage> = Vec::new();
        let mut seen = BTreeSet::new();
        for package in component.packages.into_iter().flatten() {
            let span = package.span();
            let package =
                check_package(package.into_inner(), &lock.suites).map_err(|error| (span.clone(), error))?;
            if !seen.insert(package.key()) {
                return Err((
                    span,
                    anyhow!("`{}:{}` is there twice in `{name}`", package.name, package.arch),
                ));
            }
            packages.push(package);
        }
        packages.sort();
        let content = Content::Packages(packages);
        lock.components.insert(name, LockedComponent { request: component.request, content });
    }
    Ok(lock)
}

fn check_package(raw: RawPackage, suites: &BTreeMap<String, LockedSuite>) -> Result<LockedPackage> {
    let RawPackage { name, version, arch, suite, archive, path, size, sha256 } = raw;
    ensure!(is_name(&name), "`{name}` is not a package's name");
    ensure!(is_architecture(&arch), "`{arch}` is not an architecture");
    Version::parse(&version)?;
    ensure!(is_safe_path(&path), "`{path}` is not a path within an archive");
    let locked = suites.get(&suite).with_context(|| format!("the suite `{suite}` is not in the lock"))?;
    ensure!(
        locked.archive == archive,
        "the suite `{suite}` is of the archive `{}`, not `{archive}`",
        locked.archive
    );
    Ok(LockedPackage { name, arch, version, suite, archive, path, size, sha256 })
}

fn refuse_conflict_marks(text: &str) -> Result<()> {
    let is_mark = |line: &str| {
        line == "=======" || ["<<<<<<< ", "||||||| ", ">>>>>>> "].iter().any(|mark| line.starts_with(mark))
    };
    match text.lines().zip(1..).find(|(line, _)| is_mark(line)) {
        Some((_, number)) => bail!("line {number}: a mark of a merge conflict"),
        None => Ok(()),
    }
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.get(..span.start).unwrap_or(text).matches('\n').count() + 1
}

/// A TOML key: as it is where that is allowed.
fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !name.is_empty() && name.chars().all(is_bare) { name.to_owned() } else { quote(name) }
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mode = std::fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().prefix(".lock-").permissions(mode).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
