//! From a console to U-Boot's prompt, knowing which card it is and what it started from.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use regex::Regex;

use crate::board::{Board, fill};
use crate::console::{Broken, Console, Found, Patience};
use crate::hint::WithHint as _;
use crate::u_boot::{UBoot, prompt};
use crate::watch::Watch;

/// How long a card that waits for a command takes to say so.
const ANSWER: Duration = Duration::from_secs(4);
/// How long the whole way from a reset to the prompt may take.
const START: Duration = Duration::from_mins(10);
/// Ctrl-C ends what a card at its prompt was doing, and nothing else that a card can be at.
const WAKE: &[u8] = b"\x03";

/// How a card is brought to its prompt.
#[derive(Debug, Clone, Default)]
pub struct Terms {
    /// Take the prompt that is there: the card is not started anew, and nothing of its log is known.
    pub no_reset: bool,
    /// How long a person has to switch the card on, or to start it anew.
    pub patience: Duration,
    /// A command of this machine that starts the card anew.
    pub reset_command: Option<String>,
}

/// A card at its prompt.
pub struct Started<'a> {
    pub u_boot: UBoot<'a>,
    /// The copy of the firmware that it started from; none where the log was not seen or does not say.
    pub copy: Option<String>,
}

/// What a console shows before the card is started anew.
enum Met {
    Prompt,
    Starting(Found),
    System,
    Nothing,
}

/// Brings a card to U-Boot's prompt.
///
/// # Errors
/// Where nobody answers, what comes is noise, the card is another board, or autoboot can't be stopped.
pub fn start<'a>(
    mut console: Console<'a>,
    board: &'a Board,
    baud: u32,
    terms: &Terms,
    watch: &dyn Watch,
) -> Result<Started<'a>> {
    watch.step("looking for the card");
    console.note("looking for the card")?;
    let met = meet(&mut console, board, baud)?;
    if terms.no_reset {
        let at_prompt = matches!(met, Met::Prompt);
        anyhow::ensure!(
            at_prompt,
            "U-Boot's prompt `{}` is not there, and `--no-reset` forbids a reset",
            board.prompt
        );
        return Ok(Started { u_boot: UBoot::new(console, board, baud)?, copy: None });
    }
    let mut log = String::new();
    let (mut console, first) = match (met, &terms.reset_command) {
        (Met::Starting(found), _) => (console, Some(found)),
        (_, Some(command)) => {
            watch.notice(&format!("starting the card anew: `{command}`"));
            run_here(command)?;
            (console, None)
        }
        (Met::Prompt, None) => (anew(console, board, baud)?, None),
        (Met::System, None) => {
            watch.notice("a system runs on the card: start it anew now (`reboot`, or its power)");
            (console, None)
        }
        (Met::Nothing, None) => {
            watch.notice("the card says nothing: switch it on now, or start it anew");
            (console, None)
        }
    };
    watch.step("stopping autoboot");
    console.note("stopping autoboot")?;
    let joined = first.is_some();
    stop_autoboot(&mut console, board, baud, terms, first, &mut log)?;
    if joined {
        // Only a whole log tells which card it is, and what it started from.
        console = anew(console, board, baud)?;
        log.clear();
        stop_autoboot(&mut console, board, baud, terms, None, &mut log)?;
    }
    identify(board, &log)?;
    let copy =
        board.boot.copies.iter().find(|copy| copy.pattern.0.is_match(&log)).map(|copy| copy.name.clone());
    Ok(Started { u_boot: at_prompt(console, board, baud)?, copy })
}

/// A card at its prompt, with nothing typed behind that: a key of ours that came after autoboot had stopped stands
/// there, and would be part of the next command.
fn at_prompt<'a>(console: Console<'a>, board: &'a Board, baud: u32) -> Result<UBoot<'a>> {
    let mut u_boot = UBoot::new(console, board, baud)?;
    u_boot.interrupt()?;
    Ok(u_boot)
}

/// Starts a card anew that waits at its prompt.
fn anew<'a>(console: Console<'a>, board: &'a Board, baud: u32) -> Result<Console<'a>> {
    let mut u_boot = at_prompt(console, board, baud)?;
    u_boot.leave(&board.boot.reset).context("starting the card anew")?;
    u_boot.into_console().context("the console is gone")
}

/// Looks what is at the other end, without changing anything there.
fn meet(console: &mut Console<'_>, board: &Board, baud: u32) -> Result<Met> {
    let prompt = prompt(board, "")?;
    let (other, login) = (other_prompt()?, Regex::new(r"(?m)login: *\z")?);
    let shell = Regex::new(r"(?m)^[\w.-]+@[^\n]{1,60}[#$] \z")?;
    console.send(WAKE)?;
    let stops = board.boot.stops.iter().map(|stop| &stop.on.0);
    let wanted: Vec<_> = [&prompt, &login, &shell].into_iter().chain(stops).chain([&other]).collect();
    match console.wait(&wanted, Patience { silent: ANSWER, total: ANSWER * 3 }) {
        Ok(found) if found.which == 0 => Ok(Met::Prompt),
        Ok(found) if found.which <= 2 => Ok(Met::System),
        Ok(found) if found.which == wanted.len() - 1 => Err(another(board, &found.matched)),
        Ok(found) => Ok(Met::Starting(found)),
        // It may be in the middle of starting: that is seen by what comes next.
        Err(Broken::Silent(_) | Broken::Late { .. }) => Ok(Met::Nothing),
        Err(broken) => Err(broken.told(baud)),
    }
}

/// Answers what stops autoboot until the prompt is there; `log` gets all that was said.
fn stop_autoboot(
    console: &mut Console<'_>,
    board: &Board,
    baud: u32,
    terms: &Terms,
    first: Option<Found>,
    log: &mut String,
) -> Result<()> {
    let stops = &board.boot.stops;
    // The card may have stopped at a key before the last one, and then shows that one behind its prompt.
    let keys = stops.iter().map(|stop| regex::escape(&stop.send)).collect::<Vec<_>>().join("|");
    let prompt = prompt(board, &format!("(?:{keys})*"))?;
    let other = other_prompt()?;
    let mut wanted = vec![&prompt];
    wanted.extend(stops.iter().map(|stop| &stop.on.0));
    wanted.push(&other);
    if let Some(found) = first {
        // It was found in a list in which the stops come behind three others.
        log.push_str(&(found.before + &found.matched));
        console.send(stops[found.which - 3].send.as_bytes())?;
    }
    // A person who has to walk to the card takes longer than the card.
    let mut silent = if log.is_empty() {
        terms.patience.max(board.boot.silent.duration())
    } else {
        board.boot.silent.duration()
    };
    loop {
        let found = console
            .wait(&wanted, Patience { silent, total: silent + START })
            .map_err(|broken| broken.told(baud))
            .context("waiting for U-Boot's prompt")?;
        silent = board.boot.silent.duration();
        log.push_str(&found.before);
        log.push_str(&found.matched);
        match found.which {
            0 => break,
            which if which == wanted.len() - 1 => return Err(another(board, &found.matched)),
            which => console.send(stops[which - 1].send.as_bytes())?,
        }
    }
    Ok(())
}

/// Looks whether the log is of this board.
fn identify(board: &Board, log: &str) -> Result<()> {
    if board.boot.board.0.is_match(log) {
        return Ok(());
    }
    let version = log.lines().find(|line| line.starts_with("U-Boot ")).unwrap_or("nothing of U-Boot");
    Err(anyhow!(
        "the card is not what `{}` is: its log has nothing like `{}`, but `{}`",
        board.description,
        board.boot.board.0,
        version.trim()
    ))
    .hint(|| "name the card's board with `--board`".into())
}

/// Waits until the system that was flashed is up.
pub fn boot(u_boot: &mut UBoot<'_>, watch: &dyn Watch) -> Result<()> {
    let board = u_boot.board();
    watch.step("starting the card");
    u_boot.leave(&board.boot.reset)?;
    let baud = u_boot.baud();
    let (Some(up), Some(console)) = (&board.boot.up, u_boot.console()) else { return Ok(()) };
    let prompt = prompt(board, "")?;
    let patience =
        Patience { silent: board.boot.silent.duration().max(Duration::from_mins(2)), total: START };
    let found = console
        .wait(&[&up.0, &prompt], patience)
        .map_err(|broken| broken.told(baud))
        .context("waiting for the system that was flashed")?;
    anyhow::ensure!(found.which == 0, "U-Boot found nothing to start: its prompt is back");
    Ok(())
}

/// What prompts of U-Boot look like, whichever board's.
fn other_prompt() -> Result<Regex> {
    Ok(Regex::new(r"(?m:^)(?:[\w.-]{0,40}(?:=>|>|#)) \z")?)
}

fn another(board: &Board, prompt: &str) -> anyhow::Error {
    Err::<(), _>(anyhow!(
        "the card is another board: its prompt is `{}`, and that of `{}` is `{}`",
        prompt.trim(),
        board.description,
        board.prompt.trim()
    ))
    .hint(|| "name the card's board with `--board`".into())
    .unwrap_err()
}

fn run_here(command: &str) -> Result<()> {
    let context = || format!("running `{command}`");
    let status = std::process::Command::new("sh").args(["-c", command]).status().with_context(context)?;
    anyhow::ensure!(status.success(), "`{command}` ended with {status}");
    Ok(())
}

/// Looks whether U-Boot has a command.
pub fn has_command(u_boot: &mut UBoot<'_>, line: &str) -> Result<bool> {
    let name = line.split_whitespace().next().unwrap_or_default();
    if u_boot.is_dry() {
        return Ok(true);
    }
    let said = u_boot.type_line(&fill("help {name}", &[("name", name.to_owned())]))?;
    Ok(!said.contains("Unknown command"))
}
