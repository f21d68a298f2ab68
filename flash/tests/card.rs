//! From a console to the prompt, and firmware into the SPI flash, on a stand-in for the makers' card that says
//! what their guides print; and what is told where the card, or the line, is not what it should be.

mod stand_in;

use std::io::Write as _;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dpukit_flash::board::Board;
use dpukit_flash::console::Console;
use dpukit_flash::console::link::Descriptor;
use dpukit_flash::firmware::{self, Copy};
use dpukit_flash::hash::Algorithm;
use dpukit_flash::session::{self, Terms};
use dpukit_flash::watch::Silent;
use dpukit_flash::{hint, network};
use stand_in::{Card, Fault};

/// What crb106-pcie prints from its reset to U-Boot's prompt, in the words of the makers' guides.
const START: &str = "\r\nSCP: Booting from SPI0.CS0 (Primary image0)\r\n\r\nMarvell CN10K SOC\r\n\
    PASS: CRC32 verification\r\nTransferring to thread scheduler\r\n=======================\r\n\
    Marvell CN10k Boot Stub\r\n=======================\r\nFirmware Version: 2025-01-30 22:07:22\r\n\
    EBF Version: 12.25.01\r\n\r\nBoard Model:    crb106-pcie\r\nBoard Revision: r1p1\r\n\r\nChip:  0xb9 Pass B0\r\n\
    SKU:   MV-CN10624-B0-AAP\r\nLLC:   49152 KB\r\nBoot:  SPI0_CS0,SPI1_CS0, using SPI0_CS0\r\nAVS:   Enabled\r\n\r\n\
    Press 'B' within 10 seconds for boot menu\r\n";
const MENU: &str = "\r\n=================================\r\nBoot Options\r\n=================================\r\n\
    1) Boot from Primary Boot Device\r\n2) Boot from Secondary Boot Device\r\nN) Boot Normally\r\nS) Enter Setup\r\n\
    D) Enter DRAM Diagnostics\r\nK) Burn boot flash using Kermit\r\nU) Change baud rate and flow control\r\n\
    R) Reboot\r\n\r\nChoice: ";
const U_BOOT: &str = "1\r\n\r\nU-Boot 2023.04 (Jan 30 2025 - 22:04:11 +0000)\r\n\r\nDRAM:  48 GiB\r\n\
    Net:   eth0: rvu_pf#0, eth1: rvu_pf#1\r\nHit any key to stop autoboot:  3 ";

fn cn106() -> Board {
    let text = include_str!("../boards/cn106.toml")
        .replace("silent = 120", "silent = 2")
        .replace("silent = 300", "silent = 2")
        .replace("silent = 20", "silent = 1")
        .replace("[network]", "[network]\nhost = \"127.0.0.1\"\nport-can-be-set = true");
    Board::parse(&text).unwrap()
}

fn card() -> Card {
    let mut card = Card::virt(1 << 20);
    card.prompt = "crb106-pcie> ".into();
    let log = [(START, Some(b'b')), (MENU, Some(b'1')), (U_BOOT, Some(b' '))];
    card.log = log.map(|(text, letter)| (text.to_owned(), letter)).into();
    card.algorithm = Algorithm::Sha1;
    card.spi = Arc::new(Mutex::new(vec![0x5a; 1 << 20]));
    card
}

fn soon() -> Terms {
    Terms { patience: Duration::from_secs(1), ..Terms::default() }
}

/// Starts the card and flashes its firmware; what the card was told, and how it went.
fn flash(card: &Card, board: &Board, content: &[u8]) -> anyhow::Result<bool> {
    let running = card.start();
    let flashed = (|| {
        let mut started = session::start(running.console(), board, board.baud, &soon(), &Silent)?;
        firmware::allow(Copy::Primary, started.copy.as_deref(), false)?;
        let terms = network::Terms::default();
        let prepared = network::prepare(board, &terms, false)?;
        let mut network = network::up(&mut started.u_boot, prepared, &terms, &Silent)?;
        let firmware = board.firmware.as_ref().unwrap();
        firmware::flash(&mut started.u_boot, &mut network, firmware, Copy::Primary, content, &Silent)
    })();
    running.end();
    flashed
}

fn content() -> Vec<u8> {
    (0..300_001_u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect()
}

#[test]
fn a_session_is_what_the_guides_say_and_first_block_last() {
    let card = card();
    let content = content();
    assert!(flash(&card, &cn106(), &content).unwrap());
    assert!(card.spi.lock().unwrap()[..content.len()] == content);
    let heard = card.heard.lock().unwrap().join("\n");
    // Names and ports are of this run, and how flate2 packs is of the features it was built with.
    let names = regex::Regex::new(r"dpukit-\d+-|tftpdstp \d+|sha1sum 20080000 \S+").unwrap();
    insta::assert_snapshot!(names.replace_all(&heard, "…"));
    card.heard.lock().unwrap().clear();
    assert!(!flash(&card, &cn106(), &content).unwrap());
    assert!(
        !card
            .heard
            .lock()
            .unwrap()
            .iter()
            .any(|line| line.contains("sf update") || line.contains("sf erase"))
    );
}

#[test]
fn a_flash_that_is_stopped_leaves_no_copy_that_looks_whole() {
    let board = cn106();
    let content = content();
    let clean = card();
    flash(&clean, &board, &content).unwrap();
    let heard = clean.heard.lock().unwrap().clone();
    let head = usize::try_from(board.firmware.as_ref().unwrap().head).unwrap();
    let suffers = |fault: Fault| {
        let mut failed = 0;
        for (at, line) in heard.iter().enumerate() {
            let matters = |commands: &[&str]| commands.iter().any(|command| line.starts_with(command));
            // Before the flash is looked for nothing can be lost.
            if !fault.only_at().map_or(at >= 7, matters) {
                continue;
            }
            let mut card = card();
            card.fault = Some((at, fault));
            let flashed = flash(&card, &board, &content);
            let spi = card.spi.lock().unwrap().clone();
            let context = || format!("{fault:?} at {at}: {:?}", card.heard.lock().unwrap());
            match flashed {
                Ok(_) => assert!(spi[..content.len()] == content, "{}", context()),
                Err(_) => failed += 1,
            }
            let is_old = spi[head..].iter().all(|byte| *byte == 0x5a);
            let is_new = spi[head..content.len()] == content[head..];
            // A copy counts as whole by its first block.
            if spi[..head].iter().all(|byte| *byte == 0x5a) {
                assert!(is_old, "the old first block before what is not the old rest: {}", context());
            }
            if spi[..head] == content[..head] {
                assert!(is_new, "the new first block before what is not the new rest: {}", context());
            }
        }
        assert!(failed > 0, "{fault:?} made no command fail: the test does not bite");
    };
    // Most of the time is spent waiting for a card that says nothing: all at once.
    std::thread::scope(|scope| {
        for fault in [
            Fault::Silent,
            Fault::Noise,
            Fault::Reset,
            Fault::HalfThenReset,
            Fault::Gone,
            Fault::WrongMemory,
            Fault::WrongWrite,
            Fault::WriteError,
            Fault::NoWrite,
            Fault::NoRead,
        ] {
            let suffers = &suffers;
            scope.spawn(move || suffers(fault));
        }
    });
}

#[test]
fn a_card_that_started_from_its_second_copy_is_not_written() {
    let mut card = card();
    card.log[0].0 =
        START.replace("using SPI0_CS0", "using SPI1_CS0").replace("SPI0.CS0 (Primary", "SPI1.CS0 (Secondary");
    let error = hint::report(&flash(&card, &cn106(), &content()).unwrap_err());
    assert!(error.contains("the card started from `secondary`") && error.contains("--i-know"), "{error}");
    assert!(card.spi.lock().unwrap().iter().all(|byte| *byte == 0x5a));
}

#[test]
fn the_card_is_known_and_its_copy_too() {
    let (mut card, board) = (card(), cn106());
    for starts in [false, true] {
        card.starts = starts;
        let running = card.start();
        let started = session::start(running.console(), &board, board.baud, &soon(), &Silent).unwrap();
        assert_eq!(started.copy.as_deref(), Some("primary"));
        running.end();
    }
}

#[test]
fn a_key_that_came_after_autoboot_had_stopped_is_no_part_of_a_command() {
    let (mut card, board) = (card(), cn106());
    card.late_key = "b";
    for starts in [false, true] {
        card.starts = starts;
        let running = card.start();
        let mut started = session::start(running.console(), &board, board.baud, &soon(), &Silent).unwrap();
        started.u_boot.type_line("setenv autoload no").unwrap();
        running.end();
    }
    let heard = card.heard.lock().unwrap();
    assert!(heard.iter().all(|line| ["reset", "setenv autoload no"].contains(&line.as_str())), "{heard:?}");
}

/// What is told of a card that says `says` and nothing else.
fn told(says: &[u8], board: &Board) -> String {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    (&theirs).write_all(says).unwrap();
    let console = Console::new(Box::new(Descriptor(ours.into())), &Silent, Arc::new(AtomicBool::new(false)));
    hint::report(&session::start(console, board, board.baud, &soon(), &Silent).err().unwrap())
}

#[test]
fn what_is_wrong_with_card_or_line_is_told() {
    let board = cn106();
    let silent = told(b"", &board);
    assert!(silent.contains("the card said nothing") && silent.contains("--baud"), "{silent}");
    let noise: Vec<u8> = (0..2000_u32).map(|at| 0x80 | u8::try_from(at % 120).unwrap()).collect();
    // What came before the program looked is thrown away, so it has to go on.
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let writer = std::thread::spawn(move || {
        while (&theirs).write_all(&noise).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let noisy = Console::new(Box::new(Descriptor(ours.into())), &Silent, Arc::new(AtomicBool::new(false)));
    let error = hint::report(&session::start(noisy, &board, board.baud, &soon(), &Silent).err().unwrap());
    assert!(error.contains("is no text") && error.contains("--baud"), "{error}");
    writer.join().unwrap();

    // Another board, at its prompt and from its log.
    let other = Card::virt(1 << 20);
    let running = other.start();
    let error =
        hint::report(&session::start(running.console(), &board, board.baud, &soon(), &Silent).err().unwrap());
    assert!(error.contains("its prompt is `=>`") && error.contains("--board"), "{error}");
    running.end();
    let mut other = card();
    other.log[0].0 = START.replace("crb106-pcie", "crb203-pcie");
    let running = other.start();
    let error =
        hint::report(&session::start(running.console(), &board, board.baud, &soon(), &Silent).err().unwrap());
    assert!(error.contains("the card is not what `Marvell crb106-pcie` is"), "{error}");
    running.end();
}

#[test]
fn every_board_file_can_be_read() {
    for name in ["cn106", "virt"] {
        Board::known(name).unwrap();
    }
    let error = hint::report(&Board::known("other").unwrap_err());
    assert!(error.contains("there is `cn106` and `virt`"), "{error}");
    let text = include_str!("../boards/virt.toml");
    for (from, to, wrong) in [
        ("{address} {file}", "{place} {file}", "`network.tftp`"),
        ("check = 0x5800_0000", "check = 0x5000_1000", "less than one piece"),
        ("piece = 0x100_0000", "piece = 0x100_0001", "no power of two"),
        (r"transferred = (\d+) ", "transferred", "needs a group"),
        ("prompt = \"=> \"", "prompt = \" \"", "`prompt` is empty"),
        ("'is current device'", "'('", "is no pattern"),
        ("silent = 20", "silence = 20", "unknown field `silence`"),
    ] {
        let error = hint::report(&Board::parse(&text.replace(from, to)).unwrap_err());
        assert!(error.contains(wrong), "{error} has not {wrong}");
    }
}

#[test]
fn the_documented_example_is_that_of_virt() {
    assert_eq!(include_str!("../boards/virt.toml"), include_str!("../src/board/example.toml"));
}
