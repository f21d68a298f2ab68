//! The system's image onto a stand-in for a card, with faults at every command: whatever happens, the card never
//! has a partition table over anything but what was compared, and a run after it brings all of it there.

mod stand_in;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dpukit_flash::board::Board;
use dpukit_flash::console::Broken;
use dpukit_flash::pieces::{HEAD, Image};
use dpukit_flash::system::{self, Summary};
use dpukit_flash::u_boot::UBoot;
use dpukit_flash::watch::Silent;
use dpukit_flash::{hint, network};
use stand_in::{Card, Fault, image};

const MIB: usize = 1 << 20;
const DISK: usize = 7 * MIB;

/// The board `virt` with small pieces. Its patience is worn out by no busy machine.
fn patient() -> String {
    include_str!("../boards/virt.toml")
        .replace("piece = 0x100_0000", "piece = 0x20_0000")
        .replace("host = \"10.0.2.2\"", "host = \"127.0.0.1\"")
}

/// The same, made quick: short deadlines.
fn board() -> Board {
    let text = patient().replace("silent = 120", "silent = 1").replace("silent = 20", "silent = 1");
    Board::parse(&text).unwrap()
}

/// A card with another system on its disk, with a table at both ends.
fn used_card(folder: &Path) -> Card {
    let path = folder.join("old");
    image(&path, 0x55);
    let mut old = std::fs::read(&path).unwrap();
    let end = old[5 * MIB - 33 * 512..].to_vec();
    old.resize(DISK, 0x77);
    old[DISK - 33 * 512..].copy_from_slice(&end);
    let card = Card::virt(DISK);
    *card.disk.lock().unwrap() = old;
    card
}

fn flash(card: &Card, path: &Path) -> anyhow::Result<Summary> {
    flash_until(card, &board(), path, Arc::default())
}

fn flash_until(card: &Card, board: &Board, path: &Path, stop: Arc<AtomicBool>) -> anyhow::Result<Summary> {
    let running = card.start();
    let flashed = (|| {
        let mut u_boot = UBoot::new(running.console_until(stop), board, board.baud)?;
        u_boot.interrupt()?;
        let terms = network::Terms { port: Some(0), ..network::Terms::default() };
        let prepared = network::prepare(board, &terms, false)?;
        let mut network = network::up(&mut u_boot, prepared, &terms, &Silent)?;
        system::flash(&mut u_boot, &mut network, &board.storage["emmc"], &Image::open(path)?, &Silent)
    })();
    running.end();
    flashed
}

#[test]
fn a_blank_card_gets_the_image_and_a_second_run_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    image(&path, 1);
    for can_unpack in [true, false] {
        let mut card = Card::virt(DISK);
        card.can_unpack = can_unpack;
        let summary = flash(&card, &path).unwrap();
        let content = std::fs::read(&path).unwrap();
        assert!(card.disk.lock().unwrap()[..content.len()] == content);
        // The piece of zeroes in the end was there, but for the second table.
        assert_eq!(summary.written + summary.same, content.len() as u64);
        card.heard.lock().unwrap().clear();
        let again = flash(&card, &path).unwrap();
        assert_eq!(again, Summary { same: content.len() as u64, ..Summary::default() });
        assert!(!card.heard.lock().unwrap().iter().any(|line| line.starts_with("mmc write")));
    }
}

#[test]
fn what_was_on_the_card_before_does_not_show_through() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    image(&path, 1);
    let card = used_card(folder.path());
    flash(&card, &path).unwrap();
    let content = std::fs::read(&path).unwrap();
    let disk = card.disk.lock().unwrap();
    assert!(disk[..content.len()] == content);
    assert!(
        disk[DISK - 33 * 512..].iter().all(|byte| *byte == 0),
        "the old table at the disk's end is still there"
    );
}

#[test]
fn an_empty_partition_loses_its_start_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    image(&path, 1);
    let mut content = std::fs::read(&path).unwrap();
    // The image's one partition goes from the first MiB up to block 8000.
    let partition = MIB..8001 * 512;
    content[partition.clone()].fill(0);
    std::fs::write(&path, &content).unwrap();
    let card = used_card(folder.path());
    let old = card.disk.lock().unwrap().clone();
    let summary = flash(&card, &path).unwrap();
    let left = 2 * MIB..partition.end;
    assert_eq!(
        (summary.left, summary.written + summary.same),
        (left.len() as u64, (5 * MIB - left.len()) as u64)
    );
    content[left.clone()].copy_from_slice(&old[left]);
    assert!(card.disk.lock().unwrap()[..content.len()] == content);
}

#[test]
fn only_what_differs_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    image(&path, 1);
    let card = Card::virt(DISK);
    flash(&card, &path).unwrap();
    card.disk.lock().unwrap()[3 * MIB + 70_000] ^= 1;
    let summary = flash(&card, &path).unwrap();
    // One piece, and the table, which had been taken away meanwhile.
    assert_eq!(summary.written, 3 << 20);
    assert!(card.disk.lock().unwrap()[..5 * MIB] == std::fs::read(&path).unwrap());
}

#[test]
fn lost_packets_cost_time_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    image(&path, 1);
    let mut card = Card::virt(DISK);
    card.loses = 200;
    flash(&card, &path).unwrap();
    assert!(card.disk.lock().unwrap()[..5 * MIB] == std::fs::read(&path).unwrap());
}

#[test]
fn ctrl_c_at_any_command_is_told_as_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    image(&path, 1);
    let whole = used_card(folder.path());
    flash(&whole, &path).unwrap();
    let commands = whole.heard.lock().unwrap().len();
    let board = Board::parse(&patient()).unwrap();
    for at in 0..commands {
        let mut card = used_card(folder.path());
        card.fault = Some((at, Fault::Silent));
        let stop = Arc::new(AtomicBool::new(false));
        let error = std::thread::scope(|scope| {
            let flashed = scope.spawn(|| flash_until(&card, &board, &path, Arc::clone(&stop)));
            while card.heard.lock().unwrap().len() <= at && !flashed.is_finished() {
                std::thread::sleep(Duration::from_millis(2));
            }
            stop.store(true, Ordering::Relaxed);
            flashed.join().unwrap().unwrap_err()
        });
        let is_stopped = error.chain().any(|cause| matches!(cause.downcast_ref(), Some(Broken::Stopped)));
        assert!(is_stopped, "at command {at} of {commands}: {}", hint::report(&error));
    }
}

#[test]
fn a_disk_that_is_too_small_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    image(&path, 1);
    let card = Card::virt(4 * MIB);
    let error = hint::report(&flash(&card, &path).unwrap_err());
    assert!(error.contains("the card's disk has 4194304 bytes, and the image needs 5242880"), "{error}");
    assert!(card.disk.lock().unwrap().iter().all(|byte| *byte == 0));
}

/// Flashes a used card with a fault at each command in turn that it makes a difference to, or with those that
/// do at any at every `step`th, and looks what it leaves.
fn survives(fault: Fault, step: usize) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("image");
    image(&path, 1);
    let new = std::fs::read(&path).unwrap();
    let clean = used_card(folder.path());
    let old = clean.disk.lock().unwrap().clone();
    flash(&clean, &path).unwrap();
    let heard = clean.heard.lock().unwrap().clone();
    let count = heard.len();
    // Each fault begins elsewhere, so that together they are at every command.
    let start = FAULTS.iter().position(|other| *other == fault).unwrap();
    let matters = |(at, line): &(usize, &String)| match fault.only_at() {
        Some(commands) => commands.iter().any(|command| line.starts_with(command)),
        None => (at + start) % step == 0,
    };
    let mut failed = BTreeSet::new();
    for (at, _) in heard.iter().enumerate().filter(matters) {
        let mut card = used_card(folder.path());
        card.fault = Some((at, fault));
        let flashed = flash(&card, &path);
        let context = || format!("{fault:?} at command {at} of {count}: {:?}", card.heard.lock().unwrap());
        let disk = card.disk.lock().unwrap().clone();
        match &flashed {
            Ok(_) => assert!(disk[..new.len()] == new, "a flash that is wrong went for good: {}", context()),
            Err(_) => drop(failed.insert(at)),
        }
        if card.has_table() {
            let (head, behind) = (usize::try_from(HEAD).unwrap(), new.len());
            // The last 33 blocks are the old system's second table, which goes away first.
            let is_old = disk[head..DISK - 33 * 512] == old[head..DISK - 33 * 512];
            let is_new = disk[head..behind] == new[head..behind];
            assert!(
                is_old || is_new,
                "a table over what is neither the old nor the new system: {}",
                context()
            );
        }
        card.fault = None;
        flash(&card, &path).unwrap_or_else(|error| panic!("{}: {}", context(), hint::report(&error)));
        assert!(card.disk.lock().unwrap()[..new.len()] == new, "{}", context());
    }
    // A line that is heard wrong is typed again, and what must not be left to chance was left to it somewhere.
    assert_eq!(
        failed.is_empty(),
        fault == Fault::Garbled,
        "{fault:?} made no command fail: the test does not bite"
    );
}

/// All faults, in whatever order.
const FAULTS: [Fault; 12] = [
    Fault::Silent,
    Fault::Noise,
    Fault::Gone,
    Fault::Reset,
    Fault::HalfThenReset,
    Fault::WrongMemory,
    Fault::WrongWrite,
    Fault::WriteError,
    Fault::NoWrite,
    Fault::NoRead,
    Fault::ServerGone,
    Fault::Garbled,
];

macro_rules! survives {
    ($($name:ident: $fault:ident,)*) => {
        $(#[test] fn $name() { survives(Fault::$fault, 4); })*
        #[test]
        #[ignore = "takes some minutes: `cargo test -p dpukit-flash -- --ignored`"]
        fn survives_every_fault_at_every_command() {
            $(survives(Fault::$fault, 1);)*
        }
        #[test]
        fn all_faults_are_tried() {
            assert_eq!([$(Fault::$fault),*].len(), FAULTS.len());
        }
    };
}

survives! {
    survives_silence: Silent,
    survives_noise: Noise,
    survives_a_pulled_cable: Gone,
    survives_a_reset: Reset,
    survives_a_reset_halfway: HalfThenReset,
    survives_wrong_memory: WrongMemory,
    survives_a_wrong_write: WrongWrite,
    survives_a_write_error: WriteError,
    survives_a_write_that_was_none: NoWrite,
    survives_a_read_that_was_none: NoRead,
    survives_a_server_that_is_gone: ServerGone,
    survives_a_garbled_line: Garbled,
}
