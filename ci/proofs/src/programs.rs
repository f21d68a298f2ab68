//! Where the programs are that are proved: beside the test, where `cargo build` puts them.

use std::env;
use std::path::PathBuf;

/// The host's plugin. `DPUKIT_PLUGIN` names another build of it.
pub fn plugin() -> PathBuf {
    find("DPUKIT_PLUGIN", "offload-cni")
}

/// The card's agent. `DPUKIT_AGENT` names another build of it.
pub fn agent() -> PathBuf {
    find("DPUKIT_AGENT", "dpu-agent")
}

fn find(variable: &str, name: &str) -> PathBuf {
    if let Some(path) = env::var_os(variable) {
        return path.into();
    }
    // Tests are in `deps`, a folder below the programs.
    let own = env::current_exe().unwrap();
    let places = own.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    places.clone().find(|place| place.is_file()).unwrap_or_else(|| {
        let places: Vec<_> = places.map(|place| place.display().to_string()).collect();
        panic!(
            "there is no `{name}` ({}): run `cargo build --package dpukit-host --package dpu-agent` first, or \
             `cargo xtask test --only pods`, which does",
            places.join(", ")
        )
    })
}
