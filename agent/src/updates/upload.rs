//! A bundle while it comes, as a file on the data partition.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use dpu_api::v1::Bundle;
use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use tonic::Status;

use crate::tree::Tree;

/// The unit of the agent makes it, for root alone.
const FOLDER: &str = "/var/lib/dpukit/update";
const FILE: &str = "/var/lib/dpukit/update/bundle.raucb";
/// What stays free, for the card's own work: 64 MiB.
const SPARE: u64 = 64 << 20;

/// A bundle that comes. Its file goes with it.
pub struct Upload {
    path: PathBuf,
    file: File,
    context: Option<Context>,
    size: u64,
    got: u64,
    sha256: Vec<u8>,
}

/// Removes what was left over.
pub fn clear(tree: &Tree) -> Result<()> {
    match fs::remove_file(tree.at(FILE)) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing `{FILE}`"))
        }
        _ => Ok(()),
    }
}

impl Upload {
    /// Makes room for a bundle.
    ///
    /// # Errors
    /// What was announced makes no sense, or there is no room for it.
    pub fn begin(tree: &Tree, bundle: &Bundle) -> Result<Self, Status> {
        let Bundle { size, sha256 } = bundle;
        if *size == 0 || sha256.len() != SHA256_OUTPUT_LEN {
            return Err(Status::invalid_argument("a bundle has a size, and a SHA-256 of 32 octets"));
        }
        let broken = |error: anyhow::Error| Status::internal(format!("{error:#}"));
        tree.make_folder(FOLDER).map_err(broken)?;
        clear(tree).map_err(broken)?;
        let free = free(&tree.at(FOLDER)).map_err(broken)?;
        if free.saturating_sub(SPARE) < *size {
            return Err(Status::resource_exhausted(format!(
                "the card's data partition has {} MiB free, and the bundle takes {} MiB and {} MiB to spare: \
                 make room on it (`df /data`)",
                free >> 20,
                size.div_ceil(1 << 20),
                SPARE >> 20,
            )));
        }
        let path = tree.at(FILE);
        let file = File::options().write(true).create_new(true).open(&path);
        let file = file.with_context(|| format!("making `{FILE}`")).map_err(broken)?;
        let context = Some(Context::new(&SHA256));
        Ok(Self { path, file, context, size: *size, got: 0, sha256: sha256.clone() })
    }

    /// Takes the next part.
    ///
    /// # Errors
    /// It is more than was announced, or can't be written.
    pub fn take(&mut self, chunk: &[u8]) -> Result<(), Status> {
        self.got += chunk.len() as u64;
        if self.got > self.size {
            return Err(Status::invalid_argument(format!("more came than {} octets", self.size)));
        }
        if let Some(context) = &mut self.context {
            context.update(chunk);
        }
        self.file.write_all(chunk).map_err(|error| match error.kind() {
            ErrorKind::StorageFull => Status::resource_exhausted("the card's data partition became full"),
            _ => Status::internal(format!("writing `{FILE}`: {error}")),
        })
    }

    /// Checks that it is whole.
    ///
    /// # Errors
    /// It is too short, or has another hash.
    pub fn finish(&mut self) -> Result<(), Status> {
        if self.got < self.size {
            return Err(Status::invalid_argument(format!(
                "{} of {} octets came: the bundle was cut short on the way",
                self.got, self.size
            )));
        }
        let digest = self.context.take().map(Context::finish);
        if digest.is_none_or(|digest| digest.as_ref() != self.sha256) {
            return Err(Status::data_loss("the bundle came with another SHA-256 than was announced"));
        }
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::error!("removing `{FILE}`: {error}");
        }
    }
}

/// How many octets the file system of a folder has free.
fn free(folder: &Path) -> Result<u64> {
    let found = rustix::fs::statvfs(folder).with_context(|| format!("asking for the room in `{FOLDER}`"))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
