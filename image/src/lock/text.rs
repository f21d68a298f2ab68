//! The lock's file: its text, read and written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;
use toml::Spanned;

use super::content::{Content, RawComponent};
use super::{Lock, LockedComponent, LockedPackage, LockedSuite};
use crate::debian::packages::is_safe_path;
use crate::debian::relation::{is_architecture, is_name};
use crate::debian::version::Version;
use crate::hash::Hash;
use crate::hint::WithHint as _;

/// The form of the file that this module reads and writes.
const VERSION: i64 = 1;

const HEADER: &str = "\
# Written by `cargo xtask lock`; what is changed here by hand is lost.
# After a merge conflict take either side and run `cargo xtask lock`.
";

impl Lock {
    /// Reads a lock file. One that is not there is an empty lock.
    pub fn read(path: &Path) -> Result<Self> {
        let reading = || format!("reading the lock `{}`", path.display());
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other.with_context(reading)?,
        };
        let lock = String::from_utf8(bytes).context("it is not UTF-8").and_then(|text| Self::parse(&text));
        lock.with_context(reading)
            .hint(|| "take the file as it was committed, or remove it and run `cargo xtask lock`".into())
    }

    /// Reads the text of a lock file; errors name the line.
    pub fn parse(text: &str) -> Result<Self> {
        refuse_conflict_marks(text)?;
        let raw: RawLock = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(String::new(), |span| format!("line {}: ", line_of(text, &span)));
            anyhow!("{line}{}", error.message())
        })?;
        check(raw).map_err(|(span, error)| error.context(format!("line {}", line_of(text, &span))))
    }

    /// Writes the lock file: beside it first, so that it is there whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_whole(path, self.to_string().as_bytes())
            .with_context(|| format!("writing the lock `{}`", path.display()))
    }
}

/// The text of the lock file; the same lock always gives the same bytes.
impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}version = {VERSION}")?;
        for (name, suite) in &self.suites {
            let (name, archive, date) = (quote(name), quote(&suite.archive), quote(&suite.date));
            write!(
                f,
                "\n[[suite]]\nname = {name}\narchive = {archive}\ndate = {date}\nsha256 = \"{}\"\n",
                suite.sha256
            )?;
        }
        for (name, component) in &self.components {
            let LockedComponent { request, content } = component;
            write!(f, "\n[component.{}]\nrequest = \"{request}\"\n{content}", key(name))?;
        }
        Ok(())
    }
}

impl fmt::Display for LockedPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = [
            ("name", &self.name),
            ("version", &self.version),
            ("arch", &self.arch),
            ("suite", &self.suite),
            ("archive", &self.archive),
            ("path", &self.path),
        ];
        f.write_str("{ ")?;
        texts.into_iter().try_for_each(|(key, text)| write!(f, "{key} = {}, ", quote(text)))?;
        write!(f, "size = {}, sha256 = \"{}\" }}", self.size, self.sha256)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLock {
    version: Spanned<i64>,
    #[serde(default)]
    suite: Vec<Spanned<RawSuite>>,
    #[serde(default)]
    component: BTreeMap<String, Spanned<RawComponent>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSuite {
    name: String,
    archive: String,
    date: String,
    sha256: Hash,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPackage {
    name: String,
    version: String,
    arch: String,
    suite: String,
    archive: String,
    path: String,
    size: u64,
    sha256: Hash,
}

/// Where in the text an error is, and the error.
pub(super) type Misplaced = (Range<usize>, anyhow::Error);

fn check(raw: RawLock) -> Result<Lock, Misplaced> {
    let mut lock = Lock::default();
    if *raw.version.get_ref() != VERSION {
        let error = anyhow!(
            "the lock is of version {}, and this builder reads version {VERSION}",
            raw.version.get_ref()
        );
        return Err((raw.version.span(), error));
    }
    for suite in raw.suite {
        let span = suite.span();
        let RawSuite { name, archive, date, sha256 } = suite.into_inner();
        if lock.suites.insert(name.clone(), LockedSuite { archive, date, sha256 }).is_some() {
            return Err((span, anyhow!("the suite `{name}` is there twice")));
        }
    }
    for (name, component) in raw.component {
        let at = component.span();
        let mut component = component.into_inner();
        let other = component
            .content(&name)
            .map_err(|(span, error)| (if span.is_empty() { at } else { span }, error))?;
        if let Some(content) = other {
            lock.components.insert(name, LockedComponent { request: component.request, content });
            continue;
        }
        let mut packages: Vec<LockedPackage> = Vec::new();
        let mut seen = BTreeSet::new();
        for package in component.packages.into_iter().flatten() {
            let span = package.span();
            let package =
                check_package(package.into_inner(), &lock.suites).map_err(|error| (span.clone(), error))?;
            if !seen.insert(package.key()) {
                return Err((
                    span,
                    anyhow!("`{}:{}` is there twice in `{name}`", package.name, package.arch),
                ));
            }
            packages.push(package);
        }
        packages.sort();
        let content = Content::Packages(packages);
        lock.components.insert(name, LockedComponent { request: component.request, content });
    }
    Ok(lock)
}

fn check_package(raw: RawPackage, suites: &BTreeMap<String, LockedSuite>) -> Result<LockedPackage> {
    let RawPackage { name, version, arch, suite, archive, path, size, sha256 } = raw;
    ensure!(is_name(&name), "`{name}` is not a package's name");
    ensure!(is_architecture(&arch), "`{arch}` is not an architecture");
    Version::parse(&version)?;
    ensure!(is_safe_path(&path), "`{path}` is not a path within an archive");
    let locked = suites.get(&suite).with_context(|| format!("the suite `{suite}` is not in the lock"))?;
    ensure!(
        locked.archive == archive,
        "the suite `{suite}` is of the archive `{}`, not `{archive}`",
        locked.archive
    );
    Ok(LockedPackage { name, arch, version, suite, archive, path, size, sha256 })
}

fn refuse_conflict_marks(text: &str) -> Result<()> {
    let is_mark = |line: &str| {
        line == "=======" || ["<<<<<<< ", "||||||| ", ">>>>>>> "].iter().any(|mark| line.starts_with(mark))
    };
    match text.lines().zip(1..).find(|(line, _)| is_mark(line)) {
        Some((_, number)) => bail!("line {number}: a mark of a merge conflict"),
        None => Ok(()),
    }
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.get(..span.start).unwrap_or(text).matches('\n').count() + 1
}

/// A TOML key: as it is where that is allowed.
fn key(name: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if !name.is_empty() && name.chars().all(is_bare) { name.to_owned() } else { quote(name) }
}

/// A TOML basic string.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mode = std::fs::Permissions::from_mode(0o666);
    let mut file = tempfile::Builder::new().prefix(".lock-").permissions(mode).tempfile_in(folder)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}
