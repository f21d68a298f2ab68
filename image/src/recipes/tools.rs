//! Tool roots: Debian packages unpacked side by side, so that the machine needs no compiler of its own.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Sources, packages_enter};
use crate::deb::{self, Kind};
use crate::root::packages::Filter;
use crate::sandbox::finish_tool_root;
use crate::step::Graph;

/// The builder's own part in a tool root, and in all that runs in it.
const CODE: &str =
    concat!(include_str!("tools.rs"), include_str!("../deb.rs"), include_str!("../sandbox.rs"));

/// The step that unpacks the packages of a component as a tool root; it is named as the component.
pub fn tool_root<'a>(graph: &mut Graph<'a>, sources: &'a Sources, component: &'a str) -> Result<()> {
    let source = sources.deb(component)?;
    let filter = Filter::new(source)?;
    let declared = format!("{:?} {:?} {:?}", source.links, source.leave_out, source.keep);
    let step = graph.step(component).content("links and filters", declared).content("code", CODE);
    packages_enter(step, sources, component)?.run(move |room| {
        let out = &room.place.out;
        for (package, file) in sources.download(room, component)? {
            unpack(&file, out, &filter).with_context(|| format!("unpacking `{}`", package.name))?;
        }
        for (path, target) in &source.links {
            let link = out.join(path);
            symlink(target, &link).with_context(|| format!("making `{}`", link.display()))?;
        }
        finish_tool_root(out)
    });
    Ok(())
}

/// Unpacks a package's data below a folder; owners and special modes don't matter for tools.
fn unpack(package: &Path, root: &Path, filter: &Filter) -> Result<()> {
    deb::data(package, |object, reader| {
        if !filter.takes(&object.path) {
            return Ok(());
        }
        let path = root.join(&object.path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match object.kind {
            Kind::Folder => fs::create_dir_all(&path)?,
            // A package of two architectures holds the same file in both (Multi-Arch: same).
            _ if path.symlink_metadata().is_ok() => {}
            Kind::Link(target) => symlink(target, &path)?,
            Kind::SameAs(first) => fs::hard_link(root.join(first), &path)?,
            Kind::File(size) => {
                let mut file = File::options().write(true).create_new(true).open(&path)?;
                deb::copy(reader, &mut file, size)?;
                file.set_permissions(fs::Permissions::from_mode(0o444 | (object.mode & 0o111)))?;
            }
        }
        Ok(())
    })
}
