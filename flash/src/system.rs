//! The system's image onto a disk of the card.
//!
//! The partition table is what makes a disk one that is started from, so it is what is switched over with. Each
//! piece is first looked at on the card: what is there already is left. Before anything else is written, both
//! partition tables are taken away, with zeroes that came over the network and were checked, so that the way is
//! known to be good: from here on U-Boot finds no system, rather than half of one, and a reset ends at its
//! prompt. Only when every piece behind the first was read back and compared is the first one written, with the
//! new table.
//!
//! Zeroes of the image are written like all else (they cost nothing to send): a file system of the image relies
//! on them, and what was on the card before must not be taken for a part of the new system. Of a partition that is
//! empty in the image that holds for its first MiB; what is behind it stays, as nothing reads it before it is written.

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::board::Storage;
use crate::hint::WithHint as _;
use crate::network::{Network, hash_of, hex};
use crate::pieces::{BLOCK, Form, HEAD, Image, Piece, SAMPLE, of_bytes};
use crate::u_boot::UBoot;
use crate::watch::Watch;

/// Blocks of a partition table at the end of a disk (UEFI 2.10, 5.3.1): 32 of entries and the header.
const BACKUP: u64 = 33;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the image that were written.
    pub written: u64,
    /// Bytes that were there already.
    pub same: u64,
    /// Bytes of empty partitions that were neither written nor looked at.
    pub left: u64,
    /// Bytes that went over the network.
    pub sent: u64,
}

/// A disk of the card that is being written.
struct Disk<'a, 'u> {
    u_boot: &'u mut UBoot<'a>,
    network: &'u mut Network,
    storage: &'u Storage,
    form: Form,
    total: u64,
    /// Blocks; none where the card does not say.
    blocks: Option<u64>,
    summary: Summary,
    /// Whether the partition tables are taken away.
    is_open: bool,
}

/// Writes the image to the disk of this name.
pub fn flash(
    u_boot: &mut UBoot<'_>,
    network: &mut Network,
    storage: &Storage,
    image: &Image,
    watch: &dyn Watch,
) -> Result<Summary> {
    watch.step("looking at the card's disk");
    let memory = &u_boot.board().memory;
    let form = Form { algorithm: memory.algorithm, packed: network.packed, size: memory.piece };
    u_boot.run(&storage.select, &[])?;
    let blocks = blocks(u_boot, storage)?;
    if let Some(blocks) = blocks
        && blocks * BLOCK < image.size()
    {
        bail!("the card's disk has {} bytes, and the image needs {}", blocks * BLOCK, image.size());
    }
    let total = image.size() - image.left();
    let head = image.head(form)?;
    let summary = Summary { left: image.left(), ..Summary::default() };
    let mut disk = Disk { u_boot, network, storage, form, total, blocks, summary, is_open: false };
    // The last block must be there, whatever the card says of its size.
    disk.read(image.size() / BLOCK - 1, 1)
        .context("reading where the image will end")
        .hint(|| "the card's disk is smaller than the image".into())?;
    watch.step("writing the system");
    let mut at = HEAD;
    watch.progress(0, total);
    for piece in image.rest(form)? {
        let piece = piece?;
        disk.put(&piece, at).with_context(|| format!("the piece at byte {} of the disk", piece.offset))?;
        at += piece.size;
        watch.progress(at, total);
    }
    // What was left as it was, was compared whole: the table may name it.
    watch.step("switching over to it");
    disk.put(&head, total - HEAD).context("the partition table")?;
    watch.progress(total, total);
    Ok(disk.summary)
}

impl Disk<'_, '_> {
    /// Brings a piece onto the disk unless it is there, and compares what is there then.
    fn put(&mut self, piece: &Piece, done: u64) -> Result<()> {
        // The table has been taken away, so there is no need to look at it.
        let is_gone = piece.offset == 0 && self.is_open;
        if !is_gone && self.has(piece)? {
            self.summary.same += piece.size;
            return Ok(());
        }
        if !self.is_open {
            self.open()?;
        }
        let address = self.network.load(self.u_boot, piece, done, self.total)?;
        self.summary.sent += piece.sent.len() as u64;
        self.write(piece, address)?;
        self.summary.written += piece.size;
        Ok(())
    }

    /// Takes both partition tables away.
    fn open(&mut self) -> Result<()> {
        let nothing = of_bytes(0, &vec![0; usize::try_from(HEAD)?], self.form)?;
        let address = self.network.load(self.u_boot, &nothing, 0, self.total)?;
        self.write(&nothing, address).context("taking the old partition table away")?;
        // U-Boot takes the table at the disk's end where it finds none at the start.
        if let Some(blocks) = self.blocks.filter(|blocks| blocks * BLOCK >= 2 * HEAD) {
            let size = BACKUP * BLOCK;
            let nothing = of_bytes(0, &vec![0; usize::try_from(size)?], self.form)?;
            let nothing = Piece { offset: (blocks - BACKUP) * BLOCK, ..nothing };
            self.write(&nothing, address).context("taking the old partition table at the disk's end away")?;
        }
        self.is_open = true;
        Ok(())
    }

    /// Writes what lies checked at `address`, reads it back, and compares.
    fn write(&mut self, piece: &Piece, address: u64) -> Result<()> {
        let (block, count) = (piece.offset / BLOCK, piece.size / BLOCK);
        let values = [("address", hex(address)), ("block", hex(block)), ("count", hex(count))];
        let told = self.u_boot.run_for(&self.storage.write, &values, piece.size)?.told;
        ensure!(
            told.as_ref().is_none_or(|told| *told == count.to_string()),
            "{} blocks of {count} were written",
            told.unwrap_or_default()
        );
        self.read(block, count)?;
        let place = self.u_boot.board().memory.check;
        match hash_of(self.u_boot, place, piece.size)? {
            Some(found) if found != piece.hash => Err(anyhow!("what is read back is not what was written"))
                .hint(|| "the card's disk may be worn out; nothing was switched over to".into()),
            _ => Ok(()),
        }
    }

    /// Whether a piece is on the disk already.
    fn has(&mut self, piece: &Piece) -> Result<bool> {
        let sample = SAMPLE.min(piece.size);
        Ok(self.is(piece.offset, sample, &piece.sample)?
            && (sample == piece.size || self.is(piece.offset, piece.size, &piece.hash)?))
    }

    fn is(&mut self, offset: u64, size: u64, hash: &str) -> Result<bool> {
        self.read(offset / BLOCK, size / BLOCK)?;
        let place = self.u_boot.board().memory.check;
        Ok(hash_of(self.u_boot, place, size)?.is_some_and(|found| found == hash))
    }

    /// Reads blocks to where is compared.
    fn read(&mut self, block: u64, count: u64) -> Result<()> {
        let address = ("address", hex(self.u_boot.board().memory.check));
        // What a read leaves undone must not pass for what was there before.
        let spoil = crate::board::fill(&self.u_boot.board().memory.spoil, std::slice::from_ref(&address));
        self.u_boot.type_line(&spoil)?;
        let values = [address, ("block", hex(block)), ("count", hex(count))];
        let told = self.u_boot.run_for(&self.storage.read, &values, count * BLOCK)?.told;
        ensure!(
            told.as_ref().is_none_or(|told| *told == count.to_string()),
            "{} blocks of {count} were read",
            told.unwrap_or_default()
        );
        Ok(())
    }
}

/// How many blocks the disk has; none where it does not say.
fn blocks(u_boot: &mut UBoot<'_>, storage: &Storage) -> Result<Option<u64>> {
    let Some(size) = &storage.size else { return Ok(None) };
    let line = size.with(&[("address", hex(u_boot.board().memory.check))]);
    let said = u_boot.type_line(&line)?;
    let Some(told) = size.success.0.captures(&said).and_then(|captures| captures.get(1)) else {
        return Ok(None);
    };
    let number = if storage.size_is_decimal {
        told.as_str().parse().ok()
    } else {
        u64::from_str_radix(told.as_str(), 16).ok()
    };
    Ok(number)
}
