//! Programs of this workspace, built with the tool root's Rust: the card's here, the host's in `host.rs`.
//!
//! Three steps, so that a changed line costs one crate: `crates` holds the sources of the dependencies,
//! `agent-dependencies` builds them behind empty crates, `agent` builds our own on top.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{Sources, folder_enters};
use crate::config::{LocalSource, Source};
use crate::hint::WithHint as _;
use crate::sandbox::Sandbox;
use crate::step::{Graph, Room};

/// The step that makes the programs, in `bin/`.
pub const AGENT: &str = "agent";

/// How the programs of a crate are built.
pub struct Way {
    /// The step that brings the sources of the dependencies, in `vendor/`.
    pub crates: &'static str,
    /// The step that builds the dependencies.
    pub dependencies: &'static str,
    /// The step that makes the programs, in `bin/`.
    pub programs: &'static str,
    /// Cargo's profile.
    pub profile: &'static str,
    /// Further flags for rustc.
    pub flags: &'static str,
}

const CARD: Way = Way {
    crates: "crates",
    dependencies: "agent-dependencies",
    programs: AGENT,
    profile: "release",
    flags: "",
};

const BUILD: &str = include_str!("agent-build.sh");
const DEPENDENCIES_BUILD: &str = include_str!("agent-dependencies.sh");

pub fn source(sources: &Sources) -> Result<&LocalSource> {
    let name = &sources.config.board.root.agent;
    match sources.config.components.get(name).map(|component| &component.source) {
        Some(Source::Local(source)) => Ok(source),
        _ => bail!("`{name}` is not a component of this workspace"),
    }
}

pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources) -> Result<()> {
    build(graph, sources, source(sources)?, &CARD)
}

/// The steps that build a crate's programs.
pub fn build<'a>(
    graph: &mut Graph<'a>,
    sources: &'a Sources,
    local: &'a LocalSource,
    way: &'static Way,
) -> Result<()> {
    let root = &sources.config.root;
    let rust = &sources.config.board.tools.rust;
    let folders: Vec<&PathBuf> = std::iter::once(&local.path).chain(&local.also).collect();
    let manifests = folders.iter().map(|folder| manifest(root, folder)).collect::<Result<Vec<_>>>()?;
    let workspace = workspace_manifest(root, &manifests, way.profile)?;
    let lock = pruned_lock(root, &local.package)?;

    let offline = sources.request.offline;
    let skeleton = Skeleton { workspace, lock, manifests };
    let files = skeleton.files();
    graph.step(way.crates).content("Cargo.lock", &skeleton.lock).run({
        let files = files.clone();
        move |room| vendor(room, &files, offline)
    });

    let mut step =
        graph.step(way.dependencies).needs(way.crates).needs(rust).content("script", DEPENDENCIES_BUILD);
    for (path, text) in &files {
        step = step.content(format!("file {}", path.display()), text);
    }
    let target = &local.target;
    let package = &local.package;
    step.content("target", target).content("flags", way.flags).content("profile", way.profile).run(
        move |room| {
            let source = room.place.scratch.join("source");
            write_files(&source, &files)?;
            sandbox(room, rust, way)
                .env("TARGET", target)
                .env("PACKAGE", package)
                .env("JOBS", room.jobs)
                .run(room.place, DEPENDENCIES_BUILD)
        },
    );

    let mut step = graph
        .step(way.programs)
        .needs(way.crates)
        .needs(way.dependencies)
        .needs(rust)
        .content("script", BUILD);
    // A crate's folder may hold another crate (`agent/plan`): each file enters once by its name.
    for folder in &folders {
        step = folder_enters(step, root, folder)?;
    }
    let names = local.install.keys().cloned().collect::<Vec<_>>().join(" ");
    step.content("programs", &names).run(move |room| {
        let mut sandbox = sandbox(room, rust, way).input("dependencies", room.result(way.dependencies));
        for folder in top_folders(&folders) {
            sandbox = sandbox.input(&format!("source/{}", folder.display()), root.join(folder));
        }
        sandbox
            .env("TARGET", target)
            .env("PACKAGE", package)
            .env("PROGRAMS", &names)
            .env("JOBS", room.jobs)
            .run(room.place, BUILD)
    });
    Ok(())
}

/// Folders that lie in no other of the list.
fn top_folders<'a>(folders: &[&'a PathBuf]) -> Vec<&'a PathBuf> {
    let inside =
        |folder: &&&PathBuf| folders.iter().any(|other| *other != **folder && folder.starts_with(other));
    folders.iter().filter(|folder| !inside(folder)).copied().collect()
}

fn sandbox(room: &Room<'_>, rust: &str, way: &Way) -> Sandbox {
    Sandbox::new(room.result(rust))
        .input("crates", room.result(way.crates))
        .env("FLAGS", way.flags)
        .env("PROFILE", way.profile)
}

/// The smallest workspace that resolves to the same dependencies.
struct Skeleton {
    workspace: String,
    lock: String,
    manifests: Vec<(PathBuf, String)>,
}

impl Skeleton {
    /// Manifests, the lock, and an empty source for each crate and program.
    fn files(&self) -> Vec<(PathBuf, String)> {
        let mut files =
            vec![("Cargo.toml".into(), self.workspace.clone()), ("Cargo.lock".into(), self.lock.clone())];
        for (folder, text) in &self.manifests {
            files.push((folder.join("Cargo.toml"), text.clone()));
            files.push((folder.join("src/lib.rs"), String::new()));
            if text.contains("[[bin]]") || text.contains("clap") {
                files.push((folder.join("src/main.rs"), "fn main() {}".into()));
            }
            // Cargo builds what a build script needs only where there is one.
            if text.contains("[build-dependencies") {
                files.push((folder.join("build.rs"), "fn main() {}".into()));
            }
        }
        files
    }
}

fn write_files(folder: &Path, files: &[(PathBuf, String)]) -> Result<()> {
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(&path, text).with_context(|| format!("writing `{}`", path.display()))?;
    }
    Ok(())
}

/// The workspace's manifest with only the crates that are built, so that another crate's change builds
/// nothing here.
fn workspace_manifest(root: &Path, crates: &[(PathBuf, String)], profile: &str) -> Result<String> {
    let path = root.join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))?;
    let mut table: toml::Table = text.parse().with_context(|| format!("reading `{}`", path.display()))?;
    let members = crates.iter().map(|(folder, _)| toml::Value::String(folder.display().to_string()));
    let Some(toml::Value::Table(workspace)) = table.get_mut("workspace") else {
        bail!("`{}` has no `[workspace]`", path.display());
    };
    workspace.insert("members".into(), toml::Value::Array(members.collect()));
    if let Some(toml::Value::Table(dependencies)) = workspace.get_mut("dependencies") {
        let used = crates.iter().map(|(_, text)| dependency_names(text)).collect::<Result<Vec<_>>>()?;
        dependencies.retain(|name, _| used.iter().any(|used| used.contains(name)));
    }
    if let Some(toml::Value::Table(profiles)) = table.get_mut("profile") {
        // Another profile may inherit from it.
        profiles.retain(|name, _| name == "release" || name == profile);
    }
    Ok(toml::to_string(&table)?)
}

/// The names of what a crate's manifest depends on.
fn dependency_names(manifest: &str) -> Result<BTreeSet<String>> {
    let table: toml::Table = manifest.parse()?;
    let tables = ["dependencies", "build-dependencies"].iter().filter_map(|key| table.get(*key)?.as_table());
    Ok(tables.flat_map(toml::Table::keys).cloned().collect())
}

fn manifest(root: &Path, folder: &Path) -> Result<(PathBuf, String)> {
    let path = root.join(folder).join("Cargo.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))?;
    // What tests alone need is neither fetched nor built for the card.
    let mut table: toml::Table = text.parse().with_context(|| format!("reading `{}`", path.display()))?;
    table.remove("dev-dependencies");
    Ok((folder.to_owned(), toml::to_string(&table)?))
}

#[derive(Deserialize, serde::Serialize)]
struct CargoLock {
    version: u32,
    package: Vec<LockedCrate>,
}

#[derive(Deserialize, serde::Serialize, Clone)]
struct LockedCrate {
    name: String,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dependencies: Vec<String>,
}

/// The part of `Cargo.lock` that `package` needs, so that other crates' dependencies don't enter.
fn pruned_lock(root: &Path, package: &str) -> Result<String> {
    let path = root.join("Cargo.lock");
    let context = || format!("reading `{}`", path.display());
    let text =
        fs::read_to_string(&path).with_context(context).hint(|| "run `cargo generate-lockfile`".into())?;
    let lock: CargoLock = toml::from_str(&text).with_context(context)?;
    let by_name = |wanted: &str| {
        let mut words = wanted.split(' ');
        let (name, version) = (words.next().unwrap_or_default(), words.next());
        lock.package
            .iter()
            .filter(|package| {
                package.name == name && version.is_none_or(|version| package.version == version)
            })
            .collect::<Vec<_>>()
    };
    let mut kept = BTreeMap::new();
    let mut queue = VecDeque::from([package.to_owned()]);
    let mut seen = BTreeSet::new();
    while let Some(name) = queue.pop_front() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let found = by_name(&name);
        if found.is_empty() {
            return Err(anyhow::anyhow!("`Cargo.lock` lacks `{name}`"))
                .hint(|| "run `cargo update --workspace`".into());
        }
        for package in found {
            queue.extend(package.dependencies.iter().cloned());
            kept.insert((package.name.clone(), package.version.clone()), package.clone());
        }
    }
    Ok(toml::to_string(&CargoLock { version: lock.version, package: kept.into_values().collect() })?)
}

/// Lets the machine's own cargo bring the crates: it knows the user's registries and checks each
/// against `Cargo.lock`.
fn vendor(room: &Room<'_>, files: &[(PathBuf, String)], offline: bool) -> Result<()> {
    let source = room.place.scratch.join("source");
    write_files(&source, files)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(&source)
        .args(["vendor", "--quiet", "--versioned-dirs"])
        .arg(room.place.out.join("vendor"));
    if offline {
        command.arg("--offline");
    }
    let output = command.output().context("starting `cargo vendor`")?;
    fs::write(&room.place.log, [&output.stdout[..], &output.stderr].concat())?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let failure =
            Err(anyhow::anyhow!("`cargo vendor` ended with {}:\n{}", output.status, errors.trim_end()));
        return if offline {
            failure.hint(|| "run `cargo xtask image` once with a network: it keeps the crates".into())
        } else {
            failure
        };
    }
    Ok(())
}
