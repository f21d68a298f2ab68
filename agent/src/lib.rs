//! The card's side of dpukit: what `dpu-agent` and `dpu-init` are made of.
//!
//! - [`setup`] does at boot what the board's plan asks for, phase by phase;
//! - [`doctor`] checks the running card and names the mend for what is wrong;
//! - [`serve`] answers gRPC on the link to the host: health, and the calls of its CNI plugin;
//! - [`trusted`] says who may ask, and pairs hosts;
//! - [`pods`] makes the networks of the host's pods;
//! - [`metrics`] counts, for Prometheus;
//! - [`octep`] runs the program that answers the firmware, on boards that have it;
//! - [`firmware`] says which firmware the card runs, as far as it tells;
//! - [`slots`] tells U-Boot whether the running system may stay;
//! - [`updates`] takes another system from a paired host;
//! - [`grow`] lets the data partition take the whole disk;
//! - [`fresh`] lets the card begin with nothing, at its first start and after a factory reset;
//! - [`images`] gives containerd the images that the card came with;
//! - [`seed`] takes what a card is told at its first boot;
//! - [`init`] is the first process: it makes `/etc`, `/var` and `/root` writable, then runs systemd.
//!
//! All of them see the system through a [`Card`]: files through a [`tree::Tree`], which a test roots
//! in a folder, and programs through [`programs::Programs`], which a test records.

pub mod card;
pub mod doctor;
pub mod firmware;
pub mod fresh;
pub mod grow;
pub mod images;
pub mod init;
pub mod metrics;
pub mod mounts;
pub mod octep;
pub mod pci;
pub mod pods;
pub mod programs;
pub mod report;
pub mod seed;
pub mod serve;
pub mod setup;
pub mod slots;
pub mod storage;
pub mod tree;
pub mod trusted;
pub mod updates;

#[cfg(test)]
mod fake;

pub use card::Card;
