//! The emulated card: QEMU with U-Boot in flash, the image as its disk, and a link to this host.

mod login;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, fcntl_lock};

use crate::config::{Board, Emulator};
use crate::hint::WithHint as _;
use crate::recipes::copy_sparse;
use crate::sandbox::Sandbox;

/// QEMU's `virt` machine has flash banks of this size, and starts what is in the first (QEMU, hw/arm/virt.c).
const FLASH: u64 = 64 << 20;
/// The eMMC in which U-Boot keeps its variables, where the disk is another.
const EMMC: u64 = 4 << 20;

/// A port that nobody has business with (echo, RFC 862): the card's firewall keeps it closed.
pub const CLOSED: u16 = 7;

/// What is at the host's end of the card's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// This machine's loopback, by the ports of [`Card`]: needs no rights.
    Ports,
    /// A tap interface of this name, whose owner is the user that runs the card.
    Tap(String),
}

/// What the card's disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    Virtio,
    /// An SD card behind a controller on PCI, which to U-Boot and Linux is what an eMMC is.
    Emmc,
}

/// What an emulated card is run with.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The tool root with QEMU and ssh.
    pub tools: PathBuf,
    /// U-Boot, as it lies in the card's flash.
    pub u_boot: PathBuf,
}

/// The files of one emulated card. They are its own: what it writes changes no image.
#[derive(Debug, Clone)]
pub struct Card {
    folder: PathBuf,
    pub disk_is: Disk,
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
    /// Files with further system credentials, by name.
    pub credentials: BTreeMap<String, PathBuf>,
    /// Whether what is written is kept in order as well, see [`Card::write_log`].
    pub logs_writes: bool,
    /// Ports of this host that lead to where the card lets no call in: to its [`CLOSED`] over the management network
    /// and over the link, and to the agent's port over the management network.
    pub closed_ports: Option<[u16; 3]>,
}

impl Card {
    /// Makes a card in `folder` with the image on its disk; one that was there is replaced.
    pub fn new(folder: &Path, image: &Path, emulator: &Emulator, programs: &Programs) -> Result<Self> {
        let size = image.metadata().with_context(|| format!("reading `{}`", image.display()));
        let size = size.hint(|| "build it with `cargo xtask image`".into())?.len();
        Self::made(folder, Some(image), emulator.disk.max(size), programs)
    }

    /// Makes a card in `folder` whose disk is empty; one that was there is replaced.
    pub fn blank(folder: &Path, emulator: &Emulator, programs: &Programs) -> Result<Self> {
        Self::made(folder, None, emulator.disk, programs)
    }

    fn made(folder: &Path, image: Option<&Path>, size: u64, programs: &Programs) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making `{}`", folder.display()))?;
        let bank = |name: &str, content: Option<&Path>, size: u64| -> Result<()> {
            let mut file = emptied(&folder.join(name))?;
            file.set_len(size)?;
            content.map_or(Ok(()), |content| copy_sparse(content, &mut file, 0))
        };
        bank("u-boot.flash", Some(&programs.u_boot), FLASH)?;
        bank("environment.img", None, EMMC)?;
        bank("disk.img", image, size)?;
        Ok(Self {
            folder: folder.to_owned(),
            disk_is: Disk::Virtio,
            ssh_port: free_port()?,
            agent_port: free_port()?,
            link: Link::Ports,
            key: None,
            code: None,
            credentials: BTreeMap::new(),
            logs_writes: false,
            closed_ports: None,
        })
    }

    /// Lets calls through to where the card's firewall must not let any in.
    pub fn open_closed_ports(&mut self) -> Result<[u16; 3]> {
        Ok(*self.closed_ports.insert([free_port()?, free_port()?, free_port()?]))
    }

    /// The card's disk.
    pub fn disk(&self) -> PathBuf {
        self.image("disk")
    }

    /// The eMMC with U-Boot's variables, where the disk is another.
    pub fn environment(&self) -> PathBuf {
        self.image("environment")
    }

    /// All writes and flushes of a drive, `disk` or `environment`, as QEMU's driver `blklogwrites` keeps them: in the
    /// format of the kernel's Documentation/admin-guide/device-mapper/log-writes.rst.
    pub fn write_log(&self, drive: &str) -> PathBuf {
        self.folder.join(format!("{drive}.log"))
    }

    fn image(&self, drive: &str) -> PathBuf {
        self.folder.join(format!("{drive}.img"))
    }

    /// QEMU's words for a drive.
    fn drive(&self, name: &str) -> String {
        let image = self.image(name);
        if !self.logs_writes {
            return format!("if=none,id={name},format=raw,file={}", image.display());
        }
        // The count of entries is not needed before the end: each update of it waits for this machine's disk.
        format!(
            "if=none,id={name},driver=blklogwrites,file.driver=raw,file.file.driver=file,file.file.filename={},\
             log.driver=raw,log.file.driver=file,log.file.filename={},log-super-update-interval=1000000000",
            image.display(),
            self.write_log(name).display()
        )
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
        let [by_management, by_link] = match self.closed_ports {
            None => [String::new(), String::new()],
            Some([management, link, agent]) => {
                let forward = |port, card: &str, to| format!(",hostfwd=tcp:127.0.0.1:{port}-{card}:{to}");
                let by_management = forward(management, "", CLOSED) + &forward(agent, "", agent_port);
                [by_management, forward(link, &emulator.link_card.to_string(), CLOSED)]
            }
        };
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
            &self.drive("environment"),
            "-drive",
            &self.drive("disk"),
            "-device",
            "virtio-rng-pci",
            "-netdev",
            &format!("user,id=management,hostfwd=tcp:127.0.0.1:{}-:22{by_management}", self.ssh_port),
            "-device",
            "virtio-net-pci,netdev=management,romfile=",
            "-netdev",
            &match &self.link {
                Link::Ports => format!(
                    "user,id=link,net={}/24,host={},hostfwd=tcp:127.0.0.1:{}-{}:{agent_port}{by_link}",
                    emulator.link_host, emulator.link_host, self.agent_port, emulator.link_card
                ),
                Link::Tap(name) => format!("tap,id=link,ifname={name},script=no,downscript=no"),
            },
        ]
        .map(str::to_owned)
        .into();
        let disk: &[&str] = match self.disk_is {
            Disk::Virtio => &[
                "-device",
                "virtio-blk-pci,drive=disk",
                "-device",
                "sdhci-pci",
                "-device",
                "sd-card,drive=environment",
            ],
            // U-Boot's variables lie before its first partition then.
            Disk::Emmc => &["-device", "sdhci-pci", "-device", "sd-card,drive=disk"],
        };
        arguments.extend(disk.iter().map(ToString::to_string));
        arguments.extend(emulator.devices.iter().map(|argument| argument.replace("{link}", "link")));
        let own = [("ssh.authorized_keys.root", &self.key), ("dpukit.pairing-code", &self.code)];
        let own = own.into_iter().filter_map(|(name, file)| Some((name, file.as_ref()?)));
        let further = self.credentials.iter().map(|(name, file)| (name.as_str(), file));
        for (credential, file) in own.chain(further) {
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

/// A file without content; an error where a card runs with it: QEMU locks what it reads and writes
/// (its docs/system/qemu-block-drivers.rst.inc, "Disk image file locking").
fn emptied(path: &Path) -> Result<File> {
    let making = || format!("making `{}`", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(path).with_context(making)?;
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive)
        .with_context(|| format!("`{}` is in use: an emulated card runs with it", path.display()))
        .hint(|| "end that card first: Ctrl-A X on its console".into())?;
    file.set_len(0).with_context(making)?;
    Ok(file)
}

/// A port of this host that nothing listens on.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).context("looking for a free port")?;
    Ok(listener.local_addr()?.port())
}
