//! Writing a .deb: the same bytes for the same contents, all owned by root, all of one time.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};

use anyhow::{Context as _, Result};
use liblzma::write::XzEncoder;

/// What a package holds.
#[derive(Debug, Default)]
pub struct Contents {
    /// Files for the control part, by name, with their modes.
    pub control: BTreeMap<String, (u32, Vec<u8>)>,
    /// Files by their path from the root, without a leading slash, with their modes.
    pub files: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Contents {
    /// What dpkg calls `Installed-Size`: KiB that the files take, each rounded up, and one for each folder
    /// (deb-substvars(5)).
    pub fn installed_size(&self) -> usize {
        let files = self.files.values().map(|(_, bytes)| bytes.len().div_ceil(1024));
        files.sum::<usize>() + folders(&self.files).len()
    }
}

/// Writes a package; `time` is that of all it holds, in seconds since 1970.
///
/// # Errors
/// Where `out` cannot be written to.
pub fn write(contents: &Contents, time: u64, out: impl Write) -> Result<()> {
    let mut archive = ar::Builder::new(out);
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.xz", tar(&contents.control, time).context("packing the control part")?),
        ("data.tar.xz", tar(&contents.files, time).context("packing the files")?),
    ];
    for (name, bytes) in members {
        let mut header = ar::Header::new(name.as_bytes().to_vec(), bytes.len() as u64);
        header.set_mode(0o100_644);
        header.set_mtime(time);
        archive.append(&header, bytes.as_slice()).with_context(|| format!("writing `{name}`"))?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

/// All folders above the files, the root first.
fn folders(files: &BTreeMap<String, (u32, Vec<u8>)>) -> BTreeSet<&str> {
    let mut folders = BTreeSet::from([""]);
    for path in files.keys() {
        let mut path = path.as_str();
        while let Some((folder, _)) = path.rsplit_once('/') {
            folders.insert(folder);
            path = folder;
        }
    }
    folders
}

/// A tar archive with its folders first, as dpkg wants them, packed with xz.
fn tar(files: &BTreeMap<String, (u32, Vec<u8>)>, time: u64) -> Result<Vec<u8>> {
    /// xz's own default.
    const PRESET: u32 = 6;
    let mut archive = tar::Builder::new(XzEncoder::new(Vec::new(), PRESET));
    let mut add = |path: String, kind, mode, bytes: &mut dyn Read, size| -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_username("root")?;
        header.set_groupname("root")?;
        header.set_mtime(time);
        header.set_size(size);
        // `tar` cleans paths that are given to it, and Debian's begin with `./`.
        anyhow::ensure!(path.len() < 100, "the path `{path}` is too long");
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        Ok(archive.append(&header, bytes)?)
    };
    for folder in folders(files) {
        let path = if folder.is_empty() { "./".to_owned() } else { format!("./{folder}/") };
        add(path, tar::EntryType::Directory, 0o755, &mut std::io::empty(), 0)?;
    }
    for (path, (mode, bytes)) in files {
        add(format!("./{path}"), tar::EntryType::Regular, *mode, &mut bytes.as_slice(), bytes.len() as u64)?;
    }
    Ok(archive.into_inner()?.finish()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deb::{Kind, control, data};

    fn contents() -> Contents {
        let mut contents = Contents::default();
        contents.control.insert("control".into(), (0o644, b"Package: p\n".to_vec()));
        contents.files.insert("usr/bin/p".into(), (0o755, vec![7; 1025]));
        contents.files.insert("usr/share/p/data".into(), (0o644, b"data".to_vec()));
        contents
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.deb");
        write(&contents(), 1_000_000_000, std::fs::File::create(&path).unwrap()).unwrap();
        assert_eq!(control(&path).unwrap()["control"], b"Package: p\n");
        let mut found = Vec::new();
        data(&path, |object, reader| {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes)?;
            let is_folder = object.kind == Kind::Folder;
            found.push(format!("{:o} {} {is_folder} {}", object.mode, object.path, bytes.len()));
            Ok(())
        })
        .unwrap();
        let wanted = [
            "755 usr true 0",
            "755 usr/bin true 0",
            "755 usr/share true 0",
            "755 usr/share/p true 0",
            "755 usr/bin/p false 1025",
            "644 usr/share/p/data false 4",
        ];
        assert_eq!(found, wanted);
    }

    #[test]
    fn the_same_contents_are_the_same_bytes() {
        let bytes = || {
            let mut bytes = Vec::new();
            write(&contents(), 1_000_000_000, &mut bytes).unwrap();
            bytes
        };
        assert!(bytes() == bytes());
    }

    #[test]
    fn the_installed_size_counts_files_and_folders() {
        // 2 and 1 KiB, and `/`, `/usr`, `/usr/bin`, `/usr/share`, `/usr/share/p`.
        assert_eq!(contents().installed_size(), 8);
    }
}
