//! The host's set-up: what the program `dpu-host` does.
//!
//! Phases make the host ready for pods, each for itself. While all are good and the card answers, the CNI
//! configuration is in place; while they are not, it is away.

pub mod config;
pub mod machine;
pub mod report;

pub mod phases;

pub mod cni;

pub mod doctor;
pub mod restore;
pub mod run;
pub mod state;
pub mod status;
pub mod visit;

mod aside;
mod certificate;
mod gate;
mod pf;
mod placed;
mod settle;

#[cfg(test)]
mod fake;
