//! Files that only the user can get, as a vendor's SDK behind a login: found by name in what the user names.
//!
//! ```text
//! <cache>/private/files/<sha256>     a file that was found
//! <cache>/private/found/<hash>.json  what was found in an archive that has not changed since
//! ```
//!
//! `private` is never shared between machines or people: the licence of what is in it forbids to. Of its
//! content only names, sizes and hashes go into the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use globset::{GlobBuilder, GlobMatcher};
use sha2::{Digest as _, Sha256};

use super::archive::{self, Item};
use crate::config::{Component, Source, UserSource};
use crate::hash::Hash;
use crate::hint::WithHint as _;
use crate::lock::LockedFile;

/// The component that the command line has a flag of its own for.
pub const SDK: &str = "sdk";

/// Where a file of this hash is, once it was found.
pub fn path(cache: &Path, sha256: &Hash) -> PathBuf {
    cache.join("private/files").join(sha256.to_string())
}

/// Whether all of these are on this machine.
pub fn has(cache: &Path, files: &[LockedFile]) -> bool {
    files.iter().all(|file| path(cache, &file.sha256).metadata().is_ok_and(|meta| meta.len() == file.size))
}

/// A component of the user's, and what the user named for it.
#[derive(Debug)]
pub struct Brought<'a> {
    cache: PathBuf,
    component: &'a Component,
    source: &'a UserSource,
    given: Option<&'a Path>,
}

impl<'a> Brought<'a> {
    pub fn new(cache: &Path, component: &'a Component, given: Option<&'a Path>) -> Result<Self> {
        let Source::User(source) = &component.source else {
            bail!("`{}` is not a component of source `user`", component.name)
        };
        Ok(Self { cache: cache.to_owned(), component, source, given })
    }

    /// Finds the files and keeps them; they have to be those of the lock, if there are some.
    ///
    /// # Errors
    /// What lacks, or is another version, or is damaged; with what was found instead and where to get it.
    pub fn bring(&self, locked: Option<&[LockedFile]>) -> Result<Vec<LockedFile>> {
        let Some(given) = self.given else {
            return Err(anyhow!("{}: no file was named for it", self.component.description))
                .hint(|| format!("{}; {}", self.get(), self.naming()));
        };
        let files = self.find(given).hint(|| self.get())?;
        let Some(locked) = locked else { return Ok(files) };
        let differ: Vec<_> = locked
            .iter()
            .filter(|wanted| !files.contains(wanted))
            .map(|wanted| match files.iter().find(|file| file.name == wanted.name) {
                Some(found) => format!(
                    "`{}` (`{}`) has {} bytes and the hash {}, the lock has {} bytes and {}",
                    wanted.name, found.file, found.size, found.sha256, wanted.size, wanted.sha256
                ),
                None => format!("`{}` (`{}`) is not in it, and is in the lock", wanted.name, wanted.file),
            })
            .collect();
        if differ.is_empty() {
            return Ok(files);
        }
        Err(anyhow!("`{}` is not what the lock was made with: {}", given.display(), differ.join("; "))).hint(
            || {
                let name = &self.component.name;
                format!("{}; or take it as it is with `cargo xtask lock --update {name}`", self.get())
            },
        )
    }

    fn get(&self) -> String {
        format!("get version {} from {}", self.version(), self.source.get)
    }

    fn version(&self) -> &str {
        self.component.version.as_deref().unwrap_or("that fits")
    }

    /// How a person says which file it is.
    fn naming(&self) -> String {
        let name = &self.component.name;
        let flag = if name == SDK { format!("`--{SDK} FILE`, or ") } else { String::new() };
        format!("name it with {flag}`files.{name} = \"FILE\"` in `dpukit.local.toml`")
    }

    fn find(&self, given: &Path) -> Result<Vec<LockedFile>> {
        let meta = given.metadata().with_context(|| format!("reading `{}`", given.display()))?;
        let key = Hash::of(format!(
            "found 1 {:?} {:?} {} {} {:?} {}",
            self.component.version,
            self.source,
            given.display(),
            meta.len(),
            meta.modified().ok(),
            meta.ino()
        ));
        let memory = self.cache.join("private/found").join(format!("{key}.json"));
        // A folder's own times say nothing of what lies deeper.
        if meta.is_file()
            && let Ok(text) = fs::read(&memory)
            && let Ok(files) = serde_json::from_slice::<Vec<LockedFile>>(&text)
            && has(&self.cache, &files)
        {
            return Ok(files);
        }
        let files = self.search(given)?;
        crate::store::write_atomically(&memory, &serde_json::to_vec(&files)?)?;
        Ok(files)
    }

    fn search(&self, given: &Path) -> Result<Vec<LockedFile>> {
        let keep = self.cache.join("private/files");
        fs::create_dir_all(&keep).with_context(|| format!("making `{}`", keep.display()))?;
        fs::set_permissions(self.cache.join("private"), fs::Permissions::from_mode(0o700))?;
        let version = self.component.version.as_deref().unwrap_or_default();
        let mut search = Search::new(self.source, version, &keep)?;
        let seen = archive::walk(given, &keep, &mut |path, way, item| search.visit(path, way, item))?;
        let shown = given.display();
        if seen == 0 && !given.is_dir() && search.found.is_empty() {
            match beginning(given)?.as_str() {
                "" => bail!("`{shown}` is empty"),
                head => bail!("`{shown}` is no archive: it begins with `{head}`"),
            }
        }
        search.follow_links();
        search.result().map_err(|missing| {
            anyhow!("`{shown}` is not {} in version {version}:{missing}", self.component.description)
        })
    }
}

/// The first letters of a file, for people: what they took for an archive may be a page that asks for a login.
fn beginning(path: &Path) -> Result<String> {
    let mut head = Vec::new();
    File::open(path)?.take(40).read_to_end(&mut head)?;
    Ok(head.escape_ascii().to_string())
}

/// A file that is looked for.
struct Wanted {
    name: String,
    pattern: String,
    matcher: GlobMatcher,
    /// The same for any version, where the pattern has one.
    other: Option<GlobMatcher>,
    /// How many parts of a path are compared.
    parts: usize,
}

struct Search<'a> {
    wanted: Vec<Wanted>,
    folders: &'a BTreeMap<String, String>,
    keep: &'a Path,
    /// By name: the file, and the way to it.
    found: BTreeMap<String, (LockedFile, String)>,
    /// By name, in a folder: what a link points to, as a name.
    links: BTreeMap<String, String>,
    /// By the name of what is looked for: files of other versions.
    others: BTreeMap<String, BTreeSet<String>>,
    clashes: Vec<String>,
}

impl<'a> Search<'a> {
    fn new(source: &'a UserSource, version: &str, keep: &'a Path) -> Result<Self> {
        let matcher = |pattern: &str| -> Result<GlobMatcher> {
            Ok(GlobBuilder::new(pattern).literal_separator(true).build()?.compile_matcher())
        };
        let wanted = source.files.iter().map(|(name, pattern)| {
            let filled = pattern.replace("{version}", version);
            let any = pattern.contains("{version}").then(|| matcher(&pattern.replace("{version}", "*")));
            Ok(Wanted {
                name: name.clone(),
                matcher: matcher(&filled)?,
                other: any.transpose()?,
                parts: filled.split('/').count(),
                pattern: filled,
            })
        });
        Ok(Self {
            wanted: wanted.collect::<Result<_>>()?,
            folders: &source.folders,
            keep,
            found: BTreeMap::new(),
            links: BTreeMap::new(),
            others: BTreeMap::new(),
            clashes: Vec::new(),
        })
    }

    fn visit(&mut self, path: &str, way: &str, item: Item<'_>) -> Result<()> {
        let end = |parts: usize| {
            let all: Vec<_> = path.split('/').collect();
            all[all.len().saturating_sub(parts)..].join("/")
        };
        let below = self.folders.iter().find_map(|(name, folder)| {
            let rest =
                format!("/{path}").split_once(&format!("/{folder}/")).map(|(_, rest)| rest.to_owned())?;
            rest.split('/')
                .all(|part| !part.is_empty() && part != "." && part != "..")
                .then(|| format!("{name}/{rest}"))
        });
        let named = self.wanted.iter().find(|wanted| wanted.matcher.is_match(end(wanted.parts)));
        let name = named.map(|wanted| wanted.name.clone()).or(below);
        match (name, item) {
            (Some(name), Item::File(content)) => {
                let file = self.keep(name, path, content)?;
                match self.found.get(&file.name) {
                    Some((first, at)) if first.sha256 != file.sha256 => self.clashes.push(format!(
                        "\n  `{}` is there twice with other content: `{at}` and `{way}`",
                        file.name
                    )),
                    _ => {
                        self.found.insert(file.name.clone(), (file, way.to_owned()));
                    }
                }
            }
            (Some(name), Item::Link(target)) => {
                if let Some((folder, _)) = name.rsplit_once('/')
                    && !target.contains('/')
                {
                    let target = format!("{folder}/{target}");
                    self.links.insert(name, target);
                }
            }
            (None, _) => {
                for wanted in &self.wanted {
                    let is_other =
                        wanted.other.as_ref().is_some_and(|other| other.is_match(end(wanted.parts)));
                    if is_other {
                        self.others.entry(wanted.name.clone()).or_default().insert(way.to_owned());
                    }
                }
            }
        }
        Ok(())
    }

    /// Puts a file under its hash.
    fn keep(&self, name: String, path: &str, content: &mut dyn std::io::Read) -> Result<LockedFile> {
        let mut file = tempfile::Builder::new().prefix(".found-").tempfile_in(self.keep)?;
        let (mut hasher, mut size, mut buffer) = (Sha256::new(), 0, vec![0; 1 << 16]);
        loop {
            let count = content.read(&mut buffer)?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            file.write_all(&buffer[..count]).context("keeping the file")?;
            size += count as u64;
        }
        file.as_file().sync_all()?;
        let sha256 = Hash::from(<[u8; 32]>::from(hasher.finalize()));
        file.persist(self.keep.join(sha256.to_string()))?;
        let file = path.rsplit('/').next().unwrap_or(path).to_owned();
        Ok(LockedFile { name, file, size, sha256 })
    }

    /// A link to a file beside it is taken as that file.
    fn follow_links(&mut self) {
        for (name, target) in &self.links {
            if let Some((file, way)) = self.found.get(target).cloned()
                && !self.found.contains_key(name)
            {
                let own = name.rsplit('/').next().unwrap_or(name).to_owned();
                let file = LockedFile { name: name.clone(), file: own, ..file };
                self.found.insert(name.clone(), (file, way));
            }
        }
    }

    /// All files, or a line for each that lacks.
    fn result(self) -> Result<Vec<LockedFile>, String> {
        let mut problems = self.clashes;
        for Wanted { name, pattern, .. } in &self.wanted {
            if self.found.contains_key(name) {
                continue;
            }
            problems.push(match self.others.get(name) {
                Some(others) => {
                    let others: Vec<_> = others.iter().take(3).map(|way| format!("`{way}`")).collect();
                    format!("\n  `{pattern}` is missing; of another version there is {}", others.join(", "))
                }
                None => format!("\n  `{pattern}` is missing"),
            });
        }
        for (name, folder) in self.folders {
            let inside = format!("{name}/");
            if !self.found.keys().any(|found| found.starts_with(&inside)) {
                problems.push(format!("\n  no folder `{folder}` with files is in it"));
            }
        }
        if problems.is_empty() {
            Ok(self.found.into_values().map(|(file, _)| file).collect())
        } else {
            Err(problems.concat())
        }
    }
}
