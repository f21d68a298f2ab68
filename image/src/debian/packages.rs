//! The index of a suite: every package that it holds for one architecture.
//!
//! An index is 50 MB of text with 70 000 packages, and several are open at once, so one pass over
//! the decompressed stream keeps the few fields that resolving needs, in one buffer.

use std::fmt;
use std::io::{BufRead, BufReader};

use anyhow::{Context as _, Result, bail, ensure};
use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;

use super::relation::{is_architecture, is_name};
use super::release::Packing;
use super::version::Version;
use crate::hash::Hash;

/// The packages of one suite for one architecture, those of architecture `all` among them.
pub struct Index {
    /// The values of all packages, each package's [`FIELDS`] in a row.
    text: String,
    /// Sorted by name, and from the highest version down.
    entries: Vec<Entry>,
    /// What is provided and by which entry, sorted by what is provided.
    provides: Vec<(Span, u32)>,
}

/// One package of an index.
#[derive(Clone, Copy)]
pub struct Package<'a> {
    index: &'a Index,
    entry: &'a Entry,
}

/// Whether and how packages of several architectures stand in for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MultiArch {
    /// Serves only its own architecture, and is there for one architecture at a time.
    No,
    /// May be there for several architectures at once, in the same version.
    Same,
    /// Serves packages of every architecture.
    Foreign,
    /// Serves packages of every architecture that ask for `name:any`.
    Allowed,
}

/// How much a system wants the package (Debian Policy 2.5), the most wanted first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// `required`
    Required,
    /// `important`
    Important,
    /// `standard`
    Standard,
    /// `optional`
    Optional,
    /// `extra`, and whatever is not known
    Extra,
}

/// The values that are kept as text, in the order they lie in [`Index::text`].
const FIELDS: [&str; 9] = [
    "Package",
    "Version",
    "Architecture",
    "Depends",
    "Pre-Depends",
    "Conflicts",
    "Breaks",
    "Provides",
    "Filename",
];
const PACKAGE: usize = 0;
const VERSION: usize = 1;
const ARCHITECTURE: usize = 2;
const DEPENDS: usize = 3;
const PRE_DEPENDS: usize = 4;
const CONFLICTS: usize = 5;
const BREAKS: usize = 6;
const PROVIDES: usize = 7;
const FILENAME: usize = 8;

/// Fields that become numbers or flags, numbered on from [`FIELDS`].
const OTHER_FIELDS: [&str; 6] = ["Multi-Arch", "Essential", "Priority", "Size", "SHA256", "Installed-Size"];
const MULTI_ARCH: usize = 9;
const ESSENTIAL: usize = 10;
const PRIORITY: usize = 11;
const SIZE: usize = 12;
const SHA256: usize = 13;
const INSTALLED_SIZE: usize = 14;
const ALL_FIELDS: usize = FIELDS.len() + OTHER_FIELDS.len();

/// Where a text lies in [`Index::text`].
#[derive(Clone, Copy)]
struct Span {
    start: u32,
    end: u32,
}

struct Entry {
    start: u32,
    /// Where each of [`FIELDS`] ends.
    ends: [u32; FIELDS.len()],
    multi_arch: MultiArch,
    priority: Priority,
    essential: bool,
    size: u64,
    installed_size: u64,
    sha256: Hash,
}

impl Index {
    /// Reads a `Packages` file as it is fetched. `label` names it in errors: `trixie/arm64`.
    pub fn read_packed(label: &str, bytes: &[u8], packing: Packing) -> Result<Self> {
        const BUFFER: usize = 1 << 18;
        match packing {
            Packing::Xz => {
                Self::read(label, BufReader::with_capacity(BUFFER, XzDecoder::new_multi_decoder(bytes)))
            }
            Packing::Gz => Self::read(label, BufReader::with_capacity(BUFFER, MultiGzDecoder::new(bytes))),
            Packing::None => Self::read(label, bytes),
        }
    }

    /// Reads the text of a `Packages` file.
    pub fn read(label: &str, reader: impl BufRead) -> Result<Self> {
        let mut builder = Builder::default();
        let read = read_stanzas(reader, |stanza| builder.add(stanza));
        read.with_context(|| format!("reading the package index `{label}`"))?;
        Ok(builder.finish())
    }

    /// Forgets the packages of other architectures, in an index of several.
    pub fn keep(&mut self, architecture: &str) {
        let mut entries = std::mem::take(&mut self.entries);
        entries
            .retain(|entry| ["all", architecture].contains(&Package { index: self, entry }.architecture()));
        self.entries = entries;
        self.provides = self.collect_provides();
    }

    /// How many packages there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no package at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All packages, by name, and the highest version of a name first.
    pub fn packages(&self) -> impl Iterator<Item = Package<'_>> {
        self.entries.iter().map(|entry| Package { index: self, entry })
    }

    /// The packages of that name, the highest version first.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Package<'a>> {
        let start = self.entries.partition_point(|entry| self.name_of(entry) < name);
        let packages = self.entries[start..].iter().map(|entry| Package { index: self, entry });
        packages.take_while(move |package| package.name() == name)
    }

    /// The packages whose `Provides` has that name.
    pub fn providers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Package<'a>> {
        let start = self.provides.partition_point(|(span, _)| self.slice(*span) < name);
        let provides = self.provides[start..].iter().take_while(move |(span, _)| self.slice(*span) == name);
        provides.map(|(_, at)| Package { index: self, entry: &self.entries[*at as usize] })
    }

    fn name_of<'a>(&'a self, entry: &Entry) -> &'a str {
        self.slice(Span { start: entry.start, end: entry.ends[PACKAGE] })
    }

    fn slice(&self, span: Span) -> &str {
        &self.text[span.start as usize..span.end as usize]
    }
}

impl<'a> Package<'a> {
    /// The package's name.
    pub fn name(&self) -> &'a str {
        self.field(PACKAGE)
    }

    /// The version's text, which is known to be a version.
    pub fn version_text(&self) -> &'a str {
        self.field(VERSION)
    }

    /// The version, to be compared.
    pub fn version(&self) -> Result<Version<'a>> {
        Version::parse(self.version_text())
    }

    /// `all` or the architecture of the index.
    pub fn architecture(&self) -> &'a str {
        self.field(ARCHITECTURE)
    }

    /// The field `Multi-Arch`.
    pub fn multi_arch(&self) -> MultiArch {
        self.entry.multi_arch
    }

    /// The field `Priority`.
    pub fn priority(&self) -> Priority {
        self.entry.priority
    }

    /// Whether a Debian system cannot be without it.
    pub fn is_essential(&self) -> bool {
        self.entry.essential
    }

    /// The field `Depends`; empty where there is none, as with the fields below.
    pub fn depends(&self) -> &'a str {
        self.field(DEPENDS)
    }

    /// The field `Pre-Depends`.
    pub fn pre_depends(&self) -> &'a str {
        self.field(PRE_DEPENDS)
    }

    /// The field `Conflicts`.
    pub fn conflicts(&self) -> &'a str {
        self.field(CONFLICTS)
    }

    /// The field `Breaks`.
    pub fn breaks(&self) -> &'a str {
        self.field(BREAKS)
    }

    /// The field `Provides`.
    pub fn provides(&self) -> &'a str {
        self.field(PROVIDES)
    }

    /// The path of the package's file below the archive's base address; see [`is_safe_path`].
    pub fn path(&self) -> &'a str {
        self.field(FILENAME)
    }

    /// The size of the package's file in bytes.
    pub fn size(&self) -> u64 {
        self.entry.size
    }

    /// The size of the unpacked files in KiB, as the package's maker reckoned it.
    pub fn installed_size(&self) -> u64 {
        self.entry.installed_size
    }

    /// The hash of the package's file.
    pub fn sha256(&self) -> Hash {
        self.entry.sha256
    }

    fn field(&self, field: usize) -> &'a str {
        let start = if field == 0 { self.entry.start } else { self.entry.ends[field - 1] };
        self.index.slice(Span { start, end: self.entry.ends[field] })
    }
}

impl fmt::Debug for Package<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.name(), self.version_text(), self.architecture())
    }
}

impl fmt::Debug for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Index of {} packages", self.len())
    }
}

/// Whether `path` stays below the address or folder that it is joined to, and means the same in
/// both: no `..`, no empty part, and no sign that an address gives a meaning to.
pub fn is_safe_path(path: &str) -> bool {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._~:/".contains(&byte);
    path.bytes().all(is_safe) && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// The kept fields of one package, as read.
#[derive(Default)]
struct Stanza {
    values: [String; ALL_FIELDS],
    seen: bool,
}

/// Calls `each` with every stanza that `reader` has.
fn read_stanzas(mut reader: impl BufRead, mut each: impl FnMut(&Stanza) -> Result<()>) -> Result<()> {
    let mut stanza = Stanza::default();
    let mut line = Vec::new();
    let mut field = None;
    for number in 1_u64.. {
        line.clear();
        let count = reader.read_until(b'\n', &mut line).with_context(|| format!("line {number}"))?;
        let text = line.trim_ascii_end();
        if text.is_empty() {
            if stanza.seen {
                each(&stanza).with_context(|| format!("the package that ends at line {number}"))?;
                stanza.clear();
                field = None;
            }
            if count == 0 {
                break;
            }
            continue;
        }
        field = stanza.add_line(text, field).with_context(|| format!("line {number}"))?;
    }
    Ok(())
}

impl Stanza {
    /// Takes a line in; `field` is the kept field of the line before, and the one of this line is
    /// given back.
    fn add_line(&mut self, line: &[u8], field: Option<usize>) -> Result<Option<usize>> {
        let (field, value) = if matches!(line[0], b' ' | b'\t') {
            ensure!(self.seen, "a line that goes on begins the stanza");
            (field, line)
        } else {
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                bail!("`{}` is not a field: there is no `:`", String::from_utf8_lossy(line));
            };
            self.seen = true;
            (find_field(&line[..colon]), &line[colon + 1..])
        };
        let Some(at) = field else { return Ok(None) };
        let value = std::str::from_utf8(value.trim_ascii()).context("not UTF-8")?;
        let kept = &mut self.values[at];
        if !kept.is_empty() {
            ensure!(matches!(line[0], b' ' | b'\t'), "the field is there twice in one stanza");
            kept.push(' ');
        }
        // As flat repositories write it.
        let value = if at == FILENAME { value.strip_prefix("./").unwrap_or(value) } else { value };
        kept.push_str(value);
        Ok(Some(at))
    }

    fn clear(&mut self) {
        self.values.iter_mut().for_each(String::clear);
        self.seen = false;
    }

    fn needed(&self, field: usize) -> Result<&str> {
        let name = FIELDS.iter().chain(&OTHER_FIELDS).nth(field).copied().unwrap_or_default();
        ensure!(!self.values[field].is_empty(), "the package has no field `{name}`");
        Ok(&self.values[field])
    }

    fn number(&self, field: usize) -> Result<u64> {
        let text = self.needed(field)?;
        text.parse().ok().with_context(|| format!("`{text}` is not a number of bytes"))
    }
}

fn find_field(name: &[u8]) -> Option<usize> {
    FIELDS.iter().chain(&OTHER_FIELDS).position(|field| name.eq_ignore_ascii_case(field.as_bytes()))
}

#[derive(Default)]
struct Builder {
    text: String,
    entries: Vec<Entry>,
}

impl Builder {
    fn add(&mut self, stanza: &Stanza) -> Result<()> {
        check(stanza).with_context(|| format!("package `{}`", stanza.values[PACKAGE]))?;
        let start = self.end()?;
        let mut ends = [0; FIELDS.len()];
        for (end, value) in ends.iter_mut().zip(&stanza.values) {
            self.text.push_str(value);
            *end = self.end()?;
        }
        self.entries.push(Entry {
            start,
            ends,
            multi_arch: parse_multi_arch(&stanza.values[MULTI_ARCH]),
            priority: parse_priority(&stanza.values[PRIORITY]),
            essential: stanza.values[ESSENTIAL] == "yes",
            size: stanza.number(SIZE)?,
            installed_size: stanza.values[INSTALLED_SIZE].parse().unwrap_or(0),
            sha256: stanza.needed(SHA256)?.parse().map_err(anyhow::Error::msg)?,
        });
        Ok(())
    }

    fn end(&self) -> Result<u32> {
        u32::try_from(self.text.len()).context("the index has more than 4 GiB of fields")
    }

    fn finish(mut self) -> Index {
        self.text.shrink_to_fit();
        self.entries.shrink_to_fit();
        let mut index = Index { text: self.text, entries: Vec::new(), provides: Vec::new() };
        let mut entries = self.entries;
        entries.sort_by(|a, b| {
            let [a, b] = [a, b].map(|entry| Package { index: &index, entry });
            // The path makes the order total, and so the same for every order in the file.
            let version = || b.version().ok().cmp(&a.version().ok());
            a.name().cmp(b.name()).then_with(version).then_with(|| a.path().cmp(b.path()))
        });
        index.entries = entries;
        index.provides = index.collect_provides();
        index
    }
}

impl Index {
    fn collect_provides(&self) -> Vec<(Span, u32)> {
        let mut provides = Vec::new();
        for (package, at) in self.packages().zip(0..) {
            let field_start = package.entry.ends[PROVIDES - 1];
            let mut start = field_start;
            for one in package.provides().split(',') {
                let name = one.trim_start();
                let begin = start + offset(one.len() - name.len());
                let length =
                    name.find(|c: char| c.is_whitespace() || matches!(c, '(' | ':')).unwrap_or(name.len());
                if length > 0 {
                    provides.push((Span { start: begin, end: begin + offset(length) }, at));
                }
                start += offset(one.len() + 1);
            }
        }
        provides.sort_by(|a, b| (self.slice(a.0), a.1).cmp(&(self.slice(b.0), b.1)));
        provides.dedup_by_key(|(span, at)| (self.slice(*span), *at));
        provides.shrink_to_fit();
        provides
    }
}

/// A length within [`Index::text`], which [`Builder::end`] holds below 4 GiB.
fn offset(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn check(stanza: &Stanza) -> Result<()> {
    let name = stanza.needed(PACKAGE)?;
    ensure!(is_name(name), "`{name}` is not a package's name");
    Version::parse(stanza.needed(VERSION)?)?;
    let architecture = stanza.needed(ARCHITECTURE)?;
    ensure!(is_architecture(architecture), "`{architecture}` is not an architecture");
    let path = stanza.needed(FILENAME)?;
    ensure!(is_safe_path(path), "`{path}` is not a path within the archive");
    Ok(())
}

fn parse_multi_arch(text: &str) -> MultiArch {
    match text {
        "same" => MultiArch::Same,
        "foreign" => MultiArch::Foreign,
        "allowed" => MultiArch::Allowed,
        _ => MultiArch::No,
    }
}

fn parse_priority(text: &str) -> Priority {
    match text {
        "required" => Priority::Required,
        "important" => Priority::Important,
        "standard" => Priority::Standard,
        "optional" => Priority::Optional,
        _ => Priority::Extra,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn stanza(name: &str, version: &str, more: &str) -> String {
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: arm64\n{more}\
             Filename: pool/main/{name}_{version}_arm64.deb\nSize: 12\nSHA256: {HASH}\n\n"
        )
    }

    fn read(text: &str) -> Result<Index> {
        Index::read("test", text.as_bytes())
    }

    fn error(text: &str) -> String {
        format!("{:#}", read(text).unwrap_err())
    }

    #[test]
    fn a_package_has_the_fields_that_its_stanza_has() {
        let more = "Multi-Arch: same\nDepends: libc6 (>= 2.36),\n  libx\nEssential: yes\nPriority: required\n\
                    Description: a thing\n whose text\n .\n goes on: and on\nInstalled-Size: 70\n";
        let index = read(&stanza("thing", "1:2-3", more)).unwrap();
        let package = index.named("thing").next().unwrap();
        assert_eq!(format!("{package:?}"), "thing 1:2-3 arm64");
        assert_eq!(package.depends(), "libc6 (>= 2.36), libx");
        assert_eq!(package.pre_depends(), "");
        assert_eq!(package.path(), "pool/main/thing_1:2-3_arm64.deb");
        assert_eq!((package.size(), package.installed_size()), (12, 70));
        assert_eq!(package.sha256().to_string(), HASH);
        assert_eq!(package.multi_arch(), MultiArch::Same);
        assert_eq!(package.priority(), Priority::Required);
        assert!(package.is_essential());
    }

    #[test]
    fn packages_are_found_by_name_with_the_highest_version_first() {
        let text = [stanza("b", "1", ""), stanza("a", "9", ""), stanza("b", "10", ""), stanza("b", "9", "")];
        let index = read(&text.concat()).unwrap();
        let versions: Vec<_> = index.named("b").map(|package| package.version_text()).collect();
        assert_eq!(versions, ["10", "9", "1"]);
        assert_eq!(index.named("c").count() + index.named("").count(), 0);
        assert_eq!(index.len(), 4);
    }

    #[test]
    fn providers_are_found_by_what_they_provide() {
        let text = [
            stanza("b", "1", "Provides: mail , x (= 2),y:any (= 1)\n"),
            stanza("a", "1", "Provides: mail, mail (= 3)\n"),
        ];
        let index = read(&text.concat()).unwrap();
        let providers = |name| index.providers(name).map(|package| package.name()).collect::<Vec<_>>();
        assert_eq!(providers("mail"), ["a", "b"]);
        assert_eq!(providers("x"), ["b"]);
        assert_eq!(providers("y"), ["b"]);
        assert_eq!(providers("b"), [""; 0]);
    }

    #[test]
    fn what_is_missing_or_wrong_is_named_with_its_place() {
        let good = stanza("good", "1", "");
        assert_eq!(
            error(&format!("{good}Package: thing\nVersion: 1\n")),
            "reading the package index `test`: the package that ends at line 10: package `thing`: \
             the package has no field `Architecture`"
        );
        for (text, wrong) in [
            (stanza("Thing", "1", ""), "`Thing` is not a package's name"),
            (stanza("thing", "1_2", ""), "version `1_2` has `_`"),
            (stanza("thing", "1", "Depends: a\nDepends: b\n"), "line 5: the field is there twice"),
            (
                stanza("thing", "1", "").replace("pool", "../pool"),
                "`../pool/main/thing_1_arm64.deb` is not a path",
            ),
            (stanza("thing", "1", "").replace("12", "many"), "`many` is not a number"),
            (stanza("thing", "1", "").replace(HASH, "abc"), "`abc` is not a SHA-256"),
            ("nonsense\n".into(), "line 1: `nonsense` is not a field"),
            (" nonsense\n".into(), "line 1: a line that goes on begins the stanza"),
        ] {
            assert!(error(&text).contains(wrong), "{} has not {wrong}", error(&text));
        }
    }

    #[test]
    fn a_compressed_index_is_read_and_a_cut_one_is_an_error() {
        let text: String = (0..200).map(|number| stanza(&format!("p{number}"), "1", "")).collect();
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(text.as_bytes()).unwrap();
        let bytes = encoder.finish().unwrap();
        assert_eq!(Index::read_packed("test", &bytes, Packing::Xz).unwrap().len(), 200);
        assert!(Index::read_packed("test", &bytes[..bytes.len() / 2], Packing::Xz).is_err());
    }

    #[test]
    fn a_path_must_stay_where_it_is_joined_to() {
        for path in [
            "pool/main/a/a_1%3a2.deb",
            "/etc/passwd",
            "a/../b",
            "..",
            "",
            "a//b",
            "a/",
            "./a",
            "a?b",
            "a#b",
            "a b",
            "a\\b",
        ] {
            assert!(!is_safe_path(path), "{path}");
        }
        assert!(is_safe_path("pool/main/g/g++/g++_4:14.2~rc1-1_arm64.deb"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([A-Z][a-z]{0,3}:? ?|\n| |\\PC){0,30}") {
            let _ = read(&text);
        }

        #[test]
        fn every_package_is_found_again(names in proptest::collection::btree_set("[a-z][a-z0-9]{1,3}", 0..20)) {
            let text: String = names.iter().rev().map(|name| stanza(name, "1", "")).collect();
            let index = read(&text).unwrap();
            prop_assert!(index.packages().map(|package| package.name()).eq(names.iter().map(String::as_str)));
            for name in &names {
                prop_assert_eq!(index.named(name).count(), 1);
            }
        }
    }
}
