//! What the service knows, for others to read: `/run/dpukit/host.json`.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::phases::Record;
use crate::files::{self, Files};

/// Where it is. It goes with a start of the host.
pub const PATH: &str = "/run/dpukit/host.json";

/// The service's last look.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// When it was: seconds since 1970.
    pub at: u64,
    /// How often the service looks, in seconds.
    pub every: f64,
    /// Phases, the CNI configuration, and what is left to settle.
    pub records: Vec<Record>,
    /// Whether the card answered.
    pub card: Card,
}

/// The card, as the service sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Card {
    /// Whether it counts as up: several looks in a row decide.
    pub up: bool,
    /// Since when it counts so: seconds since 1970.
    pub since: u64,
    /// What was wrong at the last look; none where the card answered well.
    pub trouble: Option<String>,
}

impl State {
    /// What the service last wrote; none where it did not run since the host's start.
    pub fn read(files: &Files) -> Result<Option<Self>> {
        let Some(text) = files.read_if(PATH)? else { return Ok(None) };
        Ok(Some(serde_json::from_str(&text).with_context(|| format!("reading `{PATH}`"))?))
    }

    /// Writes it for others.
    pub fn write(&self, files: &Files) -> Result<()> {
        files::replace(&files.at(PATH), &serde_json::to_vec_pretty(self)?)
    }
}

/// Seconds since 1970, by the host's clock.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
