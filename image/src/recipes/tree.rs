//! The source of a component of source `git`, or a developer's folder instead, as files.

use anyhow::{Context as _, Result, bail, ensure};

use super::Sources;
use crate::config::Source;
use crate::lock::Content;
use crate::source::folder;
use crate::step::Graph;

/// The step with a component's files.
pub fn name(component: &str) -> String {
    format!("{component}-source")
}

/// Adds the step with a component's files, unless it is there; returns its name.
pub fn step<'a>(graph: &mut Graph<'a>, sources: &'a Sources, component: &str) -> Result<String> {
    let name = name(component);
    if graph.has(&name) {
        return Ok(name);
    }
    let component = sources.component(component)?;
    if let Some(instead) = &component.instead {
        let hash = folder::hash(instead)
            .with_context(|| format!("reading the folder that stands in for `{}`", component.name))?;
        graph.step(&name).hash("files", hash).run(move |room| folder::copy(instead, &room.place.out));
        return Ok(name);
    }
    let Source::Git(source) = &component.source else {
        bail!("`{}` is not a component of source `git`", component.name)
    };
    let Content::Git(locked) = sources.content(&component.name)? else {
        bail!("the lock has no commit of `{}`", component.name)
    };
    graph.step(&name).hash("files", locked.content).draws_on(&component.name).run(move |room| {
        let git = sources.origins.git()?;
        git.fetch(source, &locked.commit)?;
        let found = git.export(source, &locked.commit, Some(&room.place.out))?;
        ensure!(
            found == locked.content,
            "the files of commit `{}` have the hash {found}, and the lock has {}",
            locked.commit,
            locked.content
        );
        Ok(())
    });
    Ok(name)
}
