//! What makes a host ready for pods, in phases.
//!
//! Each phase finds its devices, can be run again, says what it found and did, and fails alone; none waits
//! for longer than a program takes that it runs. To add one, write its file beside this one, and give it a
//! line in [`PHASES`].

mod driver;
mod firmware;
mod link;
mod plugin;
mod vfs;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::report::{Report, State};

pub use plugin::{PACKAGED, VISITING, restore as restore_plugin};
pub use vfs::restore as restore_vfs;

/// Whether a phase may change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It puts right what is not.
    SetUp,
    /// It only looks.
    Look,
}

/// One phase.
pub struct Phase {
    /// What it is called.
    pub name: &'static str,
    /// What a person can do when it failed.
    pub mend: &'static str,
    work: fn(&Machine, Mode, &mut Report) -> Result<()>,
}

/// All phases, in the order in which they run.
pub static PHASES: &[Phase] = &[
    Phase {
        name: "driver",
        mend: "see `lspci -nnk -d 177d:` for the card, and `modinfo octeon_ep` for the driver; a card that is not listed has no power, or its firmware did not start its PCI Express end",
        work: driver::work,
    },
    Phase {
        name: "firmware",
        mend: "see the card's console and `journalctl -k -g octeon_ep`: the host's driver waits for the card to say that its firmware is ready, which octep_cp_agent on the card does",
        work: firmware::work,
    },
    Phase {
        name: "link",
        mend: "see `ip address`; where another network of this host has the same addresses, choose another one for the link in /etc/dpukit/host.toml and on the card",
        work: link::work,
    },
    Phase {
        name: "vfs",
        mend: "see `journalctl -k -g octeon_ep`; to change the number of VFs, drain the node first",
        work: vfs::work,
    },
    Phase {
        name: "plugin",
        mend: "see `ls -l` of the folders that `cni.plugin-folders` of /etc/dpukit/host.toml names",
        work: plugin::work,
    },
];

/// How a phase went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The phase's name.
    pub phase: String,
    /// How it went.
    pub state: State,
    /// What it had to say.
    #[serde(flatten)]
    pub report: Report,
}

impl Phase {
    /// Runs it.
    pub fn run(&self, machine: &Machine, mode: Mode) -> Record {
        let mut report = Report::default();
        let work = |report: &mut Report| (self.work)(machine, mode, report);
        match mode {
            Mode::SetUp => report.try_to(work),
            Mode::Look => report.look(work),
        }
        Record { phase: self.name.to_owned(), state: report.state(), report }
    }
}
