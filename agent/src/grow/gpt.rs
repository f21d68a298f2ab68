//! As much of a GUID partition table as growing needs (UEFI specification, chapter 5.3).

use std::fmt::Write as _;
use std::io::{Read, Seek, SeekFrom};

use anyhow::{Context as _, Result, bail};

use crate::storage::LABEL;

/// The primary table of a disk.
#[derive(Debug)]
pub struct Table {
    /// Partitions in use, in the order of their numbers.
    pub entries: Vec<Entry>,
    /// Bytes of one sector.
    sector: u64,
    /// Bytes of the disk.
    disk: u64,
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its number, from 1.
    pub number: u32,
    /// The GUID of its type, as text.
    pub kind: String,
    /// Its name.
    pub name: String,
    first: u64,
    last: u64,
}

impl Table {
    /// Reads the primary table of a disk of `disk` bytes in sectors of `sector` bytes.
    pub fn read(mut file: impl Read + Seek, sector: u64, disk: u64) -> Result<Self> {
        if !matches!(sector, 512 | 1024 | 2048 | 4096) {
            bail!("the disk says that its sectors have {sector} bytes");
        }
        let header = read_at(&mut file, sector, 92).context("reading its head")?;
        if header.get(..8) != Some(b"EFI PART") {
            bail!("there is no GUID partition table");
        }
        let (count, size) = (u64::from(u32_at(&header, 80)), u64::from(u32_at(&header, 84)));
        // The specification asks for room for 128 entries; no program writes more than a few times that.
        if !(128..=4096).contains(&size) || count > 1024 {
            bail!("its head tells of {count} entries of {size} bytes");
        }
        let start = u64_at(&header, 72).checked_mul(sector).context("its entries lie beyond any disk")?;
        let bytes = read_at(&mut file, start, count * size).context("reading its entries")?;
        let entries = bytes
            .chunks_exact(usize::try_from(size)?)
            .zip(1..)
            .filter_map(|(entry, n)| Entry::read(entry, n));
        Ok(Self { entries: entries.collect(), sector, disk })
    }

    /// The data partition, which must have this number and lie behind all others.
    pub fn data(&self, number: u32) -> Result<&Entry> {
        let data = self.entries.iter().find(|entry| entry.number == number);
        let data = data.with_context(|| format!("partition {number} is not in the partition table"))?;
        if data.name != LABEL {
            bail!("partition {number} is called `{}` in the partition table, not `{LABEL}`", data.name);
        }
        if let Some(other) = self.entries.iter().find(|entry| entry.last > data.last) {
            bail!(
                "partition {} (`{}`) lies behind `{LABEL}`, which so cannot grow",
                other.number,
                other.name
            );
        }
        Ok(data)
    }

    /// Bytes between the end of a partition and the second table at the disk's end.
    pub fn behind(&self, entry: &Entry) -> Result<u64> {
        // The second table takes 32 sectors of 512 bytes and one of its own.
        let second = (32 * 512) + self.sector;
        let end = entry.last.checked_add(1).and_then(|end| end.checked_mul(self.sector));
        let end = end.filter(|end| *end <= self.disk);
        let end = end.with_context(|| format!("partition {} ends beyond the disk", entry.number))?;
        Ok((self.disk - end).saturating_sub(second))
    }

    /// The bytes of a partition.
    pub fn size(&self, entry: &Entry) -> u64 {
        (entry.last - entry.first).saturating_add(1).saturating_mul(self.sector)
    }
}

impl Entry {
    /// Reads one entry; none where it is not in use, or ends before it begins.
    fn read(bytes: &[u8], number: u32) -> Option<Self> {
        let (first, last) = (u64_at(bytes, 32), u64_at(bytes, 40));
        let kind = bytes.get(..16)?;
        if kind.iter().all(|byte| *byte == 0) || first > last {
            return None;
        }
        let name = bytes.get(56..128)?.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]]));
        let name: Vec<u16> = name.take_while(|unit| *unit != 0).collect();
        Some(Self { number, kind: guid(kind), name: String::from_utf16_lossy(&name), first, last })
    }
}

/// A GUID's text: its first three groups are stored with the lowest byte first.
fn guid(bytes: &[u8]) -> String {
    const ORDER: [usize; 16] = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    let mut text = String::with_capacity(36);
    for (place, &at) in ORDER.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        // A string takes all that is written to it.
        let _ = write!(text, "{:02x}", bytes.get(at).copied().unwrap_or_default());
    }
    text
}

fn read_at(file: &mut (impl Read + Seek), at: u64, count: u64) -> Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = vec![0; usize::try_from(count)?];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
pub mod tests {
    use std::io::Cursor;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    /// A type of its own.
    pub const DATA: &str = "5cb9a0a8-1d2f-4b5c-9e39-8f7a44a1d0b1";

    /// A partition to write.
    pub struct Made {
        pub kind: String,
        pub name: String,
        start: u64,
        end: u64,
    }

    impl Made {
        pub fn new(kind: &str, name: &str, start: u64, end: u64) -> Self {
            Self { kind: kind.into(), name: name.into(), start, end }
        }
    }

    /// Writes a disk with a primary table, without check sums, which the reader leaves to those who
    /// write tables.
    pub fn write(path: &Path, partitions: &[Made], disk: u64) {
        std::fs::write(path, bytes(partitions)).unwrap();
        std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(disk).unwrap();
    }

    fn bytes(partitions: &[Made]) -> Vec<u8> {
        let mut bytes = vec![0; 1024 + 128 * 128];
        bytes[512..520].copy_from_slice(b"EFI PART");
        bytes[512 + 72] = 2;
        bytes[512 + 80] = 128;
        bytes[512 + 84] = 128;
        for (index, made) in partitions.iter().enumerate() {
            let entry = &mut bytes[1024 + index * 128..][..128];
            entry[..16].copy_from_slice(&guid_bytes(&made.kind));
            entry[32..40].copy_from_slice(&(made.start / 512).to_le_bytes());
            entry[40..48].copy_from_slice(&(made.end / 512 - 1).to_le_bytes());
            for (place, unit) in made.name.encode_utf16().enumerate() {
                entry[56 + place * 2..][..2].copy_from_slice(&unit.to_le_bytes());
            }
        }
        bytes
    }

    fn guid_bytes(text: &str) -> [u8; 16] {
        let number = u128::from_str_radix(&text.replace('-', ""), 16).unwrap().to_be_bytes();
        [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15].map(|at: usize| number[at])
    }

    fn table(partitions: &[Made]) -> Result<Table> {
        Table::read(Cursor::new(bytes(partitions)), 512, 1 << 30)
    }

    #[test]
    fn a_table_is_read() {
        let table = table(&[Made::new(DATA, "data", 1 << 20, 3 << 20)]).unwrap();
        let data = table.data(1).unwrap();
        assert_eq!((data.kind.as_str(), data.name.as_str()), (DATA, "data"));
        assert_eq!(table.size(data), 2 << 20);
        assert_eq!(table.behind(data).unwrap(), (1 << 30) - (3 << 20) - 33 * 512);
    }

    #[test]
    fn what_is_no_table_is_told() {
        let says = |bytes: Vec<u8>, sector| {
            format!("{:#}", Table::read(Cursor::new(bytes), sector, 1 << 30).unwrap_err())
        };
        assert!(says(vec![0; 4096], 512).contains("no GUID partition table"));
        assert!(says(vec![0; 100], 512).contains("reading its head"));
        assert!(says(bytes(&[]), 513).contains("sectors have 513 bytes"));
        let mut many = bytes(&[]);
        many[512 + 83] = 1;
        assert!(says(many, 512).contains("16777344 entries of 128 bytes"));
        assert!(says(bytes(&[])[..2048].to_vec(), 512).contains("reading its entries"));
    }

    #[test]
    fn a_partition_beyond_the_disk_is_told() {
        let table = table(&[Made::new(DATA, "data", 1 << 20, 2 << 30)]).unwrap();
        let error = table.behind(table.data(1).unwrap()).unwrap_err().to_string();
        assert_eq!(error, "partition 1 ends beyond the disk");
        assert_eq!(table.data(2).unwrap_err().to_string(), "partition 2 is not in the partition table");
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(
            head in proptest::collection::vec(any::<u8>(), 92),
            body in proptest::collection::vec(any::<u8>(), 0..2048),
            signed: bool,
        ) {
            let mut disk = vec![0; 512];
            disk.extend(&head);
            disk.resize(1024, 0);
            disk.extend(&body);
            if signed {
                disk[512..520].copy_from_slice(b"EFI PART");
                disk[512 + 72..512 + 88].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0, head[80] % 16, 0, 0, 0, 128, 0, 0, 0]);
            }
            if let Ok(table) = Table::read(Cursor::new(disk), 512, 1 << 30) {
                for entry in &table.entries {
                    let _ = (table.data(entry.number), table.behind(entry), table.size(entry));
                }
            }
        }
    }
}
