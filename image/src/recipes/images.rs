//! Container images that a card has without a registry, each as an OCI layout.

use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail, ensure};

use super::Sources;
use crate::config::Source;
use crate::lock::Content;
use crate::source::folder;
use crate::step::Graph;

/// Adds the step with the layout of the board's image of Cilium; it is named as the component.
pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources) -> Result<()> {
    let Some(name) = &sources.config.board.parts.cilium else { return Ok(()) };
    let component = sources.component(name)?;
    if let Some(instead) = &component.instead {
        ensure!(
            instead.join("oci-layout").is_file(),
            "`{}` is not an OCI layout: it has no `oci-layout`",
            instead.display()
        );
        let hash = folder::hash(instead).with_context(|| format!("reading `{}`", instead.display()))?;
        graph.step(name).hash("files", hash).run(move |room| folder::copy(instead, &room.place.out));
        return Ok(());
    }
    let (Source::Oci(source), Content::Oci(locked)) = (&component.source, sources.content(name)?) else {
        bail!("the lock has no image of `{name}`")
    };
    let reference = format!("{}/{} {:?}", source.registry, source.repository, source.tag);
    let step = graph.step(name).draws_on(name).hash("manifest", locked.manifest.sha256);
    step.content("reference", reference).run(move |room| {
        let total = locked.blobs.iter().map(|blob| blob.size).sum();
        let done = AtomicU64::new(0);
        let registry = sources.origins.oci(source);
        registry.fetch(locked, &|bytes| {
            let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            room.progress(done, Some(total));
        })?;
        registry.layout(locked, &room.place.out)
    });
    Ok(())
}
