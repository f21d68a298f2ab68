//! A stand-in for a card at the end of a console: it types like U-Boot, fetches over real TFTP, keeps a disk and
//! an SPI flash in memory, and goes wrong when it is told to.

#![allow(dead_code)] // Each test program uses a part of it.

mod memory;
mod tftp;

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dpukit_flash::console::Console;
use dpukit_flash::console::link::Descriptor;
use dpukit_flash::hash::Algorithm;
use dpukit_flash::watch::Silent;
use memory::Memory;

pub const BLOCK: usize = 512;
const MIB: usize = 1 << 20;
/// How long a card stays off that nobody switches on.
const OFF: Duration = Duration::from_secs(8);

/// A disk's image of 5 MiB: a table, content, zeroes.
pub fn image(path: &Path, seed: u8) {
    let mut file = File::options().create(true).truncate(true).read(true).write(true).open(path).unwrap();
    file.set_len(5 * MIB as u64).unwrap();
    let mut table = gptman::GPT::new_from(&mut file, 512, [seed; 16]).unwrap();
    table[1] = gptman::GPTPartitionEntry {
        partition_type_guid: [1; 16],
        unique_partition_guid: [seed; 16],
        starting_lba: 2048,
        ending_lba: 8000,
        attribute_bits: 0,
        partition_name: "a".into(),
    };
    gptman::GPT::write_protective_mbr_into(&mut file, 512).unwrap();
    table.write_into(&mut file).unwrap();
    let content: Vec<u8> =
        (0_u32..1 << 20).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect();
    file.seek(SeekFrom::Start(MIB as u64)).unwrap();
    file.write_all(&content).unwrap();
    file.seek(SeekFrom::Start(3 * MIB as u64)).unwrap();
    file.write_all(&content).unwrap();
}

/// What goes wrong, once, at a command's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It hears and says no more.
    Silent,
    /// It says noise for ever.
    Noise,
    /// The console is closed.
    Gone,
    /// It starts anew instead of doing what it was told.
    Reset,
    /// It starts anew after it did half of what it was told.
    HalfThenReset,
    /// One byte of what was just put into memory is another.
    WrongMemory,
    /// It says that it wrote, and wrote one byte wrong.
    WrongWrite,
    /// It refuses to write.
    WriteError,
    /// It wrote nothing, and says that it did.
    NoWrite,
    /// The read leaves memory as it was, and says that it read.
    NoRead,
    /// The TFTP server does not answer.
    ServerGone,
    /// A letter of the line is heard wrong.
    Garbled,
}

impl Fault {
    /// The commands that it makes a difference to; none for all.
    pub fn only_at(self) -> Option<&'static [&'static str]> {
        match self {
            Self::WrongWrite | Self::WriteError | Self::NoWrite => {
                Some(&["mmc write", "sf update", "sf erase"])
            }
            Self::NoRead => Some(&["mmc read", "sf read"]),
            Self::WrongMemory => Some(&["tftpboot", "unzip"]),
            Self::ServerGone => Some(&["tftpboot"]),
            _ => None,
        }
    }
}

/// How a card looks and what it has.
#[derive(Debug, Clone)]
pub struct Card {
    pub prompt: String,
    /// What it says from a reset to where autoboot is stopped, in parts that each wait for a letter.
    pub log: Vec<(String, Option<u8>)>,
    pub algorithm: Algorithm,
    pub can_unpack: bool,
    /// Bytes of the disk and of the SPI flash; they outlive a reset, and the stand-in.
    pub disk: Arc<Mutex<Vec<u8>>>,
    pub spi: Arc<Mutex<Vec<u8>>>,
    /// The fault, and the number of the command at which it happens.
    pub fault: Option<(usize, Fault)>,
    /// Whether it is in the middle of its start when it is met.
    pub starts: bool,
    /// What it hears once more when it is at its prompt already.
    pub late_key: &'static str,
    /// It is off until this file is there.
    pub switch: Option<PathBuf>,
    /// How many of its packets from the TFTP server are lost: one of that many; 0 for none.
    pub loses: usize,
    /// What it heard: each line that was run.
    pub heard: Arc<Mutex<Vec<String>>>,
}

/// A running stand-in.
pub struct Running {
    pub console: UnixStream,
    thread: JoinHandle<()>,
}

impl Running {
    /// The program's end of the console.
    pub fn console(&self) -> Console<'static> {
        self.console_until(Arc::default())
    }

    /// The program's end of the console, until that is set, as Ctrl-C does.
    pub fn console_until(&self, stop: Arc<AtomicBool>) -> Console<'static> {
        let link = Descriptor(self.console.try_clone().unwrap().into());
        Console::new(Box::new(link), &Silent, stop)
    }

    /// Closes the console, and waits until it is over.
    pub fn end(self) {
        self.console.shutdown(Shutdown::Both).unwrap();
        drop(self.console);
        self.thread.join().unwrap();
    }
}

enum Next {
    Prompt,
    Reset,
    Silent,
    Noise,
    Gone,
}

impl Card {
    pub fn virt(size: usize) -> Self {
        Self {
            prompt: "=> ".into(),
            log: vec![(
                "\r\n\r\nU-Boot 2025.01 (Jan 01 2026 - 00:00:00 +0000) dpukit-virt\r\n\r\nDRAM:  2 GiB\r\n\
                 Net:   eth0: virtio-net#33\r\nHit any key to stop autoboot:  2 "
                    .into(),
                Some(b' '),
            )],
            algorithm: Algorithm::Sha256,
            can_unpack: true,
            disk: Arc::new(Mutex::new(vec![0; size])),
            spi: Arc::default(),
            fault: None,
            starts: false,
            late_key: "",
            switch: None,
            loses: 0,
            heard: Arc::default(),
        }
    }

    /// Starts it at its prompt.
    pub fn start(&self) -> Running {
        let (console, card) = UnixStream::pair().unwrap();
        Running { console, ..self.on(card) }
    }

    /// Starts it at its prompt, with its console at one end of a line that there is.
    pub fn on(&self, card: UnixStream) -> Running {
        let console = card.try_clone().unwrap();
        let own = self.clone();
        let thread = std::thread::spawn(move || {
            let _ = own.live(card);
        });
        Running { console, thread }
    }

    fn live(&self, mut console: UnixStream) -> std::io::Result<()> {
        let mut memory = Memory::default();
        let mut count = 0;
        let mut typed = "";
        if let Some(switch) = &self.switch {
            let end = Instant::now() + OFF;
            while !switch.exists() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        if self.starts || self.switch.is_some() {
            self.reset(&mut console)?;
            typed = self.late_key;
        } else {
            console.write_all(self.prompt.as_bytes())?;
        }
        loop {
            let Some(line) = self.line(&mut console, typed, self.fault == Some((count, Fault::Garbled)))?
            else {
                console.write_all(format!("<INTERRUPT>\r\n{}", self.prompt).as_bytes())?;
                typed = "";
                continue;
            };
            typed = "";
            // A server that is gone does not come back.
            let is_now =
                |(at, fault): &(usize, Fault)| *at == count || (*at < count && *fault == Fault::ServerGone);
            let fault = self.fault.filter(is_now).map(|(_, fault)| fault);
            count += 1;
            self.heard.lock().unwrap().push(line.clone());
            console.write_all(b"\r\n")?;
            let (said, next) = self.run(&line, fault, &mut memory);
            console.write_all(said.as_bytes())?;
            match next {
                Next::Prompt => console.write_all(self.prompt.as_bytes())?,
                Next::Gone => return Ok(()),
                Next::Noise => {
                    // Until the other end has had enough.
                    while console.write_all(&[0xf0, 0x81, 0xfe, 0x00, 0x9c, 0xe3]).is_ok() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    return Ok(());
                }
                Next::Silent => loop {
                    if console.read(&mut [0; 64])? == 0 {
                        return Ok(());
                    }
                },
                Next::Reset => {
                    memory = Memory::default();
                    self.reset(&mut console)?;
                    typed = self.late_key;
                }
            }
        }
    }

    fn reset(&self, console: &mut UnixStream) -> std::io::Result<()> {
        for (text, letter) in &self.log {
            console.write_all(text.as_bytes())?;
            let Some(wanted) = letter else { continue };
            console.set_read_timeout(Some(Duration::from_millis(700)))?;
            let mut byte = [0];
            let stopped = loop {
                match console.read(&mut byte) {
                    Ok(0) => return Err(std::io::ErrorKind::BrokenPipe.into()),
                    Ok(_) if byte[0] == *wanted => break true,
                    Ok(_) => {}
                    Err(_) => break false,
                }
            };
            console.set_read_timeout(None)?;
            if !stopped {
                // The system starts, if there is one: U-Boot's own prompt is what is left.
                let text = if self.has_table() {
                    "\r\nStarting kernel ...\r\n\r\ndpu login: "
                } else {
                    "\r\nno boot script\r\n"
                };
                console.write_all(text.as_bytes())?;
                if self.has_table() {
                    loop {
                        if console.read(&mut [0; 64])? == 0 {
                            return Err(std::io::ErrorKind::BrokenPipe.into());
                        }
                    }
                }
                break;
            }
        }
        console.write_all(format!("\r\n{}{}", self.prompt, self.late_key).as_bytes())
    }

    /// Whether U-Boot would find a partition table.
    pub fn has_table(&self) -> bool {
        let disk = self.disk.lock().unwrap();
        disk.get(BLOCK..BLOCK + 8).is_some_and(|head| head == b"EFI PART")
            || disk[disk.len() - BLOCK..].starts_with(b"EFI PART")
    }

    /// A line as it was typed behind what is there, echoed; none where Ctrl-C came.
    fn line(&self, console: &mut UnixStream, typed: &str, garbled: bool) -> std::io::Result<Option<String>> {
        let mut line = typed.to_owned();
        loop {
            let mut byte = [0];
            if console.read(&mut byte)? == 0 {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            match byte[0] {
                b'\r' => return Ok(Some(line)),
                3 => return Ok(None),
                letter => {
                    // Only the first time: what is typed again comes well.
                    let letter = if garbled
                        && line.len() == 2
                        && self.heard.lock().unwrap().last().is_none_or(|last| last != "garbled")
                    {
                        self.heard.lock().unwrap().push("garbled".into());
                        b'?'
                    } else {
                        letter
                    };
                    line.push(letter.into());
                    console.write_all(&[letter])?;
                }
            }
        }
    }

    fn run(&self, line: &str, fault: Option<Fault>, memory: &mut Memory) -> (String, Next) {
        match fault {
            Some(Fault::Silent) => return (String::new(), Next::Silent),
            Some(Fault::Noise) => return (String::new(), Next::Noise),
            Some(Fault::Gone) => return (String::new(), Next::Gone),
            Some(Fault::Reset) => return (String::new(), Next::Reset),
            Some(Fault::HalfThenReset) => {
                self.command(line, fault, memory);
                return (String::new(), Next::Reset);
            }
            _ => {}
        }
        if line == "reset" {
            return ("resetting ...\r\n".into(), Next::Reset);
        }
        (self.command(line, fault, memory), Next::Prompt)
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each command")]
    fn command(&self, line: &str, fault: Option<Fault>, memory: &mut Memory) -> String {
        let words: Vec<_> = line.split_whitespace().collect();
        let number = |at: usize| usize::from_str_radix(words.get(at).copied().unwrap_or("0"), 16).unwrap();
        match words.as_slice() {
            ["reset"] => String::new(),
            ["setenv", name, value] => {
                memory.variables.insert((*name).into(), (*value).into());
                String::new()
            }
            ["dhcp"] => "BOOTP broadcast 1\r\nDHCP client bound to address 127.0.0.1 (3 ms)\r\n".into(),
            ["net", "list"] => "eth0 : virtio-net#33 52:54:00:12:34:56 active\r\n".into(),
            ["help", "unzip"] if !self.can_unpack => {
                "Unknown command 'unzip' - try 'help' without arguments\r\n".into()
            }
            ["help", name] => format!("{name} - does something\r\n"),
            ["mw.l", _, _] => {
                memory.write(number(1), &[0xef, 0xbe, 0xad, 0xde]);
                String::new()
            }
            ["tftpboot", _, file] => {
                if fault == Some(Fault::ServerGone) {
                    return "Loading: T T T T T T T T T T\r\nRetry count exceeded; starting again\r\n".into();
                }
                let port = memory.variables.get("tftpdstp").map_or(69, |port| port.parse().unwrap());
                match tftp::fetch(port, file, self.loses) {
                    Ok(mut content) => {
                        if fault == Some(Fault::WrongMemory) {
                            let middle = content.len() / 2;
                            content[middle] ^= 1;
                        }
                        memory.write(number(1), &content);
                        format!(
                            "Loading: ####\r\ndone\r\nBytes transferred = {} ({:x} hex)\r\n",
                            content.len(),
                            content.len()
                        )
                    }
                    Err(error) => format!("TFTP error: '{error}' (1)\r\nNot retrying...\r\n"),
                }
            }
            ["hash", "sha256", ..] => self.hash(number(2), number(3), memory),
            ["sha1sum", ..] => self.hash(number(1), number(2), memory),
            ["unzip", ..] => {
                let content = memory.unpack(number(1));
                let content = content.unwrap_or_default();
                memory.write(number(2), &content);
                if fault == Some(Fault::WrongMemory) {
                    memory.spoil(number(2));
                }
                format!("Uncompressed size: {} = 0x{:X}\r\n", content.len(), content.len())
            }
            ["mmc", "list;", "mmc", "dev", "0"] => {
                "switch to partitions #0, OK\r\nmmc0 is current device\r\n".into()
            }
            ["mmc", "read", _, "fffffff0", "1"] => {
                let blocks = self.disk.lock().unwrap().len() / BLOCK;
                format!(
                    "MMC read: dev # 0, block # -16, count 1 ... MMC: block number 0xfffffff1 exceeds max(0x{blocks:x})\r\n0 blocks read: ERROR\r\n"
                )
            }
            ["mmc", "write", ..] => {
                let (count, place) = (number(4), number(3) * BLOCK);
                let written =
                    put(&mut self.disk.lock().unwrap(), place, &memory.read(number(2), count * BLOCK), fault);
                if written {
                    format!("MMC write: dev # 0 ... {count} blocks written: OK\r\n")
                } else {
                    "MMC write: 0 blocks written: ERROR\r\n".into()
                }
            }
            ["mmc", "read", ..] => {
                let (count, place) = (number(4), number(3) * BLOCK);
                let disk = self.disk.lock().unwrap();
                let Some(content) = disk.get(place..place + count * BLOCK) else {
                    return "0 blocks read: ERROR\r\n".into();
                };
                if fault != Some(Fault::NoRead) {
                    memory.write(number(2), content);
                }
                format!("MMC read: dev # 0 ... {count} blocks read: OK\r\n")
            }
            ["sf", "probe", device] => {
                assert_eq!(*device, "0:0", "another flash than the primary was asked for");
                "SF: Detected mx25um51245g with page size 256 Bytes, erase size 4 KiB, total 64 MiB\r\n"
                    .into()
            }
            ["sf", "erase", ..] => {
                let nothing = vec![0xff; number(3)];
                put(&mut self.spi.lock().unwrap(), number(2), &nothing, fault);
                format!("SF: {} bytes @ 0x{:x} Erased: OK\r\n", number(3), number(2))
            }
            ["sf", "update", ..] => {
                let content = memory.read(number(2), number(4));
                if !put(&mut self.spi.lock().unwrap(), number(3), &content, fault) {
                    return "SPI flash failed in write step\r\n".into();
                }
                format!(
                    "device 0 offset 0x{:x}, size 0x{:x}\r\n{} bytes written, 0 bytes skipped in 0.9s, speed 1 B/s\r\n",
                    number(3),
                    number(4),
                    number(4)
                )
            }
            ["sf", "read", ..] => {
                let (place, size) = (number(3), number(4));
                if fault != Some(Fault::NoRead) {
                    let content = self.spi.lock().unwrap()[place..place + size].to_vec();
                    memory.write(number(2), &content);
                }
                format!(
                    "device 0 offset 0x{place:x}, size 0x{size:x}\r\nSF: {size} bytes @ 0x{place:x} Read: OK\r\n"
                )
            }
            _ => format!("Unknown command '{line}' - try 'help'\r\n"),
        }
    }

    fn hash(&self, address: usize, size: usize, memory: &Memory) -> String {
        let hash = self.algorithm.of(&memory.read(address, size));
        format!("hash for {address:08x} ... {:08x} ==> {hash}\r\n", address + size - 1)
    }
}

/// Writes into a disk or a flash as the fault says; whether it went well as far as the card knows.
fn put(into: &mut [u8], place: usize, content: &[u8], fault: Option<Fault>) -> bool {
    let Some(target) = into.get_mut(place..place + content.len()) else { return false };
    match fault {
        Some(Fault::WriteError) => return false,
        Some(Fault::NoWrite) => {}
        Some(Fault::HalfThenReset) => {
            target[..content.len() / 2].copy_from_slice(&content[..content.len() / 2]);
        }
        _ => target.copy_from_slice(content),
    }
    if fault == Some(Fault::WrongWrite)
        && let Some(byte) = target.last_mut()
    {
        *byte ^= 1;
    }
    true
}
