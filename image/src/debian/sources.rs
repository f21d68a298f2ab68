//! The index of a suite's source packages, for components of architecture `source`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use liblzma::bufread::XzDecoder;

use super::packages::is_safe_path;
use super::release::{field, parse_fields, parse_files};
use super::resolve::Wanted;
use super::version::Version;
use crate::hash::Hash;

/// What stands in the place of an architecture for source packages, as Debian's own index folder has it.
pub const SOURCE: &str = "source";

/// A source package with the archives that it consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourcePackage {
    pub name: String,
    /// With its epoch.
    pub version: String,
    /// Path below the archive's base address, to size in bytes and hash: the upstream archive and Debian's
    /// part of it. The `.dsc` and signatures are left out: the index vouches for each archive already.
    pub files: BTreeMap<String, (u64, Hash)>,
}

/// A suite with the source packages that were looked for.
#[derive(Debug, Clone, Copy)]
pub struct Suite<'a> {
    pub name: &'a str,
    /// See [`crate::config::DebSource::suites`].
    pub only_when_named: bool,
    pub packages: &'a [SourcePackage],
}

/// Reads the packages of these names out of a `Sources.xz`. `label` names it in errors: `trixie/source`.
pub fn read_xz(label: &str, bytes: &[u8], names: &BTreeSet<&str>) -> Result<Vec<SourcePackage>> {
    let decoder = XzDecoder::new_multi_decoder(bytes);
    read(BufReader::with_capacity(1 << 18, decoder), names)
        .with_context(|| format!("reading the source index `{label}`"))
}

/// Of all suites the highest version; of equal ones, that of the suite named first.
pub fn newest<'a>(wanted: &Wanted<'_>, suites: &[Suite<'a>]) -> Result<(&'a str, &'a SourcePackage)> {
    ensure!(
        wanted.architecture.is_none(),
        "`{wanted}` asks for an architecture, and a source package has none"
    );
    let mut found: Option<(Version<'_>, &str, &SourcePackage)> = None;
    for suite in suites {
        if !wanted.suite.map_or(!suite.only_when_named, |named| named == suite.name) {
            continue;
        }
        for package in suite.packages.iter().filter(|package| package.name == wanted.name) {
            let version = Version::parse(&package.version)?;
            if found.as_ref().is_none_or(|(best, ..)| version > *best) {
                found = Some((version, suite.name, package));
            }
        }
    }
    let names: Vec<_> = suites.iter().map(|suite| suite.name).collect();
    let (_, suite, package) =
        found.with_context(|| format!("there is no source package `{wanted}` in {}", names.join(", ")))?;
    Ok((suite, package))
}

fn read(mut reader: impl BufRead, names: &BTreeSet<&str>) -> Result<Vec<SourcePackage>> {
    let mut packages = Vec::new();
    let (mut stanza, mut line) = (String::new(), String::new());
    for number in 1_u64.. {
        line.clear();
        let count = reader.read_line(&mut line).with_context(|| format!("line {number}"))?;
        if !line.trim().is_empty() {
            stanza.push_str(&line);
            continue;
        }
        // Most are of other packages: only the first line of those is looked at.
        if names.contains(name_of(&stanza)) {
            let package =
                package(&stanza).with_context(|| format!("the package that ends at line {number}"))?;
            packages.extend(package);
        }
        stanza.clear();
        if count == 0 {
            break;
        }
    }
    Ok(packages)
}

fn name_of(stanza: &str) -> &str {
    let mut lines = stanza.lines();
    lines.find_map(|line| line.strip_prefix("Package:")).map_or("", str::trim)
}

/// None for what the archive keeps only because something was built with it.
fn package(stanza: &str) -> Result<Option<SourcePackage>> {
    let fields = parse_fields(stanza)?;
    if fields.get("extra-source-only").is_some_and(|value| value == "yes") {
        return Ok(None);
    }
    let (name, version) = (field(&fields, "Package")?.to_owned(), field(&fields, "Version")?.to_owned());
    Version::parse(&version)?;
    let folder = field(&fields, "Directory")?;
    let archives = parse_files(field(&fields, "Checksums-Sha256")?)?.into_iter().filter(|(file, _)| {
        file.contains(".tar.") && Path::new(file).extension().is_none_or(|kind| kind != "asc")
    });
    let files: BTreeMap<_, _> = archives.map(|(file, known)| (format!("{folder}/{file}"), known)).collect();
    ensure!(!files.is_empty(), "`{name}` has no archive of its source");
    for path in files.keys() {
        ensure!(is_safe_path(path), "`{path}` is not a path within the archive");
    }
    Ok(Some(SourcePackage { name, version, files }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn stanza(name: &str, version: &str, more: &str) -> String {
        format!(
            "Package: {name}\nBinary: {name}-tools\nVersion: {version}\nArchitecture: any\nFiles:\n 00 9 x.dsc\n\
             {more}Directory: pool/main/{name}\nChecksums-Sha256:\n {HASH} 9 {name}_1.dsc\n {HASH} 70 \
             {name}_1.orig.tar.bz2\n {HASH} 5 {name}_1.orig.tar.bz2.asc\n {HASH} 7 {name}_1-1.debian.tar.xz\n\n"
        )
    }

    fn read(text: &str) -> Result<Vec<SourcePackage>> {
        super::read(text.as_bytes(), &BTreeSet::from(["u-boot"]))
    }

    fn chosen(wanted: &str, suites: &[(&str, bool, &str)]) -> Result<String> {
        let read: Vec<_> = suites.iter().map(|(.., text)| read(text).unwrap()).collect();
        let suites: Vec<_> = suites
            .iter()
            .zip(&read)
            .map(|((name, only_when_named, _), packages)| Suite {
                name,
                only_when_named: *only_when_named,
                packages,
            })
            .collect();
        newest(&Wanted::parse(wanted)?, &suites)
            .map(|(suite, package)| format!("{suite} {}", package.version))
    }

    #[test]
    fn a_source_package_is_its_archives() {
        let text = stanza("other", "1", "") + &stanza("u-boot", "2025.01-3", "") + &stanza("z", "1", "");
        let packages = read(&text).unwrap();
        assert_eq!(packages.len(), 1);
        assert_eq!((packages[0].name.as_str(), packages[0].version.as_str()), ("u-boot", "2025.01-3"));
        let files: Vec<_> =
            packages[0].files.iter().map(|(path, (size, _))| (path.as_str(), *size)).collect();
        assert_eq!(
            files,
            [
                ("pool/main/u-boot/u-boot_1-1.debian.tar.xz", 7),
                ("pool/main/u-boot/u-boot_1.orig.tar.bz2", 70)
            ]
        );
        assert!(read(&stanza("u-boot", "1", "Extra-Source-Only: yes\n")).unwrap().is_empty());
    }

    #[test]
    fn the_highest_version_counts_and_a_named_suite_before_it() {
        let [one, nine, ten] = ["1", "9", "10"].map(|version| stanza("u-boot", version, ""));
        let suites = [("a", false, one + &nine), ("b", false, stanza("u-boot", "9", "")), ("c", true, ten)];
        let suites = suites.each_ref().map(|(name, named, text)| (*name, *named, text.as_str()));
        assert_eq!(chosen("u-boot", &suites).unwrap(), "a 9");
        assert_eq!(chosen("u-boot/c", &suites).unwrap(), "c 10");
        assert!(
            chosen("u-boot:amd64", &suites).unwrap_err().to_string().contains("asks for an architecture")
        );
        let error = chosen("u-boat", &suites).unwrap_err().to_string();
        assert_eq!(error, "there is no source package `u-boat` in a, b, c");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = stanza("u-boot", "1", "");
        for (text, wrong) in [
            (good.replace("Version: 1", "Version: 1_2"), "version `1_2` has `_`"),
            (good.replace("Directory: pool", "Directory: ../pool"), "is not a path within the archive"),
            (good.replace("Directory", "Folder"), "no field `Directory`"),
            (good.replace(".tar.", ".zip."), "`u-boot` has no archive of its source"),
            (good.replace(" 70 ", " many "), "`many` is not a size"),
        ] {
            let error = format!("{:#}", read(&text).unwrap_err());
            assert!(error.contains(wrong), "{error} has not {wrong}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(Package: u-boot\n|[A-Z][a-z]{0,3}:? ?|\n| |\\PC){0,30}") {
            let _ = read(&text);
        }
    }
}
