//! The host's package: `dpukit-host_<version>_amd64.deb`, the same for all boards.
//!
//! Its programs are static, so that they run on every distribution. Files that it holds as they are lie in
//! `shim/deb/root`, its control part in `shim/deb/control`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use flate2::{Compression, GzBuilder};
use walkdir::WalkDir;

use super::agent::{self, Way};
use super::{Sources, copy_entered, folder_enters, host_image};
use crate::config::{LocalSource, Source};
use crate::deb::{self, Contents};
use crate::hash::Hash;
use crate::sandbox::EPOCH;
use crate::step::Graph;

/// The step that makes the package, named by [`deb_name`].
pub const DEB: &str = "host-deb";

const COMPONENT: &str = "host";
pub(super) const FOLDER: &str = "shim/deb";
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The step that builds the programs.
pub(super) const PROGRAMS: &str = "host";

/// The step with the sources of the crates that they are made of.
pub(super) const CRATES: &str = "host-crates";
/// Where their licences are, in the package packed.
pub(super) const LICENCES: &str = "usr/share/doc/dpukit-host/crates.txt";

const WAY: Way = Way {
    crates: CRATES,
    dependencies: "host-dependencies",
    libraries: "host-libraries",
    programs: PROGRAMS,
    profile: "plugin",
    flags: "-Ctarget-feature=+crt-static",
};

/// The package's file name.
pub fn deb_name() -> String {
    format!("dpukit-host_{VERSION}_amd64.deb")
}

pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources) -> Result<()> {
    // A checkout that builds nothing for hosts has no such component.
    let Some(component) = sources.config.components.get(COMPONENT) else { return Ok(()) };
    let Source::Local(local) = &component.source else {
        bail!("`{COMPONENT}` is not a component of this workspace");
    };
    agent::build(graph, sources, local, &WAY)?;
    host_image::steps(graph, sources, local)?;
    let root = &sources.config.root;
    let step = graph.step(DEB).needs(WAY.programs).needs(WAY.crates).content("version", VERSION);
    let step = step.content("programs", format!("{:?}", local.install));
    let step = step.content("code", concat!(include_str!("host.rs"), include_str!("../deb/write.rs")));
    folder_enters(step, root, Path::new(FOLDER))?.run(move |room| {
        let folder = copy_entered(room, root, Path::new(FOLDER))?;
        let contents = contents(local, &folder, &room.result(WAY.programs), &room.result(WAY.crates))?;
        let path = room.place.out.join(deb_name());
        let mut file = File::create(&path).with_context(|| format!("making `{}`", path.display()))?;
        deb::write(&contents, EPOCH, &mut file)?;
        Ok(file.flush()?)
    });
    Ok(())
}

fn contents(local: &LocalSource, folder: &Path, programs: &Path, crates: &Path) -> Result<Contents> {
    let mut contents = Contents::default();
    for (path, (mode, bytes)) in package_files(local, folder, programs)? {
        // Debian packs manuals and changelogs (Debian Policy, 12.1 and 12.7).
        let is_packed = path.starts_with("usr/share/man/") || path.ends_with("/changelog");
        let (path, bytes) = if is_packed { (format!("{path}.gz"), pack(&bytes)?) } else { (path, bytes) };
        contents.files.insert(path, (mode, bytes));
    }
    let licences = licences(&crates.join("vendor"))?;
    contents.files.insert(format!("{LICENCES}.gz"), (0o644, pack(licences.as_bytes())?));
    contents.control = control(&folder.join("control"), VERSION, &contents)?;
    let configuration = contents.files.keys().filter(|path| path.starts_with("etc/"));
    let configuration: Vec<_> = configuration.map(|path| format!("/{path}\n")).collect();
    contents.control.insert("conffiles".into(), (0o644, configuration.concat().into_bytes()));
    Ok(contents)
}

/// The files of the checkout and the programs, by their paths from the root, with their modes.
pub(super) fn package_files(
    local: &LocalSource,
    folder: &Path,
    programs: &Path,
) -> Result<BTreeMap<String, (u32, Vec<u8>)>> {
    let mut all = files(&folder.join("root"))?;
    for (name, path) in &local.install {
        let program = programs.join("bin").join(name);
        let bytes = fs::read(&program).with_context(|| format!("reading `{}`", program.display()))?;
        all.insert(path.trim_start_matches('/').to_owned(), (0o755, bytes));
    }
    Ok(all)
}

/// The control files of a folder, with the package's version and size in them.
pub(super) fn control(
    folder: &Path,
    version: &str,
    contents: &Contents,
) -> Result<BTreeMap<String, (u32, Vec<u8>)>> {
    let size = contents.installed_size().to_string();
    let mut control = files(folder)?;
    control.get("control").context("there is no `control`")?;
    for (name, (_, bytes)) in &mut control {
        let text = str::from_utf8(bytes).with_context(|| format!("reading `{name}`"))?;
        *bytes = text.replace("{version}", version).replace("{installed-size}", &size).into_bytes();
    }
    Ok(control)
}

/// All files below a folder, by their paths in it.
pub(super) fn files(folder: &Path) -> Result<BTreeMap<String, (u32, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    for entry in WalkDir::new(folder) {
        let entry = entry.with_context(|| format!("reading `{}`", folder.display()))?;
        if !entry.file_type().is_file() {
            continue;
        }
        let path = entry.path();
        let name = path.strip_prefix(folder)?.to_str().context("a file's name is not UTF-8")?;
        // The mode of a checkout is its owner's; what counts is whether a file is a program.
        let mode = if entry.metadata()?.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 };
        let bytes = fs::read(path).with_context(|| format!("reading `{}`", path.display()))?;
        found.insert(name.to_owned(), (mode, bytes));
    }
    Ok(found)
}

/// gzip without name and time, as small as can be.
pub(super) fn pack(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut packed = GzBuilder::new().write(Vec::new(), Compression::best());
    packed.write_all(bytes)?;
    Ok(packed.finish()?)
}

/// The licences of all crates, each text once below the names of those that have it.
pub(super) fn licences(vendor: &Path) -> Result<String> {
    let is_licence = |name: &str| {
        let name = name.to_ascii_uppercase();
        ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let mut texts = BTreeMap::<String, (String, Vec<String>)>::new();
    for entry in WalkDir::new(vendor).min_depth(2).max_depth(2).sort_by_file_name() {
        let entry = entry.with_context(|| format!("reading `{}`", vendor.display()))?;
        if !entry.file_type().is_file() || !is_licence(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let of = entry.path().parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        let bytes = fs::read(entry.path())?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        let (_, crates) = texts.entry(Hash::of(&text).to_string()).or_insert_with(|| (text, Vec::new()));
        crates.push(of.into_owned());
    }
    let mut texts: Vec<_> = texts.into_values().collect();
    texts.sort_by(|one, other| one.1.cmp(&other.1));
    let line = "=".repeat(80);
    let mut all = String::new();
    for (text, mut crates) in texts {
        crates.dedup();
        all += &format!("{line}\n{}\n{line}\n\n{text}\n\n", crates.join("\n"));
    }
    Ok(all)
}
