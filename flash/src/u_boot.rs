//! One command of U-Boot after the other: typed, its echo compared before it runs, its answer held against what
//! the board's file says that success looks like.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use regex::Regex;

use crate::board::{Board, Command};
use crate::console::{Broken, Console, Patience};
use crate::hint::WithHint as _;

/// A serial line without flow control loses what comes faster than U-Boot reads it.
const CHUNK: usize = 16;
/// How often a line that came back otherwise is typed again.
const TRIES: usize = 3;
/// Ends whatever U-Boot is doing.
const INTERRUPT: &[u8] = b"\x03";
/// The slowest network, in bytes a second, that a transfer is given time for.
const SLOWEST: u64 = 64 << 10;

/// A card that waits at U-Boot's prompt, or nobody: then commands are only told.
pub struct UBoot<'a> {
    console: Option<Console<'a>>,
    board: &'a Board,
    baud: u32,
    prompt: Regex,
    tell: &'a dyn Fn(&str),
}

/// What a command said.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// All of it.
    pub text: String,
    /// The first group of the pattern of success; none in a dry run.
    pub told: Option<String>,
}

/// A command that the card ran, and that did not go well by what it said.
#[derive(Debug, thiserror::Error)]
#[error("{what}; U-Boot said:{said}")]
pub struct Refused {
    what: &'static str,
    /// Its last lines.
    said: String,
}

/// Messages of U-Boot, and what they mean to a person.
const CAUSES: [(&str, &str, &str); 12] = [
    ("TFTP error: 'File not found'", "the TFTP server has not the file", "look at the folder that it serves"),
    ("TFTP error:", "the TFTP server refused", "look at the server's log"),
    (
        "Retry count exceeded",
        "nobody answered the card",
        "look at the cable, at the firewall of this machine (UDP), at `--host-address`, and at `--interface` of the card",
    ),
    ("Retry time exceeded", "no DHCP server answered the card", "give it an address with `--card-address`"),
    (
        "could not establish link",
        "the card's network interface has no link",
        "look at the cable, or name another with `--card-interface`",
    ),
    (
        "link is not up",
        "the card's network interface has no link",
        "look at the cable, or name another with `--card-interface`",
    ),
    ("No ethernet found", "the card has no such network interface", "name another with `--card-interface`"),
    (
        "No link",
        "the card's network interface has no link",
        "look at the cable, or name another with `--card-interface`",
    ),
    (
        "Unknown command",
        "this U-Boot lacks a command that the board's file names",
        "see `flash.toml` of the bundle",
    ),
    (
        "written: ERROR",
        "the card's storage refused to be written",
        "the storage may be worn out or write-protected",
    ),
    ("read: ERROR", "the card's storage could not be read", "the storage may be worn out"),
    ("ERROR", "U-Boot could not do it", "the transcript has all that the card said"),
];

impl<'a> UBoot<'a> {
    /// A card at the other end of a console.
    pub fn new(console: Console<'a>, board: &'a Board, baud: u32) -> Result<Self> {
        Ok(Self { console: Some(console), board, baud, prompt: prompt(board, "")?, tell: &|_| {} })
    }

    /// Nobody: each command is told to `tell`, and taken for done.
    pub fn dry(board: &'a Board, tell: &'a dyn Fn(&str)) -> Result<Self> {
        Ok(Self { console: None, board, baud: board.baud, prompt: prompt(board, "")?, tell })
    }

    /// Whether commands are only told.
    pub fn is_dry(&self) -> bool {
        self.console.is_none()
    }

    /// The console, for what is no command.
    pub fn console(&mut self) -> Option<&mut Console<'a>> {
        self.console.as_mut()
    }

    /// Gives the console back; none in a dry run.
    pub fn into_console(self) -> Option<Console<'a>> {
        self.console
    }

    /// Runs a command of the board's file.
    ///
    /// # Errors
    /// Where it can't be typed, does not end in time, or its output is not that of success.
    pub fn run(&mut self, command: &Command, values: &[(&str, String)]) -> Result<Answer> {
        self.run_for(command, values, 0)
    }

    /// Runs a command that moves that many bytes: it is given time for them.
    pub fn run_for(&mut self, command: &Command, values: &[(&str, String)], bytes: u64) -> Result<Answer> {
        let line = command.with(values);
        let silent = command.silent.unwrap_or(self.board.silent).duration();
        let total = silent + Duration::from_secs(bytes / SLOWEST);
        let Some(text) =
            self.say(&line, command.failure.as_ref().map(|failure| &failure.0), Patience { silent, total })?
        else {
            return Ok(Answer::default());
        };
        let Some(captures) = command.success.0.captures(&text) else { return Err(refused(&line, &text)) };
        let told = captures.get(1).map(|group| group.as_str().to_owned());
        Ok(Answer { text, told })
    }

    /// Types a line whose output is of no account, or looked at by the caller.
    pub fn type_line(&mut self, line: &str) -> Result<String> {
        Ok(self.say(line, None, Patience::of(self.board.silent.duration()))?.unwrap_or_default())
    }

    /// Brings U-Boot back to its prompt, whatever it does.
    pub fn interrupt(&mut self) -> Result<()> {
        let prompt = self.prompt.clone();
        let Some(console) = &mut self.console else { return Ok(()) };
        for _ in 0..TRIES {
            console.settle(Duration::from_millis(100), Duration::from_secs(2))?;
            console.send(INTERRUPT)?;
            match console.wait(&[&prompt], Patience::of(Duration::from_secs(3))) {
                Ok(_) => return Ok(()),
                Err(Broken::Silent(_) | Broken::Late { .. }) => {}
                Err(broken) => return Err(broken.told(self.baud)),
            }
        }
        bail!("U-Boot does not come back to its prompt")
    }

    /// Sends a line that ends U-Boot: nothing is waited for.
    pub fn leave(&mut self, line: &str) -> Result<()> {
        if self.console.is_none() {
            (self.tell)(line);
            return Ok(());
        }
        self.type_checked(line)?;
        self.console.as_mut().map_or(Ok(()), |console| console.send(b"\r"))
    }

    /// None in a dry run; else what the line's command said up to the next prompt.
    fn say(&mut self, line: &str, failure: Option<&Regex>, patience: Patience) -> Result<Option<String>> {
        if self.console.is_none() {
            (self.tell)(line);
            return Ok(None);
        }
        self.type_checked(line)?;
        let (prompt, baud) = (self.prompt.clone(), self.baud);
        let Some(console) = &mut self.console else { return Ok(None) };
        console.send(b"\r")?;
        let mut wanted = vec![&prompt];
        wanted.extend(failure);
        let found = console.wait(&wanted, patience);
        let found = found.map_err(|broken| broken.told(baud)).with_context(|| format!("running `{line}`"));
        match found {
            Ok(found) if found.which == 0 => Ok(Some(found.before)),
            Ok(found) => {
                let text = found.before + &found.matched;
                self.interrupt().with_context(|| format!("ending `{line}`"))?;
                Err(refused(line, &text))
            }
            Err(error) => {
                // A card that is still there is left at its prompt, not in the middle of something.
                if let Some(console) = &mut self.console {
                    let _ = console.send(INTERRUPT);
                }
                Err(error)
            }
        }
    }

    /// Types a line and compares what comes back: a line that was garbled on its way must not run.
    fn type_checked(&mut self, line: &str) -> Result<()> {
        for attempt in 1.. {
            match self.type_once(line)? {
                Ok(()) => return Ok(()),
                Err(echo) if attempt == TRIES => {
                    return Err(anyhow!("the card heard `{}` instead of `{line}`", echo.trim())).hint(|| {
                        "another program may write to this console, or the line is bad: nothing was run"
                            .into()
                    });
                }
                Err(_) => self.interrupt()?,
            }
        }
        Ok(())
    }

    fn type_once(&mut self, line: &str) -> Result<Result<(), String>> {
        let (baud, patience) = (self.baud, Patience::of(self.board.silent.duration()));
        let Some(console) = &mut self.console else { return Ok(Ok(())) };
        for chunk in line.as_bytes().chunks(CHUNK) {
            let chunk = str::from_utf8(chunk).context("a command has letters that U-Boot does not know")?;
            console.send(chunk.as_bytes())?;
            // As many letters as were sent, whichever they are.
            let echo = Regex::new(&format!(r"\A(?s:.{{{}}})", chunk.len()))?;
            match console.wait(&[&echo], patience) {
                Ok(found) if found.matched == chunk => {}
                Ok(found) => return Ok(Err(found.matched)),
                Err(Broken::Late { said, .. }) => return Ok(Err(said)),
                Err(broken) => {
                    return Err(broken.told(baud)).with_context(|| format!("typing `{line}`"));
                }
            }
        }
        Ok(Ok(()))
    }

    /// The board.
    pub fn board(&self) -> &'a Board {
        self.board
    }

    /// Bits a second, for hints.
    pub fn baud(&self) -> u32 {
        self.baud
    }

    /// Matches the prompt where U-Boot waits.
    pub fn prompt(&self) -> &Regex {
        &self.prompt
    }
}

/// The prompt at a line's start, and nothing behind it but what this pattern matches.
pub fn prompt(board: &Board, behind: &str) -> Result<Regex> {
    Ok(Regex::new(&format!(r"(?m:^){}{behind}\z", regex::escape(&board.prompt)))?)
}

fn refused(line: &str, text: &str) -> anyhow::Error {
    let said: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let said: String =
        said[said.len().saturating_sub(6)..].iter().flat_map(|line| ["\n    ", *line]).collect();
    let known = CAUSES.iter().find(|(message, ..)| text.contains(message));
    let what = known.map_or("it did not say that it went well", |(_, cause, _)| cause);
    let error = Err::<(), _>(Refused { what, said }).context(format!("running `{line}`"));
    error
        .hint(|| known.map_or("the transcript has all that the card said", |(.., hint)| hint).into())
        .unwrap_err()
}
