//! Logging in to an emulated card with a key, and pairing with it by a code, that are made for it alone.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use dpu_trust::{Code, keep};

use super::Card;
use crate::sandbox::Sandbox;

impl Card {
    /// Makes a key whose public part the card is given at boot. `tools` is the tool root with ssh.
    pub fn make_key(&mut self, tools: &Path) -> Result<()> {
        let key = self.private_key();
        for path in [&key, &key.with_extension("pub")] {
            let _ = fs::remove_file(path);
        }
        let argv =
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "check", "-f", &key.to_string_lossy()];
        let status = self.sandbox(tools).command(&argv)?.status().context("making a key")?;
        if !status.success() {
            bail!("ssh-keygen ended with {status}");
        }
        self.key = Some(key.with_extension("pub"));
        Ok(())
    }

    /// Takes the key that was made for another card: one that was started before knows the first key that it was given.
    pub fn share_key(&mut self, other: &Self) -> Result<()> {
        let (from, to) = (other.private_key(), self.private_key());
        for (from, to) in [(from.with_extension("pub"), to.with_extension("pub")), (from, to.clone())] {
            let _ = fs::remove_file(&to);
            fs::copy(&from, &to).with_context(|| format!("copying `{}`", from.display()))?;
        }
        self.key = Some(to.with_extension("pub"));
        Ok(())
    }

    /// Makes a code that a host may pair with, which the card is given at boot.
    pub fn make_code(&mut self) -> Result<Code> {
        let code = Code::random()?;
        let file = self.folder.join("pairing-code");
        keep::write(&file, code.characters().as_bytes(), 0o600)?;
        self.code = Some(file);
        Ok(code)
    }

    /// Runs a script on the card as root, by the key that was made; its output, trimmed.
    pub fn ssh(&self, tools: &Path, script: &str) -> Result<String> {
        self.ssh_within(tools, script, 30)
    }

    /// As [`Card::ssh`], with so many seconds for the card to answer the call.
    pub fn ssh_within(&self, tools: &Path, script: &str, seconds: u32) -> Result<String> {
        let patience = format!("ConnectTimeout={seconds}");
        let options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "BatchMode=yes",
            patience.as_str(),
            "ConnectionAttempts=3",
            // A card that restarts under a call says nothing more, and QEMU's user network keeps the call open.
            "ServerAliveInterval=5",
            "ServerAliveCountMax=6",
        ];
        let (port, key) = (self.ssh_port.to_string(), self.private_key());
        let (key, address) = (key.to_string_lossy(), format!("root@{}", Ipv4Addr::LOCALHOST));
        let mut argv = vec!["ssh", "-p", &port, "-i", &key];
        argv.extend(options.iter().flat_map(|option| ["-o", option]));
        argv.extend([address.as_str(), script]);
        let mut command = self.sandbox(tools).with_network().command(&argv)?;
        let output = command.stdin(Stdio::null()).output().context("starting ssh")?;
        if !output.status.success() {
            bail!("ssh ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn private_key(&self) -> PathBuf {
        self.folder.join("key")
    }

    fn sandbox(&self, tools: &Path) -> Sandbox {
        Sandbox::new(tools).writable(&self.folder.to_string_lossy(), &self.folder)
    }
}
