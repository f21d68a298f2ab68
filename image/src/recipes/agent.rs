//! Programs of this workspace, built with the tool root's Rust: the card's here, the host's in `host.rs`.
//!
//! Four steps, so that a changed line costs one crate: `crates` holds the sources of the dependencies,
//! `agent-dependencies` builds them behind empty crates, `agent-libraries` builds our own that others use on top,
//! and `agent` the programs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::workspace::Workspace;
use super::{Sources, copy_entered, folder_enters};
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
    /// The step that builds the libraries of this workspace on top.
    pub libraries: &'static str,
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
    libraries: "agent-libraries",
    programs: AGENT,
    profile: "release",
    flags: "",
};

const BUILD: &str = include_str!("agent-build.sh");
const DEPENDENCIES_BUILD: &str = include_str!("agent-dependencies.sh");
const LIBRARIES_BUILD: &str = include_str!("agent-libraries.sh");

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
    let workspace = Workspace::new(root, &local.package, &local.path, way.profile)?;
    let files = workspace.files();
    let offline = sources.request.offline;
    let mut step = graph.step(way.crates);
    for (path, text) in &files {
        step = step.content(format!("file {}", path.display()), text);
    }
    step.run({
        let files = files.clone();
        move |room| vendor(room, &files, offline)
    });

    // The crates are of the same files, so that these need not enter once more.
    let step =
        graph.step(way.dependencies).needs(way.crates).needs(rust).content("script", DEPENDENCIES_BUILD);
    let target = &local.target;
    let package = &local.package;
    step.content("target", target).content("flags", rust_flags(way)).content("profile", way.profile).run(
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

    // Our own crates that the programs' depends on: a changed line of the programs builds none of them.
    let libraries: Vec<PathBuf> = workspace.folders().skip(1).map(Path::to_owned).collect();
    let mut step = graph.step(way.libraries).needs(way.crates).needs(way.dependencies).needs(rust);
    for folder in &libraries {
        step = folder_enters(step, root, folder)?;
    }
    step.content("script", LIBRARIES_BUILD).run(move |room| {
        let mut sandbox = sandbox(room, rust, way).input("dependencies", room.result(way.dependencies));
        for folder in &libraries {
            let copy = copy_entered(room, root, folder)?;
            sandbox = sandbox.input(&format!("source/{}", folder.display()), copy);
        }
        let folders: Vec<_> = libraries.iter().map(|folder| folder.display().to_string()).collect();
        sandbox
            .env("TARGET", target)
            .env("PACKAGE", package)
            .env("LIBRARIES", folders.join(" "))
            .env("JOBS", room.jobs)
            .run(room.place, LIBRARIES_BUILD)
    });

    let names = local.install.keys().cloned().collect::<Vec<_>>().join(" ");
    let step = graph.step(way.programs).needs(way.crates).needs(way.libraries).needs(rust);
    folder_enters(step, root, &local.path)?.content("script", BUILD).content("programs", &names).run(
        move |room| {
            sandbox(room, rust, way)
                .input("libraries", room.result(way.libraries))
                .input("source", copy_entered(room, root, &local.path)?)
                .env("TARGET", target)
                .env("PACKAGE", package)
                .env("FOLDER", local.path.display())
                .env("PROGRAMS", &names)
                .env("JOBS", room.jobs)
                .run(room.place, BUILD)
        },
    );
    Ok(())
}

fn sandbox(room: &Room<'_>, rust: &str, way: &Way) -> Sandbox {
    Sandbox::new(room.result(rust))
        .input("crates", room.result(way.crates))
        .env("CARGO_HOME", "/build/cargo")
        .env("RUSTFLAGS", rust_flags(way))
        .env("PROFILE", way.profile)
}

/// What all compilers are given. The programs name no place that they were built in.
fn rust_flags(way: &Way) -> String {
    let places = "--remap-path-prefix=/build/source=dpukit --remap-path-prefix=/in/crates/vendor=crates";
    format!("{places} {}", way.flags).trim_end().to_owned()
}

fn write_files(folder: &Path, files: &[(PathBuf, String)]) -> Result<()> {
    for (path, text) in files {
        let path = folder.join(path);
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
        fs::write(&path, text).with_context(|| format!("writing `{}`", path.display()))?;
    }
    Ok(())
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
        return failure.hint(|| {
            if offline {
                "run `cargo xtask image` once with a network: it keeps the crates".into()
            } else {
                "cargo asks the registry that its configuration names (`~/.cargo/config.toml`): look whether it \
                 can be reached, and run the same command again"
                    .into()
            }
        });
    }
    Ok(())
}
