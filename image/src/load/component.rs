//! `image/components/<name>.toml`: what enters a build.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::diagnostics::{Diagnostic, Diagnostics, Place};
use super::reader::{Reader, Section, Wrong};
use super::tree::{Node, Value};
use super::{FOLDERS, declared, exists, known, source, suggest, tree, values};
use crate::config::{Component, DebSource, Diversion, LocalSource, Source};
use crate::debian::sources::SOURCE;

/// The tables of which a component has one.
const SOURCES: [&str; 5] = ["deb", "local", "git", "oci", "user"];

/// A component as far as it can be read; where it has errors there is none, but its name is taken.
#[derive(Debug)]
pub struct Read {
    pub component: Option<Component>,
    /// Paths in the card's root that it makes by declaration.
    pub outputs: Vec<Output>,
}

/// A path in the card's root, and where it is declared.
#[derive(Debug, Clone)]
pub struct Output {
    path: String,
    place: Place,
}

/// Reads all components.
pub fn read_all(
    root: &Path,
    suites: Option<&BTreeSet<String>>,
    problems: &mut Diagnostics,
) -> BTreeMap<String, Read> {
    let mut components = BTreeMap::new();
    for (name, path) in declared(root, FOLDERS.components, problems) {
        let read = match tree::read(root, &path, problems) {
            Some(node) => one(root, &name, &node, suites, problems),
            None => Read { component: None, outputs: Vec::new() },
        };
        components.insert(name, read);
    }
    components
}

fn one(
    root: &Path,
    name: &str,
    node: &Node,
    suites: Option<&BTreeSet<String>>,
    problems: &mut Diagnostics,
) -> Read {
    let reader = Reader::default();
    let top = reader.top(node);
    let description = top.text("description", values::line);
    let version = top.maybe_text("version", values::version);
    // All keys of all sources are known, whichever was meant.
    let sections = SOURCES.map(|key| top.maybe_section(key));
    let [deb, local, git, oci, user] = sections;
    let deb = deb_source(deb, suites).map(Source::Deb);
    let local = local_source(local, root).map(Source::Local);
    let git = source::git(git).map(Source::Git);
    let oci = source::oci(oci).map(Source::Oci);
    let user = source::user(user, version.as_deref()).map(Source::User);
    let is_one = sections.iter().filter(|section| section.is_present()).count() == 1;
    if !is_one {
        number_of_sources(top, node);
    }
    let source = deb.or(local).or(git).or(oci).or(user).filter(|_| is_one);
    let outputs = outputs(node);
    clashes(&outputs, &outputs, &mut |problem| reader.say(problem));
    problems.extend(reader.finish());
    let component = description.zip(source).map(|(description, source)| Component {
        name: name.to_owned(),
        description,
        version,
        source,
        instead: None,
    });
    Read { component, outputs }
}

fn number_of_sources(top: Section<'_, '_>, node: &Node) {
    let entries: Vec<_> = SOURCES.iter().filter_map(|key| Some((key, top.entry(key)?))).collect();
    let problem = match entries.as_slice() {
        [(first, _), (_, second), ..] if entries.iter().all(|(_, entry)| entry.node.table().is_some()) => {
            let other = format!("`[{first}]` is there too");
            Diagnostic::new(&second.key, "a component has one source, and this is its second", other)
        }
        // A source that is no table has been reported already.
        [_, ..] => return,
        [] => Diagnostic::new(&node.place, "the component has no source", "to be added in here"),
    };
    top.reader().say(problem.hint(
        "write one table: `[deb]` for Debian packages, `[local]` for a crate, `[git]` for a commit, `[oci]` for \
         a container image, `[user]` for files that the user brings",
    ));
}

fn deb_source(deb: Section<'_, '_>, all: Option<&BTreeSet<String>>) -> Option<DebSource> {
    let suites = deb.list("suites", |name| match all {
        Some(all) => known(name, "suite", all),
        None => Ok(name.to_owned()),
    });
    let architecture =
        deb.text("architecture", |name| known(name, "architecture", ["amd64", "arm64", SOURCE]));
    let packages = deb.list("packages", |wish| package(wish, suites.as_deref()));
    let is_source = architecture.as_deref() == Some(SOURCE);
    let dependencies = deb.truth("dependencies").unwrap_or(!is_source);
    if is_source
        && dependencies
        && let Some(entry) = deb.entry("dependencies")
    {
        let wrong = Wrong::new("what source packages depend on can't be taken")
            .hint("name what they are built with in a component of tools");
        deb.refuse(&entry.node.place, &deb.path("dependencies"), wrong);
    }
    let without = deb.texts("without", package_name, reason);
    let links = deb.texts("links", path, values::target);
    let copies = deb.texts("copies", path, path);
    let modes = deb.texts("modes", path, values::mode);
    let diversions = deb.texts("diversions", path, |line| diversion(line).map(drop));
    let leave_out = deb.maybe_list("leave-out", values::glob);
    let keep = deb.maybe_list("keep", values::glob);
    let scripts = deb.texts("scripts", package_name, reason);
    for key in ["suites", "packages"] {
        not_empty(deb, key);
    }
    wanted_and_not(deb);
    Some(DebSource {
        suites: suites?,
        architecture: architecture?,
        packages: packages?,
        dependencies,
        without,
        links,
        copies,
        modes,
        diversions: diversions
            .into_iter()
            .filter_map(|(path, line)| Some((path, diversion(&line).ok()?)))
            .collect(),
        leave_out: leave_out.unwrap_or_default(),
        keep: keep.unwrap_or_default(),
        scripts,
    })
}

fn local_source(local: Section<'_, '_>, root: &Path) -> Option<LocalSource> {
    let package = local.text("package", values::name("a crate"));
    let path = local.text("path", |path| crate_folder(root, path));
    let target = local.text("target", values::name("a target of Rust"));
    let program = values::name("a program");
    let install =
        local.texts("install", |name| program(name).map(drop), |path| values::absolute(path).map(drop));
    if local.is_present() && local.entry("install").is_none() {
        let path = local.path("install");
        let place = local.entry("package").map(|entry| &entry.key);
        if let Some(place) = place {
            let wrong =
                Wrong::new(format!("nothing of the crate would be in the image: `[{path}]` is missing"))
                    .hint("write `[local.install]` and in it `PROGRAM = \"/usr/bin/PROGRAM\"`");
            local.refuse(place, &local.path("package"), wrong);
        }
    }
    Some(LocalSource { package: package?, path: path?, target: target?, install })
}

fn crate_folder(root: &Path, path: &str) -> Result<PathBuf, Wrong> {
    let folder = exists(root, path, "folder")?;
    if root.join(&folder).join("Cargo.toml").is_file() {
        return Ok(folder);
    }
    Err(Wrong::new(format!("the folder `{path}` holds no crate: there is no `{path}/Cargo.toml`")))
}

fn path(text: &str) -> Result<(), Wrong> {
    values::relative(text).map(drop)
}

fn reason(text: &str) -> Result<(), Wrong> {
    values::line(text).map(drop).map_err(|wrong| wrong.hint("write the reason"))
}

/// A package's name, as Debian's policy (5.6.1) has it.
fn package_name(name: &str) -> Result<(), Wrong> {
    let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    if name.len() >= 2
        && name.bytes().next().is_some_and(letter)
        && name.bytes().all(|byte| letter(byte) || b"+-.".contains(&byte))
    {
        return Ok(());
    }
    let wrong = Wrong::new(format!("`{}` is not the name of a Debian package", name.escape_debug()));
    Err(wrong.hint("it has lower-case letters, digits, `+`, `-` and `.`, as `libc6-dev`"))
}

/// The package that diverts a path, and where the others' file goes: `zutils usr/bin/zcat.gzip`.
fn diversion(line: &str) -> Result<Diversion, Wrong> {
    let Some((by, to)) = line.split_once(' ') else {
        let wrong = Wrong::new(format!("`{}` is not a package and a path", line.escape_debug()));
        return Err(wrong.hint("write it as `zutils usr/bin/zcat.gzip`"));
    };
    package_name(by)?;
    path(to)?;
    Ok(Diversion { by: by.to_owned(), to: to.to_owned() })
}

/// `name`, `name:arch`, `name/suite` or `name:arch/suite`.
fn package(wish: &str, suites: Option<&[String]>) -> Result<String, Wrong> {
    let (rest, suite) = wish.split_once('/').map_or((wish, None), |(rest, suite)| (rest, Some(suite)));
    let (name, architecture) = rest.split_once(':').map_or((rest, None), |(name, of)| (name, Some(of)));
    package_name(name)?;
    if let Some(architecture) = architecture {
        known(architecture, "architecture", ["amd64", "arm64"])?;
    }
    if let (Some(suite), Some(suites)) = (suite, suites)
        && !suites.iter().any(|other| other == suite)
    {
        let hint = suggest::hint(suite, "such suite", suites.iter().map(String::as_str));
        return Err(Wrong::new(format!("`{suite}` is not in this component's `suites`")).hint(hint));
    }
    Ok(wish.to_owned())
}

fn not_empty(deb: Section<'_, '_>, key: &'static str) {
    let Some(entry) = deb.entry(key) else { return };
    if let Value::List(items) = &entry.node.value
        && items.is_empty()
    {
        let path = deb.path(key);
        deb.refuse(&entry.node.place, &path, Wrong::new(format!("`{path}` is empty")));
    }
}

/// A package that is asked for and ruled out.
fn wanted_and_not(deb: Section<'_, '_>) {
    let Some(Value::List(wishes)) = deb.entry("packages").map(|entry| &entry.node.value) else { return };
    let names = wishes.iter().filter_map(|wish| match &wish.value {
        Value::Text(text) => text.split([':', '/']).next(),
        _ => None,
    });
    let names: BTreeSet<_> = names.collect();
    for (name, path, entry) in deb.free("without") {
        if names.contains(name.as_str()) {
            let wrong = Wrong::new(format!("`{name}` is both wanted and ruled out"));
            deb.refuse(&entry.key, &path, wrong.hint("take it out of `packages`, or out of `without`"));
        }
    }
}

/// The paths that a component makes: links, copies, programs.
fn outputs(node: &Node) -> Vec<Output> {
    let table = |section: &str, key: &str| node.table()?.get(section)?.node.table()?.get(key)?.node.table();
    let keys = ["links", "copies"].into_iter().filter_map(|key| table("deb", key)).flatten();
    let keys = keys.map(|(path, entry)| Output { path: one_usr(path), place: entry.key.clone() });
    let values =
        table("local", "install").into_iter().flatten().filter_map(|(_, entry)| match &entry.node.value {
            Value::Text(path) => Some(Output { path: one_usr(path), place: entry.node.place.clone() }),
            _ => None,
        });
    keys.chain(values).collect()
}

/// A path from the root's top, where `/bin`, `/sbin` and `/lib` are links into `/usr`.
fn one_usr(path: &str) -> String {
    let path = path.trim_start_matches('/');
    let is_linked = ["bin/", "sbin/", "lib/"].iter().any(|top| path.starts_with(top));
    if is_linked { format!("usr/{path}") } else { path.to_owned() }
}

/// Says which of `ours` make a path that another of `all` makes already.
pub fn clashes(all: &[Output], ours: &[Output], say: &mut dyn FnMut(Diagnostic)) {
    for output in ours {
        let other =
            all.iter().find(|other| other.path == output.path && other.place.comes_before(&output.place));
        if let Some(other) = other {
            let message = format!("`/{}` is made twice", output.path);
            let problem = Diagnostic::new(&output.place, message, "the second time");
            say(problem.hint(format!("the first is at {}: take one of them out", other.place.named())));
        }
    }
}
