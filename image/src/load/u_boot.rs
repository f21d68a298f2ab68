//! `[u-boot]` of a board: what starts a card that has none of its makers'.

use super::board::{Names, packages};
use super::exists;
use super::kernel::base;
use super::reader::Section;
use crate::config::UBoot;
use crate::debian::sources::SOURCE;

/// None where the board has none, or it is wrong.
pub fn read(u_boot: Section<'_, '_>, names: &Names<'_>) -> Option<UBoot> {
    let source = u_boot.text("source", |name| packages(name, SOURCE, names));
    let tools = u_boot.text("tools", |name| packages(name, "amd64", names));
    let base = u_boot.text("base", |name| base(name, "U-Boot", "qemu_arm64_defconfig"));
    let config = u_boot.text("config", |path| exists(names.root, path, "file"));
    let environment = u_boot.text("environment", |path| exists(names.root, path, "file"));
    Some(UBoot { source: source?, tools: tools?, base: base?, config: config?, environment: environment? })
}
