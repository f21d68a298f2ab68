//! The root's composition, and its read-only file system under dm-verity.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use dpu_plan::Plan;
use serde::{Deserialize, Serialize};

use super::agent::{self, AGENT};
use super::firmware::FIRMWARE;
use super::images::IMAGES;
use super::kernel::KERNEL;
use super::octep::OCTEP;
use super::{Sources, copy_entered, folder_enters, packages_enter, updates};
use crate::config::Config;
use crate::hint::WithHint as _;
use crate::root::compose::{Composition, compose};
use crate::root::packages::Package;
use crate::rules;
use crate::sandbox::Sandbox;
use crate::step::{Graph, Room};

/// The step that makes `root.tar`.
pub const ROOT: &str = "root";
/// The step that makes `root.img` (squashfs and verity tree) and `verity.json`.
pub const SYSTEM: &str = "system";

const SYSTEM_SCRIPT: &str = include_str!("system.sh");

/// The part of the kernel's command line that opens the root (kernel, admin-guide/device-mapper/verity.rst).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Verity {
    /// The root of the hash tree, in hexadecimal.
    pub root_hash: String,
    /// The salt, in hexadecimal.
    pub salt: String,
    /// How many blocks of 4096 bytes the file system has; the tree begins in the block after the next.
    pub data_blocks: u64,
}

/// The builder's own part in the root.
const CODE: &str = concat!(
    include_str!("root.rs"),
    include_str!("../deb.rs"),
    include_str!("../root/compose.rs"),
    include_str!("../root/packages.rs"),
    include_str!("../root/tree.rs"),
);

pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources) -> Result<()> {
    let (config, board) = (&sources.config, &sources.config.board);
    let component = &board.root.packages;
    let source = sources.deb(component)?;
    let local = agent::source(sources)?;
    let plan = rules::plan(config, &sources.lock)?;
    let mut files = generated_files(config, &plan, &sources.request.ssh_keys)?;
    let versions = rules::for_card(config, &sources.lock)?;
    files.extend(versions.map(|text| (dpu_plan::VERSIONS.trim_start_matches('/').into(), text)));
    let os_release = os_release(config);

    // Parts of metal, each with a folder that goes over the root.
    let parts: Vec<_> = [FIRMWARE, OCTEP, IMAGES].into_iter().filter(|part| graph.has(part)).collect();
    let mut step = graph.step(ROOT).needs(&board.tools.base).needs(KERNEL).needs(AGENT);
    for part in &parts {
        step = step.needs(part);
    }
    step = packages_enter(step, sources, component)?;
    for overlay in &board.root.overlays {
        step = folder_enters(step, &config.root, overlay)?;
    }
    for (path, content) in &files {
        step = step.content(format!("generated /{path}"), content);
    }
    step.content("composition", format!("{source:?} {:?} {os_release}", local.install))
        .content("scripts", include_str!("../root/finish.sh"))
        .content("code", CODE)
        .run(move |room| {
            let packages = sources.download(room, component)?.into_iter();
            let packages =
                packages.map(|(package, file)| Package { name: package.name.clone(), file }).collect();
            let release = fs::read_to_string(room.result(KERNEL).join("release"))
                .context("reading the kernel's release")?;
            let modules = format!("usr/lib/modules/{}", release.trim());
            let mut overlays: Vec<_> =
                vec![(room.result(KERNEL).join("modules").join(release.trim()), modules)];
            overlays.extend(parts.iter().map(|part| (room.result(part).join("root"), String::new())));
            for folder in &board.root.overlays {
                overlays.push((copy_entered(room, &config.root, folder)?, String::new()));
            }
            let bin = room.result(AGENT).join("bin");
            let programs = local.install.iter();
            let programs = programs
                .map(|(name, path)| (path.trim_start_matches('/').to_owned(), bin.join(name)))
                .collect();
            compose(
                room,
                &Composition {
                    component,
                    source,
                    packages,
                    overlays,
                    files: files.clone(),
                    programs,
                    os_release: os_release.clone(),
                    tools: room.result(&board.tools.base),
                },
            )
        });

    graph
        .step(SYSTEM)
        .needs(&board.tools.base)
        .needs(ROOT)
        .content("script", SYSTEM_SCRIPT)
        .content("size", board.disk.root.to_string())
        .run(move |room| system(room, config));
    Ok(())
}

/// Files of the root that come from the board.
fn generated_files(config: &Config, plan: &Plan, ssh_keys: &str) -> Result<Vec<(String, String)>> {
    let board = &config.board;
    let mut files = vec![
        (
            dpu_plan::PATH.trim_start_matches('/').into(),
            toml::to_string(plan).context("writing the board's set-up")?,
        ),
        ("etc/hostname".into(), format!("{}\n", board.root.hostname)),
    ];
    if !board.firewall.open.is_empty() {
        files.push(("usr/lib/dpukit/nft.d/board.nft".into(), nft_rules(&board.firewall.open)));
    }
    for driver in &board.network.dhcp_drivers {
        let text = format!(
            "# Management interfaces of board {}.\n[Match]\nDriver={driver}\n\n[Network]\nDHCP=yes\n",
            board.name
        );
        files.push((format!("usr/lib/systemd/network/80-dhcp-{driver}.network"), text));
    }
    files.extend(updates::files(config)?);
    if !ssh_keys.is_empty() {
        files.push(("etc/ssh/authorized_keys.d/root".into(), ssh_keys.to_owned()));
    }
    Ok(files)
}

fn nft_rules(open: &[String]) -> String {
    open.iter().fold(String::from("# What the board opens.\n"), |mut rules, port| {
        let _ = match port.split_once('/') {
            Some((protocol, ports)) => writeln!(rules, "{protocol} dport {ports} accept"),
            None => writeln!(rules, "meta l4proto {port} accept"),
        };
        rules
    })
}

/// What tells this image from others (os-release(5)).
fn os_release(config: &Config) -> String {
    format!(
        "IMAGE_ID=dpukit\nIMAGE_VERSION={}\nVARIANT_ID={}\n",
        env!("CARGO_PKG_VERSION"),
        config.board.name
    )
}

fn system(room: &Room<'_>, config: &Config) -> Result<()> {
    // Salt and UUID only have to differ between images; taken from what made the root, they are the
    // same in every build of it.
    let seed = crate::hash::Hash::of(format!("verity {}", room.entry(ROOT))).to_string();
    Sandbox::new(room.result(&config.board.tools.base))
        .input("root.tar", room.result(ROOT).join("root.tar"))
        .env("SALT", &seed)
        .env("UUID", uuid(&seed))
        .env("JOBS", room.jobs)
        .run(room.place, SYSTEM_SCRIPT)?;
    let size = room.place.out.join("root.img").metadata()?.len();
    if size > config.board.disk.root {
        let sizes = fs::read_to_string(room.result(ROOT).join("sizes.tsv"))?;
        let largest: Vec<_> = sizes.lines().take(10).map(|line| format!("  {line}")).collect();
        return Err(anyhow::anyhow!(
            "the root needs {size} bytes, its slot has {}; the largest in it, in bytes before compression:\n{}",
            config.board.disk.root,
            largest.join("\n")
        ))
        .hint(|| "leave packages out, or make `disk.root` of the board larger".into());
    }
    Ok(())
}

/// A version-8 UUID (RFC 9562) made of the first digits of a hash in hexadecimal.
pub fn uuid(hex: &str) -> String {
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_of_version_8() {
        let hex = crate::hash::Hash::of("x").to_string();
        let uuid = uuid(&hex);
        assert_eq!(uuid.len(), 36);
        assert_eq!((&uuid[14..15], &uuid[19..20]), ("8", "8"));
    }

    #[test]
    fn keys_are_where_sshd_looks_for_them_and_nowhere_if_none_was_given() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let config = crate::load::load(root, "virt").unwrap();
        let keys = |given: &str| {
            let files = generated_files(&config, &config.board.plan, given).unwrap();
            files.into_iter().filter(|(path, _)| path.contains("authorized_keys")).collect::<Vec<_>>()
        };
        assert_eq!(
            keys("ssh-ed25519 A a\n"),
            [("etc/ssh/authorized_keys.d/root".into(), "ssh-ed25519 A a\n".into())]
        );
        assert_eq!(keys(""), []);
    }

    #[test]
    fn ports_become_rules() {
        let rules = nft_rules(&["tcp/10250".into(), "udp/8472".into(), "esp".into()]);
        assert_eq!(
            rules,
            "# What the board opens.\ntcp dport 10250 accept\nudp dport 8472 accept\nmeta l4proto esp accept\n"
        );
    }
}
