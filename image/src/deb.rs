//! Reading and writing a .deb: an `ar` archive with `control.tar.*` and `data.tar.*` (deb(5)).

mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

pub use write::{Contents, write};

/// One object in a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Path from the root, without a leading slash; `bin`, `sbin` and `lib*` are moved below `usr`,
    /// as in every merged-/usr system.
    pub path: String,
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Extended attributes, such as `security.capability`.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// What an object is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file of so many bytes.
    File(u64),
    Folder,
    /// A symbolic link and its target.
    Link(String),
    /// Another name of a file that came before in the same package.
    SameAs(String),
}

/// Calls `each` for every object in the package's data, in the package's order, with its content.
pub fn data(package: &Path, mut each: impl FnMut(Object, &mut dyn Read) -> Result<()>) -> Result<()> {
    let context = || format!("reading `{}`", package.display());
    member(package, "data.tar", |reader| {
        let mut archive = tar::Archive::new(reader);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let Some(object) = object(&mut entry)? else { continue };
            let what = object.path.clone();
            each(object, &mut entry).with_context(|| format!("unpacking `{what}`"))?;
        }
        Ok(())
    })
    .with_context(context)
}

/// The files of the package's control part, by name: `control`, `postinst`, ….
pub fn control(package: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    member(package, "control.tar", |reader| {
        for entry in tar::Archive::new(reader).entries()? {
            let mut entry = entry?;
            if entry.header().entry_type().is_file() {
                let name = entry.path()?.to_string_lossy().trim_start_matches("./").to_owned();
                let mut content = Vec::new();
                entry.by_ref().take(16 << 20).read_to_end(&mut content)?;
                files.insert(name, content);
            }
        }
        Ok(())
    })
    .with_context(|| format!("reading `{}`", package.display()))?;
    Ok(files)
}

/// Finds a member by the start of its name and reads it unpacked.
fn member(package: &Path, start: &str, mut read: impl FnMut(&mut dyn Read) -> Result<()>) -> Result<()> {
    let mut archive = ar::Archive::new(BufReader::with_capacity(1 << 16, File::open(package)?));
    while let Some(entry) = archive.next_entry() {
        let entry = entry.context("this is not a whole .deb")?;
        let name = String::from_utf8_lossy(entry.header().identifier()).into_owned();
        if !name.starts_with(start) {
            continue;
        }
        return match &name[start.len()..] {
            ".xz" => read(&mut liblzma::read::XzDecoder::new(entry)),
            ".zst" => read(&mut zstd::Decoder::new(entry)?),
            ".gz" => read(&mut flate2::read::GzDecoder::new(entry)),
            "" => read(&mut { entry }),
            other => bail!("`{start}` is packed as `{other}`, which is not known here"),
        };
    }
    bail!("there is no `{start}` in it: this is not a whole .deb")
}

fn object(entry: &mut tar::Entry<'_, impl Read>) -> Result<Option<Object>> {
    let raw = entry.path()?.to_str().context("a path is not UTF-8")?.to_owned();
    let Some(path) = merged(&raw)? else { return Ok(None) };
    let link = |entry: &tar::Entry<'_, _>| -> Result<String> {
        let name = entry.link_name()?.context("a link without a target")?;
        Ok(name.to_str().context("a link's target is not UTF-8")?.to_owned())
    };
    let kind = match entry.header().entry_type() {
        tar::EntryType::Regular | tar::EntryType::Continuous => Kind::File(entry.size()),
        tar::EntryType::Directory => Kind::Folder,
        tar::EntryType::Symlink => Kind::Link(link(entry)?),
        tar::EntryType::Link => Kind::SameAs(merged(&link(entry)?)?.context("a hard link to the root")?),
        other => bail!("`{raw}` is of a kind ({other:?}) that packages don't hold"),
    };
    // The links `bin -> usr/bin` themselves become `usr/bin -> usr/bin` by the move; they are made elsewhere.
    if matches!(kind, Kind::Link(_)) && MERGED.contains(&path.trim_start_matches("usr/")) {
        return Ok(None);
    }
    let mut xattrs = BTreeMap::new();
    for extension in entry.pax_extensions()?.into_iter().flatten() {
        let extension = extension?;
        if let Some(name) = extension.key().ok().and_then(|key| key.strip_prefix("SCHILY.xattr.")) {
            xattrs.insert(name.to_owned(), extension.value_bytes().to_vec());
        }
    }
    let header = entry.header();
    let id = |id: u64| u32::try_from(id).context("a user or group number is too large");
    let (uid, gid) = (id(header.uid()?)?, id(header.gid()?)?);
    Ok(Some(Object { path, kind, mode: header.mode()? & 0o7777, uid, gid, xattrs }))
}

const MERGED: [&str; 5] = ["bin", "sbin", "lib", "lib64", "lib32"];

/// Cleans a path of a package: no leading `./` or `/`, nothing that climbs out, merged below `usr`.
fn merged(raw: &str) -> Result<Option<String>> {
    let mut parts = Vec::new();
    for part in raw.split('/') {
        match part {
            "" | "." => {}
            ".." => bail!("`{raw}` climbs out of the root"),
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    Ok(match parts.first() {
        None => None,
        Some(first) if MERGED.contains(first) => Some(format!("usr/{path}")),
        Some(_) => Some(path),
    })
}

/// Copies at most as many bytes as announced; fewer are an error.
pub fn copy(from: &mut dyn Read, to: &mut impl io::Write, size: u64) -> Result<()> {
    let copied = io::copy(from, to)?;
    if copied != size {
        bail!("{size} bytes were announced, {copied} came");
    }
    Ok(())
}

/// Packages made for tests.
#[cfg(test)]
pub mod fake {
    use std::path::Path;

    /// Writes a .deb with this control file and these files.
    ///
    /// # Panics
    /// Where the disk refuses.
    pub fn write(path: &Path, control: &str, files: &[(&str, &str)]) {
        let tar = |files: &[(&str, &str)]| {
            let mut tar = tar::Builder::new(Vec::new());
            for (path, content) in files {
                let mut header = tar::Header::new_gnu();
                header.set_mode(0o644);
                header.set_uid(0);
                header.set_gid(0);
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, format!("./{path}"), content.as_bytes()).unwrap();
            }
            tar.into_inner().unwrap()
        };
        let parts = [
            ("debian-binary", b"2.0\n".to_vec()),
            ("control.tar", tar(&[("control", control)])),
            ("data.tar", tar(files)),
        ];
        let mut archive = ar::Builder::new(std::fs::File::create(path).unwrap());
        for (name, content) in parts {
            let header = ar::Header::new(name.as_bytes().to_vec(), content.len() as u64);
            archive.append(&header, &content[..]).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_merged_below_usr() {
        for (raw, clean) in [
            ("./", None),
            ("./bin/sh", Some("usr/bin/sh")),
            ("/lib/x.so", Some("usr/lib/x.so")),
            ("./etc//passwd", Some("etc/passwd")),
            ("library/x", Some("library/x")),
        ] {
            assert_eq!(merged(raw).unwrap().as_deref(), clean, "{raw}");
        }
        assert!(merged("./../etc/passwd").is_err());
        assert!(merged("usr/../../x").is_err());
    }

    #[test]
    fn what_is_not_a_deb_is_a_clear_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for content in ["", "!<arch>\n", "hello", "!<arch>\ndata.tar.xz  0  0  0  100644  10  `\nabc"] {
            std::fs::write(file.path(), content).unwrap();
            let error = format!("{:#}", data(file.path(), |_, _| Ok(())).unwrap_err());
            assert!(error.starts_with("reading `"), "{content}: {error}");
        }
    }
}
