//! Many hosts' cards, one after the other or some at once, each through ssh: the link to a card is its host's alone.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::UpdateArguments;
use super::bundle::Bundle;
use super::roster::{self, Done};

/// What became of a host's card.
enum Outcome {
    Before,
    Done(Duration),
    Failed(String),
}

/// What the workers share.
struct Work<'a> {
    arguments: &'a UpdateArguments,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    /// Hosts that are not begun; none once one failed.
    waiting: Vec<&'a str>,
    done: Done,
    outcomes: Vec<(&'a str, Outcome)>,
}

/// Updates the cards of all hosts in a list.
///
/// # Errors
/// Not all are done.
pub fn run(arguments: &UpdateArguments, list: &Path) -> Result<()> {
    ensure!(
        arguments.bundle.as_os_str() != "-",
        "with `--all` the bundle has to be a file: each host gets it anew"
    );
    let hosts = roster::read(list)?;
    let hash = Bundle::open(&arguments.bundle)?.hash();
    let path = arguments.state.clone().unwrap_or_else(|| Done::beside(list));
    let done = Done::open(path, hash)?;
    done.keep()?;
    let (before, mut waiting): (Vec<_>, Vec<_>) =
        hosts.iter().map(String::as_str).partition(|host| done.has(host));
    // The next is taken from the end.
    waiting.reverse();
    let outcomes = before.into_iter().map(|host| (host, Outcome::Before)).collect();
    let work = Work { arguments, state: Mutex::new(State { waiting, done, outcomes }) };
    thread::scope(|scope| {
        for _ in 0..arguments.at_once {
            scope.spawn(|| work.take_turns());
        }
    });
    let State { outcomes, .. } = work.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    print!("{}", table(&hosts, &outcomes));
    let good = outcomes.iter().filter(|(_, outcome)| !matches!(outcome, Outcome::Failed(_))).count();
    if good < hosts.len() {
        bail!(
            "{good} of {} hosts are done: mend what failed, and the same command goes on with the others",
            hosts.len()
        );
    }
    Ok(())
}

impl<'a> Work<'a> {
    /// Updates one host after the other, while there are any.
    fn take_turns(&self) {
        while let Some(host) = self.next() {
            let start = Instant::now();
            let updated = self.update(host);
            let mut state = self.state();
            let updated = updated.and_then(|()| state.done.add(host));
            let outcome = match updated {
                Ok(()) => Outcome::Done(start.elapsed()),
                Err(error) => {
                    // What is wrong with one may be wrong with all: those that run end, no other begins.
                    state.waiting.clear();
                    Outcome::Failed(format!("{error:#}"))
                }
            };
            state.outcomes.push((host, outcome));
        }
    }

    fn next(&self) -> Option<&'a str> {
        self.state().waiting.pop()
    }

    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a host update its card; what it says is printed with its name before.
    fn update(&self, host: &str) -> Result<()> {
        let UpdateArguments { bundle, within, ssh, .. } = self.arguments;
        let input =
            File::open(bundle).with_context(|| format!("reading the bundle `{}`", bundle.display()))?;
        let mut child = Command::new(ssh)
            // A question for a password would wait for ever among the lines of others.
            .args(["-o", "BatchMode=yes", host])
            .arg(format!("dpu-host update - --within {}s", within.as_secs()))
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("running `{}`", ssh.display()))?;
        let (out, errors) = (child.stdout.take(), child.stderr.take());
        let last = thread::scope(|scope| {
            let out = scope.spawn(|| tell(host, out));
            let last = tell(host, errors);
            // A thread that panics has said so.
            last.or(out.join().unwrap_or_default())
        });
        let status = child.wait().with_context(|| format!("running `{}`", ssh.display()))?;
        if !status.success() {
            let last = last.map(|line| line.trim_start_matches("error: ").to_owned());
            bail!("{}", last.unwrap_or_else(|| format!("`{}` ended with {status}", ssh.display())));
        }
        Ok(())
    }
}

/// Prints what comes by a pipe, line by line; the last.
fn tell(host: &str, pipe: Option<impl Read>) -> Option<String> {
    let lines = BufReader::new(pipe?).split(b'\n').map_while(Result::ok);
    lines.map(|line| printable(&line)).inspect(|line| println!("{host}: {line}")).last()
}

/// A host's line is not to move about in the terminal of who reads it.
fn printable(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().filter(|one| !one.is_control()).collect()
}

fn table(hosts: &[String], outcomes: &[(&str, Outcome)]) -> String {
    let width = hosts.iter().map(|host| host.chars().count()).max().unwrap_or(0).max("host".len());
    let row = |host: &str| {
        let outcome = outcomes.iter().find(|(name, _)| *name == host).map(|(_, outcome)| outcome);
        match outcome {
            Some(Outcome::Before) => "done before".to_owned(),
            Some(Outcome::Done(took)) => format!("done in {} s", took.as_secs()),
            Some(Outcome::Failed(why)) => format!("failed: {why}"),
            None => "not begun".to_owned(),
        }
    };
    let head = format!("\n{:<width$}  card\n", "host");
    hosts.iter().fold(head, |text, host| format!("{text}{host:<width$}  {}\n", row(host)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_tells_what_became_of_each_host() {
        let hosts = ["root@node1", "node2", "node3", "node4"].map(str::to_owned);
        let outcomes = [
            ("node3", Outcome::Failed("the card said: it has no room".to_owned())),
            ("root@node1", Outcome::Before),
            ("node2", Outcome::Done(Duration::from_secs(75))),
        ];
        insta::assert_snapshot!(table(&hosts, &outcomes), @r"

        host        card
        root@node1  done before
        node2       done in 75 s
        node3       failed: the card said: it has no room
        node4       not begun
        ");
    }

    #[test]
    fn lines_of_hosts_are_printed_with_no_control_character() {
        assert_eq!(printable(b"\x1b[2Jgood\r"), "[2Jgood");
        assert_eq!(tell("node1", Some(&b"one\ntwo\n"[..])), Some("two".to_owned()));
        assert_eq!(tell("node1", None::<&[u8]>), None);
    }
}
