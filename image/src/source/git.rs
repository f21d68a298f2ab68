//! Commits of git repositories, by the machine's git.
//!
//! ```text
//! <cache>/git/<hash>-<name>/   a bare repository for each address, with only the commits that were asked for
//! <cache>/git/config           all of the configuration that git is given
//! ```
//!
//! git checks what comes by the commit's name, and the files are hashed once more for the lock: their names,
//! kinds and contents as they are in the repository, with no filter, no line endings and no `export-ignore`
//! applied. Neither the machine's configuration nor the user's, nor `GIT_*` variables, have a say; of the user's
//! only credential helpers are taken over, since private mirrors need them.
//!
//! A repository is asked for a commit's folders first, then for its files some thousands at a time, so that a
//! fetch that broke off goes on where it stopped. Servers that can't do that are asked for the whole.

mod command;
mod export;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::config::{GitSource, Revision};
use crate::hash::Hash;
use crate::hint::WithHint as _;
use crate::lock::LockedGit;
use command::Sealed;

pub use command::forget_variables;

/// Submodules within submodules, at most.
const DEPTH: usize = 8;
/// Files that are asked for at a time: some tens of MB of a kernel.
const BATCH: usize = 10_000;
/// How often a server that breaks off is asked again.
const TRIES: usize = 3;

/// The repositories of a cache.
#[derive(Debug)]
pub struct Git {
    folder: PathBuf,
    mirrors: Option<PathBuf>,
    offline: bool,
    batch: usize,
    sealed: Sealed,
}

/// A repository, and where it can be had.
#[derive(Debug, Clone)]
struct Repository {
    url: String,
    mirrors: Vec<String>,
}

impl Repository {
    fn of(source: &GitSource) -> Self {
        Self { url: source.url.clone(), mirrors: source.mirrors.clone() }
    }

    /// The last part of the address, without `.git`.
    fn name(&self) -> &str {
        let last = self.url.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        last.strip_suffix(".git").unwrap_or(last)
    }
}

impl Git {
    /// `mirrors` is a folder with repositories named as in their addresses; they are asked first.
    pub fn new(cache: &Path, mirrors: Option<&Path>, offline: bool) -> Result<Self> {
        let folder = cache.join("git");
        fs::create_dir_all(&folder)
            .with_context(|| format!("opening the repositories at `{}`", folder.display()))?;
        let sealed = Sealed::new(&folder)?;
        Ok(Self { folder, mirrors: mirrors.map(Path::to_owned), offline, batch: BATCH, sealed })
    }

    /// Asks for so many files at a time.
    #[must_use]
    pub fn in_batches_of(self, batch: usize) -> Self {
        Self { batch, ..self }
    }

    /// The commit that is meant, fetched, and the hash of its files.
    pub fn resolve(&self, source: &GitSource) -> Result<LockedGit> {
        let commit = match &source.revision {
            Revision::Commit { commit, .. } => commit.clone(),
            Revision::Branch(branch) => self.newest(&Repository::of(source), branch)?,
        };
        self.fetch(source, &commit)?;
        let content = self.export(source, &commit, None)?;
        Ok(LockedGit { commit, content })
    }

    /// Whether a commit is here, with its submodules.
    pub fn has(&self, source: &GitSource, commit: &str) -> bool {
        self.has_all(&Repository::of(source), commit, source.submodules, DEPTH)
    }

    fn has_all(&self, repository: &Repository, commit: &str, submodules: bool, depth: usize) -> bool {
        if !self.is_whole(repository, commit) {
            return false;
        }
        let modules = || self.submodules(repository, commit);
        !submodules
            || depth > 0
                && modules().is_ok_and(|modules| {
                    modules.iter().all(|(_, inner, at)| self.has_all(inner, at, true, depth - 1))
                })
    }

    /// Brings a commit, unless it is here.
    pub fn fetch(&self, source: &GitSource, commit: &str) -> Result<()> {
        let branch = match &source.revision {
            Revision::Commit { branch, .. } => branch.as_deref(),
            Revision::Branch(branch) => Some(branch.as_str()),
        };
        self.fetch_all(&Repository::of(source), commit, branch, source.submodules, DEPTH)
    }

    fn fetch_all(
        &self,
        repository: &Repository,
        commit: &str,
        branch: Option<&str>,
        submodules: bool,
        depth: usize,
    ) -> Result<()> {
        self.fetch_one(repository, commit, branch)?;
        if !submodules {
            return Ok(());
        }
        for (path, inner, at) in self.submodules(repository, commit)? {
            if depth == 0 {
                bail!("`{}` has submodules in more than {DEPTH} levels", repository.url);
            }
            self.fetch_all(&inner, &at, None, true, depth - 1)
                .with_context(|| format!("fetching the submodule `{path}` of `{}`", repository.url))?;
        }
        Ok(())
    }

    /// Hashes a commit's files, and writes them into a folder if one is given.
    pub fn export(&self, source: &GitSource, commit: &str, into: Option<&Path>) -> Result<Hash> {
        let mut files = export::Files::default();
        self.export_into(&mut files, &Repository::of(source), commit, source.submodules, "", into)?;
        files.links(into)?;
        Ok(files.hash())
    }

    fn export_into(
        &self,
        files: &mut export::Files,
        repository: &Repository,
        commit: &str,
        submodules: bool,
        below: &str,
        into: Option<&Path>,
    ) -> Result<()> {
        let store = self.store(repository);
        files
            .add(&self.sealed, &store, commit, below, into, submodules)
            .with_context(|| format!("reading the commit `{commit}` of `{}`", repository.url))?;
        if submodules {
            for (path, inner, at) in self.submodules(repository, commit)? {
                self.export_into(files, &inner, &at, true, &format!("{below}{path}/"), into)?;
            }
        }
        Ok(())
    }

    /// Asks whether a repository can be had.
    pub fn probe(&self, source: &GitSource, patience: Duration) -> Result<()> {
        let repository = Repository::of(source);
        self.ask(&repository, |address| self.sealed.refs(address, "HEAD", patience).map(drop))
    }

    fn newest(&self, repository: &Repository, branch: &str) -> Result<String> {
        let name = format!("refs/heads/{branch}");
        self.ask(repository, |address| {
            let refs = self.sealed.refs(address, &name, Duration::from_secs(30))?;
            let line = refs.lines().find_map(|line| line.strip_suffix(&format!("\t{name}")));
            line.map(str::to_owned).with_context(|| format!("there is no branch `{branch}`"))
        })
    }

    /// Where a repository's objects are kept.
    fn store(&self, repository: &Repository) -> PathBuf {
        let hash = Hash::of(&repository.url).short();
        let name: String =
            repository.name().chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
        self.folder.join(format!("{hash}-{name}"))
    }

    /// The file that says that all of a commit is here.
    fn stamp(&self, repository: &Repository, commit: &str) -> PathBuf {
        self.store(repository).join("whole").join(commit)
    }

    fn is_whole(&self, repository: &Repository, commit: &str) -> bool {
        self.stamp(repository, commit).is_file()
    }

    /// Where a repository can be asked for, in this order.
    fn places(&self, repository: &Repository) -> Vec<String> {
        let mut places = Vec::new();
        if let Some(folder) = &self.mirrors {
            let name = repository.name();
            let found = [format!("{name}.git"), name.to_owned()].map(|name| folder.join(name));
            places.extend(found.iter().filter(|path| path.is_dir()).map(|path| path.display().to_string()));
        }
        let addresses = std::iter::once(&repository.url).chain(&repository.mirrors);
        places.extend(addresses.filter(|url| !self.offline || url.starts_with("file://")).cloned());
        places
    }

    /// The first answer of a repository's places.
    fn ask<T>(&self, repository: &Repository, mut ask: impl FnMut(&str) -> Result<T>) -> Result<T> {
        let mut said = Vec::new();
        for place in self.places(repository) {
            match ask(&place) {
                Ok(answer) => return Ok(answer),
                // git names the address itself where it can't get to it.
                Err(error) if format!("{error:#}").contains(&place) => said.push(format!("{error:#}")),
                Err(error) => said.push(format!("{place}: {error:#}")),
            }
        }
        if self.offline {
            said.push(format!("{}: `--offline` forbids to ask", repository.url));
        }
        Err(anyhow!("{}", said.join("; "))).hint(|| {
            let name = repository.name();
            format!(
                "where the address can't be reached, put a clone named `{name}.git` into a folder and name the \
                 folder as `git-mirrors` in `dpukit.local.toml`"
            )
        })
    }

    fn fetch_one(&self, repository: &Repository, commit: &str, branch: Option<&str>) -> Result<()> {
        if self.is_whole(repository, commit) {
            return Ok(());
        }
        let store = self.store(repository);
        let _lock = lock(&store.with_extension("lock"))?;
        if self.is_whole(repository, commit) {
            return Ok(());
        }
        if !store.join("HEAD").is_file() {
            self.sealed.run(None, &["init", "--quiet", "--bare", "--template=", path(&store)?])?;
        }
        self.ask(repository, |place| self.fetch_from(&store, place, commit, branch))?;
        fs::create_dir_all(store.join("whole"))?;
        crate::store::write_atomically(&self.stamp(repository, commit), b"")
    }

    fn fetch_from(&self, store: &Path, place: &str, commit: &str, branch: Option<&str>) -> Result<()> {
        let first = match self.in_parts(store, place, commit) {
            Ok(()) => return self.check(store, commit),
            // What came so far is kept, and the next run goes on from there.
            Err(error) if command::broke_off(&error) => return Err(error),
            Err(error) => error,
        };
        tracing::debug!(place, "no fetch in parts: {first:#}");
        let only = format!("+{commit}:refs/dpukit/{commit}");
        let whole = [&["fetch", "--depth=1", "--refetch"][..], &FETCH, &[place, &only]].concat();
        let Err(second) = self.again(store, &whole, "") else { return self.check(store, commit) };
        let Some(branch) = branch else { return Err(second) };
        // A server that gives branches only: all of its history comes with it.
        let named = format!("+refs/heads/{branch}:refs/dpukit/{branch}");
        let all = [&["fetch"][..], &FETCH, &[place, &named]].concat();
        self.again(store, &all, "")?;
        self.check(store, commit)
            .with_context(|| format!("the branch `{branch}` does not have it, and by itself: {second:#}"))
    }

    /// Folders first, then files by the thousands.
    fn in_parts(&self, store: &Path, place: &str, commit: &str) -> Result<()> {
        let only = format!("+{commit}:refs/dpukit/{commit}");
        let trees = ["fetch", "--depth=1", "--filter=blob:none"];
        self.again(store, &[&trees[..], &FETCH, &[place, &only]].concat(), "")?;
        let missing = self.sealed.missing(store, commit)?;
        for batch in missing.chunks(self.batch.max(1)) {
            let files = ["-c", "fetch.negotiationAlgorithm=noop", "fetch", "--filter=blob:none", "--stdin"];
            let arguments = [&files[..], &FETCH, &[place]].concat();
            self.again(store, &arguments, &(batch.join("\n") + "\n"))?;
        }
        Ok(())
    }

    /// A server that breaks off is asked again.
    fn again(&self, store: &Path, arguments: &[&str], input: &str) -> Result<()> {
        let mut attempt = 1;
        loop {
            match self.sealed.run_with(store, arguments, input) {
                Err(error) if attempt < TRIES && command::broke_off(&error) => {
                    std::thread::sleep(Duration::from_millis(200 << attempt));
                    attempt += 1;
                }
                other => return other.map(drop),
            }
        }
    }

    /// Whether all of a commit is here.
    fn check(&self, store: &Path, commit: &str) -> Result<()> {
        let missing = self.sealed.missing(store, commit).context("the commit is not there")?;
        if missing.is_empty() { Ok(()) } else { bail!("{} of its files did not come", missing.len()) }
    }

    /// Path, repository and commit of each submodule.
    fn submodules(&self, repository: &Repository, commit: &str) -> Result<Vec<(String, Repository, String)>> {
        let store = self.store(repository);
        let mut found = Vec::new();
        for (path, at) in export::links_to_commits(&self.sealed, &store, commit)? {
            let url = self
                .sealed
                .submodule(&store, commit, &path)?
                .with_context(|| format!("`.gitmodules` has no address for the submodule `{path}`"))?;
            let inner = Repository {
                url: joined(&repository.url, &url)?,
                mirrors: repository.mirrors.iter().filter_map(|mirror| joined(mirror, &url).ok()).collect(),
            };
            found.push((path, inner, at));
        }
        Ok(found)
    }
}

/// Options of every fetch: no tags, no file with what was fetched, no submodules by itself.
const FETCH: [&str; 5] =
    ["--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--no-auto-maintenance"];

/// A submodule's address, which may be relative to that of its repository (gitmodules(5)). What comes from
/// a server must not name files of this machine.
fn joined(base: &str, url: &str) -> Result<String> {
    if ["./", "../"].iter().any(|start| url.starts_with(start)) {
        let mut parts: Vec<_> = base.trim_end_matches('/').split('/').collect();
        for part in url.trim_end_matches('/').split('/') {
            match part {
                "." | "" => {}
                ".." if parts.len() > 3 => drop(parts.pop()),
                ".." => bail!("the submodule's address `{url}` leads out of `{base}`"),
                part => parts.push(part),
            }
        }
        return Ok(parts.join("/"));
    }
    let is_web = ["https://", "http://"].iter().any(|start| url.starts_with(start));
    let is_file = url.starts_with("file:///") && base.starts_with("file:///");
    if (is_web || is_file) && url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(url.to_owned());
    }
    bail!("the submodule's address `{}` is not one of the web", url.escape_debug())
}

fn path(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("`{}` is not UTF-8", path.display()))
}

fn lock(path: &Path) -> Result<File> {
    let context = || format!("locking `{}`", path.display());
    let file = File::options().create(true).append(true).open(path).with_context(context)?;
    file.lock().with_context(context)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_submodule_is_found_beside_its_repository_and_nowhere_on_this_machine() {
        let base = "https://example.org/group/main.git";
        assert_eq!(joined(base, "../lib.git").unwrap(), "https://example.org/group/lib.git");
        assert_eq!(joined(base, "./lib.git").unwrap(), "https://example.org/group/main.git/lib.git");
        assert_eq!(joined(base, "https://other.org/x").unwrap(), "https://other.org/x");
        for wrong in
            ["../../../x", "/etc", "file:///etc", "ext::sh -c x", "ssh://x/y", "-oProxy=x", "git@x:y"]
        {
            assert!(joined(base, wrong).is_err(), "{wrong}");
        }
    }
}
