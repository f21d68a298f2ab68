//! What a tar of a root holds, in a form that two of them can be compared in.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::config::DebSource;
use crate::deb;
use crate::root::packages::Filter;

/// All paths of a root, without a leading slash.
#[derive(Debug, Default)]
pub struct Listing {
    items: BTreeMap<String, Item>,
    /// By number.
    groups: BTreeMap<u32, String>,
}

/// One path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// By name; a number where `/etc/passwd` has no name for it.
    pub owner: String,
    /// By name; a number where `/etc/group` has no name for it.
    pub group: String,
    /// Such as `security.capability`.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    File(Vec<u8>),
    Folder,
    Link(String),
    /// A device, a socket or a pipe.
    Other,
}

impl Kind {
    pub fn name(&self) -> &'static str {
        match self {
            Self::File(_) => "a file",
            Self::Folder => "a folder",
            Self::Link(_) => "a link",
            Self::Other => "a special file",
        }
    }
}

/// Content is kept of files below these alone; elsewhere it is the package's own on both sides.
const WITH_CONTENT: [&str; 3] = ["etc/", "usr/lib/tmpfiles.d/dpukit-var.conf", "usr/share/factory/var/"];

impl Listing {
    /// Reads a tar.
    pub fn read(path: &Path) -> Result<Self> {
        let context = || format!("reading `{}`", path.display());
        let file = File::open(path).with_context(context)?;
        let mut raw = BTreeMap::new();
        let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 20, file));
        for entry in archive.entries().with_context(context)? {
            let mut entry = entry.with_context(context)?;
            let name = clean(entry.path()?.to_str().context("a path is not UTF-8")?);
            if name.is_empty() {
                continue;
            }
            let target = entry.link_name()?.map(|target| target.to_string_lossy().into_owned());
            let kind = match entry.header().entry_type() {
                tar::EntryType::Directory => Kind::Folder,
                tar::EntryType::Symlink => Kind::Link(target.unwrap_or_default()),
                // Another name of a file that came before.
                tar::EntryType::Link => {
                    let same: Option<&(Item, u32, u32)> = raw.get(&clean(&target.unwrap_or_default()));
                    let same =
                        same.with_context(|| format!("`{name}` is linked to what is not there"))?.clone();
                    raw.insert(name, same);
                    continue;
                }
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    let mut content = Vec::new();
                    if WITH_CONTENT.iter().any(|start| name.starts_with(start)) {
                        entry.read_to_end(&mut content).with_context(context)?;
                    }
                    Kind::File(content)
                }
                _ => Kind::Other,
            };
            let mut xattrs = BTreeMap::new();
            for extension in entry.pax_extensions()?.into_iter().flatten() {
                let extension = extension?;
                if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) {
                    xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
                }
            }
            let header = entry.header();
            let number = |id: u64| u32::try_from(id).context("a user's number is too large");
            let (uid, gid) = (number(header.uid()?)?, number(header.gid()?)?);
            let mode = header.mode()? & 0o7777;
            let item = Item { kind, mode, owner: String::new(), group: String::new(), xattrs };
            raw.insert(name, (item, uid, gid));
        }
        Ok(Self::named(raw))
    }

    /// Puts names where numbers are, and `/var` where it is made at boot.
    fn named(raw: BTreeMap<String, (Item, u32, u32)>) -> Self {
        let table = |path: &str| names(raw.get(path).map(|(item, ..)| item));
        let (users, groups) = (table("etc/passwd"), table("etc/group"));
        let mut items = BTreeMap::new();
        for (path, (mut item, uid, gid)) in raw {
            (item.owner, item.group) = (name(&users, uid), name(&groups, gid));
            items.insert(path, item);
        }
        let mut listing = Self { items, groups };
        if let Some(Kind::File(lines)) =
            listing.items.remove("usr/lib/tmpfiles.d/dpukit-var.conf").map(|item| item.kind)
        {
            listing.make_var(&String::from_utf8_lossy(&lines), &users);
        }
        listing
    }

    /// Does what tmpfiles.d(5) does at boot with the lines that the composition writes for `/var`.
    fn make_var(&mut self, lines: &str, users: &BTreeMap<u32, String>) {
        for line in lines.lines() {
            let words: Vec<_> = line.split_whitespace().collect();
            let [what, path, mode, uid, gid, ..] = words[..] else { continue };
            let path = clean(path);
            let kind = match what {
                "d" => Kind::Folder,
                "C" => Kind::File(Vec::new()),
                "L" => Kind::Link(words.last().map(|word| (*word).to_owned()).unwrap_or_default()),
                _ => continue,
            };
            if what == "C" {
                self.items.remove(&format!("usr/share/factory/{path}"));
            }
            let id = |word: &str| word.parse().unwrap_or(0);
            let item = Item {
                mode: if what == "L" { 0o777 } else { u32::from_str_radix(mode, 8).unwrap_or(0) },
                owner: name(users, id(uid)),
                group: name(&self.groups, id(gid)),
                kind,
                xattrs: BTreeMap::new(),
            };
            self.items.insert(path, item);
        }
    }

    /// Forgets what the component leaves out of the root, and the files of packages that are in
    /// this root alone.
    pub fn leave_out(&mut self, component: &DebSource, packages: &[PathBuf]) -> Result<()> {
        let mut theirs = BTreeSet::new();
        for package in packages {
            deb::data(package, |object, _| {
                if !matches!(object.kind, deb::Kind::Folder) {
                    theirs.insert(object.path);
                }
                Ok(())
            })?;
        }
        let filter = Filter::new(component)?;
        self.items.retain(|path, item| {
            let kept = filter.takes(path) || matches!(item.kind, Kind::Folder);
            kept && !theirs.contains(path)
        });
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.items.len()
    }

    pub fn get(&self, path: &str) -> Option<&Item> {
        self.items.get(path)
    }

    /// The name of a group's number; the number where it has none.
    pub fn group(&self, number: &str) -> String {
        number.parse().map_or_else(|_| number.to_owned(), |number| name(&self.groups, number))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Item)> {
        self.items.iter().map(|(path, item)| (path.as_str(), item))
    }

    /// Follows a path through all links in it; none where it ends nowhere.
    pub fn resolve(&self, path: &str) -> Option<String> {
        // As in the kernel (MAXSYMLINKS), a chain of more than 40 is a circle.
        let mut left = 40;
        let mut done: Vec<String> = Vec::new();
        let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        while let Some(part) = todo.pop() {
            match part.as_str() {
                "" | "." => continue,
                ".." => {
                    done.pop();
                    continue;
                }
                _ => done.push(part),
            }
            if let Some(Kind::Link(target)) = self.items.get(&done.join("/")).map(|item| &item.kind) {
                left -= 1;
                if left == 0 {
                    return None;
                }
                done.pop();
                if target.starts_with('/') {
                    done.clear();
                }
                todo.extend(target.split('/').rev().map(str::to_owned));
            }
        }
        Some(done.join("/"))
    }

    #[cfg(test)]
    pub fn of(items: impl IntoIterator<Item = (&'static str, Item)>) -> Self {
        let items: BTreeMap<_, _> = items.into_iter().map(|(path, item)| (path.to_owned(), item)).collect();
        Self { groups: names(items.get("etc/group")), items }
    }
}

fn clean(path: &str) -> String {
    path.trim_start_matches("./").trim_matches('/').to_owned()
}

fn name(names: &BTreeMap<u32, String>, id: u32) -> String {
    names.get(&id).cloned().unwrap_or_else(|| id.to_string())
}

/// Names by number out of passwd(5) or group(5); none where there is no such file.
fn names(table: Option<&Item>) -> BTreeMap<u32, String> {
    let Some(Kind::File(content)) = table.map(|item| &item.kind) else { return BTreeMap::new() };
    let line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    String::from_utf8_lossy(content).lines().filter_map(line).collect()
}
