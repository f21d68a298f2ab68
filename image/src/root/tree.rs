//! A root file system in memory: what each path is and where its content lies, but no content.
//!
//! Contents stay in files (unpacked packages, the checkout, results of other steps), so that a root of
//! any size is composed in little memory; [`Tree::write_tar`] brings them together in one sorted archive
//! with owners, modes and extended attributes that the builder's own user need not be able to set.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use walkdir::WalkDir;

use crate::hint::WithHint as _;
use crate::sandbox::EPOCH;

/// Where a file's bytes are.
#[derive(Debug, Clone)]
pub enum Content {
    /// A part of a file that holds many contents.
    Part { file: Arc<File>, offset: u64, size: u64 },
    /// A whole file.
    Path(PathBuf),
    /// Generated.
    Bytes(Arc<[u8]>),
}

/// What a path is.
#[derive(Debug, Clone)]
pub enum Kind {
    Folder,
    File(Content),
    /// A symbolic link and its target.
    Link(String),
}

/// One path of the root.
#[derive(Debug, Clone)]
pub struct Node {
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// The package, or other source, that it came from; for people.
    pub origin: Arc<str>,
}

/// A root file system; paths have no leading slash.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    nodes: BTreeMap<String, Node>,
}

impl Content {
    /// How many bytes it has.
    pub fn size(&self) -> Result<u64> {
        Ok(match self {
            Self::Part { size, .. } => *size,
            Self::Path(path) => {
                path.metadata().with_context(|| format!("reading `{}`", path.display()))?.len()
            }
            Self::Bytes(bytes) => bytes.len() as u64,
        })
    }

    /// Calls `read` with a reader of the content.
    pub fn read<T>(&self, read: impl FnOnce(&mut dyn Read) -> Result<T>) -> Result<T> {
        match self {
            Self::Part { file, offset, size } => read(&mut Part { file, at: *offset, left: *size }),
            Self::Path(path) => {
                read(&mut File::open(path).with_context(|| format!("reading `{}`", path.display()))?)
            }
            Self::Bytes(bytes) => read(&mut &bytes[..]),
        }
    }

    /// All bytes; for small files.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        self.read(|reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            Ok(bytes)
        })
    }
}

struct Part<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

impl Node {
    /// A node of root's, as a configuration file or folder is.
    pub fn new(kind: Kind, origin: &str) -> Self {
        let mode = match kind {
            Kind::Folder => 0o755,
            Kind::File(_) => 0o644,
            Kind::Link(_) => 0o777,
        };
        Self { kind, mode, uid: 0, gid: 0, xattrs: BTreeMap::new(), origin: origin.into() }
    }

    /// A generated file of root's.
    pub fn file(content: impl AsRef<[u8]>, origin: &str) -> Self {
        Self::new(Kind::File(Content::Bytes(content.as_ref().into())), origin)
    }
}

impl Tree {
    /// All paths in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(path, node)| (path.as_str(), node))
    }

    /// What is at a path; links are not followed.
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.nodes.get(path)
    }

    /// What is at a path, to change its mode or owner.
    pub fn get_mut(&mut self, path: &str) -> Option<&mut Node> {
        self.nodes.get_mut(path)
    }

    /// Paths below a folder, without the folder.
    pub fn below(&self, folder: &str) -> impl Iterator<Item = (&str, &Node)> {
        let start = format!("{folder}/");
        self.nodes
            .range(start.clone()..)
            .take_while(move |(path, _)| path.starts_with(&start))
            .map(|(path, node)| (path.as_str(), node))
    }

    /// Puts a node at a path, over whatever is there.
    pub fn put(&mut self, path: impl Into<String>, node: Node) {
        self.nodes.insert(path.into(), node);
    }

    /// Takes a path out, with all below it.
    pub fn remove(&mut self, path: &str) {
        let below = format!("{path}/");
        self.nodes.retain(|name, _| name != path && !name.starts_with(&below));
    }

    /// Puts a node from a package; two packages may share a folder, nothing else.
    pub fn put_package(&mut self, path: String, node: Node) -> Result<()> {
        if let Some(there) = self.nodes.get(&path) {
            return match (&there.kind, &node.kind) {
                (Kind::Folder, Kind::Folder) => Ok(()),
                _ => Err(anyhow!("both `{}` and `{}` hold `/{path}`", there.origin, node.origin)).hint(|| {
                    "take one of the packages out of the component's `packages`, or the path by `leave-out`"
                        .into()
                }),
            };
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Lays a folder of the machine over the root: all of it becomes root's, files keep only whether
    /// they can be executed.
    pub fn overlay(&mut self, folder: &Path, at: &str, origin: &str) -> Result<()> {
        for file in WalkDir::new(folder).min_depth(1).sort_by_file_name() {
            let file = file.with_context(|| format!("reading `{}`", folder.display()))?;
            let path = file.path();
            let name = path.strip_prefix(folder)?.to_str();
            let name = name.with_context(|| format!("the name of `{}` is not UTF-8", path.display()))?;
            let name = if at.is_empty() { name.to_owned() } else { format!("{at}/{name}") };
            let kind = match file.file_type() {
                kind if kind.is_dir() => {
                    // What is there keeps its owner and mode.
                    if matches!(self.nodes.get(&name), Some(Node { kind: Kind::Folder, .. })) {
                        continue;
                    }
                    Kind::Folder
                }
                kind if kind.is_symlink() => {
                    let target = std::fs::read_link(path)?;
                    Kind::Link(target.to_str().context("a link's target is not UTF-8")?.to_owned())
                }
                kind if kind.is_file() => Kind::File(Content::Path(path.to_owned())),
                _ => bail!("`{}` is neither file, folder nor link", path.display()),
            };
            let mut node = Node::new(kind, origin);
            if matches!(node.kind, Kind::File(_)) && is_executable(path)? {
                node.mode = 0o755;
            }
            self.put(name, node);
        }
        Ok(())
    }

    /// Adds the folders that paths need and nobody put.
    pub fn add_parents(&mut self) {
        let mut missing = BTreeSet::new();
        for path in self.nodes.keys() {
            let mut path = path.as_str();
            while let Some((parent, _)) = path.rsplit_once('/') {
                if self.nodes.contains_key(parent) || !missing.insert(parent.to_owned()) {
                    break;
                }
                path = parent;
            }
        }
        for path in missing {
            self.put(path, Node::new(Kind::Folder, "dpukit"));
        }
    }

    /// Bytes of files by origin, largest first.
    pub fn sizes(&self) -> Result<Vec<(Arc<str>, u64)>> {
        let mut sizes = BTreeMap::<Arc<str>, u64>::new();
        for node in self.nodes.values() {
            if let Kind::File(content) = &node.kind {
                *sizes.entry(node.origin.clone()).or_default() += content.size()?;
            }
        }
        let mut sizes: Vec<_> = sizes.into_iter().collect();
        sizes.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        Ok(sizes)
    }

    /// Writes everything as a tar archive, sorted, with one time for all.
    pub fn write_tar(&self, out: impl Write) -> Result<()> {
        let mut archive = tar::Builder::new(out);
        for (path, node) in &self.nodes {
            append(&mut archive, path, node).with_context(|| format!("writing `/{path}`"))?;
        }
        archive.into_inner()?.flush()?;
        Ok(())
    }

    /// Writes the paths that `wanted` names as real files below `folder`, for programs that work on a
    /// tree; owners are left out.
    pub fn write_folder(&self, folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<()> {
        for (path, node) in self.nodes.iter().filter(|(path, _)| wanted(path)) {
            let target = folder.join(path);
            let context = || format!("writing `{}`", target.display());
            if let Some(parent) = target.parent() {
                std::fs::create_dir_all(parent).with_context(context)?;
            }
            match &node.kind {
                Kind::Folder => std::fs::create_dir_all(&target).with_context(context)?,
                Kind::Link(to) => std::os::unix::fs::symlink(to, &target).with_context(context)?,
                Kind::File(content) => content.read(|reader| {
                    std::io::copy(reader, &mut File::create(&target)?)?;
                    Ok(())
                })?,
            }
        }
        Ok(())
    }
}

fn is_executable(path: &Path) -> Result<bool> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(path.metadata().with_context(|| format!("reading `{}`", path.display()))?.permissions().mode() & 0o100
        != 0)
}

fn append(archive: &mut tar::Builder<impl Write>, path: &str, node: &Node) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(node.mode);
    header.set_uid(node.uid.into());
    header.set_gid(node.gid.into());
    header.set_mtime(EPOCH);
    header.set_size(0);
    let xattrs: Vec<_> =
        node.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value)).collect();
    if !xattrs.is_empty() {
        archive
            .append_pax_extensions(xattrs.iter().map(|(name, value)| (name.as_str(), value.as_slice())))?;
    }
    match &node.kind {
        Kind::Folder => {
            header.set_entry_type(tar::EntryType::Directory);
            archive.append_data(&mut header, format!("{path}/"), std::io::empty())?;
        }
        Kind::Link(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            archive.append_link(&mut header, path, target)?;
        }
        Kind::File(content) => {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_size(content.size()?);
            content.read(|reader| Ok(archive.append_data(&mut header, path, reader)?))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::report;

    #[test]
    fn packages_share_folders_and_nothing_else() {
        let mut tree = Tree::default();
        tree.put_package("etc".into(), Node::new(Kind::Folder, "a")).unwrap();
        tree.put_package("etc".into(), Node::new(Kind::Folder, "b")).unwrap();
        tree.put_package("etc/x".into(), Node::file("1", "a")).unwrap();
        let error = tree.put_package("etc/x".into(), Node::file("2", "b")).unwrap_err();
        let told = report(&error);
        assert!(told.starts_with("error: both `a` and `b` hold `/etc/x`\nhint: take one of"), "{told}");
    }

    #[test]
    fn the_archive_is_sorted_and_keeps_owner_mode_and_capabilities() {
        let mut tree = Tree::default();
        let mut program = Node::file("#!", "a");
        program.mode = 0o4755;
        (program.uid, program.gid) = (0, 42);
        program.xattrs.insert("security.capability".into(), vec![1, 0, 0, 2]);
        tree.put("usr/bin/program", program);
        tree.put("etc", Node::new(Kind::Folder, "a"));
        tree.put("etc/link", Node::new(Kind::Link("x".repeat(150)), "a"));
        tree.add_parents();
        let mut bytes = Vec::new();
        tree.write_tar(&mut bytes).unwrap();
        let mut again = Vec::new();
        tree.write_tar(&mut again).unwrap();
        assert_eq!(bytes, again);

        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            if path == "usr/bin/program" {
                assert_eq!((entry.header().mode().unwrap(), entry.header().gid().unwrap()), (0o4755, 42));
                let extensions = entry.pax_extensions().unwrap().unwrap();
                let extension = extensions.last().unwrap().unwrap();
                assert_eq!(extension.key().unwrap(), "SCHILY.xattr.security.capability");
                assert_eq!(extension.value_bytes(), [1, 0, 0, 2]);
            }
            seen.push(path);
        }
        assert_eq!(seen, ["etc/", "etc/link", "usr/", "usr/bin/", "usr/bin/program"]);
    }
}
