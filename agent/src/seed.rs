//! What a card is told at its first boot, by whoever puts it in place: `dpukit-seed.toml`.
//!
//! A seed is looked for in a folder of the data partition, in a partition named `dpukit-seed` of any disk, and in the
//! credential `dpukit.seed`; the first that is there counts. It is taken once: files are made of it, a record is kept,
//! and the seed and its secrets are overwritten and removed. One that is wrong is not taken, in no part, and stays to
//! be mended. Without a seed a card lets nobody in.
//!
//! # The schema, by example
//!
//! ```toml
#![doc = include_str!("seed/example.toml")]
//! ```

mod format;
mod place;

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use crate::Card;
use crate::report::Report;
use format::Seed;

/// The seed's name.
pub const NAME: &str = "dpukit-seed.toml";
/// What kubeadm is given, until the card has joined.
pub const JOIN: &str = "/etc/kubernetes/dpukit-join.json";

/// What is kept of the seed that was taken.
const RECORD: &str = "/var/lib/dpukit/seed.json";
/// What the last run had to say, for the doctor.
const SAID: &str = "/run/dpukit/seed.json";
/// The largest file of a seed that is read.
const LARGEST: u64 = 1 << 20;
const KUBEADM: &str = "/usr/bin/kubeadm";

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// Where the seed was.
    place: String,
    /// The files that were made of it.
    made: Vec<String>,
}

/// Takes the seed, if there is one that was not taken; `again` takes another in its place.
pub fn take(card: &Card, again: bool) -> Report {
    // Where the unit has the credential `dpukit.seed` put, under the name that a seed has.
    take_with(card, again, std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from))
}

fn take_with(card: &Card, again: bool, credentials: Option<PathBuf>) -> Report {
    let mut report = Report::default();
    report.try_to(|report| try_to_take(card, again, credentials, report));
    let kept = serde_json::to_vec(&report).map_err(Into::into).and_then(|json| card.tree.save(SAID, &json));
    if let Err(error) = kept {
        report.wrong(format!("{error:#}"));
    }
    report
}

/// What is known of the seed.
pub fn look(card: &Card, report: &mut Report) -> Result<()> {
    match card.tree.read_if(SAID)? {
        None => report.wrong("no seed was looked for since the start: `systemctl start dpu-seed`"),
        Some(text) => {
            let said: Report =
                serde_json::from_str(&text).with_context(|| format!("`{SAID}` is no report"))?;
            report.found.extend(said.found.into_iter().chain(said.did));
            report.absent.extend(said.absent);
            report.wrong.extend(said.wrong);
        }
    }
    if card.tree.exists(JOIN) {
        report.wrong(if card.tree.exists(KUBEADM) {
            "the card has not joined its Kubernetes yet: `journalctl -u dpu-join`".to_owned()
        } else {
            format!("the seed wants the card in Kubernetes, and the image has no `{KUBEADM}`")
        });
    }
    Ok(())
}

/// Joins Kubernetes as the seed says; its token is removed then.
pub fn join(card: &Card, report: &mut Report) -> Result<()> {
    if !card.tree.exists(JOIN) {
        report.absent("no seed wants the card in Kubernetes, or it has joined");
        return Ok(());
    }
    let path = card.tree.at(JOIN);
    // Its package leaves that to its maintainer's script, and kubeadm only starts it.
    card.programs.run("systemctl", &["enable", "kubelet.service"])?;
    card.programs.run("kubeadm", &["join", "--config", &path.to_string_lossy()])?;
    wipe(&path).with_context(|| format!("removing `{JOIN}`"))?;
    report.did("joined Kubernetes");
    Ok(())
}

fn try_to_take(card: &Card, again: bool, credentials: Option<PathBuf>, report: &mut Report) -> Result<()> {
    let taken = record(card)?;
    let Some(place) = place::find(card, taken.is_none() || again, credentials)? else {
        match taken {
            Some(record) => report.found(format!("the card took its seed from {}", record.place)),
            None => report.absent("no seed was given: nobody is let in whom the image does not know"),
        }
        return Ok(());
    };
    let shown = place.to_string();
    if let Some(record) = taken.filter(|_| !again) {
        bail!(
            "there is a seed in {shown}, and the card has taken one from {}: remove it, or have it taken with \
             `dpu-agent seed --again`",
            record.place
        );
    }
    let mut made = Vec::new();
    place
        .opened(card, |folder| {
            let text = read(&folder.join(NAME))?;
            let seed = Seed::parse(&text)?;
            let now = |path: &str| Ok(card.tree.read_if(path)?.unwrap_or_default());
            let files = seed.files(&|name| read(&folder.join(name)), &now)?;
            for file in files {
                write(card, &file).with_context(|| format!("writing `{}`", file.path))?;
                made.push(file.path);
            }
            let record = Record { place: shown.clone(), made: made.clone() };
            card.tree.save(RECORD, &serde_json::to_vec_pretty(&record)?)?;
            report.did(format!("took the seed in {shown}: {}", made.join(", ")));
            // From here on the card is as it was told: what is left is to forget its secrets.
            if !place.is_lasting() {
                return Ok(());
            }
            let secrets = seed.secrets().into_iter().map(|name| folder.join(name));
            for path in secrets.chain([folder.join(NAME)]) {
                report.try_to(|_| {
                    place.writable(card)?;
                    wipe(&path).context("the seed's secrets are still there: they could not be wiped")
                });
            }
            Ok(())
        })
        .with_context(|| format!("the seed in {shown} is not taken"))
}

fn record(card: &Card) -> Result<Option<Record>> {
    let Some(text) = card.tree.read_if(RECORD)? else { return Ok(None) };
    Ok(Some(serde_json::from_str(&text).with_context(|| format!("`{RECORD}` is no record"))?))
}

fn read(path: &Path) -> Result<String> {
    let name = path.file_name().unwrap_or_default().display().to_string();
    let context = || format!("reading `{name}`");
    let meta = fs::symlink_metadata(path).with_context(context)?;
    if !meta.is_file() || meta.len() > LARGEST {
        bail!("`{name}` is no file of at most 1 MiB");
    }
    fs::read_to_string(path).with_context(context)
}

/// Whole, and readable by whom it is for.
fn write(card: &Card, file: &format::Made) -> Result<()> {
    let path = card.tree.at(&file.path);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    dpu_trust::keep::write(&path, file.text.as_bytes(), file.mode)
}

/// Overwrites a file and removes it. Flash may keep what was overwritten all the same: who must be sure uses a token
/// that ends soon, as kubeadm's do.
fn wipe(path: &Path) -> Result<()> {
    let mut file = match OpenOptions::new().write(true).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        file => file?,
    };
    let length = usize::try_from(file.metadata()?.len())?;
    file.write_all(&vec![0; length])?;
    file.sync_all()?;
    fs::remove_file(path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
