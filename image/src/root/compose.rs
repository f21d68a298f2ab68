//! Composes the card's root from packages, overlays and results of other steps.
//!
//! What maintainer scripts would have done comes from declarations: users from `sysusers.d`, units from
//! presets, links and copies from the component, `/var` from `tmpfiles.d` at boot. Three of Debian's own
//! programs (`systemd-sysusers`, `systemctl`, `openssl`) turn these into files, on a small copy of the
//! tree and with the machine's own processor: nothing of the card is run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use super::packages::{Filter, Package, Unpacked, unpack};
use super::tree::{Content, Kind, Node, Tree};
use crate::config::DebSource;
use crate::hint::WithHint as _;
use crate::sandbox::{EPOCH, Sandbox};
use crate::step::Room;

/// What goes into a root.
#[derive(Debug)]
pub struct Composition<'a> {
    /// The component's name, for messages.
    pub component: &'a str,
    pub source: &'a DebSource,
    /// The packages, already downloaded.
    pub packages: Vec<Package>,
    /// Folders laid over the root: a folder, and where in the root it goes.
    pub overlays: Vec<(PathBuf, String)>,
    /// Generated files: a path in the root and its content.
    pub files: Vec<(String, String)>,
    /// Programs: a path in the root and the file.
    pub programs: Vec<(String, PathBuf)>,
    /// Lines added to os-release.
    pub os_release: String,
    /// The tool root with bubblewrap, systemd and openssl.
    pub tools: PathBuf,
}

const FINISH: &str = include_str!("finish.sh");

/// Writes `root.tar`, `packages.tsv` and `sizes.tsv` into the step's result.
pub fn compose(room: &Room<'_>, parts: &Composition<'_>) -> Result<()> {
    let spool = room.place.scratch.join("spool");
    fs::create_dir_all(&spool)?;
    let filter = Filter::new(parts.source)?;
    let (mut tree, packages) = unpack(&parts.packages, &filter, &parts.source.diversions, &spool, room.jobs)?;
    check_scripts(parts, &packages)?;

    for (path, from) in &parts.source.copies {
        let node = tree.get(from).cloned();
        let mut node =
            node.with_context(|| format!("`{from}`, to be copied to `{path}`, is in no package"))?;
        node.origin = "dpukit".into();
        tree.put(path.as_str(), node);
    }
    for (path, target) in &parts.source.links {
        tree.put(path.as_str(), Node::new(Kind::Link(target.clone()), "dpukit"));
    }
    for (folder, at) in &parts.overlays {
        tree.overlay(folder, at, "dpukit")?;
    }
    for (path, content) in &parts.files {
        tree.put(path.as_str(), Node::file(content, "dpukit"));
    }
    for (path, file) in &parts.programs {
        let mut node = Node::new(Kind::File(Content::Path(file.clone())), "dpukit");
        node.mode = 0o755;
        tree.put(path.as_str(), node);
    }
    let mut os_release = tree.get("usr/lib/os-release").map(read_text).transpose()?.unwrap_or_default();
    os_release.push_str(&parts.os_release);
    tree.put("usr/lib/os-release", Node::file(os_release, "dpukit"));
    for folder in ["proc", "sys", "dev", "run", "tmp", "data", "root", "boot", "mnt", "var"] {
        if tree.get(folder).is_none() {
            tree.put(folder, Node::new(Kind::Folder, "dpukit"));
        }
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        tree.put(name, Node::new(Kind::Link(format!("usr/{name}")), "dpukit"));
    }
    finish(room, parts, &mut tree)?;
    move_var(&mut tree)?;
    tree.add_parents();
    check_libraries(&tree)?;

    let out = &room.place.out;
    let tar = out.join("root.tar");
    let file = File::create(&tar).with_context(|| format!("writing `{}`", tar.display()))?;
    tree.write_tar(BufWriter::with_capacity(1 << 20, file))?;
    let sizes = tree.sizes()?.into_iter().fold(String::new(), |mut text, (origin, bytes)| {
        let _ = writeln!(text, "{bytes}\t{origin}");
        text
    });
    fs::write(out.join("sizes.tsv"), sizes)?;
    Ok(())
}

fn read_text(node: &Node) -> Result<String> {
    match &node.kind {
        Kind::File(content) => Ok(String::from_utf8(content.bytes()?)?),
        _ => bail!("a file was wanted"),
    }
}

/// Each package with maintainer scripts must be answered by the component.
fn check_scripts(parts: &Composition<'_>, packages: &[Unpacked]) -> Result<()> {
    let with_scripts: BTreeSet<_> = packages
        .iter()
        .filter(|package| package.scripts.iter().any(|script| script == "postinst" || script == "preinst"))
        .map(|package| package.name.as_str())
        .collect();
    let unanswered: Vec<_> =
        with_scripts.iter().filter(|name| !parts.source.scripts.contains_key(**name)).copied().collect();
    if !unanswered.is_empty() {
        return Err(anyhow::anyhow!("maintainer scripts that nothing answers: {}", unanswered.join(", ")))
            .hint(|| {
                format!(
                    "read each package's `postinst`, declare what the image needs of it, and add a line with the \
                     reason to `[deb.scripts]` in `image/components/{}.toml`",
                    parts.component
                )
            });
    }
    Ok(())
}

/// Runs the programs that make users, unit links and certificate links, and takes their files over.
fn finish(room: &Room<'_>, parts: &Composition<'_>, tree: &mut Tree) -> Result<()> {
    let folder = room.place.scratch.join("tree");
    fs::create_dir_all(&folder)?;
    let needed = ["etc/", "usr/lib/systemd/", "usr/lib/sysusers.d/", "usr/share/ca-certificates/"];
    tree.write_folder(&folder, |path| {
        needed.iter().any(|start| path.starts_with(start)) || path == "usr/lib/os-release"
    })?;
    Sandbox::new(&parts.tools).env("DAYS", EPOCH / 86_400).run(room.place, FINISH)?;
    let before: std::collections::BTreeMap<_, _> =
        tree.below("etc").map(|(path, node)| (path.to_owned(), node.clone())).collect();
    tree.overlay(&folder.join("etc"), "etc", "dpukit")?;
    // The copy lost owners and modes; what the programs did not touch gets its own back.
    for (path, old) in before {
        let unchanged = match (tree.get(&path).map(|node| &node.kind), &old.kind) {
            (Some(Kind::File(new)), Kind::File(content)) => {
                new.size()? == content.size()? && new.bytes()? == content.bytes()?
            }
            (Some(Kind::Link(new)), Kind::Link(target)) => new == target,
            (Some(Kind::Folder), Kind::Folder) => true,
            _ => false,
        };
        if unchanged {
            tree.put(path, old);
        }
    }
    for (path, wish) in &parts.source.modes {
        set_mode(tree, path, wish).with_context(|| format!("setting the mode of `/{path}` to `{wish}`"))?;
    }
    Ok(())
}

/// Gives a path the mode, user and group of a line such as `0640 root shadow`.
fn set_mode(tree: &mut Tree, path: &str, wish: &str) -> Result<()> {
    let words: Vec<_> = wish.split_whitespace().collect();
    let [mode, user, group] = words[..] else { bail!("`MODE USER GROUP` is wanted") };
    let mode = u32::from_str_radix(mode, 8).context("the mode is not octal")?;
    let (uid, gid) = (id(tree, "etc/passwd", user)?, id(tree, "etc/group", group)?);
    let node = tree.get_mut(path).context("there is no such path")?;
    (node.mode, node.uid, node.gid) = (mode & 0o7777, uid, gid);
    Ok(())
}

/// The number of a user or group, out of passwd(5) or group(5): the third field of its line.
fn id(tree: &Tree, file: &str, name: &str) -> Result<u32> {
    let text = read_text(tree.get(file).with_context(|| format!("the root has no `/{file}`"))?)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let id = line.and_then(|rest| rest.split(':').nth(1)?.parse().ok());
    id.with_context(|| format!("`/{file}` has no `{name}`"))
}

/// `/var` is on the data partition, empty at first boot: what packages hold there is made by tmpfiles,
/// folders by declaration and files by a copy from `/usr/share/factory`.
fn move_var(tree: &mut Tree) -> Result<()> {
    let mut lines = String::from("# What packages hold in /var, made anew where it is missing.\n");
    let nodes: Vec<_> = tree.below("var").map(|(path, node)| (path.to_owned(), node.clone())).collect();
    for (path, node) in nodes {
        let (mode, uid, gid) = (node.mode, node.uid, node.gid);
        if path.contains(char::is_whitespace) {
            bail!("`/{path}` has white space in its name, which tmpfiles.d can't express");
        }
        match &node.kind {
            Kind::Folder => writeln!(lines, "d /{path} {mode:04o} {uid} {gid} -")?,
            Kind::Link(target) => writeln!(lines, "L /{path} - - - - {target}")?,
            Kind::File(_) => {
                writeln!(lines, "C /{path} {mode:04o} {uid} {gid} -")?;
                tree.put(format!("usr/share/factory/{path}"), node);
            }
        }
    }
    tree.remove("var");
    tree.put("var", Node::new(Kind::Folder, "dpukit"));
    tree.put("usr/lib/tmpfiles.d/dpukit-var.conf", Node::file(lines, "dpukit"));
    Ok(())
}

/// Each library that a program or library names must be where the loader looks for it.
fn check_libraries(tree: &Tree) -> Result<()> {
    let loaders: Vec<_> = loaders(tree).collect();
    let mut missing = Vec::new();
    for (path, node) in tree.iter() {
        let Kind::File(content) = &node.kind else { continue };
        if !super::elf::may_be_linked(path) {
            continue;
        }
        let linked = super::elf::linked(content).with_context(|| format!("reading `/{path}`"))?;
        // A library beside others is loaded by programs that know its folder, and with it all that is there.
        let own = linked.folders.iter().map(String::as_str).chain(["$ORIGIN"]);
        let own: Vec<_> = own.map(|folder| of_loader(folder, path)).collect();
        for library in &linked.needed {
            let mut folders = own.iter().map(String::as_str).chain(loaders.iter().copied());
            if !folders.any(|folder| holds(tree, folder, library)) {
                missing.push(format!("  /{path} ({}) needs {library}", node.origin));
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(anyhow::anyhow!("libraries are missing from the root:\n{}", missing.join("\n"))).hint(|| {
        "a package that holds them is left out or not depended on: see the component's `without`".into()
    })
}

/// The folders that the loader knows (ld.so(8)); `/lib` is a link to `/usr/lib`.
fn loaders(tree: &Tree) -> impl Iterator<Item = &str> {
    let is_of_architecture = |path: &&str| {
        path.strip_prefix("usr/lib/").is_some_and(|name| !name.contains('/') && name.ends_with("-linux-gnu"))
    };
    tree.below("usr/lib").map(|(path, _)| path).filter(is_of_architecture).chain(["usr/lib"])
}

/// A folder as it is written in the file at `path`.
fn of_loader(folder: &str, path: &str) -> String {
    let own = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let folder = folder.replace("$ORIGIN", own).replace("${ORIGIN}", own);
    let mut parts = Vec::new();
    for part in folder.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    if parts.first() == Some(&"lib") {
        parts.insert(0, "usr");
    }
    parts.join("/")
}

/// Whether a folder has a file of this name, or a link to one.
fn holds(tree: &Tree, folder: &str, name: &str) -> bool {
    let mut name = name;
    // As in the kernel (MAXSYMLINKS), a chain of more than 40 is a circle.
    for _ in 0..40 {
        match tree.get(&format!("{folder}/{name}")).map(|node| &node.kind) {
            Some(Kind::File(_)) => return true,
            // Libraries are linked within their folder.
            Some(Kind::Link(target)) => name = target,
            _ => return false,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root with a program, which is this test, and what it needs in `folder`.
    fn with_libraries(folder: &str, kind: impl Fn(&str) -> Kind) -> Result<()> {
        let program = Content::Path(std::env::current_exe().unwrap());
        let needed = super::super::elf::linked(&program).unwrap().needed;
        assert!(needed.iter().any(|name| name == "libc.so.6"), "{needed:?}");
        let mut tree = Tree::default();
        for name in &needed {
            tree.put(format!("{folder}/{name}"), Node::new(kind(name), "libraries"));
        }
        tree.put("usr/bin/program", Node::new(Kind::File(program), "a-package"));
        tree.add_parents();
        check_libraries(&tree)
    }

    fn library(_: &str) -> Kind {
        Kind::File(Content::Bytes([][..].into()))
    }

    #[test]
    fn libraries_are_found_where_the_loader_looks() {
        with_libraries("usr/lib/x86_64-linux-gnu", library).unwrap();
        with_libraries("usr/lib", library).unwrap();
    }

    #[test]
    fn a_library_elsewhere_or_behind_a_dangling_link_is_missing() {
        let link = |_: &str| Kind::Link("gone.so".into());
        let circle = |name: &str| Kind::Link(name.into());
        for missing in [
            with_libraries("usr/lib/private", library),
            with_libraries("usr/lib/x86_64-linux-gnu", link),
            with_libraries("usr/lib/x86_64-linux-gnu", circle),
        ] {
            let error = crate::hint::report(&missing.unwrap_err());
            assert!(error.contains("/usr/bin/program (a-package) needs libc.so.6"), "{error}");
            assert!(error.contains("the component's `without`"), "{error}");
        }
    }

    #[test]
    fn folders_of_a_programs_own_are_read_as_the_loader_does() {
        assert_eq!(of_loader("$ORIGIN/../lib/x", "usr/bin/x"), "usr/lib/x");
        assert_eq!(of_loader("/lib/aarch64-linux-gnu/x", "usr/bin/x"), "usr/lib/aarch64-linux-gnu/x");
        assert_eq!(of_loader("/usr/lib/x/", "usr/bin/x"), "usr/lib/x");
    }
}
