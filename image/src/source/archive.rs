//! Files inside archives of any nesting: tar, gzip, xz, zstd and zip, told apart by their first bytes.
//!
//! All is read as a stream, so an archive of gigabytes takes little memory; only a zip inside something else
//! is put aside in a file that has no name.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

/// Archives within archives, at most.
const DEPTH: usize = 12;
/// All that is unpacked may have, in bytes: an archive that makes more of itself is an attack or an error.
const LIMIT: u64 = 256 << 30;

/// What lies in an archive.
pub enum Item<'a> {
    File(&'a mut dyn Read),
    /// A symbolic link, with its target.
    Link(&'a str),
}

/// Told of each file: its path in the innermost archive, the way to it through all of them, and its content.
pub type Visit<'v> = dyn FnMut(&str, &str, Item<'_>) -> Result<()> + 'v;

/// Walks through a file and all archives in it, or through a folder. `scratch` is a folder for what has to be
/// put aside. Returns how many files were seen inside archives.
///
/// # Errors
/// Where an archive is damaged, the error names it.
pub fn walk(path: &Path, scratch: &Path, visit: &mut Visit<'_>) -> Result<u64> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let context = || format!("reading `{}`", path.display());
    let mut walk = Walk { scratch, visit, left: LIMIT, seen: 0 };
    if path.is_dir() {
        for file in walkdir::WalkDir::new(path).sort_by_file_name() {
            let file = file.with_context(context)?;
            if file.file_type().is_file() {
                let inner = file.path().strip_prefix(path)?.to_string_lossy().into_owned();
                let content = File::open(file.path()).with_context(context)?;
                walk.open(&inner, &inner, Box::new(content), 1)?;
            }
        }
    } else {
        let file = File::open(path).with_context(context)?;
        walk.open(&name, &name, Box::new(file), 0)?;
    }
    Ok(walk.seen)
}

struct Walk<'w, 'v> {
    scratch: &'w Path,
    visit: &'w mut Visit<'v>,
    left: u64,
    seen: u64,
}

/// What the first bytes of a file say.
enum Kind {
    Gzip,
    Xz,
    Zstd,
    Zip,
    Tar,
    Other,
}

fn kind(head: &[u8]) -> Kind {
    match head {
        [0x1f, 0x8b, 8, ..] => Kind::Gzip,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Kind::Xz,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Kind::Zstd,
        [b'P', b'K', 3, 4, ..] => Kind::Zip,
        // POSIX and GNU; the header of 512 bytes has it at 257.
        _ if head.get(257..262) == Some(b"ustar") => Kind::Tar,
        _ => Kind::Other,
    }
}

/// The name without the ending of a compression.
fn inner(name: &str) -> String {
    for (ending, instead) in [(".tgz", ".tar"), (".txz", ".tar"), (".gz", ""), (".xz", ""), (".zst", "")] {
        if let Some(rest) = name.strip_suffix(ending) {
            return format!("{rest}{instead}");
        }
    }
    name.to_owned()
}

impl Walk<'_, '_> {
    fn open(&mut self, path: &str, way: &str, mut reader: Box<dyn Read + '_>, depth: usize) -> Result<()> {
        let damaged = || format!("`{way}` is damaged");
        if depth > DEPTH {
            bail!("`{way}`: archives lie in each other in more than {DEPTH} levels");
        }
        let mut head = Vec::new();
        reader.by_ref().take(512).read_to_end(&mut head).with_context(damaged)?;
        let kind = kind(&head);
        let whole: Box<dyn Read + '_> = Box::new(Cursor::new(head).chain(reader));
        match kind {
            Kind::Gzip => {
                self.open(&inner(path), way, Box::new(flate2::read::MultiGzDecoder::new(whole)), depth + 1)
            }
            Kind::Xz => {
                let decoder = liblzma::read::XzDecoder::new_multi_decoder(whole);
                self.open(&inner(path), way, Box::new(decoder), depth + 1)
            }
            Kind::Zstd => {
                let decoder = zstd::Decoder::new(whole).with_context(damaged)?;
                self.open(&inner(path), way, Box::new(decoder), depth + 1)
            }
            Kind::Tar => self.tar(way, whole, depth),
            Kind::Zip => self.zip(way, whole, depth),
            Kind::Other => self.leaf(path, way, whole, depth),
        }
    }

    fn leaf(&mut self, path: &str, way: &str, whole: Box<dyn Read + '_>, depth: usize) -> Result<()> {
        self.seen += u64::from(depth > 0);
        let mut counted = Counted { inner: whole, left: &mut self.left };
        (self.visit)(path, way, Item::File(&mut counted)).with_context(|| format!("reading `{way}`"))?;
        // What nobody wanted is read to its end too: so that damage is found, and what is behind it.
        io::copy(&mut counted, &mut io::sink()).with_context(|| format!("`{way}` is damaged"))?;
        Ok(())
    }

    fn tar(&mut self, way: &str, whole: Box<dyn Read + '_>, depth: usize) -> Result<()> {
        let damaged = || format!("`{way}` is damaged");
        let mut archive = tar::Archive::new(whole);
        for entry in archive.entries().with_context(damaged)? {
            let entry = entry.with_context(damaged)?;
            let path = entry.path().with_context(damaged)?.to_string_lossy().into_owned();
            let path = path.trim_start_matches("./").to_owned();
            let inside = format!("{way} > {path}");
            let kind = entry.header().entry_type();
            if kind.is_symlink() || kind.is_hard_link() {
                let target = entry.link_name().with_context(damaged)?.unwrap_or_default();
                let target = target.to_string_lossy();
                // A hard link names its file from the archive's top.
                let target = if kind.is_symlink() {
                    target.into_owned()
                } else {
                    format!("/{}", target.trim_start_matches("./"))
                };
                (self.visit)(&path, &inside, Item::Link(&target))?;
            } else if kind.is_file() {
                self.open(&path, &inside, Box::new(entry), depth + 1)?;
            }
        }
        // The end mark of a tar is all that the loop reads; what compresses it may still be cut off.
        io::copy(&mut archive.into_inner(), &mut io::sink()).with_context(damaged)?;
        Ok(())
    }

    fn zip(&mut self, way: &str, mut whole: Box<dyn Read + '_>, depth: usize) -> Result<()> {
        let damaged = || format!("`{way}` is damaged");
        // The list of a zip's files is at its end.
        let mut aside = tempfile::tempfile_in(self.scratch).context("putting a zip aside")?;
        let mut counted = Counted { inner: &mut whole, left: &mut self.left };
        io::copy(&mut counted, &mut aside).with_context(damaged)?;
        aside.seek(SeekFrom::Start(0))?;
        let mut archive = zip::ZipArchive::new(aside).with_context(damaged)?;
        for number in 0..archive.len() {
            let entry = archive.by_index(number).with_context(damaged)?;
            let path = entry.name().trim_start_matches("./").to_owned();
            if entry.is_file() {
                self.open(&path, &format!("{way} > {path}"), Box::new(entry), depth + 1)?;
            }
        }
        Ok(())
    }
}

/// Fails where more comes than may.
struct Counted<'l, R> {
    inner: R,
    left: &'l mut u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        *self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other(format!("it unpacks to more than {} GiB", LIMIT >> 30)))?;
        Ok(count)
    }
}
