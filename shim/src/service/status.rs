//! `dpu-host status`: what there is, and what is not as it should be.

use std::time::SystemTime;

use anyhow::Result;
use serde::Serialize;

use super::certificate::{self, Expiry};
use super::cni::{self, Standing};
use super::doctor::{self, Diagnosis, Finding};
use super::machine::Machine;
use super::report::State as Way;
use super::state::{Card, State, now};
use crate::claims::{Claim, Left, Store};
use crate::vf;

/// All that is told.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The card, as the service sees it; none where the service does not run.
    pub card: Option<Card>,
    /// When the certificate of this host ends; none where it cannot be told, or there is none.
    pub certificate: Option<Expiry>,
    /// The CNI configurations.
    pub cni: Standing,
    /// All VFs.
    pub vfs: Vec<VfStatus>,
    /// What is left of pods that are gone.
    pub tombstones: Vec<Tombstone>,
    /// What is not as it should be.
    pub problems: Vec<Finding>,
    #[serde(skip)]
    exit_code: u8,
}

/// A VF, and who has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VfStatus {
    /// Its PCI address.
    pub address: String,
    /// Its PF's number.
    pub pf: u32,
    /// Its number on its PF.
    pub number: u32,
    /// Its interface on the host.
    pub interface: Option<String>,
    /// The pod that has it: namespace and name.
    pub pod: Option<String>,
    /// The pod's container, and the interface's name there.
    pub attachment: Option<String>,
}

/// What is left of a pod that is gone.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Tombstone {
    /// The container, and the interface's name there.
    pub attachment: String,
    /// The VF that it had.
    pub vf: String,
    /// What is not undone.
    pub left: Left,
}

impl Status {
    /// Looks.
    pub fn look(machine: &Machine) -> Result<Self> {
        let diagnosis = doctor::examine(machine);
        let exit_code = Diagnosis::exit_code(&diagnosis);
        let store = Store::look(&machine.files);
        let tls = machine.config.plugin.agent.tls.as_ref();
        Ok(Self {
            card: State::read(&machine.files)?.map(|state| state.card),
            certificate: tls.and_then(|tls| certificate::expiry(&tls.certificate, SystemTime::now()).ok()),
            cni: cni::look(machine)?,
            vfs: vfs(machine, &store.claims()?)?,
            tombstones: store.tombstones()?.into_iter().map(Tombstone::of).collect(),
            problems: diagnosis.checks.into_iter().filter(|finding| finding.state != Way::Good).collect(),
            exit_code,
        })
    }

    /// As of [`Diagnosis::exit_code`].
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// What a person reads.
    pub fn text(&self) -> String {
        let mut text = match &self.card {
            None => "card         not known: the service does not run\n".to_owned(),
            Some(card) => format!(
                "card         {} for {}{}\n",
                if card.up { "up" } else { "down" },
                spoken(now().saturating_sub(card.since)),
                card.trouble.as_ref().map(|trouble| format!(": {trouble}")).unwrap_or_default()
            ),
        };
        if let Some(Expiry { days, .. }) = &self.certificate {
            text += &match days {
                Some(days) => format!("certificate  holds for {days} days\n"),
                None => "certificate  has expired\n".to_owned(),
            };
        }
        let Standing { in_place, first, aside, .. } = &self.cni;
        text += &format!(
            "CNI          our configuration is {}\n",
            if *in_place { "in place" } else { "not in place" }
        );
        if let Some(first) = first {
            text += &format!("             a runtime takes `{first}`\n");
        }
        for aside in aside {
            text += &format!("             moved aside: `{aside}`\n");
        }
        let taken = self.vfs.iter().filter(|vf| vf.attachment.is_some()).count();
        text += &format!("VFs          {}, of which pods have {taken}\n", self.vfs.len());
        for VfStatus { address, interface, pod, attachment, .. } in &self.vfs {
            let name = interface.as_deref().unwrap_or("-");
            let whose = pod.as_ref().zip(attachment.as_ref());
            let whose =
                whose.map_or_else(|| "free".into(), |(pod, attachment)| format!("{pod} {attachment}"));
            text += &format!("             {address} {name:<15} {whose}\n");
        }
        for tombstone in &self.tombstones {
            text += &format!("left         of `{}`, which had `{}`\n", tombstone.attachment, tombstone.vf);
        }
        if !self.problems.is_empty() {
            text += "\n";
        }
        text + &self.problems.iter().map(Finding::text).collect::<String>()
    }
}

impl Tombstone {
    fn of(claim: Claim) -> Self {
        Self { attachment: claim.attachment.to_string(), vf: claim.vf.address, left: claim.left }
    }
}

fn vfs(machine: &Machine, claims: &[Claim]) -> Result<Vec<VfStatus>> {
    let mut found = Vec::new();
    for vf in vf::vfs(&machine.files, machine.config.vf)? {
        let claim = claims.iter().find(|claim| claim.vf.address == vf.address);
        found.push(VfStatus {
            interface: vf.interfaces(&machine.files)?.into_iter().next(),
            pod: claim.map(|claim| claim.pod.to_string()),
            attachment: claim.map(|claim| claim.attachment.to_string()),
            address: vf.address,
            pf: vf.pf,
            number: vf.number,
        });
    }
    Ok(found)
}

/// A time as a person says it.
fn spoken(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
