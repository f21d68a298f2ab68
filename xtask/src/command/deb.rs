//! `deb` and `host-image`: build the host's package, and its container image, into `out/`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use dpukit_image::recipes::{self, DEB, HOST_IMAGE, deb_name, host_image_name, host_image_reference};

use crate::flags::{Common, Image};
use crate::ui::Ui;

pub fn run(common: &Common) -> Result<ExitCode> {
    let ui = Ui::new(common);
    let package = build(common, &ui)?;
    ui.result("package", &[package]);
    Ok(ExitCode::SUCCESS)
}

pub fn run_image(common: &Common) -> Result<ExitCode> {
    let ui = Ui::new(common);
    let archive = build_image(common, &ui)?;
    ui.notice(&format!("the image's name in it is `{}`", host_image_reference()));
    ui.result("container image", &[archive]);
    Ok(ExitCode::SUCCESS)
}

/// Builds the package, and gives its path in `out/`.
pub fn build(common: &Common, ui: &Ui) -> Result<PathBuf> {
    build_step(common, ui, DEB, &deb_name())
}

/// Builds the container image, and gives the archive's path in `out/`.
pub fn build_image(common: &Common, ui: &Ui) -> Result<PathBuf> {
    build_step(common, ui, HOST_IMAGE, &host_image_name())
}

/// Builds a step, and copies the file of this name that it makes into `out/`.
fn build_step(common: &Common, ui: &Ui, step: &str, name: &str) -> Result<PathBuf> {
    let project = common.open(ui, &Image::default())?;
    let graph = recipes::graph(&project.sources)?;
    let outcomes = graph.build(&project.store, &[step], common.jobs(), ui)?;
    ui.summary(&outcomes);
    let made = project.store.out(&graph.recipe(step).entry()).join(name);
    let folder = common.root().join("out");
    fs::create_dir_all(&folder).with_context(|| format!("making `{}`", folder.display()))?;
    let file = folder.join(name);
    let bytes = fs::read(&made).with_context(|| format!("reading `{}`", made.display()))?;
    dpukit_image::store::write_atomically(&file, &bytes)?;
    Ok(file)
}
