//! Where something of ours was put: after a change of the configuration, and where it cannot be read any more,
//! nothing else tells. It is noted before anything is put there.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::files::{self, Files};

const PATH: &str = "/var/lib/dpukit/placed.json";

/// The folders in which something of ours may be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Placed {
    /// Those with our CNI configuration.
    pub configurations: BTreeSet<PathBuf>,
    /// Those with a link to the plugin.
    pub plugins: BTreeSet<PathBuf>,
}

impl Placed {
    /// What was noted. A note that is damaged is as good as none: the configuration is still there.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn read(files: &Files) -> Result<Self> {
        let text = files.read_if(PATH)?.unwrap_or_default();
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    /// Changes what is noted.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn change<T>(files: &Files, change: impl FnOnce(&mut Self) -> T) -> Result<()> {
        let before = Self::read(files)?;
        let mut after = before.clone();
        change(&mut after);
        if after == before {
            return Ok(());
        }
        files::replace(&files.at(PATH), &serde_json::to_vec_pretty(&after)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;

    #[test]
    fn what_is_noted_is_read_and_damage_is_no_end() {
        let fake = Fake::new();
        let files = Files::below(fake.root());
        assert_eq!(Placed::read(&files).unwrap(), Placed::default());
        Placed::change(&files, |placed| placed.plugins.insert("/opt/cni/bin".into())).unwrap();
        assert_eq!(Placed::read(&files).unwrap().plugins, [PathBuf::from("/opt/cni/bin")].into());
        fake.file(PATH, "{\"plugins\": [");
        assert_eq!(Placed::read(&files).unwrap(), Placed::default());
    }
}
