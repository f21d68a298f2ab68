//! Where the plugin says what it does: the journal, or a file where there is none. Standard output is the
//! runtime's, and what becomes of standard error is not ours to know.

use std::fs::{self, File};
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context as _, Result};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::files::Files;

const JOURNAL: &str = "/run/systemd/journal/socket";
const FOLDER: &str = "/var/log/dpukit";
const NAME: &str = "offload-cni.log";
/// From this size on, in octets, the file is put aside; the one that was put aside before goes.
const LARGE: u64 = 1 << 20;

/// Begins to log what is of this weight or more. A plugin that cannot log does its work all the same.
pub fn start(files: &Files, level: Level) {
    // The crates below say more than a reader wants.
    let ours = filter_fn(|event| event.target().starts_with("dpukit_host"));
    let log = tracing_subscriber::registry().with(LevelFilter::from_level(level));
    if files.exists(JOURNAL)
        && let Ok(journal) = tracing_journald::layer()
    {
        let journal = journal.with_syslog_identifier("offload-cni".to_owned()).with_field_prefix(None);
        let _ = log.with(journal.with_filter(ours)).try_init();
    } else if let Ok(file) = open(&files.at(FOLDER)) {
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_target(false);
        let _ = log.with(lines.with_writer(Mutex::new(file)).with_filter(ours)).try_init();
    }
}

fn open(folder: &Path) -> Result<File> {
    let path = folder.join(NAME);
    let opening = || format!("opening `{}`", path.display());
    fs::create_dir_all(folder).with_context(opening)?;
    if fs::metadata(&path).is_ok_and(|meta| meta.len() >= LARGE) {
        // Two that do it at once lose a part of the older lines at worst.
        fs::rename(&path, folder.join(format!("{NAME}.1"))).with_context(opening)?;
    }
    // Lines that are appended at once do not mix with other processes' lines.
    File::options().append(true).create(true).open(&path).with_context(opening)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_large_log_is_put_aside_once() {
        let folder = tempfile::tempdir().unwrap();
        for round in [b'a', b'b', b'c'] {
            let mut file = open(folder.path()).unwrap();
            file.write_all(&vec![round; usize::try_from(LARGE).unwrap()]).unwrap();
        }
        open(folder.path()).unwrap();
        let begins = |name: &str| fs::read(folder.path().join(name)).unwrap().first().copied();
        assert_eq!(begins("offload-cni.log"), None);
        assert_eq!(begins("offload-cni.log.1"), Some(b'c'));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_small_log_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            open(folder.path()).unwrap().write_all(b"line\n").unwrap();
        }
        assert_eq!(fs::read_to_string(folder.path().join(NAME)).unwrap(), "line\nline\n");
    }
}
