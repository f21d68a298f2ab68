//! What the root holds so that RAUC can update a running card.

use std::fs;

use anyhow::{Context as _, Result, bail};
use dpu_plan::{SLOTS, Slots};

use crate::config::{Config, Counts, Updates};
use crate::hint::WithHint as _;

/// What bundles for a board are marked with, and what its cards accept.
pub fn compatible(config: &Config) -> String {
    format!("dpukit-{}", config.board.name)
}

/// RAUC's configuration, the certificates that it trusts, and the place of U-Boot's variables, for images whose
/// board has `[updates]` and whose builder has `[signing]`.
pub fn files(config: &Config) -> Result<Vec<(String, String)>> {
    let (Some(updates), Some(signing)) = (&config.board.updates, &config.local.signing) else {
        return Ok(Vec::new());
    };
    let path = &signing.keyring;
    let keyring = fs::read_to_string(path)
        .with_context(|| format!("reading the certificates of `{}`", path.display()))
        .hint(|| "name them in `dpukit.local.toml`, or make a pair with `cargo xtask key`".into())?;
    if !keyring.contains("-----BEGIN CERTIFICATE-----") || keyring.contains("PRIVATE KEY") {
        return Err(anyhow::anyhow!("`{}` does not hold certificates, and nothing else", path.display()))
            .hint(|| "it is put into the image: it must be PEM, and no key".into());
    }
    let counts = match &updates.counts {
        Counts::Variables(copies) => ("etc/fw_env.config".into(), fw_env(copies)),
        Counts::Disk => (
            SLOTS.trim_start_matches('/').into(),
            toml::to_string(&Slots { attempts: updates.attempts })
                .context("writing how often slots are tried")?,
        ),
    };
    Ok(vec![
        ("etc/rauc/system.conf".into(), system_conf(config, updates)),
        counts,
        ("usr/lib/dpukit/update.pem".into(), keyring),
    ])
}

/// RAUC's view of the disk (its manual, "System Configuration File").
fn system_conf(config: &Config, updates: &Updates) -> String {
    let slot = |number: u8, letter: char| {
        let name = letter.to_ascii_lowercase();
        format!(
            "\n[slot.system.{number}]\ndevice=/dev/disk/by-partlabel/root-{name}\ntype=raw\nbootname={letter}\n\
             \n[slot.boot.{number}]\ndevice=/dev/disk/by-partlabel/boot-{name}\ntype=raw\nparent=system.{number}\n"
        )
    };
    let attempts = updates.attempts;
    let (bootloader, backend) = match updates.counts {
        Counts::Variables(_) => {
            (format!("uboot\nboot-attempts={attempts}\nboot-attempts-primary={attempts}"), "")
        }
        Counts::Disk => ("custom".into(), "bootloader-custom-backend=/usr/lib/dpukit/slot-state\n"),
    };
    format!(
        "[system]\ncompatible={}\nmin-bundle-version={}\nbootloader={bootloader}\ndata-directory=/var/lib/rauc\nmountprefix=/run/rauc\n\
         bundle-formats=-plain\n\n[keyring]\npath=/usr/lib/dpukit/update.pem\n\n\
         [handlers]\npre-install=/usr/lib/dpukit/before-update\n{backend}{}{}",
        compatible(config),
        env!("CARGO_PKG_VERSION"),
        slot(0, 'A'),
        slot(1, 'B'),
    )
}

fn fw_env(copies: &[String; 2]) -> String {
    format!("# Where U-Boot keeps its variables, twice: fw_env.config.\n{}\n", copies.join("\n"))
}

/// Whether a bundle can be made at all.
pub fn tools(config: &Config) -> Result<&str> {
    match &config.board.tools.bundle {
        Some(tools) => Ok(tools),
        None => bail!("the board has `[updates]`, and no `tools.bundle` to make bundles with"),
    }
}
