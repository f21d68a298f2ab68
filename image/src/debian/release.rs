//! The signed head of a suite: `dists/SUITE/InRelease`, or `InRelease` of a flat repository.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail, ensure};

use super::keyring::{CLOCK_SKEW, Date, Keyring, days_from_civil, seconds};
use super::packages::is_safe_path;
use super::sources::SOURCE;
use crate::hash::Hash;
use crate::hint::WithHint as _;

/// What a suite's Release file says, once its signature was found good.
#[derive(Debug, Clone)]
pub struct Release {
    /// When the archive wrote it.
    pub date: Date,
    /// The hash of the whole signed file.
    pub hash: Hash,
    /// Whether files are also there under their hash, which does not change under a reader's feet.
    by_hash: bool,
    is_flat: bool,
    /// Path below the suite's folder, to size in bytes and hash.
    files: BTreeMap<String, (u64, Hash)>,
}

/// Where the index of an architecture is, and what it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexFile {
    /// Path below the suite's folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// Of the file as it is fetched: compressed.
    pub hash: Hash,
    /// How it is compressed.
    pub packing: Packing,
}

/// How an index is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// With xz.
    Xz,
    /// With gzip.
    Gz,
    /// Not at all.
    None,
}

/// What an index's name ends with, the smallest first.
const PACKINGS: [(&str, Packing); 3] = [(".xz", Packing::Xz), (".gz", Packing::Gz), ("", Packing::None)];

impl Release {
    /// Reads an `InRelease` file that was asked for as `suite` (a suite's name or code name, as it
    /// stands below `dists/`, or the path of a flat repository with a slash at its end, which need not have a name), and
    /// takes nothing from it before a key of `keyring` vouches for it. `origin` is what it must have as its origin, if
    /// that is known.
    pub fn read(
        suite: &str,
        origin: Option<&str>,
        bytes: &[u8],
        keyring: &Keyring,
        now: SystemTime,
    ) -> Result<Self> {
        let reading = || format!("reading the Release file of `{suite}`");
        let text = keyring.signed_text(bytes, now).with_context(reading).hint(|| {
            "fetch it again from another mirror; if Debian has new keys, add them to `image/keys`".into()
        })?;
        let fields = parse_fields(&text).with_context(reading)?;
        check_suite(&fields, suite).with_context(reading)?;
        check_origin(&fields, origin).with_context(reading)?;
        let date = check_dates(&fields, seconds(now))
            .with_context(reading)
            .hint(|| "check this machine's clock; if it is right, the mirror is stale: use another".into())?;
        let files = parse_files(field(&fields, "SHA256").with_context(reading)?).with_context(reading)?;
        let by_hash = fields.get("acquire-by-hash").is_some_and(|value| value == "yes");
        Ok(Self { date, hash: Hash::of(bytes), by_hash, is_flat: suite.ends_with('/'), files })
    }

    /// The index of the packages of `main` for an architecture, or for [`SOURCE`] of its source packages. That of a
    /// flat repository is of all architectures, and there is none of source packages.
    pub fn index(&self, architecture: &str) -> Result<IndexFile> {
        let (folder, name, packings) = match (architecture, self.is_flat) {
            (SOURCE, _) => ("main/source/".into(), "Sources", &PACKINGS[..1]),
            (_, false) => (format!("main/binary-{architecture}/"), "Packages", &PACKINGS[..]),
            (_, true) => (String::new(), "Packages", &PACKINGS[..]),
        };
        let found = packings.iter().find_map(|(end, packing)| {
            let path = format!("{folder}{name}{end}");
            let (size, hash) = *self.files.get(&path)?;
            Some((path, size, hash, *packing))
        });
        let Some((path, size, hash, packing)) = found else {
            let path = format!("{folder}{name}{}", packings[0].0);
            bail!("the suite has no packages for `{architecture}`: its Release file does not name `{path}`");
        };
        let path = if self.by_hash { format!("{folder}by-hash/SHA256/{hash}") } else { path };
        Ok(IndexFile { path, size, hash, packing })
    }
}

/// The fields by their lower-case name; the lines of a folded field are joined by `\n`.
pub(super) fn parse_fields(text: &str) -> Result<HashMap<String, String>> {
    let mut fields = HashMap::new();
    let mut last = None;
    for (line, number) in text.trim_end().lines().zip(1..) {
        if let Some(value) = line.strip_prefix([' ', '\t']) {
            let Some(field) = last.as_ref().and_then(|name| fields.get_mut(name)) else {
                bail!("line {number} goes on, but no field was begun");
            };
            let field: &mut String = field;
            field.push('\n');
            field.push_str(value.trim());
            continue;
        }
        let Some((name, value)) = line.split_once(':') else {
            bail!("line {number} is not a field: `{}`", line.escape_debug());
        };
        let name = name.to_ascii_lowercase();
        ensure!(!fields.contains_key(&name), "line {number}: the field `{name}` is there twice");
        fields.insert(name.clone(), value.trim().to_owned());
        last = Some(name);
    }
    Ok(fields)
}

pub(super) fn field<'a>(fields: &'a HashMap<String, String>, name: &str) -> Result<&'a str> {
    fields.get(&name.to_ascii_lowercase()).map(String::as_str).with_context(|| format!("no field `{name}`"))
}

/// A mirror that serves another suite's file, though well signed, must not get through.
fn check_suite(fields: &HashMap<String, String>, asked: &str) -> Result<()> {
    if asked.ends_with('/') {
        return Ok(());
    }
    let names = ["codename", "suite"].map(|name| fields.get(name).map(String::as_str));
    if !names.contains(&Some(asked)) {
        let [codename, suite] = names.map(|name| name.unwrap_or("without a name"));
        bail!("the mirror gave another suite: `{codename}` (`{suite}`) instead of `{asked}`");
    }
    Ok(())
}

/// One key may sign many a repository, as that of Kubernetes does for each of its versions.
fn check_origin(fields: &HashMap<String, String>, asked: Option<&str>) -> Result<()> {
    let found = fields.get("origin").map(String::as_str);
    if asked.is_some() && asked != found {
        let [asked, found] = [asked, found].map(|origin| origin.unwrap_or("none"));
        bail!("the mirror gave another repository: its origin is `{found}` instead of `{asked}`");
    }
    Ok(())
}

fn check_dates(fields: &HashMap<String, String>, now: u64) -> Result<Date> {
    let date = parse_date(field(fields, "Date")?)?;
    ensure!(date.0 <= now + CLOCK_SKEW.as_secs(), "it is of {date}, and now is {}", Date(now));
    if let Some(until) = fields.get("valid-until") {
        let until = parse_date(until)?;
        ensure!(now <= until.0, "it was valid until {until}, and now is {}", Date(now));
    }
    Ok(date)
}

/// Reads a date as `Sat, 21 Nov 2026 09:15:44 UTC`, or as openSUSE's build service writes it, with C's `asctime`:
/// `Sat Nov 21 09:15:44 2026`.
fn parse_date(text: &str) -> Result<Date> {
    let wrong = || format!("`{text}` is not a date as `Sat, 21 Nov 2026 09:15:44 UTC`");
    let words: Vec<_> = text.split_ascii_whitespace().collect();
    let date = match words[..] {
        [_, month, day, clock, year] if !text.contains(',') => {
            try_parse_date(&format!("-, {day} {month} {year} {clock} UTC"))
        }
        _ => try_parse_date(text),
    };
    date.with_context(wrong)
}

fn try_parse_date(text: &str) -> Option<Date> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_ascii_whitespace();
    words.next()?.strip_suffix(',')?;
    let day = words.next()?.parse().ok()?;
    let month = words.next()?;
    let month = MONTHS.iter().zip(1..).find(|(name, _)| **name == month)?.1;
    let year = words.next()?.parse().ok().filter(|year| *year < 10_000)?;
    let mut clock = words.next()?.split(':').map(|number| number.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let is_end =
        clock.next().is_none() && matches!(words.next()?, "UTC" | "GMT" | "+0000") && words.next().is_none();
    if !is_end || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(Date(days_from_civil(year, month, day)? * 86_400 + hour * 3600 + minute * 60 + second))
}

/// The lines `hash size path` of a field of hashes.
pub(super) fn parse_files(text: &str) -> Result<BTreeMap<String, (u64, Hash)>> {
    let mut files = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        let [hash, size, path] = words[..] else {
            bail!("`{line}` is not a hash, a size and a path");
        };
        let hash = hash.parse().map_err(anyhow::Error::msg)?;
        let size = size.parse().ok().with_context(|| format!("`{size}` is not a size, in `{line}`"))?;
        let path = path.strip_prefix("./").unwrap_or(path);
        ensure!(is_safe_path(path), "`{path}` is not a path within the suite");
        ensure!(files.insert(path.to_owned(), (size, hash)).is_none(), "`{path}` is there twice");
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::keyring::tests::{Pair, keyring, now};
    use super::*;
    use crate::hint::report;

    const HASH: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn text() -> String {
        format!(
            "Origin: Debian\nSuite: stable\nCodename: trixie\nDate: Sat, 21 Nov 2026 09:15:44 UTC\n\
             Valid-Until: Sat, 28 Nov 2026 09:15:44 UTC\nAcquire-By-Hash: yes\nMD5Sum:\n 0 0 x\nSHA256:\n \
             {HASH}    70 main/binary-arm64/Packages.xz\n {HASH} 7 main/binary-arm64/Release\n"
        )
    }

    fn read(suite: &str, text: &str) -> Result<Release> {
        let pair = Pair::generate(1);
        Release::read(suite, None, pair.sign(text).as_bytes(), &keyring(&pair), now())
    }

    fn error(text: &str) -> String {
        report(&read("trixie", text).unwrap_err())
    }

    #[test]
    fn an_index_is_found_under_its_hash() {
        for suite in ["trixie", "stable"] {
            let release = read(suite, &text()).unwrap();
            assert_eq!(release.date.to_string(), "2026-11-21T09:15:44Z");
            let hash: Hash = HASH.parse().unwrap();
            let path = format!("main/binary-arm64/by-hash/SHA256/{HASH}");
            let packing = Packing::Xz;
            assert_eq!(release.index("arm64").unwrap(), IndexFile { path, size: 70, hash, packing });
        }
        let release = read("trixie", &text().replace("Acquire-By-Hash: yes\n", "")).unwrap();
        assert_eq!(release.index("arm64").unwrap().path, "main/binary-arm64/Packages.xz");
        assert!(release.index("riscv64").unwrap_err().to_string().contains("no packages for `riscv64`"));
    }

    #[test]
    fn another_suite_is_refused() {
        let error = report(&read("trixie-security", &text()).unwrap_err());
        assert_eq!(
            error,
            "error: reading the Release file of `trixie-security`\n  \
             cause: the mirror gave another suite: `trixie` (`stable`) instead of `trixie-security`"
        );
        assert!(read("", &text().replace("Suite: stable\n", "")).is_err());
    }

    #[test]
    fn a_flat_repository_has_one_index_and_any_name() {
        let text = format!(
            "Origin: obs://build/kubernetes:v1.32\nCodename: deb\nDate: Sat Nov 21 09:15:44 2026\nSHA256:\n \
             {HASH} 70 ./Packages\n {HASH} 7 Packages.gz\n"
        );
        let release = read("./", &text).unwrap();
        assert_eq!(release.date.to_string(), "2026-11-21T09:15:44Z");
        for architecture in ["arm64", "amd64"] {
            let index = release.index(architecture).unwrap();
            assert_eq!((index.path.as_str(), index.packing), ("Packages.gz", Packing::Gz));
        }
        let release = read("./", &text.replace("Packages.gz", "x")).unwrap();
        assert_eq!(release.index("arm64").unwrap().packing, Packing::None);
        assert!(release.index(SOURCE).is_err());

        let pair = Pair::generate(1);
        let of = |origin| Release::read("./", origin, pair.sign(&text).as_bytes(), &keyring(&pair), now());
        assert!(of(Some("obs://build/kubernetes:v1.32")).is_ok());
        let error = report(&of(Some("obs://build/kubernetes:v1.33")).unwrap_err());
        assert!(error.contains("its origin is `obs://build/kubernetes:v1.32` instead of"), "{error}");
    }

    #[test]
    fn a_file_past_its_time_or_before_it_is_refused() {
        assert_eq!(
            error(&text().replace("28 Nov", "23 Nov")),
            "error: reading the Release file of `trixie`\n  \
             cause: it was valid until 2026-11-23T09:15:44Z, and now is 2026-11-24T00:00:00Z\n\
             hint: check this machine's clock; if it is right, the mirror is stale: use another"
        );
        assert!(
            error(&text().replace("21 Nov", "26 Nov")).contains("it is of 2026-11-26T09:15:44Z, and now is")
        );
        let pair = Pair::generate(1);
        let later = now() + Duration::from_hours(24 * 5);
        assert!(
            Release::read("trixie", None, pair.sign(&text()).as_bytes(), &keyring(&pair), later).is_err()
        );
        // A suite need not say how long it is valid.
        assert!(read("trixie", &text().replace("Valid-Until: Sat, 28", "X: Sat, 23")).is_ok());
    }

    #[test]
    fn a_file_signed_by_another_key_or_by_none_is_refused() {
        let keyring = keyring(&Pair::generate(1));
        for bytes in [Pair::generate(2).sign(&text()), text()] {
            let error =
                report(&Release::read("trixie", None, bytes.as_bytes(), &keyring, now()).unwrap_err());
            assert!(error.contains("hint: fetch it again from another mirror"), "{error}");
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        for (text, wrong) in [
            (text().replace("SHA256:", "SHA1:"), "no field `SHA256`"),
            (text().replace("Date: ", "Time: "), "no field `Date`"),
            (text().replace("21 Nov", "31 Nov"), "`Sat, 31 Nov 2026 09:15:44 UTC` is not a date"),
            (text().replace("Origin:", "Suite:"), "line 2: the field `suite` is there twice"),
            (text().replace("Origin: Debian", "Debian"), "line 1 is not a field: `Debian`"),
            (text().replace("Origin:", " Origin:"), "line 1 goes on"),
            (text().replace(HASH, "abc"), "`abc` is not a SHA-256"),
            (text().replace(" 70 ", " x "), "`x` is not a size"),
            (text().replace(" 70 ", " "), "is not a hash, a size and a path"),
            (text().replace("main/binary-arm64/R", "../R"), "`../Release` is not a path"),
            (
                text().replace("arm64/Release", "arm64/Packages.xz"),
                "`main/binary-arm64/Packages.xz` is there twice",
            ),
        ] {
            let error = error(&text);
            assert!(error.contains(wrong), "{error} has not {wrong}");
        }
    }

    #[test]
    fn a_date_is_read_or_refused() {
        assert_eq!(parse_date("Thu, 01 Jan 1970 00:00:01 UTC").unwrap(), Date(1));
        assert_eq!(
            parse_date("Tue, 29 Feb 2000 12:00:00 +0000").unwrap().to_string(),
            "2000-02-29T12:00:00Z"
        );
        for text in [
            "",
            "Sat, 29 Feb 2026 00:00:00 UTC",
            "Sat, 0 Jan 2026 00:00:00 UTC",
            "Sat, 1 Jan 1969 00:00:00 UTC",
            "Sat, 1 Jan 2026 24:00:00 UTC",
            "Sat, 1 Jan 2026 00:00 UTC",
            "Sat, 1 Jan 2026 00:00:00 CET",
            "Sat Nov 31 09:15:44 2026",
            "Sat Nov 21 09:15:44",
            "Sat, 1 Jan 99999999999999999999 00:00:00 UTC",
            "2026-01-01T00:00:00Z",
        ] {
            assert!(parse_date(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "([A-Z][a-z]{0,3}:? ?|\n| |\\PC){0,30}") {
            if let Ok(fields) = parse_fields(&text) {
                let _ = (check_suite(&fields, "a"), check_dates(&fields, 0));
            }
            let _ = (parse_date(&text), parse_files(&text));
        }
    }
}
