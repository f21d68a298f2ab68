//! A blank emulated card is flashed by the program itself, over a console and TFTP: once until it is killed in
//! the middle, then to the end, and then it starts what was flashed. The firmware goes into U-Boot's sandbox, a
//! process with a real `sf` on a file.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dpukit_flash::hash::Algorithm;
use dpukit_image::bundle;
use dpukit_image::config::{Board, Emulator};
use dpukit_image::emulator::{Card, Disk, Programs};
use dpukit_image::project::Project;
use dpukit_image::recipes::{self, SYSTEM, U_BOOT_SANDBOX};
use dpukit_image::sandbox::Sandbox;

use super::variant::Variant;
use crate::command::boot::{emulator, programs};
use crate::flags::Common;
use crate::ui::Ui;

/// How U-Boot's sandbox is flashed.
const SANDBOX: &str = include_str!("flash-sandbox.toml");
/// After how many MiB the first run is killed.
const KILLED_AT: u64 = 40;

/// An emulated card whose disk is an empty eMMC, switched on.
pub struct Running {
    qemu: Child,
    pub card: Card,
    pub console: PathBuf,
}

impl Running {
    /// Switches a blank card on, with its console on a socket.
    pub fn blank(folder: &Path, board: &Board, emulator: &Emulator, programs: &Programs) -> Result<Self> {
        let mut card = Card::blank(folder, emulator, programs)?;
        card.disk_is = Disk::Emmc;
        let console = folder.join("console");
        let _ = fs::remove_file(&console);
        let serial = format!("unix:{},server=on,wait=off", console.display());
        let log = File::create(folder.join("qemu.log"))?;
        let qemu = card
            .command(
                board,
                emulator,
                &programs.tools,
                board.plan.agent.port.get(),
                &["-nographic", "-serial", &serial],
            )?
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting QEMU")?;
        let start = Instant::now();
        while !console.exists() {
            ensure!(
                start.elapsed() < Duration::from_secs(30),
                "QEMU did not start: see `{}`",
                folder.join("qemu.log").display()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(Self { qemu, card, console })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

pub fn run(common: &Common, ui: &Ui, project: &Project) -> Result<()> {
    firmware(common, ui, project)?;
    system(common, ui, project)
}

fn system(common: &Common, ui: &Ui, project: &Project) -> Result<()> {
    let (board, emulator) = (&project.sources.config.board, emulator(project)?);
    let programs = programs(common, ui, project, emulator)?;
    let folder = bundle::folder(&common.root(), &board.name).join("flash");
    let running = Running::blank(&folder, board, emulator, &programs)?;
    let console = format!("unix:{}", running.console.display());
    let Small { folder, image } = Small::build(common, ui, project, folder.join("bundle"))?;
    let bundle = folder.display().to_string();
    let arguments = ["--board", &board.name, "flash", "--console", &console, "--bundle", &bundle];

    ui.notice("a blank card is flashed; the program is killed in the middle");
    let mut child =
        itself(common, &arguments)?.stderr(Stdio::piped()).spawn().context("starting the flash")?;
    let told = child.stderr.take().context("the flash has no output")?;
    let mut last = String::new();
    for line in BufReader::new(told).lines() {
        last = line?;
        let done = last
            .split_once(" of ")
            .filter(|(_, rest)| rest.contains("MiB"))
            .and_then(|(done, _)| done.parse::<u64>().ok());
        if done.is_some_and(|done| done >= KILLED_AT) {
            break;
        }
    }
    let ended = child.try_wait()?;
    child.kill()?;
    child.wait()?;
    ensure!(ended.is_none(), "the flash ended before it could be killed: {last}");
    ensure!(
        head(&running.card.disk(), 1 << 20)?.iter().all(|byte| *byte == 0),
        "a half-written disk has a partition table"
    );

    ui.notice("run again, it goes on where it was, and the card starts what was flashed");
    let output = itself(common, &arguments)?.output().context("running the flash")?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "the flash failed, or the card did not come up:\n{told}");
    // The running system writes to its data partition, and to the table, which grows with it.
    let map = fs::read_to_string(image.with_file_name("disk.map"))?;
    let data = map.lines().find_map(|line| line.strip_prefix("data\t")?.split('\t').next()?.parse().ok());
    let data: u64 = data.context("the map has no `data`")?;
    ensure!(same(&running.card.disk(), &image, 1 << 20, data)?, "what is on the card is not the image");
    let line = told.lines().find(|line| line.contains("MiB written")).unwrap_or_default();
    ui.notice(&format!("  {line}"));
    ensure!(
        !line.contains(" 0 MiB were there"),
        "what the killed run had written was written again:\n{told}"
    );
    Ok(())
}

/// A bundle of the same system with slots as small as can be: each MiB takes an emulated eMMC a second.
struct Small {
    folder: PathBuf,
    image: PathBuf,
}

impl Small {
    fn build(common: &Common, ui: &Ui, project: &Project, folder: PathBuf) -> Result<Self> {
        const MIB: u64 = 1 << 20;
        let system = project.store.out(&recipes::graph(&project.sources)?.recipe(SYSTEM).entry());
        let size = system.join("root.img").metadata().context("looking at the root")?.len();
        let built = Variant::build(common, ui, |config| {
            let disk = &mut config.board.disk;
            (disk.boot, disk.root, disk.data) = (32 * MIB, size.next_multiple_of(MIB), 32 * MIB);
            Ok(())
        })?;
        fs::create_dir_all(&folder)?;
        let own = bundle::image_path(&common.root(), &built.config.board.name);
        let image = folder.join(own.file_name().context("the image has no name")?);
        fs::copy(built.disk(), &image)?;
        fs::copy(built.image.join("disk.map"), folder.join("disk.map"))?;
        fs::copy(own.with_file_name("flash.toml"), folder.join("flash.toml"))?;
        Ok(Self { folder, image })
    }
}

/// This program, as a person starts it.
fn itself(common: &Common, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("finding this program")?);
    command.arg("--root").arg(common.root()).args(arguments).stdin(Stdio::null());
    Ok(command)
}

/// The beginning of a file.
pub fn head(path: &Path, size: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    File::open(path)?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Whether two files are the same between two places.
fn same(one: &Path, other: &Path, start: u64, end: u64) -> Result<bool> {
    let (mut one, mut other, size) = (File::open(one)?, File::open(other)?, end - start);
    one.seek(SeekFrom::Start(start))?;
    other.seek(SeekFrom::Start(start))?;
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut done = 0;
    while done < size {
        let count = usize::try_from((size - done).min(1 << 20))?;
        one.read_exact(&mut left[..count])?;
        other.read_exact(&mut right[..count])?;
        if left[..count] != right[..count] {
            return Ok(false);
        }
        done += count as u64;
    }
    Ok(true)
}

/// Firmware into the flash of U-Boot's sandbox: it is written, compared, and left alone the second time.
fn firmware(common: &Common, ui: &Ui, project: &Project) -> Result<()> {
    ui.notice("firmware into the SPI flash of U-Boot's sandbox");
    let u_boot = project.sources.config.board.u_boot.as_ref().context("the board has no U-Boot of ours")?;
    let graph = recipes::graph(&project.sources)?;
    graph.build(&project.store, &[U_BOOT_SANDBOX, &u_boot.tools], common.jobs(), ui)?;
    let result = |step: &str| project.store.out(&graph.recipe(step).entry());

    let folder = tempfile::tempdir().context("making a folder for the sandbox")?;
    let bundle = folder.path().join("bundle");
    fs::create_dir_all(bundle.join("firmware"))?;
    fs::write(bundle.join("flash.toml"), SANDBOX)?;
    let content: Vec<u8> =
        (0..900_001_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    fs::write(bundle.join("firmware/flash-stand-in.img"), &content)?;
    let sum = Algorithm::Sha256.of(&content);
    fs::write(bundle.join("firmware/SHA256SUMS"), format!("{sum}  flash-stand-in.img\n"))?;
    let flash = folder.path().join("spi.bin");
    let said = folder.path().join("sandbox.log");
    fs::write(&flash, vec![0x5a; 2 << 20])?;

    let flash_once = |more: &[&str]| -> Result<(bool, String)> {
        let place = folder.path().join("console");
        let _ = fs::remove_file(&place);
        let listener = UnixListener::bind(&place)?;
        let inside = folder.path().to_string_lossy().into_owned();
        let script = format!("cd {inside} && exec /in/u-boot -d /in/test.dtb");
        let sandbox = Sandbox::new(result(&u_boot.tools))
            .input("u-boot", result(U_BOOT_SANDBOX).join("u-boot"))
            .input("test.dtb", result(U_BOOT_SANDBOX).join("test.dtb"))
            .writable(&inside, folder.path());
        let mut command = sandbox.command(&["/bin/bash", "-c", &script])?;
        let complaints = File::create(&said)?;
        let started = std::thread::spawn(move || -> std::io::Result<Child> {
            let (stream, _) = listener.accept()?;
            // The sandbox waits for its terminal in each look for a letter otherwise, and shows no echo meanwhile.
            stream.set_nonblocking(true)?;
            let stream = std::os::fd::OwnedFd::from(stream);
            command.stdin(stream.try_clone()?).stdout(stream).stderr(complaints).spawn()
        });
        let console = format!("unix:{}", place.display());
        let (bundle, served) = (bundle.display().to_string(), inside.clone());
        let arguments = [
            "--board",
            "sandbox",
            "flash",
            "--console",
            &console,
            "--bundle",
            &bundle,
            "--firmware",
            "--no-boot",
            "--card-address",
            "192.0.2.2/24",
            "--tftp-server",
            "192.0.2.1",
            "--tftp-folder",
            &served,
        ];
        let output = itself(common, &arguments)?.args(more).output().context("running the flash")?;
        let mut child =
            started.join().ok().context("the sandbox was not started")?.context("starting the sandbox")?;
        let ended = child.try_wait()?;
        let _ = child.kill();
        let _ = child.wait();
        let mut told = String::from_utf8_lossy(&output.stderr).into_owned();
        if let Some(ended) = ended {
            let said = fs::read_to_string(&said)?;
            told.push_str(&format!("\nthe sandbox had ended by itself, with {ended}: {said}"));
        }
        Ok((output.status.success(), told))
    };
    // On a busy machine the sandbox was seen to be gone before the first word to it, and why is not known.
    let flash_once = |more: &[&str]| -> Result<(bool, String)> {
        let (done, told) = flash_once(more)?;
        if done || !told.contains("writing to the console") {
            return Ok((done, told));
        }
        ui.notice(&format!("the sandbox went away, and is started once more:\n{told}"));
        flash_once(more)
    };

    let (done, told) = flash_once(&[])?;
    ensure!(done, "the firmware was not flashed:\n{told}");
    let written = fs::read(&flash)?;
    ensure!(written[..content.len()] == content, "the flash does not hold the firmware");
    ensure!(
        written[(1 << 20)..].iter().all(|byte| *byte == 0x5a),
        "more of the flash was written than the firmware"
    );
    let (done, told) = flash_once(&[])?;
    ensure!(
        done && told.contains("has this firmware already"),
        "a second run did not leave it alone:\n{told}"
    );
    let (done, told) = flash_once(&["--copy", "secondary"])?;
    ensure!(!done && told.contains("--i-know"), "the copy to come back with was written unasked:\n{told}");
    if fs::read(&flash)? != written {
        bail!("a refused flash changed the card");
    }
    Ok(())
}
