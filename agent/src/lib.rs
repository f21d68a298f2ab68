//! The card's side of dpukit: what `dpu-agent` and `dpu-init` are made of.
//!
//! - [`setup`] does at boot what the board's plan asks for, phase by phase;
//! - [`doctor`] checks the running card and names the mend for what is wrong;
//! - [`serve`] answers gRPC on the link to the host: health, and the calls of its CNI plugin;
//! - [`trusted`] says who may ask, and pairs hosts;
//! - [`pods`] makes the networks of the host's pods;
//! - [`metrics`] counts, for Prometheus;
//! - [`octep`] runs the program that answers the firmware, on boards that have it;
//! - [`grow`] lets the data partition take the whole disk;
//! - [`init`] is the first process: it makes `/etc`, `/var` and `/root` writable, then runs systemd.
//!
//! All of them see the system through a [`Card`]: files through a [`tree::Tree`], which a test roots
//! in a folder, and programs through [`programs::Programs`], which a test records.

pub mod card;
pub mod doctor;
pub mod grow;
pub mod init;
pub mod metrics;
pub mod mounts;
pub mod octep;
pub mod pci;
pub mod pods;
pub mod programs;
pub mod report;
pub mod serve;
pub mod setup;
pub mod storage;
pub mod tree;
pub mod trusted;

#[cfg(test)]
mod fake;

pub use card::Card;
