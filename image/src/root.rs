//! The card's root file system: packages unpacked, composed with what is ours, written as one archive.

pub mod compose;
mod elf;
pub mod packages;
pub mod tree;
