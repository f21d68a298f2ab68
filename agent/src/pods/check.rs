//! What `dpu-agent doctor` looks at of pods.

use anyhow::Result;
use dpu_plan::OVERRIDE;

use super::network::Refusal;
use super::state::{FOLDER, Store};
use super::{settings, vf_id, vfs};
use crate::Card;
use crate::report::Report;

/// The settings, the state on the disk, and the VFs.
pub fn look(card: &Card, report: &mut Report) -> Result<()> {
    let settings = match settings(card) {
        Ok(Some(settings)) => settings,
        Ok(None) => {
            report.absent(format!(
                "this card serves no pods: its plan has no `[pods]`, and there is no `{OVERRIDE}`"
            ));
            return Ok(());
        }
        Err(error) => {
            report.wrong(format!("{error:#}"));
            return Ok(());
        }
    };
    look_at_state(card, report)?;
    let id = vf_id(card, &settings);
    let wired = vfs::all(card, id)?;
    if wired.is_empty() {
        report.wrong(format!("there is no VF `{id}` for pods beside the link"));
        return Ok(());
    }
    let mut bad = 0;
    for host in &wired {
        if let Err(Refusal::Later(reason) | Refusal::Never(reason)) = vfs::find(card, id, *host) {
            report.wrong(format!("{reason:#}"));
            bad += 1;
        }
    }
    if bad == 0 {
        report.found(format!("{} VFs `{id}` are wired to the host's, each with an interface", wired.len()));
    }
    Ok(())
}

fn look_at_state(card: &Card, report: &mut Report) -> Result<()> {
    let store = Store::of(&card.tree);
    let loaded = store.look()?;
    for (name, reason) in &loaded.damaged {
        report.wrong(format!("the attachment `{name}` cannot be read: {reason}"));
    }
    if loaded.damaged.is_empty() {
        report.found(format!("{} attachments on the disk, all readable", loaded.records.len()));
    }
    match store.put_aside() {
        0 => {}
        aside => report.wrong(format!("{aside} damaged files lie in `{FOLDER}/damaged`")),
    }
    Ok(())
}
