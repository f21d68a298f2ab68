//! The built tests of single crates.
//!
//! `cargo test --package` builds with only the features that this package wants of its dependencies, which is
//! most of them once more; what was built for the whole workspace is run here as it is.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

/// Builds the workspace's programs and tests, and runs the tests of the crates in `folders` with `arguments`,
/// one after the other.
pub fn run(shell: &Shell, root: &Path, folders: &[&str], arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let build =
        cmd!(shell, "{cargo} test --workspace --locked --no-run --message-format json-render-diagnostics");
    let messages = build.quiet().read().context("building the tests")?;
    for folder in folders {
        let folder = root.join(folder);
        let manifest = folder.join("Cargo.toml");
        let mut ran = 0;
        for line in messages.lines() {
            // Cargo Book, External Tools, "JSON messages".
            let built: serde_json::Value = serde_json::from_str(line).context("reading what cargo built")?;
            let is_wanted =
                built["profile"]["test"] == true && built["manifest_path"].as_str() == manifest.to_str();
            let Some(program) = built["executable"].as_str().filter(|_| is_wanted) else { continue };
            // As cargo does: a test finds its files from its crate's folder.
            let _folder = shell.push_dir(&folder);
            cmd!(shell, "{program} {arguments...}").quiet().run()?;
            ran += 1;
        }
        if ran == 0 {
            bail!("cargo built no test of `{}`", folder.display());
        }
    }
    Ok(())
}
