//! A host that is paired with the emulated card, and hands it its updates: the real `dpu-host`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use dpu_trust::SERVER_NAME;
use xshell::Shell;

use super::super::programs;

/// Where `dpu-host` finds what is the host's.
pub struct Host {
    program: PathBuf,
    root: PathBuf,
}

impl Host {
    /// Builds `dpu-host`, and pairs it with the card whose agent answers on this port of ours.
    pub fn pair(checkout: &Path, root: PathBuf, port: u16, code: &Path) -> Result<Self> {
        let shell = Shell::new()?;
        shell.change_dir(checkout);
        // With all of the workspace's features, as the tests have it built.
        let program = programs::build(&shell, &["build", "--bin", "dpu-host"])?.pop();
        let host = Self { program: program.context("cargo built no `dpu-host`")?.path, root };
        let keys = host.root.join("etc/dpukit/tls");
        fs::create_dir_all(&keys)?;
        let file = |name: &str| keys.join(name).display().to_string();
        let configuration = format!(
            "[card]\nagent = \"127.0.0.1:{port}\"\n[tls]\nname = \"{SERVER_NAME}\"\nca = {:?}\ncertificate = {:?}\nkey = {:?}\n",
            file("ca.pem"),
            file("host.pem"),
            file("host.key"),
        );
        fs::write(host.root.join("etc/dpukit/host.toml"), configuration)?;
        let mut command = host.command();
        command.args(["pair", "--name", "updating-host", "--agent"]).arg(format!("127.0.0.1:{port}"));
        command.arg("--folder").arg(&keys).arg("--code-file").arg(code);
        let paired = command.output().context("starting `dpu-host`")?;
        ensure!(paired.status.success(), "`dpu-host pair` failed:\n{}", said(&paired));
        Ok(host)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.env("DPUKIT_ROOT", &self.root);
        command
    }

    /// Hands a bundle to the card, which must come up with it and call it good.
    pub fn updates(&self, bundle: &Path) -> Result<()> {
        let updated = self.update(bundle)?;
        ensure!(updated.status.success(), "`dpu-host update` failed:\n{}", said(&updated));
        Ok(())
    }

    /// Hands a bundle to the card; it must come to nothing, and `dpu-host` must say why.
    pub fn fails_to_update(&self, bundle: &Path, why: &str) -> Result<()> {
        let updated = self.update(bundle)?;
        let said = said(&updated);
        ensure!(
            updated.status.code() == Some(1) && said.contains(why),
            "`dpu-host update` does not say `{why}`, but ends with {}:\n{said}",
            updated.status
        );
        Ok(())
    }

    fn update(&self, bundle: &Path) -> Result<Output> {
        self.command().arg("update").arg(bundle).output().context("starting `dpu-host`")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}
