//! The commands, and what they share.

pub mod bench;
pub mod boot;
pub mod clean;
pub mod deb;
pub mod doctor;
pub mod flash;
pub mod image;
pub mod kernel;
pub mod key;
pub mod lock;
pub mod matrix;
pub mod store;
pub mod test;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use dpukit_image::config::Config;
use dpukit_image::lock::{Change, Difference};
use dpukit_image::project::{Project, Terms};
use dpukit_image::recipes::Request;
use dpukit_image::source::user::SDK;
use dpukit_image::{load, store as image_store};

use crate::flags::{Common, Image};
use crate::ui::Ui;

impl Common {
    /// How many steps, and threads of each.
    pub fn jobs(&self) -> usize {
        let machine = || std::thread::available_parallelism().map_or(1, usize::from);
        self.jobs.map_or_else(machine, usize::from)
    }

    /// The root of the checkout.
    pub fn root(&self) -> PathBuf {
        let built_from =
            || Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default();
        self.root.clone().unwrap_or_else(built_from)
    }

    /// The board's configuration, with what the command line says of this machine.
    pub fn config(&self) -> Result<Config> {
        let mut config = load::load(&self.root(), &self.board)?;
        let here =
            |path: &Path| std::path::absolute(path).with_context(|| format!("finding `{}`", path.display()));
        if let Some(sdk) = &self.sdk {
            config.local.files.insert(SDK.into(), here(sdk)?);
        }
        for (name, path) in &self.overrides {
            config.local.overrides.insert(name.clone(), here(path)?);
        }
        config.stand_in()?;
        Ok(config)
    }

    /// Opens the checkout for the board, with its lock made current.
    pub fn open(&self, ui: &Ui, image: &Image) -> Result<Project> {
        let mut project = self.opened(image)?;
        project.make_current()?;
        resolved(ui, &project);
        Ok(project)
    }

    /// Opens the checkout for the board, with its lock as it is.
    pub fn opened(&self, image: &Image) -> Result<Project> {
        let config = self.config()?;
        let ssh_keys = match &image.ssh_key {
            Some(path) => ssh_keys(path)?,
            None => String::new(),
        };
        let terms = Terms { locked: self.locked, offline: self.offline };
        let request = Request { ssh_keys, offline: self.offline };
        Project::opened(config, &image_store::cache_folder()?, terms, request)
    }
}

/// Says what was resolved anew.
pub fn resolved(ui: &Ui, project: &Project) {
    for difference in &project.resolved {
        ui.notice(&format!("lock: {}", told(difference)));
    }
}

/// What changed in a component of the lock: each package, or how many where they are too many to read.
pub fn told(difference: &Difference) -> String {
    const READABLE: usize = 20;
    if difference.changes.len() <= READABLE {
        return difference.to_string();
    }
    let count =
        |wanted: fn(&Change) -> bool| difference.changes.iter().filter(|change| wanted(change)).count();
    let added = count(|change| change.old.is_none());
    let removed = count(|change| change.new.is_none());
    let moved = difference.changes.len() - added - removed;
    format!(
        "`{}`: {added} packages added, {removed} removed, {moved} in another version",
        difference.component
    )
}

/// Public keys, one a line; a private key given by mistake is refused.
fn ssh_keys(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("reading `{}`", path.display()))?;
    let keys: Vec<_> =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let is_key = |line: &&str| {
        ["ssh-", "ecdsa-", "sk-", "restrict", "from=", "command="].iter().any(|start| line.starts_with(start))
    };
    if keys.is_empty() || !keys.iter().all(is_key) {
        anyhow::bail!("`{}` does not hold public ssh keys, as `~/.ssh/id_ed25519.pub` does", path.display());
    }
    Ok(keys.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        ssh_keys(file.path())
    }

    #[test]
    fn public_keys_are_taken_and_nothing_else() {
        assert_eq!(
            keys("# mine\n\n ssh-ed25519 A a\necdsa-x B b").unwrap(),
            "ssh-ed25519 A a\necdsa-x B b\n"
        );
        for wrong in ["", "# none\n", "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n", "ssh-ed25519 A\nb3Bl\n"]
        {
            let error = keys(wrong).unwrap_err().to_string();
            assert!(error.contains("does not hold public ssh keys"), "{error}");
        }
        assert!(ssh_keys(Path::new("/nowhere")).is_err());
    }
}
