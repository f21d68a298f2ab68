//! Checks of the running card, each with its mend.
//!
//! The phases are looked at as they are now, not as they were when they ran. That a check failed
//! and that it could not be made are told apart.

mod looks;

use std::fmt::Write as _;
use std::net::SocketAddr;

use anyhow::Result;
use serde::Serialize;

use crate::report::{Report, State};
use crate::setup::{self, PHASES};
use crate::{Card, firmware, images, seed, slots};

pub use looks::SERVICES;

/// Asks the agent at an address whether a service of the card's serves; `""` is the card as a whole.
pub type Ask = dyn Fn(SocketAddr, &str) -> Result<bool>;

/// What a failure means for the card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The card cannot do its work, or loses data.
    Error,
    /// The card works, with a shortcoming.
    Warning,
}

/// One check beside those of the phases.
struct Check {
    name: &'static str,
    severity: Severity,
    mend: &'static str,
    look: fn(&Card, &Ask, &mut Report) -> Result<()>,
}

static CHECKS: &[Check] = &[
    Check {
        name: "firmware",
        severity: Severity::Error,
        mend: "write the firmware that came with the image, or build the image with the SDK that the card runs: `cargo xtask matrix`",
        look: |card, _, report| firmware::look(card, report),
    },
    Check {
        name: "root",
        severity: Severity::Error,
        mend: "flash the image again; a root that changed under dm-verity cannot be trusted",
        look: looks::look_at_root,
    },
    Check {
        name: "data",
        severity: Severity::Error,
        mend: "save what is in /var and /etc, then see `dmesg` for the disk, and `fsck.ext4` from another system",
        look: looks::look_at_data,
    },
    Check {
        name: "seed",
        severity: Severity::Warning,
        mend: "mend the seed where it lies, then `systemctl restart dpu-seed`; its page in agent/README.md has all keys",
        look: |card, _, report| seed::look(card, report),
    },
    Check {
        name: "space",
        severity: Severity::Warning,
        mend: "run `dpu-agent grow-data` and see what it says; `du -x /data` shows what fills the partition",
        look: looks::look_at_space,
    },
    Check {
        name: "services",
        severity: Severity::Error,
        mend: "see `systemctl status UNIT` and `journalctl -u UNIT`",
        look: looks::look_at_services,
    },
    Check {
        name: "firewall",
        severity: Severity::Error,
        mend: "see `nft -c -f /etc/nftables.conf`, then `systemctl restart nftables`",
        look: looks::look_at_firewall,
    },
    Check {
        name: "agent",
        severity: Severity::Error,
        mend: "see `journalctl -u dpu-agent`, and the phases above",
        look: looks::look_at_agent,
    },
    Check {
        name: "images",
        severity: Severity::Warning,
        mend: "see `journalctl -u dpu-images`; `ctr --namespace k8s.io images pull NAME` where there is a registry",
        look: |card, _, report| images::look(card, report),
    },
    Check {
        name: "pods",
        severity: Severity::Error,
        mend: "see `journalctl -u dpu-agent`, `dpu-agent pods`, and `[pods]` in /etc/dpukit/pods.toml or the plan",
        look: looks::look_at_pods,
    },
    Check {
        name: "slot",
        severity: Severity::Warning,
        mend: "see `journalctl -u dpu-confirm`, then install an update that is mended: `rauc install BUNDLE`; of another disk with slots, take the partition table away, as `wipefs` does",
        look: |card, _, report| slots::look(card, report),
    },
];

/// Phases whose failure leaves the card able to work.
const MINOR_PHASES: [&str; 2] = ["swap", "hostname"];

/// What one check found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The check's name.
    pub name: &'static str,
    /// How it went.
    pub state: State,
    /// What it means where it failed.
    pub severity: Severity,
    /// What it has to say.
    #[serde(flatten)]
    pub report: Report,
    /// What to do, where something is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<&'static str>,
}

/// What all checks found.
#[derive(Debug, Serialize)]
pub struct Diagnosis {
    /// Whether nothing is wrong, and all could be found out.
    pub good: bool,
    /// The checks, in their order.
    pub checks: Vec<Finding>,
}

/// Makes all checks; none of them changes anything.
pub fn examine(card: &Card, ask: &Ask) -> Diagnosis {
    let phases = PHASES.iter().map(|phase| {
        let severity = if MINOR_PHASES.contains(&phase.name) { Severity::Warning } else { Severity::Error };
        let mut report = setup::check(card, phase);
        report.look(|report| look_at_record(card, phase, report));
        Finding::new(phase.name, severity, report, phase.mend)
    });
    let others = CHECKS.iter().map(|check| {
        let mut report = Report::default();
        report.look(|report| (check.look)(card, ask, report));
        Finding::new(check.name, check.severity, report, check.mend)
    });
    let checks: Vec<_> = phases.chain(others).collect();
    Diagnosis { good: checks.iter().all(|finding| finding.report.is_good()), checks }
}

impl Finding {
    fn new(name: &'static str, severity: Severity, report: Report, mend: &'static str) -> Self {
        let state = report.state();
        Self { name, state, severity, mend: (!report.is_good()).then_some(mend), report }
    }

    /// What is worth telling of a check: what is wrong, or else what was found.
    fn sentences(&self) -> impl Iterator<Item = &String> {
        let bad = !self.report.is_good();
        let Report { found, did, absent, wrong, unknown } = &self.report;
        let all = if bad { [wrong, unknown] } else { [found, absent] };
        debug_assert!(did.is_empty(), "a check changes nothing");
        all.into_iter().flatten()
    }

    fn word(&self) -> &'static str {
        match (self.state, self.severity) {
            (State::Failed, Severity::Error) => "FAILED",
            (State::Failed, Severity::Warning) => "warning",
            (state, _) => state.name(),
        }
    }
}

impl Diagnosis {
    /// 0 all is good, 1 something failed, 3 nothing failed but something could not be found out.
    pub fn exit_code(&self) -> u8 {
        match (self.count(State::Failed), self.count(State::Unknown)) {
            (0, 0) => 0,
            (0, _) => 3,
            _ => 1,
        }
    }

    /// The table that a person reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for finding in &self.checks {
            let mut head = format!("{:<8} {:<11}", finding.word(), finding.name);
            for sentence in finding.sentences() {
                // A string takes all that is written to it.
                let _ = writeln!(text, "{head} {sentence}");
                head = " ".repeat(20);
            }
            if let Some(mend) = finding.mend {
                let _ = writeln!(text, "{:<20} mend: {mend}", "");
            }
        }
        let counts = [State::Good, State::Absent, State::Failed, State::Unknown]
            .map(|state| format!("{} {}", self.count(state), state.name()));
        let _ = writeln!(text, "{} checks: {}", self.checks.len(), counts.join(", "));
        text
    }

    fn count(&self, state: State) -> usize {
        self.checks.iter().filter(|finding| finding.state == state).count()
    }
}

/// A phase that is good now may have failed at boot, which is worth knowing; one that is not good
/// tells by its record why.
fn look_at_record(card: &Card, phase: &setup::Phase, report: &mut Report) -> Result<()> {
    match setup::record(card, phase)? {
        None => {
            let note =
                format!("the phase did not run since the start: `dpu-agent setup --phase {}`", phase.name);
            if report.is_good() { report.found(note) } else { report.wrong(note) }
        }
        Some(record) if !record.report.is_good() => {
            let note = format!("when it ran: {}", record.report.wrong.join("; "));
            if report.is_good() { report.found(note) } else { report.wrong(note) }
        }
        Some(_) => {}
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::fake::{self, Fake};
    use crate::storage::tests::with_disk;

    #[allow(clippy::unnecessary_wraps, reason = "it stands for `serve::ask`")]
    pub(crate) fn serving(_: SocketAddr, _: &str) -> Result<bool> {
        Ok(true)
    }

    /// A card on which all is as it should be.
    pub(crate) fn healthy() -> Fake {
        let fake = fake::virt();
        with_disk(&fake);
        for (name, start, size) in [("vda", 0, 4_194_304), ("vda5", 1_048_576, 3_143_680)] {
            fake.file(&format!("/sys/class/block/{name}/start"), &start.to_string());
            fake.file(&format!("/sys/class/block/{name}/size"), &size.to_string());
        }
        fake.mounted("30 22 254:5 / /data rw,noatime - ext4 /dev/vda5 rw");
        fake.mounted("31 22 254:5 /var /var rw,noatime - ext4 /dev/vda5 rw");
        fake.mounted("32 22 254:5 /root /root rw,noatime - ext4 /dev/vda5 rw");
        fake.mounted(
            "33 22 0:30 / /etc rw - overlay overlay rw,lowerdir=/etc,upperdir=/data/etc/upper,workdir=/data/etc/work",
        );
        fake.answer("dmsetup status", "0 200000 verity V\n");
        fake.answer("df", "Avail\n  1409\n");
        let shown = SERVICES.iter().map(|unit| format!("Id={unit}\nActiveState=active\nSubState=running\n"));
        fake.answer("systemctl show", &shown.collect::<Vec<_>>().join("\n"));
        fake.answer("systemctl list-units", "");
        fake.answer(
            "nft --numeric list chain",
            "table inet dpukit {\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\
             \t\tiifgroup 77 tcp dport 8000 accept\n\t}\n}\n",
        );
        for phase in PHASES {
            setup::run(&fake.card(), phase);
        }
        seed::take(&fake.card(), false);
        fake
    }

    fn finding<'a>(diagnosis: &'a Diagnosis, name: &str) -> &'a Finding {
        diagnosis.checks.iter().find(|finding| finding.name == name).unwrap()
    }

    /// The one check that fails, and what it says.
    pub(crate) fn only_wrong(fake: &Fake, ask: &Ask) -> (&'static str, Vec<String>) {
        let diagnosis = examine(&fake.card(), ask);
        let bad: Vec<_> = diagnosis.checks.iter().filter(|finding| !finding.report.is_good()).collect();
        assert_eq!(bad.len(), 1, "{}", diagnosis.text());
        assert_eq!(bad[0].state, State::Failed, "{}", diagnosis.text());
        assert_eq!(diagnosis.exit_code(), 1);
        (bad[0].name, bad[0].report.wrong.clone())
    }

    #[test]
    fn a_healthy_card_is_told_line_by_line() {
        let diagnosis = examine(&healthy().card(), &serving);
        assert_eq!(diagnosis.exit_code(), 0);
        insta::assert_snapshot!(diagnosis.text(), @r"
        good     hugepages   8 pages of 32MiB are reserved
                             mounted at `/dev/huge`
        good     sriov       `0000:01:00.0` has its 7 VFs
        good     interfaces  `eth0` is up
                             `eth1` is up
                             `eth2` is up
                             `eth3` is up
                             `eth4` is up
                             `eth5` is up
                             `eth6` is up
                             `eth7` is up
        good     vfio        `testdev` (`0000:00:03.0`) is on `vfio-pci`
        absent   cpt         no PF with the id `177d:a0f2`, and the board need not have one
        good     swap        no swap is on
        good     hostname    no host is named, so the card keeps its name `virt`
        good     link        `eth1` is in group 77
                             `eth1` is up
                             `eth1` has 192.168.1.1/24
        absent   firmware    the image was built for no firmware in particular
        good     root        `root` is read-only under dm-verity, all blocks good
        good     data        `/dev/vda5` is mounted, with `/etc`, `/var` and `/root` on it
        absent   seed        no seed was given: nobody is let in whom the image does not know
        good     space       `/dev/vda5` reaches to the end of the disk
        good     services    9 services are active, and no unit failed
        good     firewall    drops by default, port 8000 is open to the link
        good     agent       `192.168.1.1:8000` answers that the card serves
        absent   images      the card came with no container images
        good     pods        0 attachments on the disk, all readable
                             6 VFs `8086:10ca` are wired to the host's, each with an interface
                             the agent connects pods
        absent   slot        this image takes no updates: it was built without a certificate for them
        19 checks: 14 good, 5 absent, 0 failed, 0 unknown
        ");
    }

    #[test]
    fn a_sick_card_is_told_with_the_mends() {
        let fake = healthy();
        fake.bind("0000:00:03.0", None);
        fake.unmounted("/data");
        fake.mounted("30 22 0:60 / /data rw - tmpfs tmpfs rw");
        fake.file(crate::storage::FALLBACK, "mounting `/dev/vda5`: Structure needs cleaning\n");
        fake.file("/proc/swaps", "Filename Type\n/swapfile file\n");
        fake.fail("nft", "Error: No such file or directory");
        let diagnosis =
            examine(&fake.card(), &|_, _| anyhow::bail!("asking `192.168.1.1:8000`: no answer in 3s"));
        assert_eq!(diagnosis.exit_code(), 1);
        insta::assert_snapshot!(diagnosis.text(), @r"
        good     hugepages   8 pages of 32MiB are reserved
                             mounted at `/dev/huge`
        good     sriov       `0000:01:00.0` has its 7 VFs
        good     interfaces  `eth0` is up
                             `eth1` is up
                             `eth2` is up
                             `eth3` is up
                             `eth4` is up
                             `eth5` is up
                             `eth6` is up
                             `eth7` is up
        FAILED   vfio        `testdev` (`0000:00:03.0`) is on no driver
                             mend: see `dmesg` for the IOMMU and vfio-pci; a device that is missing means other firmware than the board's
        absent   cpt         no PF with the id `177d:a0f2`, and the board need not have one
        warning  swap        swap is on: `/swapfile`
                             mend: see `swapon --show`, and what turns the swap on
        good     hostname    no host is named, so the card keeps its name `virt`
        good     link        `eth1` is in group 77
                             `eth1` is up
                             `eth1` has 192.168.1.1/24
        absent   firmware    the image was built for no firmware in particular
        good     root        `root` is read-only under dm-verity, all blocks good
        FAILED   data        what is written is lost at the next start: mounting `/dev/vda5`: Structure needs cleaning
                             `/data` is `tmpfs`, not ext4
                             `/var` does not lie on the data partition
                             `/root` does not lie on the data partition
                             mend: save what is in /var and /etc, then see `dmesg` for the disk, and `fsck.ext4` from another system
        absent   seed        no seed was given: nobody is let in whom the image does not know
        good     space       `/dev/vda5` reaches to the end of the disk
        good     services    9 services are active, and no unit failed
        FAILED   firewall    the firewall is not loaded: all ports are open
                             mend: see `nft -c -f /etc/nftables.conf`, then `systemctl restart nftables`
        FAILED   agent       asking `192.168.1.1:8000`: no answer in 3s
                             mend: see `journalctl -u dpu-agent`, and the phases above
        absent   images      the card came with no container images
        FAILED   pods        asking `192.168.1.1:8000`: no answer in 3s
                             mend: see `journalctl -u dpu-agent`, `dpu-agent pods`, and `[pods]` in /etc/dpukit/pods.toml or the plan
        absent   slot        this image takes no updates: it was built without a certificate for them
        19 checks: 8 good, 5 absent, 6 failed, 0 unknown
        ");
    }

    #[test]
    fn json_has_the_same_for_programs() {
        let fake = healthy();
        fake.answer("dmsetup status", "0 200000 verity C\n");
        let diagnosis = examine(&fake.card(), &serving);
        let json = serde_json::to_string_pretty(finding(&diagnosis, "root")).unwrap();
        insta::assert_snapshot!(json, @r#"
        {
          "name": "root",
          "state": "failed",
          "severity": "error",
          "wrong": [
            "dm-verity found wrong blocks on `root`"
          ],
          "mend": "flash the image again; a root that changed under dm-verity cannot be trusted"
        }
        "#);
        assert!(!diagnosis.good);
    }

    #[test]
    fn a_check_that_cannot_be_made_is_not_a_failure() {
        let fake = healthy();
        fake.without("nft");
        let diagnosis = examine(&fake.card(), &serving);
        assert_eq!(finding(&diagnosis, "firewall").state, State::Unknown);
        assert_eq!(diagnosis.exit_code(), 3);
    }

    #[test]
    fn a_phase_that_failed_at_boot_and_is_good_now_is_good_with_a_note() {
        let fake = healthy();
        let path = format!("{}/swap.json", setup::RECORDS);
        let record =
            r#"{"phase":"swap","state":"failed","at":1,"milliseconds":1,"wrong":["swap stayed on"]}"#;
        fake.file(&path, record);
        let diagnosis = examine(&fake.card(), &serving);
        assert!(diagnosis.good);
        assert_eq!(finding(&diagnosis, "swap").report.found[1], "when it ran: swap stayed on");
        fake.remove(&path);
        let diagnosis = examine(&fake.card(), &serving);
        assert!(finding(&diagnosis, "swap").report.found[1].contains("`dpu-agent setup --phase swap`"));
        fake.file(&path, "{");
        assert_eq!(examine(&fake.card(), &serving).exit_code(), 3);
    }
}
