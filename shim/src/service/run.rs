//! `dpu-host run`: makes the host ready, again and again, and watches the card.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use sd_notify::NotifyState;

use super::cni;
use super::gate::Gate;
use super::machine::Machine;
use super::phases::{Mode, PHASES, Record};
use super::report::{Report, State as Way};
use super::settle::{reconcile, settle};
use super::state::{Card, State, now};
use crate::card::Cards;
use crate::deadline::Deadline;
use crate::files::Files;
use crate::pairing;

const LOCK: &str = "/run/dpukit/host.lock";
/// How long the card's agent may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How often the card is asked to forget the networks of pods that this host does not know.
const RECONCILE: Duration = Duration::from_mins(10);

/// The lock of all that `dpu-host` changes on a host, held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Waits a little for another `dpu-host` to end.
pub fn lock(files: &Files, patience: Duration) -> Result<Lock> {
    let path = files.at(LOCK);
    let locking = || format!("locking `{LOCK}`");
    fs::create_dir_all(path.parent().unwrap_or(&path)).with_context(locking)?;
    let file = File::options().write(true).create(true).truncate(false).open(path).with_context(locking)?;
    let deadline = Deadline::after(Instant::now(), patience);
    match deadline.wait_for(|| Ok(file.try_lock().ok()))? {
        Some(()) => Ok(Lock { _file: file }),
        None => bail!(
            "another dpu-host is at work: `systemctl stop dpu-host` ends the service, and where a DaemonSet brought it, its pod has to go"
        ),
    }
}

/// Asks the agent whether the card can make networks.
pub fn ask(machine: &Machine) -> Result<()> {
    let deadline = Deadline::after(Instant::now(), ANSWER);
    let peer = &machine.config.plugin.agent;
    // Each time anew, as each call of the plugin does.
    if Cards::default().of(peer)?.is_ready(deadline)? {
        return Ok(());
    }
    bail!("the agent at {} says that the card is not ready", peer.address)
}

/// Makes the host ready and watches the card until something is heard from `stop`. What is there then
/// stays: pods go on.
pub fn run(machine: Machine, stop: &Receiver<()>) -> Result<()> {
    let _lock = lock(&machine.files, Duration::from_secs(2))?;
    watch(machine, stop)
}

/// As [`run`], for who has the lock.
pub fn watch(machine: Machine, stop: &Receiver<()>) -> Result<()> {
    let every = machine.config.every;
    let mut service = Service::new(machine)?;
    let mut is_first = true;
    loop {
        service.round();
        if std::mem::take(&mut is_first) {
            notify(&[NotifyState::Ready]);
        }
        match stop.recv_timeout(every) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    notify(&[NotifyState::Stopping]);
    Ok(())
}

struct Service {
    machine: Machine,
    gate: Gate,
    /// Whether the card counted as up, and since when.
    card: (bool, u64),
    /// When the card was last asked to forget what this host does not know.
    reconciled: Option<Instant>,
    /// What was told of each record's trouble.
    told: BTreeMap<String, String>,
}

impl Service {
    fn new(machine: Machine) -> Result<Self> {
        if machine.config.plugin.agent.tls.is_none() {
            tracing::warn!(
                "host and card talk in plain text, as `card.insecure` wants it: whoever is on the link can give pods any network"
            );
        }
        // A configuration that is there since before this start of the host says nothing of the card.
        let knew = State::read(&machine.files).unwrap_or_default().is_some_and(|state| state.card.up);
        let is_open = knew && cni::look(&machine)?.in_place;
        let gate = Gate::new(is_open, machine.config.down_after, machine.config.up_after);
        Ok(Self { machine, gate, card: (is_open, now()), reconciled: None, told: BTreeMap::new() })
    }

    fn round(&mut self) {
        let machine = &self.machine;
        let mut records: Vec<_> = PHASES.iter().map(|phase| phase.run(machine, Mode::SetUp)).collect();
        let bad: Vec<_> = records.iter().filter(|record| record.state != Way::Good).collect();
        // Whatever is wrong here: an agent that answers can hear what is left to settle.
        let answer = ask(machine);
        let trouble = match bad.as_slice() {
            [] => answer.as_ref().err().map(|error| format!("{error:#}")),
            bad => {
                let reasons =
                    bad.iter().map(|record| format!("{}: {}", record.phase, record.report.trouble()));
                Some(reasons.collect::<Vec<_>>().join("; "))
            }
        };
        let is_up = self.gate.look(trouble.is_none());
        if is_up != self.card.0 {
            self.card = (is_up, now());
            tracing::info!("the card counts as {} now", if is_up { "up" } else { "down" });
        }
        records.push(record("cni", |report| {
            if is_up { cni::place(machine, report) } else { cni::withdraw(machine, report) }
        }));
        if answer.is_ok() {
            records.push(record("certificate", |report| {
                let peer = &machine.config.plugin.agent;
                let Some(tls) = &peer.tls else { return Ok(()) };
                report.did.extend(pairing::keep_good(peer.address, tls)?.map(|outcome| outcome.to_string()));
                Ok(())
            }));
            records.push(record("settle", |report| settle(machine, report)));
            if self.reconciled.is_none_or(|at| at.elapsed() >= RECONCILE) {
                records.push(record("reconcile", |report| {
                    let reconciled = reconcile(machine, report);
                    // One that fails is not tried again at each look, one that ADDs were in the way of is.
                    if !matches!(reconciled, Ok(false)) {
                        self.reconciled = Some(Instant::now());
                    }
                    reconciled.map(drop)
                }));
            }
        }
        self.tell(&records, trouble.as_deref());
        let card = Card { up: is_up, since: self.card.1, trouble };
        let state = State { at: now(), every: self.machine.config.every.as_secs_f64(), records, card };
        if let Err(error) = state.write(&self.machine.files) {
            tracing::warn!("{error:#}");
        }
        notify(&[NotifyState::Status(&summary(&state)), NotifyState::Watchdog]);
    }

    /// Logs what was done, and what is not as it should be where that is news.
    fn tell(&mut self, records: &[Record], trouble: Option<&str>) {
        let reports = records.iter().map(|record| (record.phase.as_str(), record.report.news()));
        let card = ("card", trouble.unwrap_or_default().to_owned());
        for did in records.iter().flat_map(|record| &record.report.did) {
            tracing::info!("{did}");
        }
        // What the phases say of themselves is not told twice.
        let is_phase = records.iter().any(|record| record.state != Way::Good);
        for (name, trouble) in reports.chain((!is_phase).then_some(card)) {
            let before = self.told.insert(name.to_owned(), trouble.clone()).unwrap_or_default();
            if trouble.is_empty() && !before.is_empty() {
                tracing::info!("{name}: good");
            } else if trouble != before {
                tracing::warn!("{name}: {trouble}");
            }
        }
    }
}

fn record(name: &str, work: impl FnOnce(&mut Report) -> Result<()>) -> Record {
    let mut report = Report::default();
    report.try_to(work);
    Record { phase: name.to_owned(), state: report.state(), report }
}

/// The line that `systemctl status` shows.
fn summary(state: &State) -> String {
    match &state.card.trouble {
        None if state.card.up => "the card is up".to_owned(),
        None => "the card answers again".to_owned(),
        Some(trouble) if state.card.up => format!("the card counts as up; {trouble}"),
        Some(trouble) => format!("no pods can start: {trouble}"),
    }
}

/// Nothing depends on systemd's hearing it, so a failure is only logged.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("telling systemd: {error}");
    }
}
