//! What is set up at boot, in phases.
//!
//! Each phase finds its devices, can be run again, says what it found and did, and fails alone. To
//! add one, write its file beside this one with an `apply` and a `check`, and give it a line in
//! [`PHASES`]; `agent/README.md` tells more.

mod cpt;
mod hostname;
mod hugepages;
mod interfaces;
mod link;
mod sriov;
mod swap;
mod vfio;

use std::fmt::Write as _;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::Card;
use crate::report::{Report, State};

pub use link::find as find_link;
pub use vfio::{DRIVER as VFIO_DRIVER, devices as vfio_devices};

/// Where each phase leaves its [`Record`].
pub const RECORDS: &str = "/run/dpukit/setup";

/// One phase.
pub struct Phase {
    /// What it is called on the command line and in its record.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// What a person can do when it failed.
    pub mend: &'static str,
    /// Sets it up. Safe to run again.
    pub apply: fn(&Card, &mut Report) -> Result<()>,
    /// Looks whether it is set up, changing nothing. An error means that it could not look.
    pub check: fn(&Card, &mut Report) -> Result<()>,
}

/// All phases, in the order in which they run.
pub static PHASES: &[Phase] = &[
    Phase {
        name: "hugepages",
        about: "reserve huge pages and mount them",
        mend: "reserve the pages on the kernel's command line (`hugepagesz=32M hugepages=8`), where memory is not yet in pieces",
        apply: hugepages::apply,
        check: hugepages::check,
    },
    Phase {
        name: "sriov",
        about: "make the VFs of the board's PFs",
        mend: "see `lspci -nn` and `dmesg` for the PF, and whether the firmware is the board's",
        apply: sriov::apply,
        check: sriov::check,
    },
    Phase {
        name: "interfaces",
        about: "bring up the network interfaces to the host",
        mend: "see `dmesg` for the interface's driver",
        apply: interfaces::apply,
        check: interfaces::check,
    },
    Phase {
        name: "vfio",
        about: "bind devices to vfio-pci",
        mend: "see `dmesg` for the IOMMU and vfio-pci; a device that is missing means other firmware than the board's",
        apply: vfio::apply,
        check: vfio::check,
    },
    Phase {
        name: "cpt",
        about: "give the kernel its crypto VFs",
        mend: "see `dmesg` for rvu_cptpf, and whether its microcode is in /usr/lib/firmware/mrvl",
        apply: cpt::apply,
        check: cpt::check,
    },
    Phase {
        name: "swap",
        about: "turn swap off",
        mend: "see `swapon --show`, and what turns the swap on",
        apply: swap::apply,
        check: swap::check,
    },
    Phase {
        name: "hostname",
        about: "name the card after its host",
        mend: "write the host's name to /etc/dpukit/host, or `dpukit.host=` on the kernel's command line",
        apply: hostname::apply,
        check: hostname::check,
    },
    Phase {
        name: "link",
        about: "set the address of the link to the host",
        mend: "see `ip -d link` for the link's interface, and the phases before this one",
        apply: link::apply,
        check: link::check,
    },
];

/// The phase of this name.
pub fn phase(name: &str) -> Option<&'static Phase> {
    PHASES.iter().find(|phase| phase.name == name)
}

/// How a phase went, as it is kept in [`RECORDS`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The phase's name.
    pub phase: String,
    /// How it went.
    pub state: State,
    /// When it ended: seconds since 1970, by the card's clock.
    pub at: u64,
    /// How long it took, in milliseconds.
    pub milliseconds: u64,
    /// What it had to say.
    #[serde(flatten)]
    pub report: Report,
}

impl Record {
    /// The text that a person reads.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {}\n{}", self.phase, self.state.name(), self.report.lines());
        if let Some(phase) = phase(&self.phase).filter(|_| !self.report.is_good()) {
            // A string takes all that is written to it.
            let _ = writeln!(text, "  {:<8}{}", "mend", phase.mend);
        }
        text
    }
}

/// Runs one phase, and keeps its record. The record comes back even where it could not be kept:
/// that is then one of the things that went wrong.
pub fn run(card: &Card, phase: &Phase) -> Record {
    let start = Instant::now();
    let mut report = Report::default();
    report.try_to(|report| (phase.apply)(card, report));
    let mut record = Record {
        phase: phase.name.to_owned(),
        state: report.state(),
        at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        milliseconds: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
        report,
    };
    if let Err(error) = keep(card, &record) {
        record.report.wrong(format!("{error:#}"));
        record.state = record.report.state();
    }
    record
}

/// Looks at one phase as it is now.
pub fn check(card: &Card, phase: &Phase) -> Report {
    let mut report = Report::default();
    report.look(|report| (phase.check)(card, report));
    report
}

/// What a phase left of its last run; none where it did not run since the card was started.
pub fn record(card: &Card, phase: &Phase) -> Result<Option<Record>> {
    let path = record_path(phase.name);
    card.tree
        .read_if(&path)?
        .map(|text| serde_json::from_str(&text).with_context(|| format!("`{path}` is no record")))
        .transpose()
}

fn keep(card: &Card, record: &Record) -> Result<()> {
    let json = serde_json::to_vec_pretty(record).context("writing the record as JSON")?;
    card.tree.save(record_path(&record.phase), &json)
}

fn record_path(name: &str) -> String {
    format!("{RECORDS}/{name}.json")
}

/// Reports devices that are not there.
fn report_missing(report: &mut Report, expected: bool, what: &str) {
    if expected {
        report.wrong(format!("no {what} was found"));
    } else {
        report.absent(format!("no {what}, and the board need not have one"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    fn refuse(_: &Card, report: &mut Report) -> Result<()> {
        report.did("half of it");
        anyhow::bail!("no more")
    }

    const REFUSED: Phase =
        Phase { name: "refused", about: "fail", mend: "try again", apply: refuse, check: refuse };

    #[test]
    fn names_of_phases_are_different() {
        let mut names: Vec<_> = PHASES.iter().map(|phase| phase.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PHASES.len());
    }

    #[test]
    fn a_phase_that_fails_still_tells_what_it_did() {
        let card = fake::virt().card();
        let record = run(&card, &REFUSED);
        assert_eq!(record.state, State::Failed);
        assert_eq!(record.report.did, ["half of it"]);
        assert_eq!(record.report.wrong, ["no more"]);
        assert_eq!(super::record(&card, &REFUSED).unwrap(), Some(record));
    }

    #[test]
    fn a_check_that_cannot_look_is_unknown_and_not_failed() {
        assert_eq!(check(&fake::virt().card(), &REFUSED).state(), State::Unknown);
    }

    #[test]
    fn a_record_that_cannot_be_kept_is_a_failure() {
        let fake = fake::virt();
        fake.file("/run/dpukit", "in the way");
        let record = run(&fake.card(), phase("swap").unwrap());
        assert_eq!(record.state, State::Failed);
        assert!(record.report.wrong[0].contains("/run/dpukit/setup/swap.json"), "{record:?}");
    }

    #[test]
    fn a_board_as_it_should_be_is_set_up_and_found_so() {
        for fake in [fake::virt(), fake::cn106()] {
            let card = fake.card();
            for phase in PHASES {
                let record = run(&card, phase);
                assert!(record.report.is_good(), "{}", record.text());
                let report = check(&card, phase);
                assert!(report.is_good(), "{}: {}", phase.name, report.lines());
            }
        }
    }

    #[test]
    fn a_second_run_changes_nothing() {
        for fake in [fake::virt(), fake::cn106()] {
            let card = fake.card();
            for phase in PHASES {
                run(&card, phase);
            }
            fake.forget();
            for phase in PHASES {
                let record = run(&card, phase);
                assert_eq!(record.report.did, Vec::<String>::new(), "{}", record.text());
            }
            assert_eq!(fake.written(), Vec::<String>::new());
        }
    }

    #[test]
    fn nothing_set_up_is_found_so() {
        let card = fake::virt().card();
        for phase in PHASES.iter().filter(|phase| !["swap", "cpt", "hostname"].contains(&phase.name)) {
            let report = check(&card, phase);
            assert_eq!(report.state(), State::Failed, "{}: {}", phase.name, report.lines());
        }
    }
}
