//! `[kernel]` of a board: its source, its pages, and its configuration, or the choice of several.

use std::collections::BTreeMap;

use super::reader::{Section, Wrong};
use super::{FOLDERS, known, suggest, values};
use crate::config::{Disk, Kernel, Source, VendorConfig};
use crate::load::board::{MIB, Names, named, of_kind, packages};
use crate::pages::Pages;

/// The kernel, and all that could be chosen by its `config`, by name.
pub fn read(kernel: Section<'_, '_>, names: &Names<'_>) -> Option<(Kernel, BTreeMap<String, Kernel>)> {
    let source = kernel.text("source", |name| match of_kind(name, &["deb", "git"], names)? {
        Some(Source::Deb(_)) => packages(name, "amd64", names),
        _ => Ok(name.to_owned()),
    });
    let pages = kernel.maybe_text("pages", |text| {
        let pages = Pages::ALL.into_iter().find(|(name, _)| *name == text);
        pages.map(|(_, pages)| pages).ok_or_else(|| {
            Wrong::new(format!("`{}` is no size of a page", text.escape_debug()))
                .hint("write `4KiB` or `64KiB`")
        })
    });
    let of_source = |section| configuration(section, source.as_deref(), pages.unwrap_or_default(), names);
    let choices = kernel.maybe_sections("configs");
    if choices.is_empty() {
        return Some((of_source(kernel)?, BTreeMap::new()));
    }
    // A board that this one extends may have one configuration.
    for key in ["base", "fragments", "requirements", "image-limit", "vendor"] {
        kernel.entry(key);
    }
    let choice = kernel.text("config", |name| {
        known(name, "configuration in `kernel.configs`", choices.iter().map(|(name, ..)| *name))
    });
    // All are looked at before one that is wrong spoils the whole.
    let choices: Vec<_> =
        choices.into_iter().map(|(name, _, section)| (name.clone(), of_source(section))).collect();
    let choices: Option<BTreeMap<_, _>> =
        choices.into_iter().map(|(name, kernel)| Some((name, kernel?))).collect();
    let choices = choices?;
    Some((choices.get(&choice?)?.clone(), choices))
}

fn configuration(
    section: Section<'_, '_>,
    source: Option<&str>,
    pages: Pages,
    names: &Names<'_>,
) -> Option<Kernel> {
    let base = section.text("base", |name| base(name, "the kernel", "tinyconfig"));
    let fragments = section.list("fragments", |name| fragment(name, names));
    let requirements = section.list("requirements", |name| {
        let path = format!("{}/{}.toml", FOLDERS.requirements, name.escape_debug());
        file(name, &names.requirements, &path)
    });
    let image_limit = section.text("image-limit", values::size);
    let made = section.maybe_section("vendor");
    let from = made.text("source", |name| named(name, "git", names));
    let path = made.text("path", values::relative);
    let vendor = from.zip(path).map(|(source, path)| VendorConfig { source, path });
    let mut fragments = fragments?;
    fragments.extend(pages.fragment().map(str::to_owned));
    Some(Kernel {
        source: source?.to_owned(),
        pages,
        base: base?,
        vendor: if made.is_present() { Some(vendor?) } else { None },
        fragments,
        requirements: requirements?,
        image_limit: image_limit?,
    })
}

/// A target of `make` that makes a configuration.
pub fn base(name: &str, of: &str, example: &str) -> Result<String, Wrong> {
    if values::is_name(name) && name.ends_with("config") {
        return Ok(name.to_owned());
    }
    Err(Wrong::new(format!("`{}` is not a configuration of {of}", name.escape_debug())).hint(format!(
        "write `{example}`, `defconfig` or another target of its `make` that ends in `config`"
    )))
}

fn fragment(name: &str, names: &Names<'_>) -> Result<String, Wrong> {
    file(name, &names.fragments, &format!("{}/{}.config", FOLDERS.fragments, name.escape_debug()))
}

fn file(name: &str, all: &std::collections::BTreeSet<String>, path: &str) -> Result<String, Wrong> {
    if all.contains(name) {
        return Ok(name.to_owned());
    }
    let hint = suggest::hint(name, "such file", all.iter().map(String::as_str));
    Err(Wrong::new(format!("there is no file `{path}`")).hint(hint))
}

/// The largest kernel that is let through has to fit its partition.
pub fn fits(section: Section<'_, '_>, kernel: &Kernel, disk: &Disk) {
    if kernel.image_limit <= disk.boot {
        return;
    }
    if let Some(entry) = section.entry("image-limit") {
        let (limit, boot) = (kernel.image_limit / MIB, disk.boot / MIB);
        let message = format!("a kernel of {limit} MiB is let through, and `disk.boot` has {boot} MiB");
        section.refuse(&entry.node.place, &section.path("image-limit"), Wrong::new(message));
    }
}
