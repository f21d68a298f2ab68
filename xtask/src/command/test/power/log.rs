//! What was written to an emulated card's drive, in order, and what of it a drive holds that lost its power.
//!
//! The log is the kernel's format for dm-log-writes (drivers/md/dm-log-writes.c, `struct log_write_super` and
//! `struct log_write_entry`), as QEMU's driver `blklogwrites` writes it.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use rand::Rng;
use rand::rngs::StdRng;

/// Of the log, of what is written, and of what a drive writes whole or not at all.
pub const SECTOR: u64 = 512;
const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
/// The write itself is on the drive when it is done.
const FORCED: u64 = 2;
const DISCARD: u64 = 4;

/// What a drive without power still has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drive {
    /// All that was written: it has no cache.
    Uncached,
    /// What was flushed, and of the rest some, in no order.
    Cached,
    /// Some of what was written: it says that it flushed, and did not. No disk that one should have.
    Lying,
}

/// The log of one drive.
pub struct Log {
    file: File,
    entries: Vec<Entry>,
}

/// One write, or a flush.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    flags: u64,
    /// In bytes on the drive.
    at: u64,
    size: u64,
    /// Where its content is in the log.
    content: u64,
    /// Where the next entry is.
    end: u64,
}

impl Entry {
    fn is_durable(&self) -> bool {
        self.flags & FORCED != 0
    }
}

impl Log {
    /// Reads a log to its end; the last entry may be cut short.
    ///
    /// # Errors
    /// It is no log.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = File::open(path).with_context(|| format!("opening `{}`", path.display()))?;
        let size = file.metadata()?.len();
        // The log's own head is written with the first flush only.
        let mut magic = [0; 8];
        let is_log = file.read_exact(&mut magic).is_ok() && [0, MAGIC].contains(&u64::from_le_bytes(magic));
        ensure!(is_log, "`{}` is no log of writes", path.display());
        let mut entries = Vec::new();
        let mut start = SECTOR;
        while start + SECTOR <= size {
            file.seek(SeekFrom::Start(start))?;
            let mut header = [0; 32];
            file.read_exact(&mut header)?;
            let mut words =
                header.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()));
            let mut word = || words.next().unwrap_or_default();
            let (sector, count, flags) = (word(), word(), word());
            ensure!(flags < 1 << 5, "`{}` holds nonsense at {start}", path.display());
            // Without an entry's end nothing that follows is known.
            if (count, flags) == (0, 0) {
                break;
            }
            let (at, size_here) = (sector * SECTOR, count * SECTOR);
            let content = start + SECTOR;
            let end = content + if flags & DISCARD == 0 { size_here } else { 0 };
            if end > size {
                break;
            }
            entries.push(Entry { flags, at, size: size_here, content, end });
            start = end;
        }
        if entries.is_empty() {
            bail!("`{}` holds no write", path.display());
        }
        Ok(Self { file, entries })
    }

    /// The writes that begin in this part of the log: where, and at which place of the drive.
    pub fn writes(&self, part: Range<u64>) -> Vec<(u64, u64)> {
        let entries = self.entries.iter().map(|entry| (entry.content - SECTOR, entry));
        let inside = entries.filter(|(start, entry)| part.contains(start) && entry.size > 0);
        inside.map(|(start, entry)| (start, entry.at)).collect()
    }

    /// Makes `image`, which is as the drive was before the log, what the drive is that loses its power where the log
    /// is `length` long. How many writes are lost, at least in part.
    ///
    /// # Errors
    /// One of the files can't be read or written.
    pub fn replay(&self, image: &mut File, length: u64, drive: Drive, chances: &mut StdRng) -> Result<usize> {
        let happened = self.entries.partition_point(|entry| entry.end <= length);
        let flushed = match drive {
            Drive::Uncached => happened,
            Drive::Cached => {
                let last = self.entries[..happened].iter().rposition(|entry| entry.flags & FLUSH != 0);
                last.map_or(0, |last| last + 1)
            }
            Drive::Lying => 0,
        };
        let (mut log, mut lost) = (&self.file, 0);
        for (index, entry) in self.entries[..happened].iter().enumerate() {
            let sectors = entry.size / SECTOR;
            let kept = if index < flushed || entry.is_durable() || sectors == 0 {
                sectors
            } else {
                // Whole, not at all, or only its beginning.
                match chances.gen_range(0..4) {
                    0 | 1 => sectors,
                    2 => 0,
                    _ => chances.gen_range(0..sectors),
                }
            };
            lost += usize::from(kept < sectors);
            let mut content = vec![0; usize::try_from(kept * SECTOR)?];
            if entry.flags & DISCARD == 0 {
                log.seek(SeekFrom::Start(entry.content))?;
                log.read_exact(&mut content)?;
            }
            image.seek(SeekFrom::Start(entry.at))?;
            image.write_all(&content)?;
        }
        Ok(lost)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rand::SeedableRng as _;

    use super::*;

    /// A log of writes of one sector each, `(sector, byte)`, and flushes.
    fn log(folder: &Path, entries: &[Option<(u64, u8)>]) -> Log {
        let mut bytes = MAGIC.to_le_bytes().to_vec();
        bytes.resize(512, 0);
        for entry in entries {
            let (sector, count, flags) = entry.map_or((0, 0, FLUSH), |(sector, _)| (sector, 1, 0));
            let start = bytes.len();
            for word in [sector, count, flags, 0_u64] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.resize(start + 512, 0);
            if let Some((_, byte)) = entry {
                bytes.extend([*byte; 512]);
            }
        }
        let path = folder.join("drive.log");
        fs::write(&path, bytes).unwrap();
        Log::read(&path).unwrap()
    }

    /// The first byte of each of a drive's four sectors after a cut at the log's end.
    fn after(log: &Log, drive: Drive, seed: u64) -> Vec<u8> {
        let mut image = tempfile::tempfile().unwrap();
        image.set_len(4 * SECTOR).unwrap();
        log.replay(&mut image, u64::MAX, drive, &mut StdRng::seed_from_u64(seed)).unwrap();
        let mut bytes = Vec::new();
        image.rewind().unwrap();
        image.read_to_end(&mut bytes).unwrap();
        bytes.into_iter().step_by(512).collect()
    }

    const ENTRIES: [Option<(u64, u8)>; 5] = [Some((0, 1)), Some((1, 2)), None, Some((2, 3)), Some((0, 4))];

    #[test]
    fn what_was_flushed_stays_and_of_the_rest_anything_may_be_lost() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), &ENTRIES);
        let all: std::collections::BTreeSet<_> =
            (0..64).map(|seed| after(&log, Drive::Cached, seed)).collect();
        let wanted = [[1, 2, 0, 0], [1, 2, 3, 0], [4, 2, 0, 0], [4, 2, 3, 0]];
        assert_eq!(all.into_iter().collect::<Vec<_>>(), wanted);
    }

    #[test]
    fn a_drive_without_a_cache_loses_nothing_and_one_that_lies_what_it_called_flushed() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), &ENTRIES);
        assert_eq!(after(&log, Drive::Uncached, 0), [4, 2, 3, 0]);
        assert!((0..64).any(|seed| after(&log, Drive::Lying, seed)[1] == 0));
    }

    #[test]
    fn a_cut_within_an_entry_is_one_before_it() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), &ENTRIES);
        let mut image = tempfile::tempfile().unwrap();
        let mut chances = StdRng::seed_from_u64(0);
        log.replay(&mut image, 512 + 1024 + 700, Drive::Uncached, &mut chances).unwrap();
        assert_eq!(image.metadata().unwrap().len(), 512);
        assert_eq!(log.writes(512..512 + 1025), [(512, 0), (512 + 1024, 512)]);
    }

    #[test]
    fn a_file_that_is_no_log_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none");
        for content in [&[][..], &[0; 4096], &[0xff; 4096]] {
            fs::write(&path, content).unwrap();
            assert!(Log::read(&path).is_err());
        }
    }
}
