//! Downloads: from several mirrors, resumed, checked by hash before they are used.
//!
//! ```text
//! <cache>/downloads/<sha256>                  a whole, checked file; read-only
//! <cache>/downloads/<sha256>.part             what came of it so far
//! <cache>/downloads/rejected/<sha256>-<name>  what came but was something else
//! ```
//!
//! A mirror is asked for the rest of a `.part` with a `Range`; whatever comes is hashed as a whole at the
//! end, so a mirror that lies costs time and nothing else. Builds that want the same file at once share it:
//! whoever holds the lock of a `.part` downloads.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::config::{Archive, Suites};
use crate::hash::Hash;
use crate::hint::WithHint as _;
use crate::store::WRITABLE;
use crate::{mirrors, snapshot};

/// A file of an archive.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The archive's name in [`Suites::archives`].
    pub archive: String,
    /// Path below the archive's base address.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// What it must be.
    pub sha256: Hash,
    /// The package that it is the file of: what mirrors have dropped, the archive's snapshot service
    /// knows by this.
    pub package: Option<Package>,
}

/// A package, as a snapshot service names it.
#[derive(Debug, Clone)]
pub struct Package {
    /// Without an architecture.
    pub name: String,
    /// With its epoch.
    pub version: String,
    /// `all` or the architecture that it was built for; `source` for a source package.
    pub arch: String,
}

/// Files that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{} of {wanted} files could not be had:\n{}", failures.len(), failures.join("\n"))]
pub struct Missing {
    wanted: usize,
    failures: Vec<String>,
    /// Those that no mirror has any more: at least one says so, and none says anything else.
    pub gone: Vec<Hash>,
}

/// How to download.
#[derive(Debug, Clone)]
pub struct Options {
    /// Open no connection.
    pub offline: bool,
    /// Files at a time.
    pub parallel: usize,
    /// How long a server may be silent, in any phase, before the next is asked.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { offline: false, parallel: 8, patience: Duration::from_secs(30) }
    }
}

/// Downloads files of archives into a cache.
pub struct Fetcher {
    folder: PathBuf,
    archives: BTreeMap<String, Archive>,
    options: Options,
    agent: ureq::Agent,
    /// The beginning of addresses, and the `Authorization` that is sent there.
    authorization: BTreeMap<String, String>,
}

/// The largest index that is read into memory.
const INDEX_LIMIT: u64 = 256 << 20;
/// Bytes per second below which a server counts as stalled, though it says something now and then.
const SLOWEST: u64 = 256 << 10;
/// How often a mirror that breaks off is asked for the rest.
const TRIES: usize = 4;

impl std::fmt::Debug for Fetcher {
    /// Without what it authorizes itself with.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fetcher")
            .field("folder", &self.folder)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Fetcher {
    /// A fetcher for the archives of `suites`. The machine's own mirrors are asked first, unless
    /// `DPUKIT_MIRROR_<ARCHIVE>` names the only one to ask.
    pub fn new(cache: &Path, suites: &Suites, options: Options) -> Result<Self> {
        let archives = suites.archives.iter().map(|(name, archive)| {
            let variable = format!("DPUKIT_MIRROR_{}", name.to_uppercase().replace('-', "_"));
            let archive = match std::env::var(variable) {
                Ok(own) if !own.is_empty() => Archive { mirrors: vec![own], snapshot: None },
                _ => Archive {
                    mirrors: mirrors::of_machine(name).into_iter().chain(archive.mirrors.clone()).collect(),
                    snapshot: archive.snapshot.clone(),
                },
            };
            (name.clone(), archive)
        });
        Self::with_archives(cache, archives.collect(), options)
    }

    /// A fetcher that asks the mirrors of these archives in their order, then their snapshot service.
    pub fn with_archives(
        cache: &Path,
        archives: BTreeMap<String, Archive>,
        options: Options,
    ) -> Result<Self> {
        let folder = cache.join("downloads");
        fs::create_dir_all(folder.join("rejected"))
            .with_context(|| format!("opening the downloads at `{}`", folder.display()))
            .hint(|| WRITABLE.into())?;
        let agent = ureq::Agent::config_builder()
            .timeout_resolve(Some(options.patience))
            .timeout_connect(Some(options.patience))
            .timeout_recv_response(Some(options.patience))
            // Silence ends a transfer, however long the whole of it may take.
            .timeout_per_read(Some(options.patience))
            .max_redirects(5)
            .http_status_as_error(true)
            .user_agent(concat!("dpukit/", env!("CARGO_PKG_VERSION")))
            .build()
            .into();
        Ok(Self { folder, archives, options, agent, authorization: BTreeMap::new() })
    }

    /// The same, with a header `Authorization` for addresses that begin so; a server that redirects elsewhere
    /// does not pass it on.
    #[must_use]
    pub fn with_authorization(self, authorization: BTreeMap<String, String>) -> Self {
        Self { authorization, ..self }
    }

    /// Where a downloaded file is.
    pub fn path(&self, sha256: &Hash) -> PathBuf {
        self.folder.join(sha256.to_string())
    }

    /// Downloads what is not there yet; `progress` is told of bytes as they come, or are found.
    ///
    /// # Errors
    /// One error for all files that could not be had, each with what every mirror said.
    pub fn fetch_all(&self, wanted: &[Wanted], progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
        let (present, missing): (Vec<_>, Vec<_>) = wanted.iter().partition(|file| self.has(file));
        progress(present.iter().map(|file| file.size).sum());
        if missing.is_empty() {
            return Ok(());
        }
        let bytes: u64 = missing.iter().map(|file| file.size).sum();
        if self.options.offline {
            let list: Vec<_> =
                missing.iter().map(|file| format!("  {} ({} bytes)", file.path, file.size)).collect();
            return Err(anyhow!(
                "offline, {} files ({bytes} bytes) are not downloaded:\n{}",
                list.len(),
                list.join("\n")
            ))
            .hint(|| "run the same command once without `--offline`".into());
        }
        self.check_space(bytes)?;
        let next = AtomicUsize::new(0);
        let failures = Mutex::new(Missing { wanted: missing.len(), failures: Vec::new(), gone: Vec::new() });
        std::thread::scope(|scope| {
            for _ in 0..self.options.parallel.min(missing.len()) {
                scope.spawn(|| {
                    while let Some(file) = missing.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.fetch(file, progress)
                            && let Ok(mut failures) = failures.lock()
                        {
                            if error.is::<Gone>() {
                                failures.gone.push(file.sha256);
                            }
                            failures.failures.push(format!("`{}`: {error:#}", file.path));
                        }
                    }
                });
            }
        });
        let missing = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        if missing.failures.is_empty() {
            return Ok(());
        }
        Err(missing).hint(|| {
            "run the command again: it goes on where it stopped; a package that left the mirrors is \
                 replaced by `cargo xtask lock --update NAME`"
                .into()
        })
    }

    /// Whether a file is downloaded.
    pub fn has(&self, file: &Wanted) -> bool {
        self.path(&file.sha256).metadata().is_ok_and(|meta| meta.len() == file.size)
    }

    fn check_space(&self, bytes: u64) -> Result<()> {
        let stat = rustix::fs::statvfs(&self.folder).context("asking for free space")?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= bytes {
            return Ok(());
        }
        Err(anyhow!("`{}` has {free} bytes free, {bytes} are to come", self.folder.display()))
            .hint(space_hint)
    }

    fn fetch(&self, file: &Wanted, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
        let target = self.path(&file.sha256);
        let part_path = target.with_extension("part");
        loop {
            let context = || format!("writing `{}`", part_path.display());
            let mut part = File::options()
                .create(true)
                .truncate(false)
                .read(true)
                .write(true)
                .open(&part_path)
                .with_context(context)
                .hint(space_hint)?;
            part.lock().with_context(context)?;
            // Another build may have finished the file, and taken the `.part` away, while we waited.
            if self.has(file) {
                if part_path.metadata().is_ok_and(|meta| meta.len() == 0) {
                    let _ = fs::remove_file(&part_path);
                }
                progress(file.size);
                return Ok(());
            }
            if !is_at(&part, &part_path) {
                continue;
            }
            // What is asked for again was counted before.
            let highest = AtomicU64::new(0);
            let reached =
                |have| progress(u64::saturating_sub(have, highest.fetch_max(have, Ordering::Relaxed)));
            self.fill(file, &mut part, &reached)?;
            part.sync_all().with_context(context)?;
            fs::rename(&part_path, &target).with_context(context)?;
            // After the rename: a build killed in between must be able to go on with what it wrote.
            return part.set_permissions(fs::Permissions::from_mode(0o444)).with_context(context);
        }
    }

    /// Asks the mirrors in turn until `part` holds the file, and the snapshot service for what they dropped;
    /// `reached` is told how many bytes of it are there.
    fn fill(&self, file: &Wanted, part: &mut File, reached: &dyn Fn(u64)) -> Result<()> {
        let archive = self.archives.get(&file.archive).filter(|archive| !archive.mirrors.is_empty());
        let archive = archive.with_context(|| format!("there is no mirror of `{}`", file.archive))?;
        let mut said = Vec::new();
        let (mut is_denied, mut is_open) = (false, false);
        for mirror in &archive.mirrors {
            match self.fill_from(&join(mirror, &file.path), file, part, reached)? {
                Ok(()) => return Ok(()),
                Err(error) => {
                    is_denied |= error.is::<NotThere>();
                    is_open |= !error.is::<NotThere>() && !error.is::<Unreached>();
                    said.push(format!("{error:#}"));
                }
            }
        }
        if !is_denied || is_open {
            bail!("{}", said.join("; "));
        }
        if let (Some(service), Some(package)) = (&archive.snapshot, &file.package) {
            let name = file.path.rsplit('/').next().unwrap_or_default();
            let found = match snapshot::address(&self.agent, service, package, name) {
                Ok(address) => self.fill_from(&address, file, part, reached)?,
                Err(error) => Err(error),
            };
            match found {
                Ok(()) => return Ok(()),
                Err(error) => said.push(format!("{error:#}")),
            }
        }
        Err(Gone(said.join("; ")).into())
    }

    /// Asks one server for the file, again where that may help; the outer error is one that no other
    /// server can help with.
    fn fill_from(
        &self,
        address: &str,
        file: &Wanted,
        part: &mut File,
        reached: &dyn Fn(u64),
    ) -> Result<Result<()>> {
        let mut attempt = 0;
        loop {
            match self.transfer(address, file, part, reached) {
                Ok(()) => return Ok(self.judge(file, part, address)),
                Err(Stop::Here(error)) => return Err(error),
                Err(Stop::Again(_)) if attempt + 1 < TRIES => {
                    std::thread::sleep(Duration::from_millis(200 << attempt));
                    attempt += 1;
                }
                Err(Stop::Mirror(error) | Stop::Again(error)) => {
                    return Ok(Err(error.context(address.to_owned())));
                }
            }
        }
    }

    /// Appends to `part` what it lacks.
    fn transfer(
        &self,
        address: &str,
        file: &Wanted,
        part: &mut File,
        reached: &dyn Fn(u64),
    ) -> Result<(), Stop> {
        let here = |error: io::Error| {
            Stop::Here(
                anyhow!(error).context("writing the download").context(crate::hint::Hint(space_hint())),
            )
        };
        let mut have = part.metadata().map_err(here)?.len();
        if have > file.size {
            part.set_len(0).map_err(here)?;
            have = 0;
        }
        if have == file.size {
            return Ok(());
        }
        let patience = self.options.patience + Duration::from_secs((file.size - have) / SLOWEST);
        let mut request = self.agent.get(address).config().timeout_recv_body(Some(patience)).build();
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let token = self.authorization.iter().find(|(start, _)| address.starts_with(start.as_str()));
        if let Some((_, token)) = token {
            request = request.header("Authorization", token);
        }
        let response = request.call().map_err(|error| match error {
            ureq::Error::StatusCode(code) if code >= 500 => {
                Stop::Again(anyhow!("the server answered {code}"))
            }
            ureq::Error::StatusCode(416) => {
                let _ = part.set_len(0);
                Stop::Again(anyhow!("the server does not know the rest of the file"))
            }
            ureq::Error::StatusCode(code @ (404 | 410)) => Stop::Mirror(NotThere(code).into()),
            ureq::Error::StatusCode(code) => Stop::Mirror(anyhow!("the server answered {code}")),
            error @ ureq::Error::TooManyRedirects => Stop::Mirror(error.into()),
            // A resolver or a network that is busy for a moment must not fail a build.
            error => Stop::Again(Unreached(error).into()),
        })?;
        let range = response.headers().get("Content-Range").and_then(|value| value.to_str().ok());
        let is_rest = range.is_some_and(|range| starts_at(range, have, file.size));
        let is_part = response.status() == 206;
        if !(is_part && is_rest) {
            have = 0;
            part.set_len(0).map_err(here)?;
        }
        if is_part && !is_rest {
            return Err(Stop::Again(anyhow!("it gave another part of the file than was asked for")));
        }
        part.seek(SeekFrom::Start(have)).map_err(here)?;
        reached(have);
        let mut body = response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 1 << 16];
        while have < file.size {
            let broke_off = |why| anyhow!("it broke off after {have} of {} bytes: {why}", file.size);
            let count = body.read(&mut buffer).map_err(|error| Stop::Again(broke_off(error.to_string())))?;
            if count == 0 {
                return Err(Stop::Again(broke_off("the connection was closed".into())));
            }
            // More than was announced is cut: the hash decides.
            let count = count.min(usize::try_from(file.size - have).unwrap_or(count));
            part.write_all(&buffer[..count]).map_err(here)?;
            have += count as u64;
            reached(have);
        }
        Ok(())
    }

    /// Takes a whole file that is not what was wanted out of the way.
    fn judge(&self, file: &Wanted, part: &mut File, address: &str) -> Result<()> {
        part.seek(SeekFrom::Start(0))?;
        let found = Hash::of_reader(&mut *part)?;
        if found == file.sha256 {
            return Ok(());
        }
        let name = file.path.rsplit('/').next().unwrap_or_default();
        let rejected = self.folder.join("rejected").join(format!("{}-{name}", file.sha256));
        let keeping = || format!("keeping what came from {address} as `{}`", rejected.display());
        part.seek(SeekFrom::Start(0))?;
        io::copy(part, &mut File::create(&rejected).with_context(keeping)?).with_context(keeping)?;
        part.set_len(0)?;
        bail!("{address} has the hash {found}, not that of the lock; it is kept as `{}`", rejected.display())
    }

    /// Asks whether a mirror of an archive has a file, without taking it.
    ///
    /// # Errors
    /// What every mirror said.
    pub fn probe(&self, archive: &str, path: &str, patience: Duration) -> Result<()> {
        if self.options.offline {
            bail!("it is not downloaded, and `--offline` forbids to");
        }
        let mirrors = self.archives.get(archive).map_or(&[][..], |archive| &archive.mirrors);
        let patience = patience / u32::try_from(mirrors.len().max(1)).unwrap_or(u32::MAX);
        let mut said = Vec::new();
        for mirror in mirrors {
            let address = join(mirror, path);
            match self.agent.head(&address).config().timeout_global(Some(patience)).build().call() {
                Ok(_) => return Ok(()),
                Err(error) => said.push(format!("{address}: {error}")),
            }
        }
        Err(anyhow!("no mirror answers: {}", said.join("; "))).hint(|| mirror_hint(archive))
    }

    /// A small file, in memory. Without `want` it must carry its own signature.
    pub fn get(&self, archive: &str, path: &str, want: Option<(u64, Hash)>) -> Result<Vec<u8>> {
        if let Some((size, sha256)) = want {
            let file =
                Wanted { archive: archive.to_owned(), path: path.to_owned(), size, sha256, package: None };
            self.fetch_all(&[file], &|_| {})?;
            let path = self.path(&sha256);
            return fs::read(&path).with_context(|| format!("reading `{}`", path.display()));
        }
        if self.options.offline {
            return Err(anyhow!("`{path}` of `{archive}` is to be asked for, and `--offline` forbids to"))
                .hint(|| "run it without `--offline`".into());
        }
        let mut said = Vec::new();
        let mirrors = self.archives.get(archive).map(|archive| archive.mirrors.as_slice());
        for mirror in mirrors.unwrap_or_default() {
            let address = join(mirror, path);
            // A word now and then must not hold a build for ever.
            let whole = self.options.patience * 4;
            let answer = self.agent.get(&address).config().timeout_recv_body(Some(whole)).build().call();
            let bytes =
                answer.and_then(|mut body| body.body_mut().with_config().limit(INDEX_LIMIT).read_to_vec());
            match bytes {
                Ok(bytes) => return Ok(bytes),
                Err(error) => said.push(format!("{address}: {error}")),
            }
        }
        Err(anyhow!("no mirror of `{archive}` gave `{path}`: {}", said.join("; ")))
            .hint(|| mirror_hint(archive))
    }
}

impl crate::debian::Source for Fetcher {
    fn get(&self, archive: &str, path: &str, want: Option<(u64, Hash)>) -> Result<Vec<u8>> {
        Self::get(self, archive, path, want)
    }
}

/// Why a transfer ended early, and so what to do.
enum Stop {
    /// Ask the same mirror for the rest.
    Again(anyhow::Error),
    /// Ask the next mirror.
    Mirror(anyhow::Error),
    /// No mirror can help.
    Here(anyhow::Error),
}

/// The server answered that it does not have the file.
#[derive(Debug, thiserror::Error)]
#[error("the server answered {0}")]
struct NotThere(u16);

/// The server can't be asked.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Unreached(ureq::Error);

/// What all mirrors said of a file that none of them has.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Gone(String);

fn mirror_hint(archive: &str) -> String {
    format!("name a mirror that you reach with `DPUKIT_MIRROR_{}`", archive.to_uppercase().replace('-', "_"))
}

fn space_hint() -> String {
    "free some space, or name a folder that has it and that you can write to with `DPUKIT_CACHE`".into()
}

fn join(mirror: &str, path: &str) -> String {
    format!("{}/{}", mirror.trim_end_matches('/'), path.trim_start_matches('/'))
}

/// Whether an open file is still the one at a path.
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    match (file.metadata(), path.metadata()) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Whether `Content-Range: bytes FIRST-LAST/SIZE` (RFC 9110, 14.4) is the rest that was asked for.
fn starts_at(range: &str, first: u64, size: u64) -> bool {
    let parse = || {
        let (range, whole) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (start, end) = range.split_once('-')?;
        Some((start.parse::<u64>().ok()?, end.parse::<u64>().ok()?, whole))
    };
    let is_whole = |whole: &str| whole == "*" || whole.parse() == Ok(size);
    parse().is_some_and(|(start, end, whole)| start == first && end >= start && end < size && is_whole(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_rest_that_was_asked_for_is_appended() {
        assert!(starts_at("bytes 5-9/10", 5, 10));
        assert!(starts_at("bytes 5-9/*", 5, 10));
        for wrong in
            ["bytes 4-9/10", "bytes 5-10/10", "bytes 5-9/11", "bytes 5-4/10", "bytes */10", "5-9/10", ""]
        {
            assert!(!starts_at(wrong, 5, 10), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(text in ".*", first: u64, size: u64) {
            starts_at(&text, first, size);
        }
    }
}
