//! The emulated card: QEMU with U-Boot in flash, the image as its disk, and a link to this host.

mod login;

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::config::{Board, Emulator};
use crate::hint::WithHint as _;
use crate::recipes::copy_sparse;
use crate::sandbox::Sandbox;

/// QEMU's `virt` machine has two flash banks of this size: U-Boot in the first, its environment in the
/// second (QEMU, hw/arm/virt.c).
const FLASH: u64 = 64 << 20;

/// What is at the host's end of the card's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// This machine's loopback, by the ports of [`Card`]: needs no rights.
    Ports,
    /// A tap interface of this name, whose owner is the user that runs the card.
    Tap(String),
}

/// The files of one emulated card. They are its own: what it writes changes no image.
#[derive(Debug, Clone)]
pub struct Card {
    folder: PathBuf,
    /// Port of this host that leads to the card's ssh.
    pub ssh_port: u16,
    /// Port of this host that leads to the agent, over the link.
    pub agent_port: u16,
    /// Where the link leads to.
    pub link: Link,
    /// A file with a public key for root, given to the card at boot.
    pub key: Option<PathBuf>,
    /// A file with the code that a host may pair with, given to the card at boot.
    pub code: Option<PathBuf>,
}

impl Card {
    /// Makes a card in `folder` with the image on its disk; one that was there is replaced.
    pub fn new(folder: &Path, image: &Path, emulator: &Emulator, tools: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making `{}`", folder.display()))?;
        let bank = |name: &str, content: Option<&Path>, size: u64| -> Result<()> {
            let path = folder.join(name);
            let mut file = File::create(&path).with_context(|| format!("making `{}`", path.display()))?;
            file.set_len(size)?;
            content.map_or(Ok(()), |content| copy_sparse(content, &mut file, 0))
        };
        bank("u-boot.flash", Some(&tools.join(&emulator.firmware)), FLASH)?;
        bank("environment.flash", None, FLASH)?;
        let size = image.metadata().with_context(|| format!("reading `{}`", image.display()));
        let size = size.hint(|| "build it with `cargo xtask image`".into())?.len();
        bank("disk.img", Some(image), emulator.disk.max(size))?;
        Ok(Self {
            folder: folder.to_owned(),
            ssh_port: free_port()?,
            agent_port: free_port()?,
            link: Link::Ports,
            key: None,
            code: None,
        })
    }

    /// The card's disk.
    pub fn disk(&self) -> PathBuf {
        self.folder.join("disk.img")
    }

    /// The card's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// QEMU's arguments, with the console as given by `console`.
    pub fn arguments(
        &self,
        board: &Board,
        emulator: &Emulator,
        agent_port: u16,
        console: &[&str],
    ) -> Vec<OsString> {
        let file = |name: &str| self.folder.join(name).display().to_string();
        let mut arguments: Vec<String> = [
            "-machine",
            &emulator.machine,
            "-cpu",
            &emulator.cpu,
            "-smp",
            &emulator.cpus.to_string(),
            "-m",
            &format!("{}M", emulator.memory >> 20),
            "-nodefaults",
            "-no-user-config",
            "-name",
            &board.name,
            "-drive",
            &format!("if=pflash,unit=0,format=raw,readonly=on,file={}", file("u-boot.flash")),
            "-drive",
            &format!("if=pflash,unit=1,format=raw,file={}", file("environment.flash")),
            "-drive",
            &format!("if=none,id=disk,format=raw,file={}", file("disk.img")),
            "-device",
            "virtio-blk-pci,drive=disk",
            "-device",
            "virtio-rng-pci",
            "-netdev",
            &format!("user,id=management,hostfwd=tcp:127.0.0.1:{}-:22", self.ssh_port),
            "-device",
            "virtio-net-pci,netdev=management,romfile=",
            "-netdev",
            &match &self.link {
                Link::Ports => format!(
                    "user,id=link,net={}/24,host={},hostfwd=tcp:127.0.0.1:{}-{}:{agent_port}",
                    emulator.link_host, emulator.link_host, self.agent_port, emulator.link_card
                ),
                Link::Tap(name) => format!("tap,id=link,ifname={name},script=no,downscript=no"),
            },
        ]
        .map(str::to_owned)
        .into();
        arguments.extend(emulator.devices.iter().map(|argument| argument.replace("{link}", "link")));
        for (credential, file) in
            [("ssh.authorized_keys.root", &self.key), ("dpukit.pairing-code", &self.code)]
        {
            let Some(file) = file else { continue };
            let name = format!("name=opt/io.systemd.credentials/{credential},file={}", file.display());
            arguments.extend(["-fw_cfg".into(), name]);
        }
        arguments.extend(console.iter().map(ToString::to_string));
        arguments.into_iter().map(OsString::from).collect()
    }

    /// QEMU out of the tool root, in a sandbox that has the card's folder and this host's network.
    pub fn command(
        &self,
        board: &Board,
        emulator: &Emulator,
        tools: &Path,
        port: u16,
        console: &[&str],
    ) -> Result<Command> {
        let folder = self.folder.to_string_lossy();
        let mut sandbox = Sandbox::new(tools).writable(&folder, &self.folder).with_network();
        if let Link::Tap(_) = self.link {
            sandbox = sandbox.device("/dev/net/tun");
        }
        let mut command = sandbox.command(&["qemu-system-aarch64"])?;
        command.args(self.arguments(board, emulator, port, console));
        Ok(command)
    }
}

/// A port of this host that nothing listens on.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}
