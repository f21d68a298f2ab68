//! `[updates]` of a board: how U-Boot and the running system agree on the slot that starts. Without `environment`
//! they do so on the disk.

use super::reader::{Section, Wrong};
use crate::config::{Counts, Updates};

/// None where the board has none, or it is wrong.
pub fn read(updates: Section<'_, '_>) -> Option<Updates> {
    let attempts = updates.number("attempts", 1..=9);
    let Some(entry) = updates.entry("environment") else {
        return Some(Updates { attempts: attempts?, counts: Counts::Disk });
    };
    let copies: Vec<_> = updates.list("environment", |line| copy(line).map(|()| line.to_owned()))?;
    let Ok(copies) = copies.try_into() else {
        let wrong = Wrong::new("U-Boot's variables have to be there twice")
            .hint("name both copies: a power cut while one is written leaves the other");
        updates.refuse(&entry.node.place, &updates.path("environment"), wrong);
        return None;
    };
    Some(Updates { attempts: attempts?, counts: Counts::Variables(copies) })
}

/// A line of `fw_env.config`: device, offset, size, and for flash the size of what is erased at once.
fn copy(line: &str) -> Result<(), Wrong> {
    let wrong = |what: String| {
        Err(Wrong::new(what)
            .hint("write it as in `/dev/mtd0 0x4000000 0x40000 0x40000`: device, offset, size, erase size"))
    };
    let words: Vec<_> = line.split(' ').collect();
    let [device, numbers @ ..] = words.as_slice() else { return wrong("the line is empty".into()) };
    let is_device = device.strip_prefix("/dev/").is_some_and(|name| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte))
    });
    if !is_device {
        return wrong(format!("`{}` is not a device", device.escape_debug()));
    }
    let is_number =
        |word: &&str| word.strip_prefix("0x").is_some_and(|digits| u64::from_str_radix(digits, 16).is_ok());
    match numbers.iter().find(|word| !is_number(word)) {
        Some(word) => wrong(format!("`{}` is not a number in hexadecimal", word.escape_debug())),
        None if (2..=3).contains(&numbers.len()) => Ok(()),
        None => wrong(format!("{} numbers are not two or three", numbers.len())),
    }
}
