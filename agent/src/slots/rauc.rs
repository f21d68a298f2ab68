//! The slots as RAUC has them.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::Card;

/// A slot that U-Boot starts.
pub struct Slot {
    pub name: String,
    pub is_bootable: bool,
    /// Whether U-Boot starts it next.
    pub is_next: bool,
    /// Whether an update of it was begun and not finished.
    pub is_half_written: bool,
    /// How many updates were written to it.
    pub updates: u64,
    /// The version of the last of them.
    pub version: Option<String>,
}

#[derive(Deserialize)]
struct Status {
    boot_primary: Option<String>,
    slots: Vec<BTreeMap<String, Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    bootname: Option<String>,
    parent: Option<String>,
    boot_status: Option<String>,
    slot_status: Option<SlotStatus>,
}

#[derive(Default, Deserialize)]
struct SlotStatus {
    bundle: Option<Bundle>,
    installed: Option<Installed>,
    status: Option<String>,
}

#[derive(Deserialize)]
struct Bundle {
    version: Option<String>,
}

#[derive(Deserialize)]
struct Installed {
    count: u64,
}

impl Entry {
    /// RAUC writes `ok` once a slot holds all of its image (its src/install.c).
    fn is_half_written(&self) -> bool {
        let status = self.slot_status.as_ref().and_then(|status| status.status.as_deref());
        status.is_some_and(|status| status != "ok")
    }
}

/// The slots that U-Boot starts, from `rauc status --detailed --output-format=json`.
///
/// # Errors
/// RAUC can't be asked, or says what makes no sense.
pub fn slots(card: &Card) -> Result<Vec<Slot>> {
    let text = card.programs.read("rauc", &["status", "--detailed", "--output-format=json"])?;
    let Status { boot_primary, slots } =
        serde_json::from_str(&text).context("reading what `rauc status` says")?;
    // What is half written may be the part of a slot that U-Boot does not know.
    let entries = || slots.iter().flatten();
    let half: Vec<&str> = entries()
        .filter(|(_, entry)| entry.is_half_written())
        .map(|(name, entry)| entry.parent.as_deref().unwrap_or(name))
        .collect();
    let slots = entries().filter_map(|(system, entry)| {
        let status = entry.slot_status.as_ref();
        Some(Slot {
            name: entry.bootname.clone()?,
            is_bootable: entry.boot_status.as_deref() != Some("bad"),
            is_next: boot_primary.as_ref() == Some(system),
            is_half_written: half.contains(&system.as_str()),
            updates: status
                .and_then(|status| status.installed.as_ref())
                .map_or(0, |installed| installed.count),
            version: status.and_then(|status| status.bundle.as_ref()?.version.clone()),
        })
    });
    Ok(slots.collect())
}
