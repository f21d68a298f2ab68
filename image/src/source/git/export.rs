//! A commit's files, as they are in the repository.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use sha2::{Digest as _, Sha256};

use super::command::Sealed;
use crate::hash::Hash;

/// Files of a commit and its submodules, by path.
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<String, (&'static str, Hash)>,
    /// Path and target. They are made last, so that nothing is written through one.
    links: BTreeMap<String, Vec<u8>>,
}

/// One line of `git ls-tree`.
struct Entry {
    mode: String,
    object: String,
    path: String,
}

/// Path and commit of each submodule of a commit.
pub fn links_to_commits(git: &Sealed, store: &Path, commit: &str) -> Result<Vec<(String, String)>> {
    let entries = list(git, store, commit)?.into_iter().filter(|entry| entry.mode == "160000");
    Ok(entries.map(|entry| (entry.path, entry.object)).collect())
}

fn list(git: &Sealed, store: &Path, commit: &str) -> Result<Vec<Entry>> {
    let output = git.run(Some(store), &["ls-tree", "-r", "-z", "--full-tree", "--end-of-options", commit])?;
    let text = std::str::from_utf8(&output).context("a file's name is not UTF-8")?;
    let entry = |line: &str| {
        let (head, path) = line.split_once('\t')?;
        let mut words = head.split(' ');
        let (mode, object) = (words.next()?, words.nth(1)?);
        Some(Entry { mode: mode.to_owned(), object: object.to_owned(), path: path.to_owned() })
    };
    let lines = text.split('\0').filter(|line| !line.is_empty());
    lines.map(|line| entry(line).with_context(|| format!("git lists `{line}`"))).collect()
}

impl Files {
    /// Adds a commit's files; each path gets `below` in front.
    pub fn add(
        &mut self,
        git: &Sealed,
        store: &Path,
        commit: &str,
        below: &str,
        into: Option<&Path>,
        submodules: bool,
    ) -> Result<()> {
        let (modules, entries): (Vec<_>, Vec<_>) =
            list(git, store, commit)?.into_iter().partition(|entry| entry.mode == "160000");
        for entry in modules {
            check_path(&entry.path)?;
            if let Some(folder) = into {
                fs::create_dir_all(folder.join(below).join(&entry.path))?;
            }
            if !submodules {
                self.insert(format!("{below}{}", entry.path), "submodule", Hash::of(&entry.object))?;
            }
        }
        let mut child = git.start(store, &["cat-file", "--batch"])?;
        let objects: Vec<_> = entries.iter().map(|entry| entry.object.as_str()).collect();
        let objects = objects.join("\n") + "\n";
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().context("git has no output")?);
        let added = std::thread::scope(|scope| {
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(objects.as_bytes())));
            let mut stdout = BufReader::with_capacity(1 << 16, stdout);
            entries.iter().try_for_each(|entry| self.take(entry, &mut stdout, below, into))
        });
        drop(child.kill());
        child.wait()?;
        added
    }

    /// Takes one file out of git's stream.
    fn take(
        &mut self,
        entry: &Entry,
        stream: &mut impl io::BufRead,
        below: &str,
        into: Option<&Path>,
    ) -> Result<()> {
        check_path(&entry.path)?;
        let path = format!("{below}{}", entry.path);
        let context = || format!("reading `{path}`");
        let mut head = String::new();
        stream.read_line(&mut head).with_context(context)?;
        let size = head.trim_end().rsplit_once(' ').and_then(|(_, size)| size.parse::<u64>().ok());
        let size = size.with_context(|| format!("`{path}` is not there: git says `{}`", head.trim_end()))?;
        let mut content = stream.take(size);
        let (kind, hash) = match entry.mode.as_str() {
            "120000" => {
                let mut target = Vec::new();
                content.read_to_end(&mut target).with_context(context)?;
                let hash = Hash::of(&target);
                self.links.insert(path.clone(), target);
                ("link", hash)
            }
            "100644" | "100664" => ("file", copy(&mut content, &path, 0o644, into)?),
            "100755" => ("program", copy(&mut content, &path, 0o755, into)?),
            mode => bail!("`{path}` has the mode {mode}, which no file of git has"),
        };
        ensure!(content.limit() == 0, "`{path}` broke off");
        let mut end = [0];
        stream.read_exact(&mut end).with_context(context)?;
        self.insert(path, kind, hash)
    }

    fn insert(&mut self, path: String, kind: &'static str, hash: Hash) -> Result<()> {
        match self.files.insert(path, (kind, hash)) {
            None => Ok(()),
            Some(_) => bail!("a path comes twice in the commit"),
        }
    }

    /// Makes the symbolic links.
    pub fn links(&self, into: Option<&Path>) -> Result<()> {
        use std::os::unix::ffi::OsStrExt as _;
        for (path, target) in &self.links {
            let Some(folder) = into else { continue };
            let inside = format!("{path}/");
            if let Some((through, _)) = self.files.range(inside.clone()..).next()
                && through.starts_with(&inside)
            {
                bail!("`{through}` would lie behind the link `{path}`");
            }
            let at = folder.join(path);
            fs::create_dir_all(at.parent().unwrap_or(folder))?;
            symlink(std::ffi::OsStr::from_bytes(target), &at)
                .with_context(|| format!("making the link `{path}`"))?;
        }
        Ok(())
    }

    /// Over path, kind and content of all files; the order is that of paths' bytes.
    pub fn hash(&self) -> Hash {
        let mut hasher = Sha256::new();
        hasher.update(b"dpukit files 1\n");
        for (path, (kind, hash)) in &self.files {
            hasher.update(format!("{kind} {hash} {} {path}\n", path.len()));
        }
        Hash::from(<[u8; 32]>::from(hasher.finalize()))
    }
}

/// Hashes a file, and writes it if there is a folder for it.
fn copy(content: &mut impl io::Read, path: &str, mode: u32, into: Option<&Path>) -> Result<Hash> {
    let Some(folder) = into else {
        return Hash::of_reader(content).with_context(|| format!("reading `{path}`"));
    };
    let at = folder.join(path);
    let context = || format!("writing `{}`", at.display());
    fs::create_dir_all(at.parent().unwrap_or(folder)).with_context(context)?;
    let file = File::options().write(true).create_new(true).open(&at).with_context(context)?;
    let mut file = BufWriter::new(file);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = content.read(&mut buffer).with_context(context)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
        file.write_all(&buffer[..count]).with_context(context)?;
    }
    let file = file.into_inner().with_context(context)?;
    file.set_permissions(fs::Permissions::from_mode(mode)).with_context(context)?;
    Ok(Hash::from(<[u8; 32]>::from(hasher.finalize())))
}

fn check_path(path: &str) -> Result<()> {
    let is_plain =
        |part: &str| !part.is_empty() && part != "." && part != ".." && !part.eq_ignore_ascii_case(".git");
    ensure!(path.split('/').all(is_plain), "the commit has a file `{}`", path.escape_debug());
    Ok(())
}
