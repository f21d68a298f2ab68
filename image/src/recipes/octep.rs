//! `octep_cp_agent`, which serves the firmware's side of the endpoint, and its library.

use std::fs;

use anyhow::{Context as _, Result};

use super::{Sources, tools, tree};
use crate::config::Endpoint;
use crate::hint::WithHint as _;
use crate::sandbox::Sandbox;
use crate::step::Graph;

/// The step that builds it; `root/` goes into the card's root.
pub const OCTEP: &str = "octep";

const SCRIPT: &str = include_str!("octep.sh");
/// Edits its configuration.
const EDITOR: &str = include_str!("octep-config.c");

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
    let Endpoint { mac, vfs, speed } = &board.endpoint;
    let or_dash = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let edits = [
        ("MAC", or_dash(mac.clone())),
        ("VFS", or_dash(vfs.map(|count| count.to_string()))),
        ("SPEED", or_dash(speed.map(|speed| speed.to_string()))),
    ];
    let mut step = graph.step(OCTEP).needs(&source).needs(cross).content("script", SCRIPT);
    step = step.content("octep-config.c", EDITOR);
    for (name, value) in &edits {
        step = step.content(*name, value);
    }
    step.run(move |room| {
        let editor = room.place.scratch.join("octep-config.c");
        fs::write(&editor, EDITOR)?;
        let sandbox = Sandbox::new(room.result(cross))
            .input("source", room.result(&source))
            .input("octep-config.c", editor);
        let sandbox = edits.iter().fold(sandbox, |sandbox, (name, value)| sandbox.env(name, value));
        sandbox.run(room.place, SCRIPT)
    });
    Ok(())
}
