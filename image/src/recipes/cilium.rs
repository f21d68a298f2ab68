//! Cilium's agent from its makers' source with our patches, to be laid over their image: it has to see the pods of its
//! card's host, which are another node's (`image/kubernetes/README.md`).

use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Sources, copy_entered, folder_enters, tools, tree};
use crate::hint::WithHint as _;
use crate::lock::Content;
use crate::sandbox::Sandbox;
use crate::step::Graph;

/// The step whose result, below `layer/`, is laid over the image.
pub const CILIUM_AGENT: &str = "cilium-agent";

const SCRIPT: &str = include_str!("cilium.sh");
/// The folder with a component's patches, by its name; they are applied in the order of their names.
const PATCHES: &str = "image/patches";

/// Adds the step where the board wants an agent of its own; whether it does.
pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources) -> Result<bool> {
    let board = &sources.config.board;
    let Some(name) = &board.parts.cilium_agent else { return Ok(false) };
    let go = board
        .tools
        .go
        .as_ref()
        .context("`parts.cilium-agent` is built from Go, and the board has no compiler for it")
        .hint(|| "write `tools.go` with a component of packages".into())?;
    tools::tool_root(graph, sources, go)?;
    let source = tree::step(graph, sources, name)?;
    let component = sources.component(name)?;
    let commit = match sources.lock.components.get(name).map(|locked| &locked.content) {
        Some(Content::Git(locked)) if component.instead.is_none() => &locked.commit,
        _ => "local",
    };
    let (root, patches) = (&sources.config.root, Path::new(PATCHES).join(name));
    let step = graph.step(CILIUM_AGENT).needs(&source).needs(go).content("script", SCRIPT);
    folder_enters(step.content("commit", commit), root, &patches)?.run(move |room| {
        let patches = copy_entered(room, root, &patches)?;
        Sandbox::new(room.result(go))
            .input("source", room.result(&source))
            .input("patches", patches)
            .env("COMMIT", commit)
            .env("JOBS", room.jobs)
            .run(room.place, SCRIPT)
    });
    Ok(true)
}
