//! `image`: builds a board's image into `out/<board>`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use dpukit_image::fetch::Missing;
use dpukit_image::project::Project;
use dpukit_image::recipes::{self, IMAGE};
use dpukit_image::step::Outcome;
use dpukit_image::{bundle, preflight};

use crate::flags::{Common, Image};
use crate::ui::Ui;

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
    ui.result("image", &written);
    ui.peak_memory();
    Ok(ExitCode::SUCCESS)
}

/// Says all that a build would fail for. What is in the store needs nothing.
fn look_first(project: &Project) -> Result<()> {
    if !project.missing().is_empty() {
        return preflight::check(project, None);
    }
    match recipes::graph(&project.sources)?.draws(&project.store, IMAGE)? {
        Some(draws) => preflight::check(project, Some(&draws)),
        None => Ok(()),
    }
}

fn build(common: &Common, ui: &Ui, project: &Project) -> Result<(Vec<Outcome>, Vec<PathBuf>)> {
    let graph = recipes::graph(&project.sources)?;
    let outcomes = graph.build(&project.store, &[IMAGE], common.jobs(), ui)?;
    let written = bundle::write(project, &graph)?;
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
