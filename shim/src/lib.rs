//! The host's side of pods through the card.
//!
//! The program `offload-cni` is a CNI plugin: a pod gets an SR-IOV VF of the card, and the card makes its
//! network. The program `dpu-host` sets the host up for it, watches the card,
//! and hands it updates.

pub mod cni;
pub mod config;
pub mod deadline;
pub mod files;

pub mod claims;
pub mod host;
pub mod namespace;
pub mod netlink;
pub mod vf;

pub mod pairing;
pub mod plugin;
pub mod service;
pub mod update;

mod add;
mod announce;
mod card;
mod check;
mod choose;
mod del;
mod device;
mod gc;
mod ipam;
mod log;
mod network;
mod status;
mod undo;

#[cfg(test)]
mod fake;

pub use dpu_cni::address;
