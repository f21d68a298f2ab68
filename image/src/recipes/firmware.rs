//! What the user brought: files for the bundle, and files for the card's root.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::Sources;
use crate::config::{Source, UserSource};
use crate::hash::Hash;
use crate::lock::{Content, LockedFile};
use crate::source::user;
use crate::step::Graph;

/// The step that puts the makers' firmware together: in `bundle/` what is flashed, with `SHA256SUMS`; in
/// `root/` what goes into the card's root.
pub const FIRMWARE: &str = "firmware";

pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources) -> Result<()> {
    let Some(name) = &sources.config.board.parts.firmware else { return Ok(()) };
    let component = sources.component(name)?;
    let Source::User(source) = &component.source else {
        bail!("`{name}` is not a component of source `user`")
    };
    let files = match (&component.instead, sources.content(name)) {
        // Other files than the lock's are wanted, so those that are there count.
        (Some(_), _) => sources.origins.user(component)?.bring(None)?,
        (None, content) => match content? {
            Content::Files(files) => files.clone(),
            _ => bail!("the lock has no files of `{name}`"),
        },
    };
    let mut step = graph.step(FIRMWARE).private().draws_on(name);
    for file in &files {
        step = step.hash(format!("file {} {}", file.name, file.file), file.sha256);
    }
    step.content("install", format!("{:?}", source.install)).run(move |room| {
        let cache = sources.origins.cache();
        if !user::has(cache, &files) {
            sources.origins.user(component)?.bring(Some(&files))?;
        }
        let (bundle, root) = (room.place.out.join("bundle"), room.place.out.join("root"));
        fs::create_dir_all(&bundle)?;
        fs::create_dir_all(&root)?;
        let mut sums = String::new();
        for file in &files {
            let from = user::path(cache, &file.sha256);
            if let Some(path) = installed(source, file) {
                copy(&from, &root.join(path), file)?;
            } else {
                sums += &format!("{}  {}\n", file.sha256, file.file);
                copy(&from, &bundle.join(&file.file), file)?;
            }
        }
        fs::write(bundle.join("SHA256SUMS"), sums)?;
        Ok(())
    });
    Ok(())
}

/// The path in the card's root, from its top; none for what is only flashed.
fn installed(source: &UserSource, file: &LockedFile) -> Option<String> {
    let (top, rest) =
        file.name.split_once('/').map_or((file.name.as_str(), None), |(top, rest)| (top, Some(rest)));
    let path = source.install.get(top)?.trim_start_matches('/');
    Some(rest.map_or_else(|| path.to_owned(), |rest| format!("{path}/{rest}")))
}

/// Copies a file, and looks whether it is still what was found.
fn copy(from: &Path, to: &Path, file: &LockedFile) -> Result<()> {
    let context = || format!("copying `{}`", file.name);
    fs::create_dir_all(to.parent().unwrap_or(to)).with_context(context)?;
    fs::copy(from, to).with_context(context)?;
    let found = Hash::of_reader(File::open(to).with_context(context)?).with_context(context)?;
    if found != file.sha256 {
        bail!("`{}` was altered since it was found: remove `{}`", file.name, from.display());
    }
    Ok(())
}
