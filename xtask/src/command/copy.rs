//! A copy of the checkout, for builds that must not touch the user's own.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use xshell::{Shell, cmd};

/// The files that git knows, as they are now.
pub fn copy_checkout(from: &Path, to: &Path) -> Result<()> {
    let shell = Shell::new()?;
    shell.change_dir(from);
    let files = cmd!(shell, "git ls-files --cached --others --exclude-standard").quiet().read()?;
    for file in files.lines().filter(|file| from.join(file).symlink_metadata().is_ok()) {
        let target = to.join(file);
        fs::create_dir_all(target.parent().unwrap_or(to))?;
        let source = from.join(file);
        if source.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
        } else {
            fs::copy(&source, &target).with_context(|| format!("copying `{file}`"))?;
        }
    }
    Ok(())
}
