//! `image`: builds a board's image into `out/<board>`.

use std::process::ExitCode;

use anyhow::Result;
use dpukit_image::bundle;
use dpukit_image::recipes::{self, IMAGE};

use crate::flags::{Common, Image};
use crate::ui::Ui;

pub fn run(common: &Common, flags: &Image) -> Result<ExitCode> {
    let ui = Ui::new(common);
    let project = common.open(&ui, flags)?;
    let graph = recipes::graph(&project.sources)?;
    let outcomes = graph.build(&project.store, &[IMAGE], common.jobs(), &ui)?;
    let written = bundle::write(&project, &graph)?;
    project.store.remember(&common.board, &graph.recipes())?;
    ui.summary(&outcomes);
    ui.result("image", &written);
    ui.peak_memory();
    Ok(ExitCode::SUCCESS)
}
