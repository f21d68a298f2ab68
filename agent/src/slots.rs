//! Which of the two slots runs, and whether it may stay.
//!
//! An update fills the slot that does not run, and U-Boot tries that one a few times: it counts `BOOT_A_LEFT` or
//! `BOOT_B_LEFT` down at each start, and goes to the other slot where nothing is left (RAUC's manual, "U-Boot").
//! A system that came up sets the count back, and it does so only where the card's own health is good. One that
//! was never good, and does not get so in time, gives its slot up at once: the card starts from the other slot,
//! and says why.

mod rauc;
pub mod script;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use self::rauc::{Slot, slots};
use crate::doctor::{Diagnosis, Finding, Severity};
use crate::report::Report;
use crate::{Card, storage};

/// Where RAUC is told of the slots; an image without it takes no updates.
const CONFIGURATION: &str = "/etc/rauc/system.conf";
const STATE: &str = "/var/lib/dpukit/slots.json";

/// How long a system has to get healthy before it gives up a slot in which it never was.
pub const WITHIN: Duration = Duration::from_mins(5);
const PAUSE: Duration = Duration::from_secs(2);

/// Checks that are no reason to leave a slot: what is wrong there is this card's configuration, which the other
/// slot has as well.
const NOT_THE_IMAGES: [&str; 1] = ["pods"];
/// Checks that many a card can't make: no other image would know more.
const MAY_BE_UNKNOWN: [&str; 1] = ["firmware"];

/// What is remembered over starts and updates.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct State {
    /// Slot to the system that was good in it.
    good: BTreeMap<String, String>,
    /// The last that was given up.
    refused: Option<Refused>,
}

/// A system that never was good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Its slot: `A` or `B`.
    pub slot: String,
    /// Its version.
    pub version: String,
    /// The root of its hash tree, in hexadecimal.
    pub system: String,
    /// What was wrong.
    pub reasons: Vec<String>,
    /// Which of the updates of its slot brought it, as RAUC counts them.
    #[serde(default)]
    pub update: u64,
}

/// The system that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Running {
    slot: String,
    version: String,
    /// The root of its hash tree, which no two systems share.
    system: String,
}

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The slot is good.
    Good(String),
    /// The card is not well, and was in this slot before: the other would not be better.
    Unwell(Vec<String>),
    /// The card was never well in this slot, and there is no other that was.
    NoOther(Refused),
    /// The slot is given up; the card starts from the other.
    GivenUp(Refused),
}

/// Waits until the card is healthy, as `examine` finds it, and tells U-Boot that the slot is good; gives the slot up
/// where that takes longer than `within` and it was never good.
///
/// # Errors
/// The image takes no updates, RAUC can't be asked, or the state can't be kept.
pub fn confirm(card: &Card, examine: impl Fn() -> Diagnosis, within: Duration) -> Result<Verdict> {
    let running = running(card)?.context("the kernel's command line names no slot (`rauc.slot=`)")?;
    let mut state = state(card)?;
    let end = Instant::now() + within;
    let reasons = loop {
        let reasons = complaints(&examine());
        if reasons.is_empty() {
            card.programs.run("rauc", &["status", "mark-good", "booted"])?;
            let Running { slot, system, .. } = running;
            if state.refused.as_ref().is_some_and(|refused| refused.system == system) {
                state.refused = None;
            }
            if state.good.insert(slot.clone(), system.clone()) != Some(system) {
                keep(card, &state)?;
            }
            return Ok(Verdict::Good(slot));
        }
        if Instant::now() >= end {
            break reasons;
        }
        std::thread::sleep(PAUSE.min(within));
    };
    if state.good.get(&running.slot) == Some(&running.system) {
        return Ok(Verdict::Unwell(reasons));
    }
    let has_other = state.good.keys().any(|slot| *slot != running.slot);
    let Running { slot, version, system } = running;
    // What RAUC can't tell is no reason to stay either.
    let own = slots(card).unwrap_or_default().into_iter().find(|own| own.name == slot);
    let update = own.map_or(0, |own| own.updates);
    let refused = Refused { slot, version, system, reasons, update };
    state.refused = Some(refused.clone());
    // A disk that is full is no reason to stay.
    keep(card, &state).unwrap_or_else(|error| tracing::error!("{error:#}"));
    if !has_other {
        return Ok(Verdict::NoOther(refused));
    }
    card.programs.run("rauc", &["status", "mark-bad", "booted"])?;
    card.programs.run("systemctl", &["--no-block", "reboot"])?;
    Ok(Verdict::GivenUp(refused))
}

/// What is wrong with the card that another image may not have.
fn complaints(diagnosis: &Diagnosis) -> Vec<String> {
    let counts =
        |finding: &&Finding| finding.severity == Severity::Error && !NOT_THE_IMAGES.contains(&finding.name);
    let told = |finding: &Finding| {
        let may_be_unknown = MAY_BE_UNKNOWN.contains(&finding.name);
        let unknown = if may_be_unknown { &[][..] } else { &finding.report.unknown };
        let said = [&finding.report.wrong[..], unknown].concat().join("; ");
        (!said.is_empty()).then(|| format!("{}: {said}", finding.name))
    };
    diagnosis.checks.iter().filter(counts).filter_map(told).collect()
}

/// What `dpu-agent doctor` has to say of the slots.
pub fn look(card: &Card, report: &mut Report) -> Result<()> {
    if !takes_updates(card) {
        report.absent("this image takes no updates: it was built without a certificate for them");
        return Ok(());
    }
    let Some(Running { slot, version, system }) = running(card)? else {
        report.wrong("U-Boot did not say which slot it started: the card was not started by its script");
        return Ok(());
    };
    let State { good, refused } = state(card)?;
    let confirmed = if good.get(&slot) == Some(&system) { "good" } else { "on trial" };
    report.found(format!("slot {slot} runs version {version}, {confirmed}"));
    for disk in storage::others_with_slots(&card.tree)? {
        report.wrong(format!("the disk `{disk}` has slots too: no update is taken while it has"));
    }
    for other in slots(card)?.into_iter().filter(|other| other.name != slot) {
        let name = &other.name;
        if let Some(Refused { version, reasons, .. }) =
            refused.as_ref().filter(|refused| is_in(refused, &other, &system))
        {
            let reasons = reasons.join("; ");
            report.wrong(format!("slot {name} with version {version} was given up: {reasons}"));
        } else if other.is_half_written {
            report.wrong(format!(
                "slot {name} holds half an update, which was cut short: there is no way back"
            ));
        } else if !other.is_bootable && good.contains_key(&slot) {
            let why = "U-Boot has no attempts left for it, or an update of it was cut short";
            report.wrong(format!("slot {name} does not come up: {why}"));
        }
    }
    Ok(())
}

/// The slots, as one asks who wants to update the card.
#[derive(Debug, PartialEq, Eq)]
pub struct Outlook {
    /// The slot that runs.
    pub running: Place,
    /// Whether the system in it was confirmed.
    pub is_good: bool,
    /// What was given up, where it is still in its slot.
    pub refused: Option<Refused>,
    /// The slot that the next start takes, where that is another one.
    pub next: Option<Place>,
}

/// A slot, and what is in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Place {
    /// `A` or `B`.
    pub slot: String,
    /// Its version; none where RAUC did not fill the slot.
    pub version: Option<String>,
}

/// Whether what was given up is still in another slot than the one that runs: an update since then fills the slot with
/// another.
fn is_in(refused: &Refused, slot: &Slot, running: &str) -> bool {
    refused.slot == slot.name && refused.update == slot.updates && refused.system != running
}

/// Whether the card's image takes updates.
pub fn takes_updates(card: &Card) -> bool {
    card.tree.exists(CONFIGURATION)
}

/// How the slots are.
///
/// # Errors
/// U-Boot did not say which slot it started, or RAUC can't be asked.
pub fn outlook(card: &Card) -> Result<Outlook> {
    let running = running(card)?
        .context("U-Boot did not say which slot it started: the card was not started by its script")?;
    let State { good, refused } = state(card)?;
    let mut slots = slots(card)?;
    let is_good = good.get(&running.slot) == Some(&running.system);
    let refused = refused.filter(|refused| {
        let is_running = refused.slot == running.slot && refused.system == running.system;
        is_running
            || slots.iter().any(|slot| slot.name != running.slot && is_in(refused, slot, &running.system))
    });
    let next = slots.iter().position(|slot| slot.is_next && slot.name != running.slot);
    let next =
        next.map(|at| slots.swap_remove(at)).map(|Slot { name, version, .. }| Place { slot: name, version });
    let running = Place { slot: running.slot, version: Some(running.version) };
    Ok(Outlook { running, is_good, refused, next })
}

/// None where U-Boot did not say.
fn running(card: &Card) -> Result<Option<Running>> {
    let line = card.tree.read("/proc/cmdline")?;
    let Some(slot) = line.split_whitespace().find_map(|word| word.strip_prefix("rauc.slot=")) else {
        return Ok(None);
    };
    // The table of dm-verity: the hash's name, the root of the tree, the salt.
    let system = line.split_whitespace().skip_while(|word| *word != "sha256").nth(1);
    let system = system.context("the kernel's command line has no root of dm-verity")?;
    let release = card.tree.read("/etc/os-release")?;
    let version = release.lines().find_map(|line| line.strip_prefix("IMAGE_VERSION="));
    let version = version.unwrap_or("unknown").trim_matches('"');
    Ok(Some(Running { slot: slot.to_owned(), version: version.to_owned(), system: system.to_owned() }))
}

/// A file that makes no sense is as good as none: the card then waits for a new verdict.
fn state(card: &Card) -> Result<State> {
    let Some(text) = card.tree.read_if(STATE)? else { return Ok(State::default()) };
    Ok(serde_json::from_str(&text).unwrap_or_else(|error| {
        tracing::error!("`{STATE}` is damaged and is begun anew: {error}");
        State::default()
    }))
}

fn keep(card: &Card, state: &State) -> Result<()> {
    card.tree.save(STATE, &serde_json::to_vec_pretty(state)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Fake};
    use crate::setup::{self, PHASES};
    use crate::storage::tests::{disk, with_disk};

    const STATUS: &str = r#"{"compatible":"dpukit-virt","booted":"B","boot_primary":"system.1","slots":[
        {"system.1":{"class":"system","bootname":"B","state":"booted","boot_status":"good"}},
        {"boot.1":{"class":"boot","bootname":null,"parent":"system.1"}},
        {"system.0":{"class":"system","bootname":"A","state":"inactive","boot_status":"OTHER",
            "slot_status":{"bundle":{"version":"0.2.0"},"installed":{"timestamp":"2026-11-29T08:45:46Z","count":3}}}}]}"#;

    /// A card that is set up, in slot B.
    fn card(other: &str) -> Fake {
        let fake = fake::virt();
        with_disk(&fake);
        for phase in PHASES {
            setup::run(&fake.card(), phase);
        }
        fake.file(
            "/proc/cmdline",
            "rauc.slot=B ro root=/dev/dm-0 dm-mod.create=\"root,,,ro,0 8 verity 1 254:4 254:4 4096 4096 1 2 sha256 cafe 00\"",
        );
        fake.file("/etc/os-release", "ID=debian\nIMAGE_VERSION=0.2.0\n");
        fake.file(CONFIGURATION, "");
        fake.answer("rauc status mark", "");
        fake.idle("systemctl");
        fake.answer("rauc status --detailed --output-format=json", &STATUS.replace("OTHER", other));
        fake
    }

    fn told(fake: &Fake) -> Report {
        let mut report = Report::default();
        look(&fake.card(), &mut report).unwrap();
        report
    }

    fn finding(name: &'static str, severity: Severity, wrong: &str) -> Finding {
        let mut report = Report::default();
        report.wrong(wrong);
        Finding { name, state: report.state(), severity, report, mend: None }
    }

    fn diagnosis(checks: Vec<Finding>) -> Diagnosis {
        Diagnosis { good: checks.is_empty(), checks }
    }

    #[test]
    fn a_healthy_system_is_told_to_u_boot_and_remembered() {
        let fake = card("good");
        let state = State { refused: Some(refused("it was tried before")), ..State::default() };
        keep(&fake.card(), &state).unwrap();
        let verdict = confirm(&fake.card(), || diagnosis(vec![]), Duration::ZERO).unwrap();
        assert_eq!(verdict, Verdict::Good("B".into()));
        assert!(fake.ran().contains(&"rauc status mark-good booted".to_owned()));
        let good = BTreeMap::from([("B".to_owned(), "cafe".to_owned())]);
        assert_eq!(super::state(&fake.card()).unwrap(), State { good, refused: None });
    }

    fn refused(reason: &str) -> Refused {
        let (slot, version, system) = ("B".into(), "0.2.0".into(), "cafe".into());
        Refused { slot, version, system, reasons: vec![reason.into()], update: 0 }
    }

    #[test]
    fn only_what_an_image_can_be_blamed_for_counts() {
        let checks = vec![
            finding("agent", Severity::Error, "it does not answer"),
            finding("pods", Severity::Error, "no list `cep`"),
            finding("space", Severity::Warning, "9 MiB are not used"),
        ];
        let unknown = |name| {
            let report = Report { unknown: vec!["it is not told".into()], ..Report::default() };
            Finding { name, state: report.state(), severity: Severity::Error, report, mend: None }
        };
        let checks = checks.into_iter().chain([unknown("firmware"), unknown("root")]).collect();
        let complaints = complaints(&diagnosis(checks));
        assert_eq!(complaints, ["agent: it does not answer", "root: it is not told"]);
    }

    #[test]
    fn an_image_without_updates_and_a_start_by_hand_are_told_apart() {
        let fake = fake::virt();
        assert_eq!(told(&fake).absent.len(), 1);
        fake.file(CONFIGURATION, "");
        assert!(told(&fake).wrong[0].contains("did not say which slot"));
    }

    #[test]
    fn what_was_given_up_is_told_until_it_runs() {
        let fake = card("bad");
        assert_eq!(told(&fake).found, ["slot B runs version 0.2.0, on trial"]);
        let mut state = State { refused: Some(refused("agent: no answer")), ..State::default() };
        keep(&fake.card(), &state).unwrap();
        assert!(told(&fake).wrong.is_empty(), "it runs again");
        let refused = state.refused.as_mut().unwrap();
        (refused.slot, refused.system, refused.update) = ("A".into(), "beef".into(), 3);
        state.good.insert("B".into(), "cafe".into());
        keep(&fake.card(), &state).unwrap();
        let report = told(&fake);
        assert_eq!(report.found, ["slot B runs version 0.2.0, good"]);
        assert_eq!(report.wrong, ["slot A with version 0.2.0 was given up: agent: no answer"]);
        state.refused.as_mut().unwrap().update = 2;
        keep(&fake.card(), &state).unwrap();
        let wrong = told(&fake).wrong;
        assert_eq!(
            wrong,
            ["slot A does not come up: U-Boot has no attempts left for it, or an update of it was cut short"],
            "it is not the same"
        );
    }

    #[test]
    fn a_slot_that_u_boot_gave_up_is_told() {
        let fake = card("bad");
        assert!(told(&fake).wrong.is_empty(), "while this one is on trial the other may be half written");
        let good = BTreeMap::from([("B".to_owned(), "cafe".to_owned())]);
        keep(&fake.card(), &State { good, refused: None }).unwrap();
        assert_eq!(
            told(&fake).wrong,
            ["slot A does not come up: U-Boot has no attempts left for it, or an update of it was cut short"]
        );
    }

    #[test]
    fn another_disk_with_slots_is_told_before_an_update_is_refused_for_it() {
        let fake = card("good");
        disk(&fake, "mmcblk0", &["boot-a", "root-a"]);
        fake.link("/sys/class/block/mmcblk0", "../../devices/pci0/block/mmcblk0");
        assert_eq!(told(&fake).wrong, ["the disk `mmcblk0` has slots too: no update is taken while it has"]);
    }

    #[test]
    fn an_update_that_was_cut_short_is_told() {
        for half in [r#""status":"update","bundle":{"#, r#""status":"pending","bundle":{"#] {
            let fake = card("bad");
            let status = STATUS.replace("OTHER", "bad").replace(r#""bundle":{"#, half);
            fake.answer("rauc status --detailed --output-format=json", &status);
            assert_eq!(
                told(&fake).wrong,
                ["slot A holds half an update, which was cut short: there is no way back"]
            );
        }
    }

    #[test]
    fn a_system_that_was_never_good_goes_where_another_was() {
        let ill = |state: &State| {
            let fake = card("good");
            keep(&fake.card(), state).unwrap();
            let examine = || diagnosis(vec![finding("agent", Severity::Error, "no answer")]);
            let verdict = confirm(&fake.card(), examine, Duration::ZERO).unwrap();
            let ran: Vec<_> = fake
                .ran()
                .into_iter()
                .filter(|line| line.contains("mark-") || line.contains("reboot"))
                .collect();
            (verdict, ran, super::state(&fake.card()).unwrap())
        };
        let was_good = |slot: &str, system: &str| State {
            good: BTreeMap::from([(slot.to_owned(), system.to_owned())]),
            refused: None,
        };
        let (verdict, ran, state) = ill(&was_good("A", "beef"));
        assert!(
            matches!(&verdict, Verdict::GivenUp(refused) if refused.slot == "B" && !refused.reasons.is_empty())
        );
        assert_eq!(ran, ["rauc status mark-bad booted", "systemctl --no-block reboot"]);
        let refused = state.refused.unwrap();
        assert_eq!((refused.system.as_str(), refused.update), ("cafe", 0));

        let (verdict, ran, _) = ill(&State::default());
        assert!(matches!(verdict, Verdict::NoOther(_)) && ran.is_empty(), "there is nowhere to go");

        let (verdict, ran, _) = ill(&was_good("B", "cafe"));
        assert!(matches!(verdict, Verdict::Unwell(_)) && ran.is_empty(), "it was good before");

        let (verdict, ..) = ill(&was_good("B", "an older one"));
        assert!(matches!(verdict, Verdict::NoOther(_)), "what was in this slot before does not count");
    }

    #[test]
    fn who_updates_hears_what_runs_and_what_is_next() {
        let fake = card("good");
        let running = || Place { slot: "B".into(), version: Some("0.2.0".into()) };
        let is_next = |primary: &str| {
            let status = STATUS.replace(r#""boot_primary":"system.1""#, primary);
            fake.answer("rauc status --detailed --output-format=json", &status);
            outlook(&fake.card()).unwrap()
        };
        let next = Some(Place { slot: "A".into(), version: Some("0.2.0".into()) });
        let found = is_next(r#""boot_primary":"system.0""#);
        assert_eq!(found, Outlook { running: running(), is_good: false, refused: None, next });
        for none in [r#""boot_primary":"system.1""#, r#""boot_primary":null"#, r#""variant":"""#] {
            assert_eq!(is_next(none).next, None);
        }

        let given_up = |slot: &str, system: &str, update| {
            let (slot, system) = (slot.to_owned(), system.to_owned());
            let refused = Refused { slot, system, update, ..refused("agent: no answer") };
            let good = BTreeMap::from([("B".to_owned(), "cafe".to_owned())]);
            keep(&fake.card(), &State { good, refused: Some(refused.clone()) }).unwrap();
            let found = outlook(&fake.card()).unwrap();
            assert!(found.is_good);
            found.refused.is_some_and(|found| found == refused)
        };
        assert!(given_up("A", "beef", 3), "it is still there");
        assert!(!given_up("A", "beef", 2), "it is not the same");
        assert!(given_up("B", "cafe", 0), "it runs, since there is no other");
        assert!(!given_up("B", "beef", 0), "what was in this slot before does not count");
    }

    #[test]
    fn a_damaged_state_is_begun_anew() {
        let fake = card("good");
        for text in ["", "{", "[]", "{\"good\":7}", "\u{0}\u{0}"] {
            fake.file(STATE, text);
            assert_eq!(state(&fake.card()).unwrap(), State::default());
        }
    }
}
