//! The part of this workspace that one crate is built from: found by its manifests, so that no list has
//! to be kept, and cut down, so that a change elsewhere builds nothing anew.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use toml::Table;

use crate::hint::WithHint as _;

/// The smallest workspace that resolves to the same dependencies.
pub struct Workspace {
    /// The top's `Cargo.toml`.
    manifest: String,
    /// Its `Cargo.lock`.
    lock: String,
    /// The folder and the manifest of each crate, the wanted one first.
    crates: Vec<(PathBuf, String)>,
}

impl Workspace {
    /// What the crate `package` in `folder` is built from, for cargo's profile of that name.
    pub fn new(root: &Path, package: &str, folder: &Path, profile: &str) -> Result<Self> {
        let top = read_table(&root.join("Cargo.toml"))?;
        let crates = crates(root, folder, &top)?;
        Ok(Self { manifest: manifest(top, &crates, profile)?, lock: pruned_lock(root, package)?, crates })
    }

    /// The folders of its crates, relative to the checkout.
    pub fn folders(&self) -> impl Iterator<Item = &Path> {
        self.crates.iter().map(|(folder, _)| folder.as_path())
    }

    /// Manifests, the lock, and an empty source for each crate and program.
    pub fn files(&self) -> Vec<(PathBuf, String)> {
        let mut files =
            vec![("Cargo.toml".into(), self.manifest.clone()), ("Cargo.lock".into(), self.lock.clone())];
        for (folder, text) in &self.crates {
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

/// The crate in `folder` and all of the workspace that it depends on, each with its manifest.
fn crates(root: &Path, folder: &Path, top: &Table) -> Result<Vec<(PathBuf, String)>> {
    let shared = top.get("workspace").and_then(|workspace| workspace.get("dependencies"));
    let mut crates: Vec<(PathBuf, String)> = Vec::new();
    let mut queue = VecDeque::from([folder.to_owned()]);
    while let Some(folder) = queue.pop_front() {
        if crates.iter().any(|(known, _)| *known == folder) {
            continue;
        }
        let mut table = read_table(&root.join(&folder).join("Cargo.toml"))?;
        // What tests alone need is neither fetched nor built.
        table.remove("dev-dependencies");
        for name in dependency_names(&table) {
            let dependency = shared.and_then(|shared| shared.get(name));
            if let Some(path) = dependency.and_then(|dependency| dependency.get("path")?.as_str()) {
                queue.push_back(path.into());
            }
        }
        crates.push((folder, toml::to_string(&table)?));
    }
    Ok(crates)
}

/// The workspace's manifest with only the crates that are built, so that another crate's change builds
/// nothing here.
fn manifest(mut top: Table, crates: &[(PathBuf, String)], profile: &str) -> Result<String> {
    let members = crates.iter().map(|(folder, _)| toml::Value::String(folder.display().to_string()));
    let Some(toml::Value::Table(workspace)) = top.get_mut("workspace") else {
        bail!("`Cargo.toml` has no `[workspace]`");
    };
    workspace.insert("members".into(), toml::Value::Array(members.collect()));
    if let Some(toml::Value::Table(dependencies)) = workspace.get_mut("dependencies") {
        let tables = crates.iter().map(|(_, text)| text.parse()).collect::<Result<Vec<Table>, _>>()?;
        let used: BTreeSet<_> = tables.iter().flat_map(dependency_names).map(String::as_str).collect();
        dependencies.retain(|name, _| used.contains(name));
    }
    if let Some(toml::Value::Table(profiles)) = top.get_mut("profile") {
        // Another profile may inherit from it.
        profiles.retain(|name, _| name == "release" || name == profile);
    }
    Ok(toml::to_string(&top)?)
}

/// The names of what a crate's manifest depends on.
fn dependency_names(manifest: &Table) -> impl Iterator<Item = &String> {
    let tables =
        ["dependencies", "build-dependencies"].into_iter().filter_map(|key| manifest.get(key)?.as_table());
    tables.flat_map(Table::keys)
}

fn read_table(path: &Path) -> Result<Table> {
    let context = || format!("reading `{}`", path.display());
    fs::read_to_string(path).with_context(context)?.parse().with_context(context)
}

#[derive(Deserialize, Serialize)]
struct CargoLock {
    version: u32,
    package: Vec<LockedCrate>,
}

#[derive(Deserialize, Serialize, Clone)]
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
    let mut package: Vec<_> = kept.into_values().collect();
    // A version is named only where there are several: that another crate brings one must not show here.
    let names: Vec<_> = package.iter().map(|package| package.name.clone()).collect();
    for dependency in package.iter_mut().flat_map(|package| &mut package.dependencies) {
        let name = dependency.split(' ').next().unwrap_or_default();
        if names.iter().filter(|other| *other == name).count() == 1 {
            *dependency = name.to_owned();
        }
    }
    Ok(toml::to_string(&CargoLock { version: lock.version, package })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn example() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(
            root,
            "Cargo.toml",
            "[workspace]\nmembers = ['a', 'a/b', 'c', 'd']\n[workspace.dependencies]\nanyhow = '1'\nserde = '1'\n\
             b = { path = 'a/b' }\nc = { path = 'c' }\nd = { path = 'd' }\n[profile.release]\nstrip = true\n\
             [profile.dev]\nopt-level = 1\n",
        );
        write(
            root,
            "a/Cargo.toml",
            "[package]\nname = 'a'\n[dependencies]\nanyhow.workspace = true\nb.workspace = true\n[dev-dependencies]\nd.workspace = true\n",
        );
        write(root, "a/b/Cargo.toml", "[package]\nname = 'b'\n[build-dependencies]\nc.workspace = true\n");
        write(root, "c/Cargo.toml", "[package]\nname = 'c'\n");
        write(root, "d/Cargo.toml", "[package]\nname = 'd'\n[dependencies]\nserde.workspace = true\n");
        write(
            root,
            "Cargo.lock",
            "version = 4\n[[package]]\nname = 'a'\nversion = '0.1.0'\ndependencies = ['anyhow', 'b']\n\
             [[package]]\nname = 'anyhow'\nversion = '1.0.0'\n[[package]]\nname = 'b'\nversion = '0.1.0'\n\
             [[package]]\nname = 'serde'\nversion = '1.0.0'\n",
        );
        folder
    }

    #[test]
    fn what_a_crate_is_built_from_is_found_and_nothing_else() {
        let folder = example();
        let workspace = Workspace::new(folder.path(), "a", Path::new("a"), "release").unwrap();
        assert_eq!(workspace.folders().collect::<Vec<_>>(), ["a", "a/b", "c"].map(Path::new));
        let top: Table = workspace.manifest.parse().unwrap();
        let dependencies = top["workspace"]["dependencies"].as_table().unwrap();
        assert_eq!(dependencies.keys().collect::<Vec<_>>(), ["anyhow", "b", "c"]);
        assert_eq!(top["profile"].as_table().unwrap().keys().collect::<Vec<_>>(), ["release"]);
        assert!(workspace.lock.contains("anyhow") && !workspace.lock.contains("serde"));
    }

    #[test]
    fn another_version_that_only_others_need_does_not_show() {
        let folder = example();
        let lock = || Workspace::new(folder.path(), "a", Path::new("a"), "release").unwrap().lock;
        let before = lock();
        let text = fs::read_to_string(folder.path().join("Cargo.lock")).unwrap();
        let text = text.replace("'anyhow', 'b'", "'anyhow 1.0.0', 'b'")
            + "[[package]]\nname = 'anyhow'\nversion = '2.0.0'\n";
        write(folder.path(), "Cargo.lock", &text);
        assert_eq!(lock(), before);
    }

    #[test]
    fn a_lock_that_lacks_a_crate_says_so() {
        let folder = example();
        write(folder.path(), "Cargo.lock", "version = 4\npackage = []\n");
        let error = Workspace::new(folder.path(), "a", Path::new("a"), "release").err().unwrap();
        assert!(crate::hint::report(&error).contains("`Cargo.lock` lacks `a`"));
    }
}
