//! Which slot starts, on boards whose U-Boot has variables that are not ours to write: a script on the card's disk
//! chooses the slot (`image/u-boot/slots.env`), and keeps its counts in the first block of the partition `slots`. RAUC
//! asks for them, and changes them, through `dpu-agent slot-state` (its manual, "Custom Bootloader Backend Interface").
//!
//! A disk writes one block whole or not at all, so that a power cut leaves the old counts or the new ones. What makes no
//! sense to the script counts as nothing here too.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use dpu_plan::Slots;

use crate::{Card, storage};

/// The partition whose first block holds the counts: text of U-Boot's variables, a line each, up to the first NUL (its
/// doc/usage/cmd/env.rst, `env export -t`).
const PARTITION: &str = "slots";
const BLOCK: usize = 512;
const NAMES: [&str; 2] = ["A", "B"];

/// What RAUC asks.
#[derive(Debug, Clone, Subcommand)]
pub enum Ask {
    /// Which slot starts next
    GetPrimary,
    /// Have a slot start next
    SetPrimary {
        #[arg(value_parser = NAMES)]
        slot: String,
    },
    /// Whether a slot can start: `good` or `bad`
    GetState {
        #[arg(value_parser = NAMES)]
        slot: String,
    },
    /// Say of a slot that it is `good` or `bad`
    SetState {
        #[arg(value_parser = NAMES)]
        slot: String,
        #[arg(value_parser = ["good", "bad"])]
        state: String,
    },
}

/// Answers; nothing where a change was asked for.
///
/// # Errors
/// The block can't be read or written, or no slot starts next.
pub fn answer(card: &Card, ask: &Ask) -> Result<Option<String>> {
    let place = storage::partition(&card.tree, PARTITION)?.node();
    let context = || format!("reading which slot starts from `{place}`");
    let mut block = [0; BLOCK];
    let mut file =
        OpenOptions::new().read(true).write(true).open(card.tree.at(&place)).with_context(context)?;
    file.read_exact(&mut block).with_context(context)?;
    let mut counts = Counts::parse(&block);
    match ask {
        Ask::GetPrimary => return counts.primary().map(Some).context("no slot has an attempt left"),
        Ask::GetState { slot } => {
            let state = if counts.can_start(slot) { "good" } else { "bad" };
            return Ok(Some(state.to_owned()));
        }
        Ask::SetPrimary { slot } => {
            counts.drop(slot);
            counts.order.insert(0, slot.clone());
            counts.left[at(slot)] = attempts(card)?;
        }
        Ask::SetState { slot, state } if state == "good" => {
            if !counts.order.contains(slot) {
                counts.order.push(slot.clone());
            }
            counts.left[at(slot)] = attempts(card)?;
        }
        Ask::SetState { slot, .. } => counts.drop(slot),
    }
    write(&mut file, &counts).with_context(|| format!("writing which slot starts to `{place}`"))?;
    Ok(None)
}

fn attempts(card: &Card) -> Result<u8> {
    let text = card.tree.read(dpu_plan::SLOTS)?;
    let Slots { attempts } = text.parse().with_context(|| format!("reading `{}`", dpu_plan::SLOTS))?;
    Ok(attempts)
}

fn write(file: &mut File, counts: &Counts) -> std::io::Result<()> {
    file.seek(SeekFrom::Start(0))?;
    file.write_all(&counts.block())?;
    file.sync_all()
}

/// The script's variables.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    /// `BOOT_ORDER`.
    order: Vec<String>,
    /// `BOOT_A_LEFT` and `BOOT_B_LEFT`.
    left: [u8; 2],
}

impl Counts {
    fn parse(block: &[u8]) -> Self {
        let text = block.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(text);
        let mut counts = Self::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            // Of more than nine attempts the script takes none.
            let left = || value.parse().ok().filter(|left| *left <= 9).unwrap_or_default();
            match name {
                "BOOT_ORDER" => {
                    counts.order.clear();
                    for slot in value.split_whitespace().filter(|slot| NAMES.contains(slot)) {
                        if !counts.order.iter().any(|name| name == slot) {
                            counts.order.push(slot.to_owned());
                        }
                    }
                }
                "BOOT_A_LEFT" => counts.left[0] = left(),
                "BOOT_B_LEFT" => counts.left[1] = left(),
                _ => {}
            }
        }
        counts
    }

    fn block(&self) -> [u8; BLOCK] {
        let [a, b] = self.left;
        let text = format!("BOOT_A_LEFT={a}\nBOOT_B_LEFT={b}\nBOOT_ORDER={}\n", self.order.join(" "));
        let mut block = [0; BLOCK];
        block[..text.len()].copy_from_slice(text.as_bytes());
        block
    }

    fn can_start(&self, slot: &str) -> bool {
        self.left[at(slot)] > 0 && self.order.iter().any(|name| name == slot)
    }

    fn primary(&self) -> Option<String> {
        self.order.iter().find(|slot| self.can_start(slot)).cloned()
    }

    /// Takes a slot out.
    fn drop(&mut self, slot: &str) {
        self.order.retain(|name| name != slot);
        self.left[at(slot)] = 0;
    }
}

/// A slot's place among the two.
fn at(slot: &str) -> usize {
    usize::from(slot == NAMES[1])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fake::Fake;
    use crate::storage::tests::with_partitions;

    const PLACE: &str = "/dev/vda6";

    /// What is answered, and what the block holds then.
    fn after(fake: &Fake, ask: &Ask) -> (String, String) {
        let card = fake.card();
        let answer = answer(&card, ask).map(Option::unwrap_or_default);
        let answer = answer.unwrap_or_else(|error| format!("{error:#}"));
        let block = std::fs::read(card.tree.at(PLACE)).unwrap();
        assert_eq!(block.len(), 2 * BLOCK, "what is behind the block is not ours");
        (answer, String::from_utf8(block).unwrap().trim_end_matches('\0').to_owned())
    }

    fn fake(text: &str) -> Fake {
        let fake = crate::fake::virt();
        with_partitions(&fake, &["boot-a", "root-a", "boot-b", "root-b", "start", "slots", "data"]);
        fake.file(PLACE, &format!("{text}{}", "\0".repeat(2 * BLOCK - text.len())));
        fake.file(dpu_plan::SLOTS, "attempts = 3\n");
        fake
    }

    #[test]
    fn an_update_and_the_way_back_are_what_the_script_reads() {
        let (a, b) = (|| "A".to_owned(), || "B".to_owned());
        let fake = fake("BOOT_A_LEFT=2\nBOOT_B_LEFT=3\nBOOT_ORDER=A B\n");
        let says = |ask: Ask| after(&fake, &ask);
        assert_eq!(says(Ask::GetPrimary).0, "A");
        assert_eq!(says(Ask::GetState { slot: b() }).0, "good");
        // RAUC takes a slot out before it writes it.
        let bad = Ask::SetState { slot: b(), state: "bad".into() };
        assert_eq!(says(bad).1, "BOOT_A_LEFT=2\nBOOT_B_LEFT=0\nBOOT_ORDER=A\n");
        assert_eq!(says(Ask::GetState { slot: b() }).0, "bad");
        assert_eq!(says(Ask::SetPrimary { slot: b() }).1, "BOOT_A_LEFT=2\nBOOT_B_LEFT=3\nBOOT_ORDER=B A\n");
        assert_eq!(says(Ask::GetPrimary).0, "B");
        let good = |slot| Ask::SetState { slot, state: "good".into() };
        assert_eq!(says(good(a())).1, "BOOT_A_LEFT=3\nBOOT_B_LEFT=3\nBOOT_ORDER=B A\n");
        says(Ask::SetState { slot: b(), state: "bad".into() });
        assert_eq!(says(Ask::GetPrimary).0, "A");
        assert_eq!(says(good(b())).1, "BOOT_A_LEFT=3\nBOOT_B_LEFT=3\nBOOT_ORDER=A B\n");
    }

    #[test]
    fn counts_that_make_no_sense_are_none() {
        let fake = fake("BOOT_A_LEFT=99\nBOOT_B_LEFT=-1\nBOOT_ORDER=X A $B B B A\nhello");
        let (answer, _) = after(&fake, &Ask::GetPrimary);
        assert_eq!(answer, "no slot has an attempt left");
        let (_, block) = after(&fake, &Ask::SetPrimary { slot: "B".into() });
        assert_eq!(block, "BOOT_A_LEFT=0\nBOOT_B_LEFT=3\nBOOT_ORDER=B A\n");
    }

    proptest! {
        #[test]
        fn any_block_is_read_and_what_is_written_is_read_back(block in prop::collection::vec(any::<u8>(), BLOCK)) {
            let counts = Counts::parse(&block);
            prop_assert_eq!(Counts::parse(&counts.block()), counts);
        }
    }
}
