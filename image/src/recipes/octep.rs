//! `octep_cp_agent`, which serves the firmware's side of the endpoint, and its library.

use anyhow::{Context as _, Result};

use super::{Sources, tools, tree};
use crate::hint::WithHint as _;
use crate::sandbox::Sandbox;
use crate::step::Graph;

/// The step that builds it; `root/` goes into the card's root.
pub const OCTEP: &str = "octep";

const SCRIPT: &str = include_str!("octep.sh");

pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources) -> Result<()> {
    let board = &sources.config.board;
    let Some(component) = &board.parts.octep_agent else { return Ok(()) };
    let cross = board
        .tools
        .cross
        .as_ref()
        .context("`parts.octep-agent` is built from C, and the board has no compiler for it")
        .hint(|| "write `tools.cross` with a component of packages".into())?;
    tools::tool_root(graph, sources, cross)?;
    let source = tree::step(graph, sources, component)?;
    graph.step(OCTEP).needs(&source).needs(cross).content("script", SCRIPT).run(move |room| {
        Sandbox::new(room.result(cross)).input("source", room.result(&source)).run(room.place, SCRIPT)
    });
    Ok(())
}
