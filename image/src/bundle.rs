//! What a build leaves in `out/<board>`: the image, and its parts for a look or a boot by hand.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::hash::Hash;
use crate::hint::where_full;
use crate::project::Project;
use crate::recipes::{DRIVERS, FIRMWARE, IMAGE, KERNEL, ROOT, SYSTEM, U_BOOT, copy_sparse, drivers_name};
use crate::step::Graph;

/// The folder of a board's results.
pub fn folder(root: &Path, board: &str) -> PathBuf {
    root.join("out").join(board)
}

/// Where a board's image is.
pub fn image_path(root: &Path, board: &str) -> PathBuf {
    folder(root, board).join(format!("dpukit-{board}-{}.img", env!("CARGO_PKG_VERSION")))
}

/// Copies results of a finished build out of the store, each written beside and renamed; what is there
/// already is left. Returns the image's path.
pub fn write(project: &Project, graph: &Graph<'_>) -> Result<Vec<PathBuf>> {
    let config = &project.sources.config;
    let folder = folder(&config.root, &config.board.name);
    fs::create_dir_all(&folder).with_context(|| format!("making `{}`", folder.display()))?;
    let image = image_path(&config.root, &config.board.name);
    let mut parts = vec![
        (IMAGE, "disk.img".to_owned(), image.clone()),
        (IMAGE, "disk.map".to_owned(), folder.join("disk.map")),
        (KERNEL, "Image".to_owned(), folder.join("Image")),
        (KERNEL, "config".to_owned(), folder.join("kernel.config")),
        (SYSTEM, "verity.json".to_owned(), folder.join("verity.json")),
        (ROOT, "sizes.tsv".to_owned(), folder.join("root-sizes.tsv")),
    ];
    if graph.has(U_BOOT) {
        parts.push((U_BOOT, "u-boot.bin".to_owned(), folder.join("u-boot.bin")));
    }
    if let Some(name) = drivers_name(&project.sources)? {
        parts.push((DRIVERS, name.clone(), folder.join(name)));
    }
    let firmware = graph.has(FIRMWARE).then_some(FIRMWARE);
    // Builds of one checkout that end at once write one after the other.
    let lock = folder.join(".lock");
    let lock = File::options().create(true).append(true).open(&lock).context("locking the results")?;
    lock.lock().context("locking the results")?;
    // The stamp names the entries that the files are of; it goes before they are touched.
    let stamp = folder.join(".entries");
    let steps = parts.iter().map(|(step, ..)| *step).chain(firmware);
    let mut entries: String = steps.map(|step| graph.recipe(step).entry() + "\n").collect();
    // How the board is flashed goes with it, for machines without the sources.
    let flash = config.root.join(format!("flash/boards/{}.toml", config.board.name));
    let flash = fs::read(&flash).ok();
    entries += &flash.as_ref().map_or_else(String::new, |text| format!("flash {}\n", Hash::of(text)));
    if fs::read_to_string(&stamp).is_ok_and(|text| text == entries)
        && parts.iter().all(|(.., to)| to.is_file())
    {
        return Ok(vec![image]);
    }
    let _ = fs::remove_file(&stamp);
    for (step, name, to) in &parts {
        let from = project.store.out(&graph.recipe(step).entry()).join(name);
        copy(&from, to)?;
    }
    if let Some(text) = flash {
        crate::store::write_atomically(&folder.join("flash.toml"), &text)?;
    }
    if let Some(step) = firmware {
        // What is flashed beside the disk's image, with its sums.
        let (from, to) =
            (project.store.out(&graph.recipe(step).entry()).join("bundle"), folder.join("firmware"));
        crate::store::remove_tree(&to)?;
        fs::create_dir_all(&to).with_context(|| format!("making `{}`", to.display()))?;
        for file in fs::read_dir(&from).with_context(|| format!("reading `{}`", from.display()))? {
            let file = file?;
            let target = to.join(file.file_name());
            copy(&file.path(), &target)?;
        }
    }
    crate::store::write_atomically(&stamp, entries.as_bytes())?;
    Ok(vec![image])
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let beside = to.with_extension("part");
    let write = || -> Result<()> {
        let mut file = File::options().create(true).truncate(true).read(true).write(true).open(&beside)?;
        file.set_len(from.metadata()?.len())?;
        copy_sparse(from, &mut file, 0)?;
        file.sync_all()?;
        Ok(fs::rename(&beside, to)?)
    };
    write()
        .inspect_err(|_| {
            let _ = fs::remove_file(&beside);
        })
        .with_context(|| format!("writing `{}`", to.display()))
        .map_err(|error| where_full(error, || "free some space there and run the same command again".into()))
}
