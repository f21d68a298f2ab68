//! Where seeds are looked for.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::NAME;
use crate::{Card, storage};

/// A folder of the data partition, for who can write to it: a tool that flashes, an administrator.
const FOLDER: &str = "/data/dpukit-seed";
/// The name of a partition, in a disk's GPT.
const PARTITION: &str = "dpukit-seed";
/// Where that is mounted.
const MOUNT: &str = "/run/dpukit/seed-partition";

/// Where a seed is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    Folder,
    /// The partition's device node.
    Partition(String),
    /// The folder of the credentials.
    Credential(PathBuf),
}

/// The first place where there is a seed. `patient` waits for disks that the kernel has not found yet.
pub fn find(card: &Card, patient: bool, credentials: Option<PathBuf>) -> Result<Option<Place>> {
    if card.tree.exists(format!("{FOLDER}/{NAME}")) {
        return Ok(Some(Place::Folder));
    }
    if patient {
        // Late disks, as on USB. What does not settle is not worth more of the boot.
        let _ = card.programs.run("udevadm", &["settle", "--timeout=20"]);
    }
    for name in card.tree.names("/sys/class/block")? {
        let device = Path::new("/sys/class/block").join(&name);
        if storage::label(&card.tree, &device)? == PARTITION {
            let place = Place::Partition(format!("/dev/{name}"));
            // One whose seed was taken is there, and has none.
            let mut has_seed = false;
            place.opened(card, |folder| {
                has_seed = folder.join(NAME).exists();
                Ok(())
            })?;
            if has_seed {
                return Ok(Some(place));
            }
        }
    }
    // A credential comes again at each start: it is looked at until a seed was taken.
    let credentials = credentials.filter(|folder| patient && folder.join(NAME).exists());
    Ok(credentials.map(Place::Credential))
}

impl Place {
    /// Calls `then` with the folder that holds the seed.
    pub fn opened(&self, card: &Card, then: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        match self {
            Self::Folder => then(&card.tree.at(FOLDER)),
            Self::Credential(folder) => then(folder),
            Self::Partition(node) => {
                card.tree.make_folder(MOUNT)?;
                card.programs.run("mount", &["-o", "ro,nosuid,nodev,noexec", node, MOUNT])?;
                let done = then(&card.tree.at(MOUNT));
                let closed = card.programs.run("umount", &[MOUNT]);
                done.and(closed.with_context(|| format!("closing `{node}`")))
            }
        }
    }

    /// Whether what is there stays there: systemd forgets a credential when its service ends.
    pub fn is_lasting(&self) -> bool {
        !matches!(self, Self::Credential(_))
    }

    /// Lets files of the place be changed.
    pub fn writable(&self, card: &Card) -> Result<()> {
        match self {
            Self::Partition(node) => card
                .programs
                .run("mount", &["-o", "remount,rw", MOUNT])
                .with_context(|| format!("`{node}` can't be written: the seed's secrets are still there")),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder => write!(f, "`{FOLDER}`"),
            Self::Partition(node) => write!(f, "the partition `{node}`"),
            Self::Credential(_) => f.write_str("the credential `dpukit.seed`"),
        }
    }
}
