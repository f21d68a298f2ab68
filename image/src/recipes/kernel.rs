//! The kernel: its source, its configuration with every asked option checked, and its build.

use std::fs::{self, File};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Sources, packages_enter, tree};
use crate::config::{Component, Source};
use crate::deb::{self, Kind};
use crate::hint::WithHint as _;
use crate::kconfig::{self, Config, Fragment, Requirements};
use crate::rules::Range;
use crate::sandbox::Sandbox;
use crate::step::{Graph, Room};

/// The step that makes `Image`, `modules/` and `config`.
pub const KERNEL: &str = "kernel";
/// The step that makes the checked `config`.
pub const CONFIG: &str = "kernel-config";
/// The step that unpacks the source.
pub const SOURCE: &str = "kernel-source";

const CONFIGURE: &str = include_str!("kernel-configure.sh");
const BUILD: &str = include_str!("kernel-build.sh");

pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources) -> Result<()> {
    let (board, root) = (&sources.config.board, &sources.config.root);
    let component = &board.kernel.source;
    let declared = sources.component(component)?;
    // A commit's files are the source as they are; a package holds an archive of it.
    let source = source_step(sources)?;
    if source == SOURCE {
        let step = graph.step(SOURCE).content("code", include_str!("../deb.rs"));
        packages_enter(step, sources, component)?.run(move |room| unpack_source(room, sources, component));
    } else {
        tree::step(graph, sources, component)?;
    }
    let vendor = match &board.kernel.vendor {
        Some(vendor) => Some((tree::step(graph, sources, &vendor.source)?, vendor)),
        None => None,
    };

    let data = root.join("kernel-config");
    let fragments =
        board.kernel.fragments.iter().map(|name| Fragment::load(&data.join(format!("{name}.config"))));
    let fragments = fragments.collect::<Result<Vec<_>>>()?;
    let tables = &board.kernel.requirements;
    let tables = Requirements::load_all(&data.join("requirements"), tables, board.kernel.pages)?;
    let merged = kconfig::merge(&fragments)?;
    let explain = data.join("explain.py");
    let explain_text = fs::read(&explain).with_context(|| format!("reading `{}`", explain.display()))?;
    let table_files =
        board.kernel.requirements.iter().map(|name| data.join("requirements").join(format!("{name}.toml")));
    let mut step = graph.step(CONFIG).needs(&source).needs(&board.tools.kernel);
    if let Some((from, vendor)) = &vendor {
        step = step.needs(from).content("vendor configuration", vendor.path.as_os_str().as_encoded_bytes());
    }
    if let Some(version) = &declared.version {
        step = step.content("version", version);
    }
    let place = source.clone();
    for table in table_files {
        let name = table.file_name().unwrap_or_default().to_string_lossy().into_owned();
        step = step.content(format!("file kernel-config/requirements/{name}"), fs::read(&table)?);
    }
    // Each by its name, so that what changed can be told, and without its reasons: a better one builds
    // no kernel anew.
    for fragment in &fragments {
        step = step.content(format!("file kernel-config/{}.config", fragment.name), fragment.wishes());
    }
    step.content("script", CONFIGURE)
        .content("base", &board.kernel.base)
        .content("file kernel-config/explain.py", &explain_text)
        .content("fragments", board.kernel.fragments.join(" "))
        .run(move |room| {
            let fragment = room.place.scratch.join("fragment.config");
            let mut laid_over = String::new();
            if let Some((from, vendor)) = &vendor {
                let path = room.result(from).join(&vendor.path);
                laid_over = fs::read_to_string(&path)
                    .with_context(|| format!("reading `{}` of `{}`", vendor.path.display(), vendor.source))?;
                laid_over.push('\n');
            }
            fs::write(&fragment, laid_over + &merged)?;
            let explain = room.place.scratch.join("explain.py");
            fs::write(&explain, &explain_text)?;
            sandbox(room, sources, &place)
                .input("fragment.config", &fragment)
                .input("explain.py", explain)
                .env("BASE", &board.kernel.base)
                .env("WANTED", wanted_names(&fragments, &tables))
                .run(room.place, CONFIGURE)?;
            check_version(room, declared)?;
            audit(room, &fragments, &tables)
        });

    graph
        .step(KERNEL)
        .needs(&source)
        .needs(CONFIG)
        .needs(&board.tools.kernel)
        .content("script", BUILD)
        .content("image limit", board.kernel.image_limit.to_string())
        .run(move |room| {
            sandbox(room, sources, &source)
                .input("config", room.result(CONFIG).join("config"))
                .env("JOBS", room.jobs)
                .run(room.place, BUILD)?;
            let size = room.place.out.join("Image").metadata()?.len();
            if size > board.kernel.image_limit {
                let limit = board.kernel.image_limit;
                return Err(anyhow!("`Image` has {size} bytes, the board accepts {limit}")).hint(|| {
                    "make options modules or leave them out in `kernel-config/`, or raise the board's \
                     `kernel.image-limit`"
                        .into()
                });
            }
            Ok(())
        });
    Ok(())
}

fn sandbox(room: &Room<'_>, sources: &Sources, source: &str) -> Sandbox {
    Sandbox::new(room.result(&sources.config.board.tools.kernel)).input("source", room.result(source))
}

/// The step with a board's source of the kernel.
pub fn source_step(sources: &Sources) -> Result<String> {
    let name = &sources.config.board.kernel.source;
    let component = sources.component(name)?;
    let is_package = matches!(component.source, Source::Deb(_)) && component.instead.is_none();
    Ok(if is_package { SOURCE.to_owned() } else { tree::name(name) })
}

/// What the component says of itself is what the rules were asked about.
fn check_version(room: &Room<'_>, component: &Component) -> Result<()> {
    let Some(declared) = &component.version else { return Ok(()) };
    let found = fs::read_to_string(room.place.out.join("version"))?;
    let found = found.trim();
    if Range::parse(declared).is_ok_and(|range| range.contains(found)) || component.instead.is_some() {
        return Ok(());
    }
    Err(anyhow::anyhow!(
        "the source of `{}` is of version {found}, and its file says {declared}",
        component.name
    ))
    .hint(|| format!("write `version = \"{found}\"`, and see `cargo xtask matrix`"))
}

/// The package holds one archive of the whole source, with one folder at its top.
fn unpack_source(room: &Room<'_>, sources: &Sources, component: &str) -> Result<()> {
    for (package, file) in sources.download(room, component)? {
        let mut found = false;
        deb::data(&file, |object, reader| {
            let name = object.path.rsplit('/').next().unwrap_or_default();
            if found
                || !matches!(object.kind, Kind::File(_))
                || !(name.starts_with("linux-source-") && name.ends_with(".tar.xz"))
            {
                return Ok(());
            }
            found = true;
            unpack_below(liblzma::read::XzDecoder::new(reader), &room.place.out)
        })?;
        if !found {
            bail!("`{}` holds no `linux-source-*.tar.xz`", package.name);
        }
    }
    Ok(())
}

/// Unpacks a tar archive without its top folder.
fn unpack_below(reader: impl std::io::Read, out: &std::path::Path) -> Result<()> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let mut parts = path.components();
        parts.next();
        let inner = parts.as_path();
        if inner.as_os_str().is_empty()
            || inner.components().any(|part| part == std::path::Component::ParentDir)
        {
            continue;
        }
        let target = out.join(inner);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        entry.set_preserve_mtime(false);
        entry.unpack(&target).with_context(|| format!("unpacking `{}`", path.display()))?;
    }
    Ok(())
}

fn wanted_names(fragments: &[Fragment], tables: &[Requirements]) -> String {
    let mut names: Vec<_> = fragments
        .iter()
        .flat_map(|fragment| fragment.options.iter().map(|option| option.name.clone()))
        .collect();
    names.extend(tables.iter().flat_map(Requirements::names));
    names.sort();
    names.dedup();
    names.join(" ")
}

/// Fails with every option of a fragment that did not take, and every requirement that is not met.
fn audit(room: &Room<'_>, fragments: &[Fragment], tables: &[Requirements]) -> Result<()> {
    let _ = File::open(room.place.out.join("config"))?;
    let config = Config::parse(&fs::read_to_string(room.place.out.join("config"))?)?;
    let explained = fs::read_to_string(room.place.out.join("explained.json"))?;
    let version = fs::read_to_string(room.place.out.join("version"))?;
    kconfig::audit(&config, fragments, tables, version.trim(), &explained)
}
