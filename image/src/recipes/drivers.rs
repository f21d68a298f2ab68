//! The host's drivers of the endpoint as a package for DKMS, `dpukit-octeon-ep-dkms_<version>_all.deb`: the makers'
//! sources, built on the host for kernels that lack them. What is ours in it lies in `shim/dkms`.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::host::{control, files, pack};
use super::{Sources, copy_entered, folder_enters, tree};
use crate::config::Component;
use crate::deb::{self, Contents};
use crate::lock::Content;
use crate::sandbox::EPOCH;
use crate::step::Graph;

/// The step that makes the package, `root/<name>.deb`.
pub const DRIVERS: &str = "host-drivers";

const FOLDER: &str = "shim/dkms";
const NAME: &str = "dpukit-octeon-ep";
/// What of the makers' repository is built: their top `Makefile` takes the drivers that are there.
const TAKEN: [&str; 4] = ["Makefile", "license.txt", "drivers/octeon_ep/", "drivers/octeon_ep_vf/"];
const NEEDED: [&str; 3] = ["Makefile", "drivers/octeon_ep/Makefile", "drivers/octeon_ep_vf/Makefile"];

/// The package's file name.
pub fn drivers_name(sources: &Sources) -> Result<Option<String>> {
    let Some(name) = &sources.config.board.parts.host_drivers else { return Ok(None) };
    let version = version(sources, sources.component(name)?)?;
    Ok(Some(format!("{NAME}-dkms_{version}_all.deb")))
}

pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources) -> Result<()> {
    let (Some(name), Some(component)) = (drivers_name(sources)?, &sources.config.board.parts.host_drivers)
    else {
        return Ok(());
    };
    let source = tree::step(graph, sources, component)?;
    let version = version(sources, sources.component(component)?)?;
    let root = &sources.config.root;
    let step = graph.step(DRIVERS).needs(&source).content("version", &version);
    let step = step.content("code", concat!(include_str!("drivers.rs"), include_str!("../deb/write.rs")));
    folder_enters(step, root, Path::new(FOLDER))?.run(move |room| {
        let folder = copy_entered(room, root, Path::new(FOLDER))?;
        let contents = contents(&folder, &room.result(&source), &version)?;
        let path = room.place.out.join(&name);
        let mut file = File::create(&path).with_context(|| format!("making `{}`", path.display()))?;
        deb::write(&contents, EPOCH, &mut file)?;
        Ok(file.flush()?)
    });
    Ok(())
}

/// The project's version, and the commit's beginning behind it.
fn version(sources: &Sources, component: &Component) -> Result<String> {
    let own = env!("CARGO_PKG_VERSION");
    if component.instead.is_some() {
        return Ok(format!("{own}+local"));
    }
    let commit = match sources.content(&component.name)? {
        Content::Git(locked) => locked.commit.get(..12).unwrap_or(&locked.commit),
        _ => anyhow::bail!("the lock has no commit of `{}`", component.name),
    };
    Ok(format!("{own}+git{commit}"))
}

fn contents(folder: &Path, source: &Path, version: &str) -> Result<Contents> {
    let of_version = |name: &str| -> Result<Vec<u8>> {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).with_context(|| format!("reading `{}`", path.display()))?;
        Ok(text.replace("{version}", version).into_bytes())
    };
    let mut contents = Contents::default();
    let below = format!("usr/src/{NAME}-{version}");
    for (path, (_, bytes)) in files(source)? {
        if TAKEN.iter().any(|taken| path == *taken || taken.ends_with('/') && path.starts_with(taken)) {
            contents.files.insert(format!("{below}/{path}"), (0o644, bytes));
        }
    }
    for needed in NEEDED {
        ensure!(
            contents.files.contains_key(&format!("{below}/{needed}")),
            "the source of the host's drivers has no `{needed}`: is it pcie_ep_octeon_host?"
        );
    }
    contents.files.insert(format!("{below}/dkms.conf"), (0o644, of_version("dkms.conf")?));
    let docs = format!("usr/share/doc/{NAME}-dkms");
    contents.files.insert(format!("{docs}/copyright"), (0o644, of_version("copyright")?));
    contents.files.insert(format!("{docs}/changelog.gz"), (0o644, pack(&of_version("changelog")?)?));
    contents.control = control(&folder.join("control"), version, &contents)?;
    Ok(contents)
}
