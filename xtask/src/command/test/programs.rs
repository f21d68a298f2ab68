//! What cargo built: the programs and tests of the workspace.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use xshell::{Shell, cmd};

/// A program that cargo built.
pub struct Program {
    pub path: PathBuf,
    manifest: PathBuf,
    is_test: bool,
}

/// Runs cargo with these words; the programs that came of it.
pub fn build(shell: &Shell, words: &[&str]) -> Result<Vec<Program>> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let build =
        cmd!(shell, "{cargo} {words...} --workspace --locked --message-format json-render-diagnostics");
    let messages = build.quiet().read().context("building the workspace's programs")?;
    let mut programs = Vec::new();
    for line in messages.lines() {
        // Cargo Book, External Tools, "JSON messages".
        let built: Value = serde_json::from_str(line).context("reading what cargo built")?;
        let path = |value: &Value| value.as_str().map(PathBuf::from);
        if let (Some(path), Some(manifest)) = (path(&built["executable"]), path(&built["manifest_path"])) {
            programs.push(Program { path, manifest, is_test: built["profile"]["test"] == true });
        }
    }
    Ok(programs)
}

/// Runs the tests of the crates in `folders` with `arguments`, one after the other.
///
/// `cargo test --package` builds with only the features that this package wants of its dependencies, which is
/// most of them once more; what was built for the whole workspace is run here as it is.
pub fn test(shell: &Shell, root: &Path, folders: &[&str], arguments: &[&str]) -> Result<()> {
    let programs = build(shell, &["test", "--no-run"])?;
    for folder in folders {
        let folder = root.join(folder);
        let manifest = folder.join("Cargo.toml");
        let tests = programs.iter().filter(|program| program.is_test && program.manifest == manifest);
        let mut ran = 0;
        for Program { path, .. } in tests {
            // As cargo does: a test finds its files from its crate's folder.
            let _folder = shell.push_dir(&folder);
            cmd!(shell, "{path} {arguments...}").quiet().run()?;
            ran += 1;
        }
        if ran == 0 {
            bail!("cargo built no test of `{}`", folder.display());
        }
    }
    Ok(())
}
