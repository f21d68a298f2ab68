//! How a board's image is made: which steps there are, what enters each, and what each runs.
//!
//! One file per part of the image; each adds its steps to the graph.

mod agent;
mod cilium;
mod disk;
mod drivers;
mod firmware;
mod host;
mod host_image;
mod images;
mod kernel;
mod layer;
mod octep;
mod root;
mod start;
mod tools;
mod tree;
mod u_boot;
mod updates;
mod workspace;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use walkdir::WalkDir;

use crate::config::{Component, Config, DebSource, Source};
use crate::fetch::{Fetcher, Package, Wanted};
use crate::hash::Hash;
use crate::hint::WithHint as _;
use crate::lock::{Content, Lock, LockedPackage};
use crate::source::Origins;
use crate::step::{Builder, Graph, Room};
use crate::update;

pub use cilium::CILIUM_AGENT;
pub use disk::{BOOT, copy_sparse};
pub use drivers::{DRIVERS, drivers_name};
pub use firmware::FIRMWARE;
pub use host::{DEB, deb_name};
pub use host_image::{HOST_IMAGE, host_image_name, host_image_reference};
pub use images::IMAGES;
pub use kernel::{CONFIG as KERNEL_CONFIG, KERNEL, source_step as kernel_source};
pub use octep::OCTEP;
pub use root::{ROOT, SYSTEM};
pub use u_boot::{SANDBOX as U_BOOT_SANDBOX, U_BOOT};
pub use updates::{compatible, tools as update_tools};

/// The step whose result is the flashable image.
pub const IMAGE: &str = "image";

/// What a person asked for beside the board.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Text of public keys that may log in as root; empty for none.
    pub ssh_keys: String,
    /// Whether programs of the machine (cargo) must stay off the network too.
    pub offline: bool,
}

/// What recipes are made from; outlives the graph.
#[derive(Debug)]
pub struct Sources {
    /// The checked board and components.
    pub config: Config,
    /// Every package's hash.
    pub lock: Lock,
    /// Where packages come from.
    pub fetcher: Fetcher,
    /// Where all else comes from.
    pub origins: Origins,
    /// What was asked for.
    pub request: Request,
}

/// All steps of the board's image.
pub fn graph(sources: &Sources) -> Result<Graph<'_>> {
    let mut graph = Graph::default();
    let tools = &sources.config.board.tools;
    for name in [&tools.base, &tools.kernel, &tools.rust] {
        tools::tool_root(&mut graph, sources, name)?;
    }
    if let Some(name) = update::tools(&sources.config)? {
        tools::tool_root(&mut graph, sources, name)?;
    }
    if let Some(emulator) = &sources.config.board.emulator {
        tools::tool_root(&mut graph, sources, &emulator.tools)?;
    }
    kernel::steps(&mut graph, sources)?;
    u_boot::steps(&mut graph, sources)?;
    firmware::steps(&mut graph, sources)?;
    octep::steps(&mut graph, sources)?;
    images::steps(&mut graph, sources)?;
    agent::steps(&mut graph, sources)?;
    root::steps(&mut graph, sources)?;
    disk::steps(&mut graph, sources)?;
    host::steps(&mut graph, sources)?;
    drivers::steps(&mut graph, sources)?;
    Ok(graph)
}

/// The steps whose results are a board's bundle.
pub fn bundle(graph: &Graph<'_>) -> Vec<&'static str> {
    [IMAGE, FIRMWARE, DRIVERS, U_BOOT].into_iter().filter(|step| graph.has(step)).collect()
}

impl Sources {
    pub(crate) fn deb(&self, component: &str) -> Result<&DebSource> {
        match self.config.components.get(component).map(|component| &component.source) {
            Some(Source::Deb(source)) => Ok(source),
            _ => anyhow::bail!("`{component}` is not a component of Debian packages"),
        }
    }

    pub(crate) fn packages(&self, component: &str) -> Result<&[LockedPackage]> {
        Ok(self.content(component)?.packages())
    }

    pub(crate) fn component(&self, name: &str) -> Result<&Component> {
        self.config.components.get(name).with_context(|| format!("there is no component `{name}`"))
    }

    /// What the lock has of a component.
    pub(crate) fn content(&self, component: &str) -> Result<&Content> {
        let locked = self.lock.components.get(component);
        Ok(&locked.with_context(|| format!("the lock has no component `{component}`"))?.content)
    }

    /// Downloads a component's packages and gives each one's file.
    fn download(&self, room: &Room<'_>, component: &str) -> Result<Vec<(&LockedPackage, PathBuf)>> {
        let packages = self.packages(component)?;
        let wanted: Vec<_> = packages.iter().map(wanted).collect();
        let total = packages.iter().map(|package| package.size).sum();
        let done = std::sync::atomic::AtomicU64::new(0);
        self.fetcher.fetch_all(&wanted, &|bytes| {
            let done = done.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed) + bytes;
            room.progress(done, Some(total));
        })?;
        Ok(packages.iter().map(|package| (package, self.fetcher.path(&package.sha256))).collect())
    }
}

/// What the fetcher needs to know of a package.
pub fn wanted(package: &LockedPackage) -> Wanted {
    Wanted {
        archive: package.archive.clone(),
        path: package.path.clone(),
        size: package.size,
        sha256: package.sha256,
        package: Some(Package {
            name: package.name.clone(),
            version: package.version.clone(),
            arch: package.arch.clone(),
        }),
    }
}

/// Each package of a component enters a step by name and hash.
fn packages_enter<'g, 'a>(
    builder: Builder<'g, 'a>,
    sources: &Sources,
    component: &str,
) -> Result<Builder<'g, 'a>> {
    let mut builder = builder.draws_on(component);
    for package in sources.packages(component)? {
        let name = format!("package {} {} {}", package.name, package.version, package.arch);
        builder = builder.hash(name, package.sha256);
    }
    Ok(builder)
}

/// Each file below a folder of the checkout enters a step by name, content, and whether it can be executed.
fn folder_enters<'g, 'a>(
    mut builder: Builder<'g, 'a>,
    root: &Path,
    folder: &Path,
) -> Result<Builder<'g, 'a>> {
    for file in files_below(root, folder) {
        let Entered { name, path, kind } = file?;
        let text = kind.enters(&path).with_context(|| format!("reading `{}`", path.display()))?;
        builder = builder.content(name, text);
    }
    Ok(builder)
}

/// A copy of a folder as it entered the step by [`folder_enters`].
///
/// A step works on copies alone: it must see neither where the checkout is nor what is changed in it
/// meanwhile, or the store would keep something else under the name of what entered.
fn copy_entered(room: &Room<'_>, root: &Path, folder: &Path) -> Result<PathBuf> {
    let changed = |name: &str| {
        Err(anyhow!("`{}` was changed during the build", name.trim_start_matches("file ")))
            .hint(|| "run the command again: nothing of it was kept".into())
    };
    let copy = room.place.scratch.join("checkout");
    let mut left = room.inputs(&format!("file {}/", folder.display()));
    for file in files_below(root, folder) {
        let Entered { name, path, kind } = file?;
        let to = copy.join(path.strip_prefix(root)?);
        let context = || format!("copying `{}`", path.display());
        match &kind {
            Kind::Folder => fs::create_dir_all(&to).with_context(context)?,
            Kind::Link(target) => symlink(target, &to).with_context(context)?,
            Kind::File { executable } => {
                fs::copy(&path, &to).with_context(context)?;
                let mode = if *executable { 0o755 } else { 0o644 };
                fs::set_permissions(&to, fs::Permissions::from_mode(mode)).with_context(context)?;
            }
        }
        // What came after the beginning did not enter, and what is entered twice is of no account.
        let Some(hash) = room.input(&name) else { continue };
        if Hash::of(kind.enters(&to).with_context(context)?) != hash {
            return changed(&name);
        }
        left.remove(&name);
    }
    match left.first() {
        Some(gone) => changed(gone),
        None => Ok(copy.join(folder)),
    }
}

/// A file of a folder that enters a step.
struct Entered {
    /// What it is called among the step's inputs.
    name: String,
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Folder,
    Link(PathBuf),
    File { executable: bool },
}

impl Kind {
    /// What enters for the file of this kind at `path`.
    fn enters(&self, path: &Path) -> Result<String> {
        Ok(match self {
            Self::Folder => "folder".into(),
            Self::Link(target) => format!("link {}", target.display()),
            Self::File { executable } => format!("file {executable} {}", Hash::of_file(path)?),
        })
    }
}

/// All below a folder of the checkout, and itself, each folder before what is in it.
fn files_below(root: &Path, folder: &Path) -> impl Iterator<Item = Result<Entered>> {
    let top = root.join(folder);
    WalkDir::new(&top).sort_by_file_name().into_iter().map(move |file| {
        let file = file.with_context(|| format!("reading `{}`", top.display()))?;
        let path = file.path().to_owned();
        let context = || format!("reading `{}`", path.display());
        let name = format!("file {}", path.strip_prefix(root)?.display());
        let kind = if file.file_type().is_symlink() {
            Kind::Link(fs::read_link(&path).with_context(context)?)
        } else if file.file_type().is_file() {
            Kind::File { executable: file.metadata()?.permissions().mode() & 0o100 != 0 }
        } else {
            Kind::Folder
        };
        Ok(Entered { name, path, kind })
    })
}
