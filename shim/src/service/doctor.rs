//! `dpu-host doctor`: checks of the host as it is now, each with its mend. None changes anything.

use std::time::SystemTime;

use anyhow::Result;
use serde::Serialize;

use super::machine::Machine;
use super::phases::{Mode, PHASES};
use super::report::{Report, State as Way};
use super::state::{State, now};
use super::{certificate, cni, run};
use crate::claims::Store;
use crate::netlink::Netlink;
use crate::service::pf::pfs;
use crate::vf;

/// One check beside those of the phases.
struct Check {
    name: &'static str,
    mend: &'static str,
    look: fn(&Machine, &mut Report) -> Result<()>,
}

static CHECKS: &[Check] = &[
    Check {
        name: "managers",
        mend: "run `nmcli general reload conf` and `networkctl reload`: the package's files in /usr/lib/NetworkManager/conf.d and /usr/lib/systemd/network keep both off the card, unless a file of yours with an earlier name says otherwise",
        look: look_at_managers,
    },
    Check {
        name: "certificate",
        mend: "pair host and card again: `dpu-host pair`",
        look: look_at_certificate,
    },
    Check {
        name: "card",
        mend: "see `dpu-agent doctor` on the card, and `ping` of its address on the link",
        look: look_at_card,
    },
    Check {
        name: "service",
        mend: "run `systemctl enable --now dpu-host`, and see `journalctl -u dpu-host`; where a DaemonSet brings it, `kubectl logs` of its pod",
        look: look_at_service,
    },
    Check {
        name: "cni",
        mend: "see `journalctl -u dpu-host`; `cni` in /etc/dpukit/host.toml says what is to become of other configurations",
        look: look_at_cni,
    },
    Check {
        name: "claims",
        mend: "see `journalctl -t offload-cni`; a claim whose pod is gone ends with the next DEL, GC, or ADD that lacks a VF, and `rm` of a file that cannot be read frees its VF",
        look: look_at_claims,
    },
    Check {
        name: "tombstones",
        mend: "once the card answers they are settled within seconds; `journalctl -u dpu-host` says what stands in the way",
        look: look_at_tombstones,
    },
];

/// What one check found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// The check's name.
    pub name: &'static str,
    /// How it went.
    pub state: Way,
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

/// Makes all checks.
pub fn examine(machine: &Machine) -> Diagnosis {
    let phases = PHASES
        .iter()
        .map(|phase| Finding::new(phase.name, phase.run(machine, Mode::Look).report, phase.mend));
    let others = CHECKS.iter().map(|check| {
        let mut report = Report::default();
        report.look(|report| (check.look)(machine, report));
        Finding::new(check.name, report, check.mend)
    });
    let checks: Vec<_> = phases.chain(others).collect();
    Diagnosis { good: checks.iter().all(|finding| finding.state == Way::Good), checks }
}

impl Finding {
    fn new(name: &'static str, report: Report, mend: &'static str) -> Self {
        let state = report.state();
        Self { name, state, mend: (state != Way::Good).then_some(mend), report }
    }

    /// What is worth telling: what is wrong, or else what was found.
    fn sentences(&self) -> impl Iterator<Item = &String> {
        let Report { found, wrong, unknown, waits, .. } = &self.report;
        let all = if self.state == Way::Good { vec![found] } else { vec![wrong, unknown, waits] };
        all.into_iter().flatten()
    }

    /// The lines that a person reads.
    pub fn text(&self) -> String {
        let word = if self.state == Way::Failed { "FAILED" } else { self.state.name() };
        let mut head = format!("{word:<8} {:<12}", self.name);
        let mut text = String::new();
        for sentence in self.sentences() {
            text += &format!("{head} {sentence}\n");
            head = " ".repeat(21);
        }
        if let Some(mend) = self.mend {
            text += &format!("{:<21} mend: {mend}\n", "");
        }
        text
    }
}

impl Diagnosis {
    /// 0 all is good, 1 something failed, 3 nothing failed but something could not be found out.
    pub fn exit_code(&self) -> u8 {
        match (self.count(Way::Failed) + self.count(Way::Waiting), self.count(Way::Unknown)) {
            (0, 0) => 0,
            (0, _) => 3,
            _ => 1,
        }
    }

    /// The table that a person reads.
    pub fn text(&self) -> String {
        let checks = self.checks.iter().map(Finding::text).collect::<String>();
        let states = [Way::Good, Way::Waiting, Way::Failed, Way::Unknown];
        let counts = states.map(|state| format!("{} {}", self.count(state), state.name()));
        format!("{checks}{} checks: {}\n", self.checks.len(), counts.join(", "))
    }

    fn count(&self, state: Way) -> usize {
        self.checks.iter().filter(|finding| finding.state == state).count()
    }
}

/// Neither `NetworkManager` nor systemd-networkd touches the card's interfaces.
fn look_at_managers(machine: &Machine, report: &mut Report) -> Result<()> {
    let files = &machine.files;
    let mut names = Vec::new();
    for pf in pfs(files, machine.config.pf)? {
        names.extend(pf.interface(files)?);
    }
    for vf in vf::vfs(files, machine.config.vf)? {
        names.extend(vf.interfaces(files)?);
    }
    if files.exists("/run/systemd/netif/links") {
        let mut netlink = Netlink::here()?;
        for name in &names {
            let Some(link) = netlink.link(name)? else { continue };
            // What networkd keeps of each interface, as `networkctl` reads it.
            let kept = files.read_if(format!("/run/systemd/netif/links/{}", link.index))?.unwrap_or_default();
            let state = kept.lines().find_map(|line| line.strip_prefix("ADMIN_STATE="));
            if state.is_some_and(|state| state != "unmanaged") {
                report.wrong(format!("systemd-networkd manages `{name}`"));
            }
        }
    }
    if files.exists("/run/NetworkManager") {
        let told =
            machine.kernel.run("nmcli", &["--terse", "--fields", "DEVICE,STATE", "device", "status"])?;
        for (name, state) in told.lines().filter_map(|line| line.rsplit_once(':')) {
            if names.iter().any(|known| known == name) && state != "unmanaged" {
                report.wrong(format!("NetworkManager manages `{name}`: {state}"));
            }
        }
    }
    if report.wrong.is_empty() {
        report.found(format!("nothing manages the card's {} interfaces beside us", names.len()));
    }
    Ok(())
}

#[allow(clippy::unnecessary_wraps, reason = "every check has this signature")]
fn look_at_certificate(machine: &Machine, report: &mut Report) -> Result<()> {
    match &machine.config.plugin.agent.tls {
        Some(tls) => certificate::look(tls, SystemTime::now(), report),
        None => report.found("host and card talk in plain text, as `card.insecure` wants it"),
    }
    Ok(())
}

#[allow(clippy::unnecessary_wraps, reason = "every check has this signature")]
fn look_at_card(machine: &Machine, report: &mut Report) -> Result<()> {
    report.try_to(|report| {
        run::ask(machine)?;
        report.found(format!("the agent at {} is ready", machine.config.plugin.agent.address));
        Ok(())
    });
    Ok(())
}

fn look_at_service(machine: &Machine, report: &mut Report) -> Result<()> {
    /// How many looks the service may be late.
    const LATE: f64 = 6.0;
    let Some(state) = State::read(&machine.files)? else {
        report.wrong("the service did not run since this host's start");
        return Ok(());
    };
    let age = now().saturating_sub(state.at);
    #[allow(clippy::cast_precision_loss, reason = "seconds since the host's start are few")]
    if age as f64 > 30.0 + LATE * state.every {
        report.wrong(format!("the service last looked {age} s ago"));
        return Ok(());
    }
    let card = if state.card.up { "up" } else { "down" };
    report.found(format!("the service looked {age} s ago, and takes the card for {card}"));
    for record in state.records.iter().filter(|record| record.state != Way::Good) {
        report.wrong(format!("{}: {}", record.phase, record.report.trouble()));
    }
    Ok(())
}

fn look_at_cni(machine: &Machine, report: &mut Report) -> Result<()> {
    let standing = cni::look(machine)?;
    let file = &machine.config.file;
    for aside in &standing.aside {
        report.found(format!("`{aside}` was moved aside"));
    }
    if !standing.in_place {
        report.wrong(format!("`{file}` is not in place: no pods can start by the card"));
    }
    match standing.first.as_deref() {
        Some(first) if first != file => report.wrong(format!("a runtime takes `{first}`, not `{file}`")),
        Some(first) if standing.in_place => report.found(format!("a runtime takes `{first}`")),
        _ => {}
    }
    // Cilium's agent renames what is not its own (its option `cni.exclusive`).
    if machine.files.exists(machine.config.folder.join(format!("{file}.cilium_bak"))) {
        report.wrong(format!(
            "Cilium on this host has renamed `{file}`: set its Helm value `cni.exclusive` to `false`"
        ));
    }
    Ok(())
}

fn look_at_claims(machine: &Machine, report: &mut Report) -> Result<()> {
    let store = Store::look(&machine.files);
    let claims = store.claims()?;
    let files = machine.files.names("/var/lib/dpukit/claims")?;
    let unreadable = files.iter().filter(|name| !name.starts_with('.')).count().saturating_sub(claims.len());
    if unreadable > 0 {
        report.wrong(format!("{unreadable} files in /var/lib/dpukit/claims cannot be read"));
    }
    for claim in &claims {
        let (vf, pod) = (&claim.vf.address, &claim.pod);
        if !claim.vf.exists(&machine.files) {
            report.wrong(format!("`{vf}`, which {pod} has, is gone"));
        } else if claim.namespace.open(&machine.files)?.is_none() {
            report.wrong(format!("{pod}, which has `{vf}`, went without a DEL"));
        }
    }
    let vfs = vf::vfs(&machine.files, machine.config.vf)?.len();
    report.found(format!("pods have {} of {vfs} VFs", claims.len()));
    Ok(())
}

fn look_at_tombstones(machine: &Machine, report: &mut Report) -> Result<()> {
    let tombstones = Store::look(&machine.files).tombstones()?;
    for tombstone in &tombstones {
        let left = tombstone.left;
        let parts = [
            (left.device, "the interface"),
            (left.addresses, "the addresses"),
            (left.card, "the card's part"),
        ];
        let parts: Vec<_> = parts.iter().filter(|(is_left, _)| *is_left).map(|(_, part)| *part).collect();
        report.wrong(format!("{} of `{}` is not undone yet", parts.join(" and "), tombstone.attachment));
    }
    if tombstones.is_empty() {
        report.found("there are none");
    }
    Ok(())
}
