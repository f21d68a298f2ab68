//! STATUS: whether an ADD could succeed.

use anyhow::{Context as _, Result};

use crate::card::Cards;
use crate::cni::{Code, Invocation, Version};
use crate::config::Config;
use crate::deadline::Deadline;
use crate::host::Host;
use crate::ipam::Ipam;
use crate::undo::Undo;
use crate::vf;

/// Looks for VFs, asks the card and the IPAM plugin, and settles tombstones by the way. That all VFs are
/// taken is no failure: the node is well, and full.
///
/// # Errors
/// [`Code::UNAVAILABLE`] where an ADD would fail, with the reason.
pub fn status(host: &mut Host, call: &Invocation, config: &Config, deadline: Deadline) -> Result<()> {
    config.version.must_know("STATUS", Version::V1_1_0)?;
    // It is asked every few seconds, and what it asks about either answers soon or not at all.
    let looking = deadline.part(50);
    let mut undo = Undo { call, config: Some(config), cards: Cards::default() };
    look(host, &mut undo, config, looking).context(Code::UNAVAILABLE)?;
    undo.settle_all(host, deadline);
    Ok(())
}

fn look(host: &mut Host, undo: &mut Undo, config: &Config, deadline: Deadline) -> Result<()> {
    if vf::vfs(&host.files, config.vf)?.is_empty() {
        anyhow::bail!(
            "this host has no VF `{}`: is the card up, and `sriov_numvfs` of its PF set?",
            config.vf
        );
    }
    if !undo.cards.of(&config.agent)?.is_ready(deadline)? {
        anyhow::bail!("the agent at {} says that the card is not ready", config.agent.address);
    }
    match &config.ipam {
        Some(plugin) => Ipam { call: undo.call, plugin, config }.status(deadline),
        None => Ok(()),
    }
}
