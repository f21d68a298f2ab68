//! The board's system once more, as a test wants it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use dpukit_image::config::{Config, Signer, Signing};
use dpukit_image::project::{Project, Terms};
use dpukit_image::recipes::{self, IMAGE, Request, U_BOOT};
use dpukit_image::store::cache_folder;
use dpukit_image::update::{self, Slot};
use tempfile::TempDir;

use super::machine::MARK;
use crate::flags::Common;
use crate::ui::Ui;

/// A built system.
pub struct Variant {
    /// The configuration that it was built by.
    pub config: Config,
    /// The tool root that makes its bundles, where it takes updates.
    tools: Option<PathBuf>,
    /// The folder with the image and its map.
    pub image: PathBuf,
    /// What goes into a slot.
    pub slot: Slot,
    /// U-Boot, as it lies in the card's flash.
    pub u_boot: PathBuf,
}

impl Variant {
    /// Builds the board's image with another configuration.
    pub fn build(common: &Common, ui: &Ui, change: impl FnOnce(&mut Config) -> Result<()>) -> Result<Self> {
        let mut config = common.config()?;
        change(&mut config)?;
        let terms = Terms { locked: common.locked, offline: common.offline };
        let request = Request { offline: common.offline, ..Request::default() };
        let mut project = Project::opened(config, &cache_folder()?, terms, request)?;
        project.make_current()?;
        let graph = recipes::graph(&project.sources)?;
        let tools = update::tools(&project.sources.config)?;
        let steps: Vec<_> = [IMAGE, U_BOOT].into_iter().chain(tools).collect();
        graph.build(&project.store, &steps, common.jobs(), ui)?;
        let out = |step: &str| project.store.out(&graph.recipe(step).entry());
        let slot = Slot::built(&graph, out);
        let (tools, image, u_boot) = (tools.map(out), out(IMAGE), out(U_BOOT).join("u-boot.bin"));
        drop(graph);
        Ok(Self { config: project.sources.config, tools, image, slot, u_boot })
    }

    /// Builds an image with a mark of its own, which takes updates that are signed so; `files` are further ones of
    /// its root, and `change` is what else is to be different.
    pub fn marked(
        common: &Common,
        ui: &Ui,
        folder: &Path,
        signing: &Signing,
        name: &str,
        files: &[(&str, &str)],
        change: impl FnOnce(&mut Config) -> Result<()>,
    ) -> Result<Self> {
        let overlay = folder.join(name);
        for (path, text) in files.iter().copied().chain([(MARK, name)]) {
            let path = overlay.join(path);
            fs::create_dir_all(path.parent().unwrap_or(&overlay))?;
            fs::write(path, text)?;
        }
        Self::build(common, ui, |config| {
            config.local.signing = Some(signing.clone());
            config.board.root.overlays.push(overlay.strip_prefix(&config.root)?.to_owned());
            change(config)
        })
    }

    /// The tool root that makes its bundles.
    pub fn tools(&self) -> Result<&Path> {
        self.tools.as_deref().context("the board takes no updates")
    }

    /// The whole disk.
    pub fn disk(&self) -> PathBuf {
        self.image.join("disk.img")
    }
}

/// A folder for what a test makes: in the checkout, as overlays have to be, where git does not look.
pub fn room(common: &Common) -> Result<TempDir> {
    let target = common.root().join("target");
    fs::create_dir_all(&target)
        .and_then(|()| tempfile::tempdir_in(&target))
        .with_context(|| format!("making a folder in `{}`", target.display()))
}

/// A new key, and the certificate that goes with it.
pub fn signing(folder: &Path) -> Result<Signing> {
    let [key, certificate] = update::new_key(folder)?;
    Ok(Signing { keyring: certificate.clone(), certificate, signer: Signer::Key(key) })
}
