//! Debian's archives: what is in them, who signed it, and which packages a wish comes down to.
//!
//! A [`release::Release`] is trusted for its signature; it names each [`packages::Index`] by its hash; an index names
//! each package by its hash, and [`sources`] the archives of source packages. [`resolve`] picks packages from indexes
//! with the order of [`version`] and the language of [`relation`]. What was picked is kept in [`crate::lock`].

pub mod keyring;
pub mod packages;
pub mod relation;
pub mod release;
pub mod resolve;
pub mod sources;
pub mod version;

use crate::hash::Hash;

/// Where files of an archive come from: mirrors, a cache, or a folder.
pub trait Source {
    /// A file of `archive` (a name in [`crate::config::Suites::archives`]), by its path below the
    /// archive's base address: `dists/…` or `pool/…`, and anything else in a flat repository.
    ///
    /// `want` is the size in bytes and the hash that the file must have; it is `None` only for
    /// files that carry their own signature.
    fn get(&self, archive: &str, path: &str, want: Option<(u64, Hash)>) -> anyhow::Result<Vec<u8>>;
}
