//! `image`: builds a board's image into `out/<board>`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use dpukit_image::fetch::Missing;
use dpukit_image::hint::report;
use dpukit_image::project::Project;
use dpukit_image::recipes;
use dpukit_image::step::Outcome;
use dpukit_image::{bundle, preflight, update};

use crate::flags::{Common, Image};
use crate::ui::{Ui, bytes};

pub fn run(common: &Common, flags: &Image) -> Result<ExitCode> {
    let ui = Ui::new(common);
    let mut project = common.opened(flags)?;
    for (name, folder) in &project.sources.config.local.overrides {
        ui.notice(&format!("`{name}` is taken from `{}`", folder.display()));
    }
    look_first(&project)?;
    project.make_current()?;
    super::resolved(&ui, &project);
    let (outcomes, written) = match build(common, &ui, &project) {
        Err(error) if may_mend(common, &error) => {
            mend(&ui, &mut project, error)?;
            build(common, &ui, &project)?
        }
        other => other?,
    };
    ui.summary(&outcomes);
    ui.result("image", &written.image);
    ui.result("update", written.update.as_slice());
    ui.peak_memory();
    let store = project.store.clone();
    // A build holds what it uses until here.
    drop(project);
    match store.trim() {
        Ok((0, _)) => {}
        Ok((count, freed)) => {
            ui.notice(&format!("the store gave up {count} results that were old, {}", bytes(freed)));
        }
        // The image is there all the same.
        Err(error) => ui.notice(&format!("the store keeps what is old: {}", report(&error))),
    }
    Ok(ExitCode::SUCCESS)
}

/// Says all that a build would fail for. What is in the store needs nothing.
fn look_first(project: &Project) -> Result<()> {
    if !project.missing().is_empty() {
        return preflight::check(project, None);
    }
    let graph = recipes::graph(&project.sources)?;
    let mut missing = None::<BTreeSet<String>>;
    for step in recipes::bundle(&graph) {
        if let Some(draws) = graph.draws(&project.store, step)? {
            missing.get_or_insert_default().extend(draws);
        }
    }
    missing.map_or(Ok(()), |draws| preflight::check(project, Some(&draws)))
}

/// What a build leaves for people.
struct Written {
    image: Vec<PathBuf>,
    update: Option<PathBuf>,
}

fn build(common: &Common, ui: &Ui, project: &Project) -> Result<(Vec<Outcome>, Written)> {
    let graph = recipes::graph(&project.sources)?;
    let steps: Vec<_> =
        recipes::bundle(&graph).into_iter().chain(update::tools(&project.sources.config)?).collect();
    let outcomes = graph.build(&project.store, &steps, common.jobs(), ui)?;
    let written = Written { image: bundle::write(project, &graph)?, update: update::write(project, &graph)? };
    project.store.remember(&common.board, &graph.recipes())?;
    Ok((outcomes, written))
}

/// Whether packages are gone and the lock may be changed for it.
fn may_mend(common: &Common, error: &anyhow::Error) -> bool {
    let is_gone = error.downcast_ref::<Missing>().is_some_and(|missing| !missing.gone.is_empty());
    is_gone && !common.locked && !common.offline
}

/// Replaces what no mirror has any more by what the archives hold now.
fn mend(ui: &Ui, project: &mut Project, error: anyhow::Error) -> Result<()> {
    let missing = error.downcast::<Missing>()?;
    ui.notice(&format!("{missing}"));
    ui.notice("the archives have dropped them: resolving anew");
    for difference in project.replace_gone(&missing.gone)? {
        ui.notice(&format!("lock: {}", super::told(&difference)));
    }
    Ok(())
}
