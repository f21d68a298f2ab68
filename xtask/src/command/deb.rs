//! `deb`: builds the host's package into `out/`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use dpukit_image::recipes::{self, DEB, deb_name};

use crate::flags::{Common, Image};
use crate::ui::Ui;

pub fn run(common: &Common) -> Result<ExitCode> {
    let ui = Ui::new(common);
    let package = build(common, &ui)?;
    ui.result("package", &[package]);
    Ok(ExitCode::SUCCESS)
}

/// Builds the package, and gives its path in `out/`.
pub fn build(common: &Common, ui: &Ui) -> Result<PathBuf> {
    let project = common.open(ui, &Image::default())?;
    let graph = recipes::graph(&project.sources)?;
    let outcomes = graph.build(&project.store, &[DEB], common.jobs(), ui)?;
    ui.summary(&outcomes);
    let made = project.store.out(&graph.recipe(DEB).entry()).join(deb_name());
    let folder = common.root().join("out");
    fs::create_dir_all(&folder).with_context(|| format!("making `{}`", folder.display()))?;
    let package = folder.join(deb_name());
    let bytes = fs::read(&made).with_context(|| format!("reading `{}`", made.display()))?;
    dpukit_image::store::write_atomically(&package, &bytes)?;
    Ok(package)
}
