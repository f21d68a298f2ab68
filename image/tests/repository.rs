//! Rules of the repository that no tool checks by itself. A failure says how to mend it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every file that git would commit.
fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git is needed to run the tests");
    assert!(output.status.success(), "the tests run in a git checkout");
    let files = String::from_utf8(output.stdout).unwrap();
    files.lines().filter(|file| root().join(file).exists()).map(str::to_owned).collect()
}

#[test]
fn the_top_level_is_as_the_readme_says() {
    let known = [
        ".cargo",
        ".ci",
        ".gitignore",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "agent",
        "ci",
        "flash",
        "image",
        "kernel-config",
        "rootfs-overlay",
        "rustfmt.toml",
        "shim",
        "xtask",
    ];
    let top: BTreeSet<_> = files().iter().map(|file| file.split('/').next().unwrap().to_owned()).collect();
    let unknown: Vec<_> = top.iter().filter(|name| !known.contains(&name.as_str())).collect();
    assert!(unknown.is_empty(), "{unknown:?}: new things go into a folder that is there; see README.md");
}

#[test]
fn every_module_says_what_it_is_for() {
    for file in files() {
        let is_source = Path::new(&file).extension().is_some_and(|extension| extension == "rs");
        // `tests.rs` is the tests of the module that it lies below.
        if is_source && !file.ends_with("/tests.rs") {
            let text = std::fs::read_to_string(root().join(&file)).unwrap();
            assert!(text.starts_with("//!"), "{file}: begin it with `//!` and what it is for");
        }
    }
}

#[test]
fn nothing_generated_or_large_is_committed() {
    for file in files() {
        let size = root().join(&file).symlink_metadata().unwrap().len();
        assert!(size < 400_000, "{file} has {size} bytes: only sources belong here");
    }
}

#[test]
fn links_in_the_readmes_lead_somewhere() {
    let is_page = |file: &&String| Path::new(file).extension().is_some_and(|extension| extension == "md");
    for file in files().iter().filter(is_page) {
        let path = root().join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let is_file = !target.contains("://") && !target.starts_with('#');
            let target = target.split('#').next().unwrap_or(target);
            assert!(
                !is_file || path.parent().unwrap().join(target).exists(),
                "{file}: `{target}` is not there"
            );
        }
    }
}
