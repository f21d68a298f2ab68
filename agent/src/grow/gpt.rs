//! A disk's GUID partition table (UEFI specification, chapter 5.3): read from the copy that is good, and written so that
//! there is always one.

use std::io::{self, Read, Seek, SeekFrom, Write};

use anyhow::{Context as _, Result, bail, ensure};
use gptman::{GPTHeader, GPTPartitionEntry};

use crate::storage::LABEL;

/// A partition ends at a multiple of so many bytes, which is a block of any disk and file system.
const GRAIN: u64 = 4096;
/// Bytes of an entry.
const ENTRY: u32 = 128;
/// The specification asks for room for 128 entries; no program writes more than a few times that.
const MOST_ENTRIES: u32 = 1024;

/// A partition table.
#[derive(Debug)]
pub struct Table {
    /// Of the copy at the disk's beginning.
    head: GPTHeader,
    entries: Vec<GPTPartitionEntry>,
    /// Bytes of one sector.
    sector: u64,
    /// The copies that the disk has: at its beginning, at its end.
    found: [Option<Copy>; 2],
}

/// One of the two copies of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Copy {
    head: GPTHeader,
    entries: Vec<GPTPartitionEntry>,
}

impl Table {
    /// Reads the table of a disk of `size` bytes in sectors of `sector` bytes: the copy at its beginning or, where a
    /// power cut spoiled that one, the copy at its end.
    ///
    /// # Errors
    /// The disk can't be read, has no good copy, or one that can't be written as it is: its entries lie elsewhere, or
    /// partitions where the table is.
    pub fn read(disk: &mut (impl Read + Seek), sector: u64, size: u64) -> Result<Self> {
        ensure!(
            matches!(sector, 512 | 1024 | 2048 | 4096),
            "the disk says that its sectors have {sector} bytes"
        );
        let sectors = size / sector;
        ensure!(sectors > 1, "the disk says that it has {size} bytes");
        let first = Copy::read(disk, sector, sectors, 1);
        let second = Copy::read(disk, sector, sectors, sectors - 1);
        let found = [first.as_ref().ok().cloned(), second.ok()];
        let good = found.iter().flatten().next().cloned();
        let Some(Copy { mut head, entries }) = good else { return Err(first.expect_err("no copy is good")) };
        (head.primary_lba, head.partition_entry_lba) = (1, 2);
        // Where the disk is larger than the image that was written to it, the second copy is not at its end yet.
        head.backup_lba = sectors - 1;
        let bytes = u64::from(head.number_of_partition_entries) * u64::from(ENTRY);
        head.last_usable_lba = head.backup_lba.saturating_sub(bytes.div_ceil(sector) + 1);
        // Both copies are written to their usual places: nothing else may be there.
        let moved =
            found[0].as_ref().filter(|first| first.head.partition_entry_lba != head.partition_entry_lba);
        if let Some(first) = moved {
            bail!("its entries are in sector {}, and not in 2", first.head.partition_entry_lba);
        }
        for (number, entry) in (1..).zip(&entries).filter(|(_, entry)| entry.is_used()) {
            ensure!(entry.ending_lba <= head.last_usable_lba, "partition {number} ends beyond the disk");
            let first = head.partition_entry_lba + bytes.div_ceil(sector);
            ensure!(entry.starting_lba >= first, "partition {number} begins in the table itself");
        }
        Ok(Self { head, entries, sector, found })
    }

    /// Lets the data partition, which must have this number and lie behind all others, reach to the disk's end. Less
    /// than `slack` bytes are not worth a change.
    ///
    /// # Errors
    /// The partition is another, or has one behind it; the table is as before.
    pub fn grow(&mut self, number: u32, slack: u64) -> Result<()> {
        let data = self.partition(number);
        let data = data.with_context(|| format!("partition {number} is not in the partition table"))?;
        let (name, last) = (data.partition_name.as_str(), data.ending_lba);
        if name != LABEL {
            bail!("partition {number} is called `{name}` in the partition table, not `{LABEL}`");
        }
        let used = (1..).zip(&self.entries).filter(|(_, entry)| entry.is_used());
        if let Some((number, other)) = used.clone().find(|(_, entry)| entry.ending_lba > last) {
            let name = &other.partition_name;
            bail!("partition {number} (`{name}`) lies behind `{LABEL}`, which so cannot grow");
        }
        let grain = (GRAIN / self.sector).max(1);
        let end = (self.head.last_usable_lba + 1) / grain * grain;
        let gained = end.saturating_sub(last + 1).saturating_mul(self.sector);
        if gained >= slack {
            let index = usize::try_from(number - 1)?;
            self.entries[index].ending_lba = end - 1;
        }
        Ok(())
    }

    /// Bytes of a partition; none where there is no such.
    pub fn size(&self, number: u32) -> Option<u64> {
        let entry = self.partition(number)?;
        let sectors = entry.ending_lba.checked_sub(entry.starting_lba)?.checked_add(1)?;
        sectors.checked_mul(self.sector)
    }

    fn partition(&self, number: u32) -> Option<&GPTPartitionEntry> {
        let entry = self.entries.get(usize::try_from(number).ok()?.checked_sub(1)?)?;
        entry.is_used().then_some(entry)
    }

    /// Whether the disk has just this table, twice.
    pub fn is_on_disk(&self) -> bool {
        self.copies().map(Some) == self.found
    }

    /// Writes both copies, one after the other: whenever the power goes, the disk has a good one. `sync` is back when
    /// the disk has what was written.
    ///
    /// # Errors
    /// The disk can't be written.
    pub fn write<D: Write + Seek>(
        &self,
        disk: &mut D,
        sync: impl Fn(&mut D) -> io::Result<()>,
    ) -> Result<()> {
        let mut copies = self.copies();
        // What is read first is written last, and what is spoiled anyway first.
        if self.found[0].is_some() {
            copies.reverse();
        }
        for Copy { mut head, entries } in copies {
            head.write_into(disk, self.sector, &entries)?;
            sync(disk)?;
        }
        Ok(())
    }

    /// What the disk is to have at its beginning and at its end.
    fn copies(&self) -> [Copy; 2] {
        let first = self.head.clone();
        let mut second = first.clone();
        (second.primary_lba, second.backup_lba) = (first.backup_lba, first.primary_lba);
        second.partition_entry_lba = first.last_usable_lba + 1;
        [first, second].map(|mut head| {
            head.update_partition_entry_array_crc32(&self.entries);
            head.update_crc32_checksum();
            Copy { head, entries: self.entries.clone() }
        })
    }
}

impl Copy {
    /// Reads the copy whose head is in sector `at`.
    fn read(disk: &mut (impl Read + Seek), sector: u64, sectors: u64, at: u64) -> Result<Self> {
        disk.seek(SeekFrom::Start(at * sector))?;
        let head = GPTHeader::read_from(disk).context("reading its head")?;
        let (count, size) = (head.number_of_partition_entries, head.size_of_partition_entry);
        let is_usual = size == ENTRY && (1..=MOST_ENTRIES).contains(&count);
        ensure!(is_usual, "its head tells of {count} entries of {size} bytes");
        ensure!(head.primary_lba == at, "its head is from another place");
        ensure!(head.partition_entry_lba < sectors, "its entries lie beyond the disk");
        let entries = head.read_partitions(disk, sector).context("reading its entries")?;
        Ok(Self { head, entries })
    }
}

#[cfg(test)]
pub mod tests {
    use std::io::Cursor;

    use gptman::GPT;
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;
    const SECTOR: u64 = 512;

    /// A disk of `size` bytes with an image of `made` bytes on it, with partitions of these names and bounds.
    pub fn disk(partitions: &[(&str, u64, u64)], made: u64, size: u64) -> Vec<u8> {
        let mut disk = Cursor::new(vec![0; usize::try_from(made).unwrap()]);
        let mut table = GPT::new_from(&mut disk, SECTOR, [7; 16]).unwrap();
        for (number, (name, start, end)) in (1_u8..).zip(partitions) {
            table[u32::from(number)] = GPTPartitionEntry {
                partition_type_guid: [9; 16],
                unique_partition_guid: [number; 16],
                starting_lba: start / SECTOR,
                ending_lba: end / SECTOR - 1,
                attribute_bits: 0,
                partition_name: (*name).into(),
            };
        }
        table.write_into(&mut disk).unwrap();
        let mut bytes = disk.into_inner();
        bytes.resize(usize::try_from(size).unwrap(), 0);
        bytes
    }

    fn usual(size: u64) -> Vec<u8> {
        disk(&[("boot", MIB, 2 * MIB), ("data", 2 * MIB, 3 * MIB)], 4 * MIB, size)
    }

    fn read(disk: &[u8]) -> Result<Table> {
        Table::read(&mut Cursor::new(disk), SECTOR, disk.len() as u64)
    }

    /// A disk that is cut off after so many bytes were written.
    struct Cut {
        disk: Cursor<Vec<u8>>,
        left: usize,
    }

    impl Write for Cut {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.left);
            self.left -= count;
            self.disk.write(&bytes[..count])
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Seek for Cut {
        fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
            self.disk.seek(to)
        }
    }

    /// The disk after a write of the table of which only the first bytes were done.
    fn cut(disk: &[u8], table: &Table, left: usize) -> Vec<u8> {
        let mut cut = Cut { disk: Cursor::new(disk.to_vec()), left };
        let _ = table.write(&mut cut, |_| Ok(()));
        cut.disk.into_inner()
    }

    #[test]
    fn the_data_partition_grows_to_the_end_and_only_it() {
        let before = usual(16 * MIB);
        let mut table = read(&before).unwrap();
        assert!(!table.is_on_disk());
        table.grow(2, MIB).unwrap();
        assert_eq!(table.size(2), Some(14 * MIB - 5 * 4096));
        let after = cut(&before, &table, usize::MAX);
        // An independent reader.
        let told = GPT::read_from(&mut Cursor::new(&after), SECTOR).unwrap();
        assert_eq!(told[2].ending_lba + 1, (16 * MIB - 5 * 4096) / SECTOR);
        let old = GPT::read_from(&mut Cursor::new(&before), SECTOR).unwrap();
        assert_eq!((&told[1], told[2].starting_lba), (&old[1], old[2].starting_lba));
        let mut table = read(&after).unwrap();
        assert!(table.is_on_disk());
        table.grow(2, MIB).unwrap();
        assert!(table.is_on_disk(), "there was nothing left to gain");
    }

    #[test]
    fn whenever_the_power_goes_there_is_a_good_copy_and_the_next_start_ends_it() {
        let before = usual(6 * MIB);
        let mut table = read(&before).unwrap();
        table.grow(2, MIB).unwrap();
        let sizes = [MIB, table.size(2).unwrap()];
        let whole = cut(&before, &table, usize::MAX);
        let written = 2 * (92 + 128 * 128);
        for left in (0..written).step_by(199).chain([written - 1]) {
            let after = cut(&before, &table, left);
            let mut found = read(&after).unwrap_or_else(|error| panic!("after {left} bytes: {error:#}"));
            assert!(sizes.contains(&found.size(2).unwrap()), "after {left} bytes: {found:?}");
            assert_eq!(found.is_on_disk(), after == whole, "after {left} bytes");
            found.grow(2, MIB).unwrap();
            // That is cut short too.
            let again = cut(&after, &found, left / 2);
            assert!(read(&again).is_ok(), "after {left} and {} bytes", left / 2);
            assert!(cut(&after, &found, usize::MAX) == whole, "after {left} bytes");
        }
    }

    #[test]
    fn either_copy_is_made_anew_from_the_other() {
        let before = usual(6 * MIB);
        let mut table = read(&before).unwrap();
        table.grow(2, MIB).unwrap();
        let whole = cut(&before, &table, usize::MAX);
        let end = whole.len();
        for spoiled in [512, 1024 + 40, end - 500, end - 512 * 30] {
            let mut disk = whole.clone();
            disk[spoiled] ^= 1;
            let table = read(&disk).unwrap();
            assert!(!table.is_on_disk() && table.size(2) == read(&whole).unwrap().size(2));
            assert!(cut(&disk, &table, usize::MAX) == whole, "byte {spoiled}");
        }
        let mut disk = whole;
        disk[512] ^= 1;
        disk[end - 500] ^= 1;
        assert!(format!("{:#}", read(&disk).unwrap_err()).starts_with("reading its head: "));
    }

    #[test]
    fn what_cannot_grow_is_told() {
        let grow = |disk: &[u8], number| read(disk).unwrap().grow(number, MIB).unwrap_err().to_string();
        let usual = usual(16 * MIB);
        assert_eq!(grow(&usual, 3), "partition 3 is not in the partition table");
        assert_eq!(grow(&usual, 0), "partition 0 is not in the partition table");
        assert_eq!(grow(&usual, 1), "partition 1 is called `boot` in the partition table, not `data`");
        let behind = disk(&[("data", MIB, 2 * MIB), ("more", 2 * MIB, 3 * MIB)], 4 * MIB, 16 * MIB);
        assert_eq!(grow(&behind, 1), "partition 2 (`more`) lies behind `data`, which so cannot grow");
        let beyond = Table::read(&mut Cursor::new(&usual), SECTOR, 2 * MIB);
        assert_eq!(beyond.unwrap_err().to_string(), "partition 1 ends beyond the disk");
    }

    #[test]
    fn what_lies_where_the_table_is_written_is_left_alone() {
        // As `sgdisk --move-main-table` makes room for firmware.
        let mut moved = usual(16 * MIB);
        moved.copy_within(1024..1024 + 128 * 128, 64 * 512);
        moved[1024..][..128 * 128].fill(0x5a);
        moved[512 + 72] = 64;
        sign(&mut moved);
        assert_eq!(read(&moved).unwrap_err().to_string(), "its entries are in sector 64, and not in 2");
        // The library keeps to the rules, so one entry is written by hand.
        let mut inside = usual(16 * MIB);
        inside[1024 + 32] = 20;
        inside[1024 + 33..][..7].fill(0);
        sign(&mut inside);
        assert_eq!(read(&inside).unwrap_err().to_string(), "partition 1 begins in the table itself");
    }

    #[test]
    fn what_is_no_table_is_told() {
        let says = |disk: &[u8], sector| {
            format!("{:#}", Table::read(&mut Cursor::new(disk), sector, disk.len() as u64).unwrap_err())
        };
        assert_eq!(says(&[0; 4096], 512), "reading its head: invalid signature");
        assert!(says(&[0; 100], 512).contains("has 100 bytes"));
        assert!(says(&[0; 4096], 513).contains("sectors have 513 bytes"));
    }

    proptest! {
        #[test]
        fn no_head_makes_the_reader_panic(
            places in proptest::array::uniform5(prop_oneof![any::<u64>(), 0..64_u64]),
            count in prop_oneof![any::<u32>(), 0..300_u32],
            size in prop_oneof![any::<u32>(), Just(ENTRY)],
            body in proptest::collection::vec(any::<u8>(), 0..4096),
            is_right: bool,
        ) {
            let mut bytes = usual(4 * MIB);
            bytes.truncate(65536);
            bytes[1024..][..body.len()].copy_from_slice(&body);
            for (at, place) in [24, 32, 40, 48, 72].into_iter().zip(places) {
                bytes[512 + at..][..8].copy_from_slice(&place.to_le_bytes());
            }
            bytes[512 + 80..][..4].copy_from_slice(&count.to_le_bytes());
            bytes[512 + 84..][..4].copy_from_slice(&size.to_le_bytes());
            if is_right {
                (bytes[512 + 24], bytes[512 + 72]) = (1, 2);
                bytes[512 + 25..][..7].fill(0);
                bytes[512 + 73..][..15].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 128, 0, 0, 0, 128, 0, 0, 0]);
            }
            sign(&mut bytes);
            if let Ok(mut table) = read(&bytes) {
                for number in 0..4 {
                    let _ = (table.size(number), table.grow(number, 0));
                }
                table.write(&mut Cursor::new(bytes), |_| Ok(())).unwrap();
            }
        }
    }

    /// Mends the sums of a head, whatever it says.
    fn sign(bytes: &mut [u8]) {
        let head = |bytes: &[u8]| GPTHeader::read_from(&mut Cursor::new(&bytes[512..]));
        let mend = |bytes: &mut [u8]| {
            if let Err(gptman::Error::InvalidChecksum(_, sum)) = head(bytes) {
                bytes[512 + 16..][..4].copy_from_slice(&sum.to_le_bytes());
            }
        };
        mend(bytes);
        let usual = |head: &GPTHeader| {
            (head.number_of_partition_entries, head.size_of_partition_entry, head.partition_entry_lba)
                == (128, ENTRY, 2)
        };
        let read = head(bytes).ok().filter(usual);
        let sum = read.map(|head| head.read_partitions(&mut Cursor::new(&*bytes), SECTOR));
        if let Some(Err(gptman::Error::InvalidPartitionEntryArrayChecksum(_, sum))) = sum {
            bytes[512 + 88..][..4].copy_from_slice(&sum.to_le_bytes());
            mend(bytes);
        }
    }
}
