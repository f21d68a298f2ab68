//! Logging in to an emulated card, with a key that is made for it alone.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

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

    /// Runs a script on the card as root, by the key that was made; its output, trimmed.
    pub fn ssh(&self, tools: &Path, script: &str) -> Result<String> {
        let options = [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "BatchMode=yes",
            "ConnectTimeout=30",
            "ConnectionAttempts=3",
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
