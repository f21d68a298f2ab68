//! A disk image in pieces, each made ready for the card while the one before it is written.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use anyhow::{Context as _, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use gptman::GPT;

use crate::hash::Algorithm;
use crate::hint::WithHint as _;

/// What U-Boot counts storage in.
pub const BLOCK: u64 = 512;
/// The first piece: it holds the partition table, and no partition begins in it.
pub const HEAD: u64 = 1 << 20;
/// What of a piece is looked at first, to tell whether the rest can be the same.
pub const SAMPLE: u64 = 64 << 10;

/// A part of the image, ready to be sent.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Bytes from the image's start.
    pub offset: u64,
    /// Bytes, a whole number of blocks.
    pub size: u64,
    /// Of all of it.
    pub hash: String,
    /// Of its first [`SAMPLE`] bytes.
    pub sample: String,
    /// What is sent: compressed, where the card can unpack.
    pub sent: Arc<Vec<u8>>,
    /// Of what is sent.
    pub sent_hash: String,
}

/// How pieces are made.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub algorithm: Algorithm,
    /// Whether they are compressed.
    pub packed: bool,
    /// The largest, in bytes.
    pub size: u64,
}

/// An image whose partition table is whole.
#[derive(Debug)]
pub struct Image {
    file: File,
    size: u64,
    /// Bytes that no piece has, in their order.
    left: Vec<Range<u64>>,
}

impl Image {
    /// Opens an image.
    ///
    /// # Errors
    /// Where its two partition tables are not there, or not the same: it is cut off, or no image of a disk.
    pub fn open(path: &Path) -> Result<Self> {
        let reading = || format!("reading the image `{}`", path.display());
        let mut file =
            File::open(path).with_context(reading).hint(|| "build it with `cargo xtask image`".into())?;
        let size = file.metadata().with_context(reading)?.len();
        let table = whole(&mut file, size)
            .with_context(reading)
            .hint(|| "it is cut off, or no image of a disk: build it, or copy it, again".into())?;
        let left = empty(&file, &table).with_context(reading)?;
        Ok(Self { file, size, left })
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Bytes that are left on the card as they are: of partitions that the image leaves empty, all but their start.
    /// Nothing reads there before it wrote, and a card's disk is slow.
    pub fn left(&self) -> u64 {
        self.left.iter().map(|range| range.end - range.start).sum()
    }

    /// The first piece.
    pub fn head(&self, form: Form) -> Result<Piece> {
        piece(&self.file, 0, HEAD, form)
    }

    /// All pieces behind the first, in their order, made in a thread of their own.
    pub fn rest(&self, form: Form) -> Result<Receiver<Result<Piece>>> {
        let file = self.file.try_clone()?;
        let starts = std::iter::once(HEAD).chain(self.left.iter().map(|range| range.end));
        let ends = self.left.iter().map(|range| range.start).chain([self.size]);
        let runs: Vec<_> = starts.zip(ends).collect();
        // One is being sent and one is ready: more would only take memory.
        let (give, take) = sync_channel(1);
        std::thread::Builder::new().name("pieces".into()).spawn(move || {
            for (mut offset, last) in runs {
                while offset < last {
                    // Pieces end at whole multiples, so that they are the same ones in each run.
                    let end = ((offset / form.size + 1) * form.size).min(last);
                    let made = piece(&file, offset, end - offset, form);
                    let failed = made.is_err();
                    if give.send(made).is_err() || failed {
                        return;
                    }
                    offset = end;
                }
            }
        })?;
        Ok(take)
    }
}

/// Makes bytes of our own ready to be sent.
pub fn of_bytes(offset: u64, content: &[u8], form: Form) -> Result<Piece> {
    let sent = if form.packed {
        // The network is the slower the more there is to send, and zeroes cost nothing even so.
        let mut packer = GzEncoder::new(Vec::with_capacity(content.len() / 3), Compression::fast());
        packer.write_all(content)?;
        packer.finish()?
    } else {
        content.to_vec()
    };
    let sample = usize::try_from(SAMPLE)?.min(content.len());
    Ok(Piece {
        offset,
        size: content.len() as u64,
        hash: form.algorithm.of(content),
        sample: form.algorithm.of(&content[..sample]),
        sent_hash: form.algorithm.of(&sent),
        sent: Arc::new(sent),
    })
}

fn piece(mut file: &File, offset: u64, size: u64, form: Form) -> Result<Piece> {
    let mut content = vec![0; usize::try_from(size)?];
    file.seek(SeekFrom::Start(offset))
        .and_then(|_| file.read_exact(&mut content))
        .with_context(|| format!("reading the image at byte {offset}"))?;
    of_bytes(offset, &content, form)
}

fn whole(file: &mut File, size: u64) -> Result<GPT> {
    ensure!(size > 2 * HEAD && size.is_multiple_of(BLOCK), "{size} bytes are no size of an image");
    let table = GPT::read_from(file, BLOCK).context("its partition table")?;
    ensure!(
        table.header.backup_lba == size / BLOCK - 1,
        "its partition table is of a disk of {} bytes, and the file has {size}",
        (table.header.backup_lba + 1) * BLOCK
    );
    // The second table is at the end, and says the same.
    file.seek(SeekFrom::Start(table.header.backup_lba * BLOCK))?;
    let second =
        gptman::GPTHeader::read_from(&mut *file).context("its second partition table, at its end")?;
    ensure!(second.disk_guid == table.header.disk_guid, "its two partition tables are not of one disk");
    let first = table
        .iter()
        .filter(|(_, partition)| partition.is_used())
        .map(|(_, partition)| partition.starting_lba);
    let first = first.min().context("it has no partition")?;
    ensure!(first * BLOCK >= HEAD, "its first partition begins within the first MiB");
    Ok(table)
}

/// What of the image's empty partitions lies behind their start. A file system, or what else was there before, is
/// known by its start: that is written.
fn empty(file: &File, table: &GPT) -> Result<Vec<Range<u64>>> {
    let mut empty = Vec::new();
    for (_, partition) in table.iter().filter(|(_, partition)| partition.is_used()) {
        let range = partition.starting_lba * BLOCK..(partition.ending_lba + 1) * BLOCK;
        if range.end - range.start > HEAD && is_zero(file, range.clone())? {
            empty.push(range.start + HEAD..range.end);
        }
    }
    empty.sort_by_key(|range| range.start);
    Ok(empty)
}

fn is_zero(mut file: &File, range: Range<u64>) -> std::io::Result<bool> {
    file.seek(SeekFrom::Start(range.start))?;
    let mut rest = file.take(range.end - range.start);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(true),
            count if buffer[..count].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const FORM: Form = Form { algorithm: Algorithm::Sha256, packed: true, size: 4 << 20 };

    /// An image of 10 MiB with one partition.
    pub fn image(path: &Path) {
        let mut file = File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
        file.set_len(10 << 20).unwrap();
        let mut table = GPT::new_from(&mut file, BLOCK, [7; 16]).unwrap();
        table[1] = gptman::GPTPartitionEntry {
            partition_type_guid: [1; 16],
            unique_partition_guid: [2; 16],
            starting_lba: 2048,
            ending_lba: 4096,
            attribute_bits: 0,
            partition_name: "a".into(),
        };
        GPT::write_protective_mbr_into(&mut file, BLOCK).unwrap();
        table.write_into(&mut file).unwrap();
        for place in [1, 5] {
            file.seek(SeekFrom::Start(place << 20)).unwrap();
            file.write_all(b"content").unwrap();
        }
    }

    #[test]
    fn pieces_are_all_of_the_image_and_unpack_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        image(&path);
        let image = Image::open(&path).unwrap();
        let mut pieces = vec![image.head(FORM).unwrap()];
        pieces.extend(image.rest(FORM).unwrap().iter().map(Result::unwrap));
        let places: Vec<_> = pieces.iter().map(|piece| (piece.offset >> 20, piece.size >> 20)).collect();
        assert_eq!(places, [(0, 1), (1, 3), (4, 4), (8, 2)]);
        let mut content = Vec::new();
        for piece in &pieces {
            let start = content.len();
            flate2::read::GzDecoder::new(piece.sent.as_slice()).read_to_end(&mut content).unwrap();
            assert_eq!(FORM.algorithm.of(&content[start..]), piece.hash);
            assert_eq!(FORM.algorithm.of(&piece.sent), piece.sent_hash);
            assert!(piece.sent.len() < 64 << 10, "zeroes were sent as they are");
        }
        assert!(content == fs::read(&path).unwrap());
    }

    #[test]
    fn of_an_empty_partition_the_start_is_sent_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        image(&path);
        assert_eq!(Image::open(&path).unwrap().left(), 0);
        let mut content = fs::read(&path).unwrap();
        content[1 << 20..][..7].fill(0);
        fs::write(&path, content).unwrap();
        // Its one partition has the blocks 2048 to 4096.
        let image = Image::open(&path).unwrap();
        assert_eq!(image.left(), BLOCK);
        let pieces = image.rest(FORM).unwrap();
        let places: Vec<_> =
            pieces.iter().map(Result::unwrap).map(|piece| (piece.offset, piece.size)).collect();
        let second = (2 << 20) + BLOCK;
        assert_eq!(
            places,
            [(1 << 20, 1 << 20), (second, (4 << 20) - second), (4 << 20, 4 << 20), (8 << 20, 2 << 20)]
        );
    }

    #[test]
    fn an_image_that_is_cut_off_or_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("image");
        let told = |path: &Path| format!("{:#}", Image::open(path).unwrap_err());
        assert!(told(&path).contains("reading the image"));
        image(&path);
        File::options().write(true).open(&path).unwrap().set_len(9 << 20).unwrap();
        assert!(told(&path).contains("partition table"), "{}", told(&path));
        fs::write(&path, vec![0; 4 << 20]).unwrap();
        assert!(told(&path).contains("partition table"), "{}", told(&path));
        fs::write(&path, "text").unwrap();
        assert!(told(&path).contains("4 bytes are no size of an image"), "{}", told(&path));
    }
}
