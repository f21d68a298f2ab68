//! What may be in the tree of dependencies: the rules of `.cargo/deny.toml`, as far as cargo itself can tell.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use spdx::{Expression, LicenseReq, ParseMode};

#[derive(Deserialize)]
struct Rules {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn rules() -> Rules {
    toml::from_str(&fs::read_to_string(root().join(".cargo/deny.toml")).unwrap()).unwrap()
}

/// All packages of the lock that are built for a target of the rules.
fn packages(rules: &Rules) -> BTreeSet<Package> {
    let mut packages = BTreeSet::new();
    for target in &rules.graph.targets {
        let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
            .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", target])
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        packages.extend(serde_json::from_slice::<Metadata>(&output.stdout).unwrap().packages);
    }
    packages
}

/// Why a package may not be in the tree.
fn objection(rules: &Rules, package: &Package) -> Option<String> {
    let Package { name, version, license, source } = package;
    if rules.bans.deny.iter().any(|ban| ban.name == *name) {
        return Some(format!("{name} {version} is banned"));
    }
    // Packages of the workspace have no source.
    if source.as_ref().is_some_and(|source| !source.starts_with("registry+https://github.com/rust-lang/")) {
        return Some(format!("{name} {version} does not come from crates.io"));
    }
    let license = license.as_deref().unwrap_or_default();
    // Older packages write `MIT/Apache-2.0`.
    let Ok(expression) = Expression::parse_mode(license, ParseMode::LAX) else {
        return Some(format!("{name} {version} has no licence that can be read: `{license}`"));
    };
    let is_allowed = |wanted: &LicenseReq| {
        let id = wanted.license.id();
        id.is_some_and(|id| rules.licenses.allow.iter().any(|allowed| allowed == id.name))
    };
    (!expression.evaluate(is_allowed))
        .then(|| format!("{name} {version} has the licence `{license}`, which is not allowed"))
}

#[test]
fn every_dependency_is_one_that_the_rules_allow() {
    let rules = rules();
    let packages = packages(&rules);
    assert!(packages.len() > 100, "cargo named {} packages only", packages.len());
    let objections: Vec<_> = packages.iter().filter_map(|package| objection(&rules, package)).collect();
    assert!(
        objections.is_empty(),
        "{}\nuse another crate, or change `.cargo/deny.toml` with the reason",
        objections.join("\n")
    );
}

#[test]
fn what_the_rules_do_not_allow_is_named() {
    let rules = rules();
    let package = |name: &str, license: Option<&str>, source: &str| Package {
        name: name.into(),
        version: "1.0.0".into(),
        license: license.map(Into::into),
        source: Some(source.into()),
    };
    let registry = "registry+https://github.com/rust-lang/crates.io-index";
    let objections = [
        package("good", Some("MIT/GPL-3.0"), registry),
        package("copyleft", Some("GPL-3.0-only"), registry),
        package("both", Some("MIT AND GPL-3.0-only"), registry),
        package("silent", None, registry),
        package("openssl-sys", Some("MIT"), registry),
        package("elsewhere", Some("MIT"), "git+https://example.org/elsewhere"),
    ]
    .map(|package| objection(&rules, &package).unwrap_or_else(|| format!("{} is allowed", package.name)));
    insta::assert_snapshot!(objections.join("\n"), @r"
    good is allowed
    copyleft 1.0.0 has the licence `GPL-3.0-only`, which is not allowed
    both 1.0.0 has the licence `MIT AND GPL-3.0-only`, which is not allowed
    silent 1.0.0 has no licence that can be read: ``
    openssl-sys 1.0.0 is banned
    elsewhere 1.0.0 does not come from crates.io
    ");
}
