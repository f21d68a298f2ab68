//! `bench flash`: the program flashes a blank emulated card, and before it, on the same card and over the same
//! console, commands of U-Boot as a person would type them load and write a part of the same image.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use dpukit_flash::board::Board;
use dpukit_flash::console::Console;
use dpukit_flash::console::link::Place;
use dpukit_flash::network::{self, Terms};
use dpukit_flash::pieces::{BLOCK, Image};
use dpukit_flash::session;
use dpukit_flash::system;
use dpukit_flash::tftp::Server;
use dpukit_flash::watch::Silent;
use dpukit_image::bundle;

use crate::command::bench::machine;
use crate::command::boot::{emulator, programs};
use crate::command::test::flash::Running;
use crate::flags::{Common, Image as ImageFlags};
use crate::ui::Ui;

/// What is loaded and written by hand: the start of slot A's root, which is content all through.
const BY_HAND: u64 = 32 << 20;
const MIB: f64 = 1_048_576.0;

#[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn run(common: &Common) -> Result<ExitCode> {
    let ui = Ui::new(common);
    super::super::image::run(common, &ImageFlags::default())?;
    let project = common.open(&ui, &ImageFlags::default())?;
    let (built, emulator) = (&project.sources.config.board, emulator(&project)?);
    let programs = programs(common, &ui, &project, emulator)?;
    let folder = bundle::folder(&common.root(), &built.name).join("bench-flash");
    let running = Running::blank(&folder, built, emulator, &programs)?;
    let path = bundle::image_path(&common.root(), &built.name);

    let board = Board::known(&built.name)?;
    let storage = board.storage.get("emmc").context("the board has no eMMC")?;
    let link = Place::Unix(running.console.clone()).open(board.baud)?;
    let console = Console::new(link, &Silent, Arc::new(AtomicBool::new(false)));
    let terms = session::Terms { patience: Duration::from_mins(1), ..session::Terms::default() };
    let mut u_boot = session::start(console, &board, board.baud, &terms, &Silent)?.u_boot;
    let terms = Terms::default();
    let mut network = network::up(&mut u_boot, network::prepare(&board, &terms, false)?, &terms, &Silent)?;
    u_boot.run(&storage.select, &[])?;

    ui.notice("by hand: tftpboot, mmc write");
    let map = std::fs::read_to_string(path.with_file_name("disk.map"))?;
    let line = map.lines().find(|line| line.starts_with("root-a\t")).context("the map has no `root-a`")?;
    let start: u64 = line.split('\t').nth(1).context("the map is cut short")?.parse()?;
    let mut content = vec![0; usize::try_from(BY_HAND)?];
    let mut file = File::open(&path)?;
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut content)?;
    let server = Server::start(0)?;
    server.offer("by-hand", Arc::new(content));
    u_boot.type_line(&format!("setenv tftpdstp {}", server.port()))?;
    let began = Instant::now();
    let address = ("address", network::hex(board.memory.unpacked));
    u_boot.run_for(&board.network.tftp, &[address.clone(), ("file", "by-hand".into())], BY_HAND)?;
    let block = ("block", network::hex(start / BLOCK));
    u_boot.run_for(&storage.write, &[address, block, ("count", network::hex(BY_HAND / BLOCK))], BY_HAND)?;
    let by_hand = BY_HAND as f64 / MIB / began.elapsed().as_secs_f64();
    drop(server);

    ui.notice("the program");
    u_boot.type_line(&format!("setenv tftpdstp {}", network.port().context("the network has no server")?))?;
    let image = Image::open(&path)?;
    let began = Instant::now();
    let summary = system::flash(&mut u_boot, &mut network, storage, &image, &Silent)?;
    let took = began.elapsed().as_secs_f64();
    let program = image.size() as f64 / MIB / took;
    println!("machine: {}", machine());
    println!("by hand, {} MiB of the image: {by_hand:.2} MiB/s", BY_HAND >> 20);
    println!(
        "the program, {} MiB in {took:.0} s, {} MiB of them empty slots that are left, {} MiB sent, {} MiB written, all but the empty compared: {program:.2} MiB/s",
        image.size() >> 20,
        summary.left >> 20,
        summary.sent >> 20,
        summary.written >> 20
    );
    println!("the program to the hand: {:.0} %", 100.0 * program / by_hand);
    Ok(ExitCode::SUCCESS)
}
