//! A bundle, before it is sent: whether it looks like one, and its hash.
//!
//! A bundle is a squashfs, then its signature, then the signature's length in 8 octets (RAUC's manual, "Bundle
//! Formats"). Whether the signature is good the card finds out.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use ring::digest::{self, SHA256};

use super::progress::Progress;

const SQUASHFS: &[u8] = b"hsqs";
/// A squashfs has a superblock of 96 octets, a signature and its length come behind it.
const SMALLEST: u64 = 96 + 8;
/// Where a bundle from standard input is kept until it is sent; it has no name there.
const KEPT: &str = "/var/tmp";
/// How much is read, and sent, at once.
pub const CHUNK: usize = 256 << 10;

/// A bundle that can be sent.
pub struct Bundle {
    /// At its beginning.
    pub file: File,
    /// In octets.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: Vec<u8>,
}

impl Bundle {
    /// The bundle in a file, or on standard input where that is `-`.
    ///
    /// # Errors
    /// It can't be read, or is none.
    pub fn open(path: &Path) -> Result<Self> {
        if path.as_os_str() == "-" {
            return Self::received(&mut io::stdin().lock()).context("reading the bundle from standard input");
        }
        let opened = File::open(path).map_err(anyhow::Error::from).and_then(Self::of);
        opened.with_context(|| format!("reading the bundle `{}`", path.display()))
    }

    fn received(input: &mut impl io::Read) -> Result<Self> {
        let mut file = tempfile::tempfile_in(KEPT).with_context(|| format!("making a file in `{KEPT}`"))?;
        io::copy(input, &mut file).with_context(|| format!("keeping it in `{KEPT}`"))?;
        Self::of(file)
    }

    fn of(mut file: File) -> Result<Self> {
        let about = file.metadata()?;
        ensure!(about.is_file(), "it is no file");
        let size = about.len();
        check(&mut file, size)?;
        file.rewind()?;
        let progress = Progress::brief("reading the bundle", size);
        let mut context = digest::Context::new(&SHA256);
        let mut chunk = vec![0; CHUNK];
        let mut done = 0;
        loop {
            let length = file.read(&mut chunk)?;
            if length == 0 {
                break;
            }
            context.update(&chunk[..length]);
            done += length as u64;
            progress.at(done);
        }
        ensure!(done == size, "it changed while it was read");
        file.rewind()?;
        Ok(Self { file, size, sha256: context.finish().as_ref().to_vec() })
    }

    /// The hash in hexadecimal.
    pub fn hash(&self) -> String {
        self.sha256.iter().fold(String::new(), |text, octet| text + &format!("{octet:02x}"))
    }
}

/// Refuses what can be no bundle.
fn check(file: &mut File, size: u64) -> Result<()> {
    const HINT: &str =
        "`cargo xtask image` makes one, `dpukit-<board>-<version>.raucb`, where `[signing]` is set";
    if size < SMALLEST {
        bail!("it has {size} octets, too few for a bundle: {HINT}");
    }
    let mut begin = [0; 4];
    file.rewind()?;
    file.read_exact(&mut begin)?;
    ensure!(begin == SQUASHFS, "it is no bundle, which begins as a squashfs: {HINT}");
    let mut length = [0; 8];
    file.seek(SeekFrom::End(-8))?;
    file.read_exact(&mut length)?;
    let length = u64::from_be_bytes(length);
    ensure!(
        length > 0 && length <= size - SMALLEST,
        "it has no signature at its end: it was cut short, or never signed; copy it again, or build it again"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What looks like a bundle.
    fn octets(signature: u64) -> Vec<u8> {
        let mut octets = [SQUASHFS, &[7; 200][..]].concat();
        octets.extend(signature.to_be_bytes());
        octets
    }

    #[test]
    fn a_bundle_has_its_size_and_its_hash_and_is_at_its_beginning() {
        let mut bundle = Bundle::received(&mut &octets(50)[..]).unwrap();
        assert_eq!(bundle.size, 212);
        assert_eq!(bundle.sha256, digest::digest(&SHA256, &octets(50)).as_ref());
        assert_eq!(bundle.hash().len(), 64);
        let mut read = Vec::new();
        bundle.file.read_to_end(&mut read).unwrap();
        assert_eq!(read, octets(50));
    }

    #[test]
    fn what_is_no_bundle_is_told() {
        let told = |octets: &[u8]| format!("{:#}", Bundle::received(&mut &*octets).err().unwrap());
        assert!(told(b"").contains("it has 0 octets"));
        assert!(told(&octets(50)[..100]).contains("it has 100 octets"));
        assert!(told(&[b'x'; 500]).contains("it is no bundle"));
        for wrong in [0, 109, u64::MAX] {
            assert!(told(&octets(wrong)).contains("it was cut short"), "{wrong}");
        }
        assert!(told(&octets(50)[..180]).contains("it was cut short"));
    }

    #[test]
    fn what_is_no_file_is_told_with_its_name() {
        let told = |path: &str| format!("{:#}", Bundle::open(Path::new(path)).err().unwrap());
        assert!(told("/no/such.raucb").starts_with("reading the bundle `/no/such.raucb`: No such file"));
        assert_eq!(told("/tmp"), "reading the bundle `/tmp`: it is no file");
    }
}
