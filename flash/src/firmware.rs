//! The makers' firmware into the SPI flash that the card starts from.
//!
//! A card has two copies, and its ROM takes the second where the first is not whole. So the second is what a card
//! comes back with, and is left alone. The first block of a copy goes away first and comes back last: in between
//! the copy is none, rather than half of one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::board::Firmware;
use crate::hint::WithHint as _;
use crate::network::{Network, check, hash_of, hex};
use crate::pieces::{Form, of_bytes};
use crate::u_boot::UBoot;
use crate::watch::Watch;

/// Which of the two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Copy {
    Primary,
    Secondary,
}

impl Copy {
    /// As in a board's `boot.copies`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }

    fn device(self, firmware: &Firmware) -> &str {
        match self {
            Self::Primary => &firmware.primary,
            Self::Secondary => &firmware.secondary,
        }
    }
}

/// Fails where writing `copy` could take away what the card comes back with.
pub fn allow(copy: Copy, started_from: Option<&str>, knows: bool) -> Result<()> {
    if knows {
        return Ok(());
    }
    let name = copy.name();
    let refused = match started_from {
        None => format!(
            "it was not seen which copy the card started from, so the {name} may be the only good one"
        ),
        Some(from) if from != name && copy == Copy::Primary => {
            format!(
                "the card started from `{from}`, not from the primary: something is wrong with the primary, or with how the card is set"
            )
        }
        Some(_) if copy == Copy::Secondary => {
            "the secondary copy is what the card comes back with when the primary fails".into()
        }
        Some(_) => return Ok(()),
    };
    Err(anyhow!("the {name} copy is not written: {refused}"))
        .hint(|| "if it is meant all the same, say `--i-know`".into())
}

/// The firmware's file in a bundle, checked against the sums beside it.
pub fn find(folder: &Path, firmware: &Firmware, form: Form) -> Result<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(folder)
        .with_context(|| format!("reading the firmware's folder `{}`", folder.display()))
        .hint(|| "a bundle with firmware comes from `cargo xtask image` of a board that has it".into())?;
    let names = files.flatten().filter_map(|file| file.file_name().into_string().ok());
    let mut fitting: Vec<_> = names.filter(|name| fits(&firmware.file, name)).collect();
    fitting.sort();
    let [name] = fitting.as_slice() else {
        bail!(
            "`{}` has {} files like `{}`, and one is wanted",
            folder.display(),
            fitting.len(),
            firmware.file
        )
    };
    let path = folder.join(name);
    let content = fs::read(&path).with_context(|| format!("reading `{}`", path.display()))?;
    ensure!(!content.is_empty(), "`{}` is empty", path.display());
    ensure!(
        content.len() as u64 <= firmware.size,
        "`{}` has {} bytes, and the flash {}",
        path.display(),
        content.len(),
        firmware.size
    );
    let sums = folder.join("SHA256SUMS");
    let sums = fs::read_to_string(&sums).with_context(|| format!("reading `{}`", sums.display()))?;
    let wanted = sums.lines().find_map(|line| line.split_once("  ").filter(|(_, file)| file == name));
    let (wanted, _) = wanted.with_context(|| format!("`SHA256SUMS` does not name `{name}`"))?;
    let found = crate::hash::Algorithm::Sha256.of(&content);
    if found != wanted.trim() {
        return Err(anyhow!("`{}` is not what `SHA256SUMS` names: {found}", path.display()))
            .hint(|| "it was altered or cut off: make or copy the bundle again".into());
    }
    // It has to fit into one piece, which the board's file made sure of.
    ensure!(content.len() as u64 <= form.size, "`{}` is larger than a piece", path.display());
    Ok((path, content))
}

/// Whether a name is of a pattern with `*` for any characters.
fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let parts: Vec<_> = parts.collect();
    let Some((last, between)) = parts.split_last() else { return rest.is_empty() };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Writes the firmware to a copy, head last; whether anything had to be written.
pub fn flash(
    u_boot: &mut UBoot<'_>,
    network: &mut Network,
    firmware: &Firmware,
    copy: Copy,
    content: &[u8],
    watch: &dyn Watch,
) -> Result<bool> {
    let memory = &u_boot.board().memory;
    let form = Form { algorithm: memory.algorithm, packed: network.packed, size: memory.piece };
    watch.step(&format!("writing the firmware's {} copy", copy.name()));
    let piece = of_bytes(0, content, form)?;
    let (size, total) = (content.len() as u64, 2 * content.len() as u64);
    let mut flash = Flash { u_boot, firmware };
    let device = [("device", copy.device(firmware).to_owned())];
    flash.u_boot.run(&firmware.probe, &device).context("looking for the SPI flash")?;
    if flash.hash(0, size)?.is_some_and(|hash| hash == piece.hash) {
        watch.notice("the card has this firmware already");
        return Ok(false);
    }
    let address = network.load(flash.u_boot, &piece, 0, total)?;
    // The network must not have changed which flash is meant.
    flash.u_boot.run(&firmware.probe, &device).context("looking for the SPI flash")?;
    let head = firmware.head.min(size);
    flash.run(&firmware.erase, address, 0, firmware.head).context("taking the first block away")?;
    if size > head {
        flash.write(address + head, head, &content[usize::try_from(head)?..], form)?;
    }
    watch.progress(size + size / 2, total);
    // Memory is checked once more: minutes may have gone by since it was.
    check(flash.u_boot, address, size, &piece.hash)?;
    watch.step("switching over to it");
    flash.write(address, 0, &content[..usize::try_from(head)?], form)?;
    match flash.hash(0, size)? {
        Some(found) if found != piece.hash => bail!("the flash as a whole has the hash {found}"),
        _ => watch.progress(total, total),
    }
    Ok(true)
}

struct Flash<'a, 'u> {
    u_boot: &'u mut UBoot<'a>,
    firmware: &'u Firmware,
}

impl Flash<'_, '_> {
    /// Writes a part that lies checked at `address`, reads it back, and compares.
    fn write(&mut self, address: u64, offset: u64, content: &[u8], form: Form) -> Result<()> {
        let size = content.len() as u64;
        self.run(&self.firmware.update, address, offset, size)?;
        match self.hash(offset, size)? {
            Some(found) if found != form.algorithm.of(content) => {
                Err(anyhow!("what is read back from {offset:#x} of the flash is not what was written"))
                    .hint(|| "run the command again; the card starts from its other copy meanwhile".into())
            }
            _ => Ok(()),
        }
    }

    /// The hash of a part of the flash; none in a dry run.
    fn hash(&mut self, offset: u64, size: u64) -> Result<Option<String>> {
        let memory = &self.u_boot.board().memory;
        let place = memory.check;
        let spoil = crate::board::fill(&memory.spoil, &[("address", hex(place))]);
        self.u_boot.type_line(&spoil)?;
        self.run(&self.firmware.read, place, offset, size)?;
        hash_of(self.u_boot, place, size)
    }

    fn run(&mut self, command: &crate::board::Command, address: u64, offset: u64, size: u64) -> Result<()> {
        let values = [("address", hex(address)), ("offset", hex(offset)), ("size", hex(size))];
        self.u_boot.run_for(command, &values, size).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_primary_copy_that_the_card_started_from_is_written_unasked() {
        use super::Copy::{Primary, Secondary};
        let told = |copy, from| allow(copy, from, false).map_err(|error| format!("{error:#}"));
        assert!(told(Primary, Some("primary")).is_ok());
        for (copy, from, why) in [
            (Primary, None, "may be the only good one"),
            (Primary, Some("secondary"), "started from `secondary`"),
            (Primary, Some("eMMC"), "started from `eMMC`"),
            (Secondary, None, "may be the only good one"),
            (Secondary, Some("primary"), "comes back with"),
            (Secondary, Some("secondary"), "comes back with"),
        ] {
            assert!(told(copy, from).unwrap_err().contains(why), "{copy:?} {from:?}");
            assert!(allow(copy, from, true).is_ok());
        }
    }

    #[test]
    fn a_pattern_fits_or_not() {
        for (pattern, name, does) in [
            ("flash-*.img", "flash-cn10ka-SDK12.25.01.img", true),
            ("flash-*.img", "fw-update-cn10ka.bin", false),
            ("flash-*.img", "flash-.img", true),
            ("flash-*.img", "flash.img", false),
            ("*a*b", "xaxb", true),
            ("*a*b", "xbxa", false),
            ("name", "name", true),
            ("name", "names", false),
        ] {
            assert_eq!(fits(pattern, name), does, "{pattern} {name}");
        }
    }

    #[test]
    fn an_altered_file_is_refused() {
        let board = crate::board::Board::known("cn106").unwrap();
        let (firmware, form) = (
            board.firmware.unwrap(),
            Form { algorithm: board.memory.algorithm, packed: true, size: board.memory.piece },
        );
        let folder = tempfile::tempdir().unwrap();
        let told = || {
            find(folder.path(), &firmware, form).map(drop).map_err(|error| format!("{error:#}")).unwrap_err()
        };
        assert!(told().contains("has 0 files"), "{}", told());
        let file = folder.path().join("flash-cn10ka.img");
        fs::write(&file, "firmware").unwrap();
        assert!(told().contains("SHA256SUMS"), "{}", told());
        fs::write(folder.path().join("SHA256SUMS"), format!("{}  flash-cn10ka.img\n", "0".repeat(64)))
            .unwrap();
        assert!(told().contains("is not what `SHA256SUMS` names"), "{}", told());
        let sum = crate::hash::Algorithm::Sha256.of(b"firmware");
        fs::write(folder.path().join("SHA256SUMS"), format!("{sum}  flash-cn10ka.img\n")).unwrap();
        assert_eq!(find(folder.path(), &firmware, form).unwrap().1, b"firmware");
    }
}
