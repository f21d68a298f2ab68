//! What a board's U-Boot looks like: its prompt, how its autoboot is stopped, its commands, and what their
//! success and failure look like.
//!
//! ```toml
#![doc = include_str!("board/example.toml")]
//! ```
//!
//! Numbers in a command are hexadecimal, as U-Boot reads them. A command may be left out where its key says so.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use regex::Regex;
use serde::{Deserialize, Deserializer, de};

use crate::hash::Algorithm;
use crate::hint::WithHint as _;

/// The boards that the program knows without a file.
const KNOWN: [(&str, &str); 2] =
    [("cn106", include_str!("../boards/cn106.toml")), ("virt", include_str!("../boards/virt.toml"))];

/// A board, checked.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Board {
    pub description: String,
    /// Of a serial console, in bits a second.
    pub baud: u32,
    /// What U-Boot prints at a line's start when it waits for a command.
    pub prompt: String,
    /// How long the card may be silent while it does what it was told.
    pub silent: Seconds,
    pub boot: Boot,
    pub network: Network,
    pub memory: Memory,
    /// By the name that a person gives with `--to`.
    #[serde(default)]
    pub storage: BTreeMap<String, Storage>,
    /// None where the firmware is not flashed.
    pub firmware: Option<Firmware>,
}

/// From the reset to the prompt, and from the last write to the running system.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Boot {
    /// The command that starts the card anew.
    pub reset: String,
    /// How long the card may be silent while it starts.
    pub silent: Seconds,
    /// What the log of this board has, and no other board's.
    pub board: Pattern,
    /// How autoboot is stopped: what is waited for, and what is then sent.
    pub stops: Vec<Stop>,
    /// Which copy of the firmware started, by what the log says; the first that matches counts.
    #[serde(default)]
    pub copies: Vec<Booted>,
    /// What the console says when the flashed system is up; left out where it has no console there.
    pub up: Option<Pattern>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    pub on: Pattern,
    pub send: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Booted {
    pub name: String,
    pub pattern: Pattern,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
    /// Which of the card's interfaces is used unless a person names one; left out for U-Boot's own choice.
    pub interface: Option<String>,
    /// Commands before all others: block size, window size.
    #[serde(default)]
    pub prepare: Vec<String>,
    /// Commands before a transfer is tried again that got stuck: smaller steps.
    #[serde(default)]
    pub careful: Vec<String>,
    /// Gets an address; the first group of `success` is the card's.
    pub dhcp: Command,
    /// Lists the interfaces, for a person who named a wrong one. May be left out.
    pub list: Option<Command>,
    /// Fetches `{file}` to `{address}`; the first group of `success` is the size in bytes.
    pub tftp: Command,
    /// Whether `tftpdstp` sets the server's port, so that the server needs no right to port 69.
    #[serde(default)]
    pub port_can_be_set: bool,
    /// Where the card reaches this machine, for a network in which that is not this machine's own address.
    pub host: Option<Ipv4Addr>,
}

/// Where things lie in the card's memory, and what is done to them there.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Memory {
    /// Where files are loaded to.
    pub load: u64,
    /// Where they are unpacked to.
    pub unpacked: u64,
    /// Where is read back to, so that what was never read can't pass for what was written.
    pub check: u64,
    /// The largest piece, in bytes: each of the three has room for it.
    pub piece: u64,
    pub algorithm: Algorithm,
    /// The hash of `{size}` bytes at `{address}`; the first group of `success` is it.
    pub hash: Command,
    /// Unpacks gzip from `{from}` to `{address}`, which has room for `{size}` bytes; the first group of
    /// `success` is how many bytes they are, in hexadecimal. Left out, nothing is compressed.
    pub unpack: Option<Command>,
    /// Spoils the first word at `{address}`, before something is read there.
    pub spoil: String,
}

/// A disk of the card.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Storage {
    /// Makes it the current one.
    pub select: Command,
    /// Writes `{count}` blocks from `{address}` to block `{block}`; the first group is how many were written.
    pub write: Command,
    /// Reads `{count}` blocks at `{block}` to `{address}`; the first group is how many were read.
    pub read: Command,
    /// Tells how many blocks there are, as the first group, in hexadecimal or with `decimal = true`. May be
    /// left out: then only the end of the image is looked at.
    pub size: Option<Command>,
    /// Whether `size` tells a decimal number.
    #[serde(default)]
    pub size_is_decimal: bool,
}

/// The SPI flash that the card starts from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Firmware {
    /// The file in the bundle's `firmware/`, with `*` for any characters.
    pub file: String,
    /// Copy to U-Boot's name of its flash: `0:0`. The first is the one that is written.
    pub primary: String,
    pub secondary: String,
    /// Bytes of a flash.
    pub size: u64,
    /// Bytes at the start that go away first and come back last: without them the card's ROM takes the other
    /// copy. A whole number of erase blocks.
    pub head: u64,
    /// Looks for the flash `{device}`.
    pub probe: Command,
    /// Erases `{size}` bytes at `{offset}`.
    pub erase: Command,
    /// Writes `{size}` bytes from `{address}` to `{offset}`.
    pub update: Command,
    /// Reads `{size}` bytes at `{offset}` to `{address}`.
    pub read: Command,
}

/// A command of U-Boot, and what its output looks like.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// What is typed; `{name}` stands for a value.
    pub run: String,
    /// What is in the output if it went well.
    pub success: Pattern,
    /// What is in the output of a command that may never end by itself.
    pub failure: Option<Pattern>,
    /// How long the card may be silent meanwhile, where that is longer than the board's.
    pub silent: Option<Seconds>,
}

/// A regular expression. `^` and `$` are the ends of a line.
#[derive(Debug, Clone)]
pub struct Pattern(pub Regex);

/// A span of time, in seconds.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(transparent)]
pub struct Seconds(u16);

impl Seconds {
    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let pattern = regex::RegexBuilder::new(&text).multi_line(true).size_limit(1 << 20).build();
        pattern.map(Self).map_err(|error| de::Error::custom(format!("`{text}` is no pattern: {error}")))
    }
}

impl Command {
    /// What is typed, with these values.
    pub fn with(&self, values: &[(&str, String)]) -> String {
        fill(&self.run, values)
    }
}

/// Puts values in place of their names in braces.
pub fn fill(text: &str, values: &[(&str, String)]) -> String {
    values.iter().fold(text.to_owned(), |text, (name, value)| text.replace(&format!("{{{name}}}"), value))
}

impl Board {
    /// Reads a board's text.
    ///
    /// # Errors
    /// With the line, and what is wrong in it.
    pub fn parse(text: &str) -> Result<Self> {
        let board: Self =
            toml::from_str(text).map_err(|error| anyhow!("{}", error.to_string().trim_end()))?;
        board.check()?;
        Ok(board)
    }

    /// A board of its file.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading `{}`", path.display()))?;
        Self::parse(&text).with_context(|| format!("reading `{}`", path.display()))
    }

    /// A board that the program knows.
    pub fn known(name: &str) -> Result<Self> {
        let found = KNOWN.iter().find(|(known, _)| *known == name);
        let (_, text) = found.with_context(|| format!("no board `{name}` is known")).hint(|| {
            let names: Vec<_> = KNOWN.iter().map(|(name, _)| format!("`{name}`")).collect();
            format!("there is {}; of others the bundle has a `flash.toml`", names.join(" and "))
        })?;
        Self::parse(text).with_context(|| format!("reading the board `{name}`"))
    }

    fn check(&self) -> Result<()> {
        let commands = self.commands();
        for (key, run, names) in commands {
            let mut rest = run.to_owned();
            for name in names {
                rest = rest.replace(&format!("{{{name}}}"), "");
            }
            ensure!(!rest.contains('{'), "`{key}`: `{run}` has a name in braces that stands for nothing");
            ensure!(!run.contains(['\n', '\r']), "`{key}` is more than one line");
            // `CONFIG_SYS_CBSIZE` of U-Boot is 256 at least on the boards at hand.
            ensure!(run.len() < 200, "`{key}` is longer than U-Boot's line");
        }
        let Memory { load, unpacked, check, piece, .. } = self.memory;
        ensure!(
            piece.is_power_of_two() && piece >= 1 << 20,
            "`memory.piece` is no power of two of 1 MiB or more"
        );
        let mut places = [load, unpacked, check];
        places.sort_unstable();
        // What does not shrink when it is compressed grows by a little.
        let room = piece + piece / 64;
        let fits = places.windows(2).all(|pair| pair[1] - pair[0] >= room);
        ensure!(fits, "`memory.load`, `unpacked` and `check` are less than one piece ({room} bytes) apart");
        ensure!(!self.prompt.trim().is_empty(), "`prompt` is empty: nothing would tell that U-Boot waits");
        let has_any = !self.storage.is_empty() || self.firmware.is_some();
        ensure!(has_any, "there is neither a `[storage.NAME]` nor `[firmware]`: nothing could be flashed");
        for (key, command) in self.counted() {
            let groups = command.success.0.captures_len();
            ensure!(groups > 1, "`{key}`: `success` needs a group `(…)` for the number that it tells");
        }
        if let Some(firmware) = &self.firmware {
            ensure!(
                firmware.head > 0 && firmware.head < firmware.size && firmware.size <= piece,
                "`firmware`: `head` has to be smaller than `size`, and `size` not larger than `memory.piece`"
            );
        }
        Ok(())
    }

    /// The commands whose output has to tell something.
    fn counted(&self) -> Vec<(String, &Command)> {
        let own = [
            ("network.dhcp".to_owned(), &self.network.dhcp),
            ("network.tftp".to_owned(), &self.network.tftp),
            ("memory.hash".to_owned(), &self.memory.hash),
        ];
        let unpack = self.memory.unpack.iter().map(|command| ("memory.unpack".to_owned(), command));
        let storage = self.storage.iter().flat_map(|(name, storage)| {
            let commands = [
                ("write", Some(&storage.write)),
                ("read", Some(&storage.read)),
                ("size", storage.size.as_ref()),
            ];
            commands
                .into_iter()
                .filter_map(move |(key, command)| Some((format!("storage.{name}.{key}"), command?)))
        });
        own.into_iter().chain(unpack).chain(storage).collect()
    }

    /// All that is typed, with the names that stand for something in it.
    fn commands(&self) -> Vec<(String, &str, &'static [&'static str])> {
        let mut all: Vec<(String, &str, &'static [&'static str])> = vec![
            ("boot.reset".into(), &self.boot.reset, &[]),
            ("network.dhcp".into(), &self.network.dhcp.run, &[]),
            ("network.tftp".into(), &self.network.tftp.run, &["address", "file"]),
            ("memory.hash".into(), &self.memory.hash.run, &["address", "size"]),
            ("memory.spoil".into(), &self.memory.spoil, &["address"]),
        ];
        all.extend(
            self.network.prepare.iter().map(|line| ("network.prepare".into(), line.as_str(), [].as_slice())),
        );
        all.extend(
            self.network.list.iter().map(|list| ("network.list".into(), list.run.as_str(), [].as_slice())),
        );
        all.extend(
            self.network.careful.iter().map(|line| ("network.careful".into(), line.as_str(), [].as_slice())),
        );
        let unpack = self.memory.unpack.iter();
        all.extend(unpack.map(|unpack| {
            ("memory.unpack".into(), unpack.run.as_str(), ["from", "address", "size"].as_slice())
        }));
        for (name, storage) in &self.storage {
            let blocks = ["address", "block", "count"].as_slice();
            all.push((format!("storage.{name}.select"), &storage.select.run, &[]));
            all.push((format!("storage.{name}.write"), &storage.write.run, blocks));
            all.push((format!("storage.{name}.read"), &storage.read.run, blocks));
            all.extend(
                storage
                    .size
                    .iter()
                    .map(|size| (format!("storage.{name}.size"), size.run.as_str(), ["address"].as_slice())),
            );
        }
        if let Some(firmware) = &self.firmware {
            let places = ["address", "offset", "size"].as_slice();
            all.push(("firmware.probe".into(), &firmware.probe.run, &["device"]));
            all.push(("firmware.erase".into(), &firmware.erase.run, places));
            all.push(("firmware.update".into(), &firmware.update.run, places));
            all.push(("firmware.read".into(), &firmware.read.run, places));
        }
        all
    }
}
