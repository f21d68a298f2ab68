//! Everything that a build of a board would fail for, found before its first step and said at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::config::{Component, Config, Source};
use crate::doctor::{self, State};
use crate::hint;
use crate::lock::{Content, board_components};
use crate::project::Project;
use crate::{recipes, rules};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// One thing that a build needs and does not have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lack {
    /// A component, a part, or a property of the machine.
    pub of: String,
    pub why: String,
    /// What to do about it.
    pub mend: Vec<String>,
}

/// A board that can't be built; `Display` is what a person reads.
#[derive(Debug, thiserror::Error)]
pub struct Unready {
    pub board: String,
    pub lacks: Vec<Lack>,
}

impl fmt::Display for Unready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { board, lacks } = self;
        let things =
            if lacks.len() == 1 { "one thing is".into() } else { format!("{} things are", lacks.len()) };
        write!(f, "board `{board}` can't be built here: {things} missing")?;
        for Lack { of, why, mend } in lacks {
            write!(f, "\n\n{of}: {why}")?;
            for mend in mend {
                write!(f, "\n  mend: {mend}")?;
            }
        }
        Ok(())
    }
}

impl Lack {
    fn of_error(of: &str, error: &anyhow::Error) -> Self {
        let (causes, hints) = hint::parts(error);
        let mend = hints.into_iter().map(|hint| hint.trim_start_matches("hint: ").to_owned()).collect();
        Self { of: of.to_owned(), why: causes.join(": "), mend }
    }
}

/// Looks at all that a build of the project's board needs. `draws` names the components that its missing
/// steps need, where that is known; otherwise all of the board's are looked at. What is on this machine is not
/// asked for anywhere.
///
/// # Errors
/// [`Unready`], with everything that lacks.
pub fn check(project: &Project, draws: Option<&BTreeSet<String>>) -> Result<()> {
    let config = &project.sources.config;
    let components: Vec<_> = board_components(config)
        .into_iter()
        .filter(|component| draws.is_none_or(|draws| draws.contains(&component.name)))
        .collect();
    let missing = project.missing();
    let archives = archives(project, &components, &missing);
    let mut lacks: Vec<Lack> = std::thread::scope(|scope| {
        let machine = scope.spawn(|| machine(project));
        let files: Vec<_> = components
            .iter()
            .map(|component| {
                let is_missing = missing.contains(&component.name);
                scope.spawn(move || of_component(project, component, is_missing))
            })
            .collect();
        let servers: Vec<_> =
            archives.iter().map(|(name, path)| scope.spawn(move || archive(project, name, path))).collect();
        let threads = std::iter::once(machine).chain(files).chain(servers);
        threads.flat_map(|thread| thread.join().unwrap_or_else(|_| vec![panicked()])).collect()
    });
    lacks.extend(of_board(project, &missing));
    lacks.dedup();
    if lacks.is_empty() {
        return Ok(());
    }
    Err(anyhow!(Unready { board: config.board.name.clone(), lacks }))
}

fn panicked() -> Lack {
    Lack { of: "the builder".into(), why: "a check ended before its time".into(), mend: Vec::new() }
}

fn machine(project: &Project) -> Vec<Lack> {
    let bad = doctor::checks(project.store.cache()).into_iter().filter(|check| check.state == State::Bad);
    bad.map(|check| Lack { of: check.name.into(), why: check.found, mend: check.mend.into_iter().collect() })
        .collect()
}

/// What the board itself asks for in vain.
fn of_board(project: &Project, missing: &[String]) -> Vec<Lack> {
    let config = &project.sources.config;
    let parts = rules::parts(config, &project.sources.lock);
    let rules = rules::violations(config, &parts).into_iter().map(|violation| Lack {
        of: violation.part.component.clone(),
        why: violation.to_string(),
        mend: vec!["take versions that go together: `cargo xtask matrix` shows them".into()],
    });
    let plan = rules::plan(config, &project.sources.lock).err();
    let plan = plan.map(|error| Lack::of_error(&config.board.name, &error));
    let closed = project.lock_is_closed().filter(|_| !missing.is_empty()).map(|flag| Lack {
        of: "the lock".into(),
        why: format!("it lacks, or has for another request: {}", missing.join(", ")),
        mend: vec![format!("run `cargo xtask lock` without `{flag}`, and commit what it writes")],
    });
    rules.chain(plan).chain(closed).collect()
}

/// A component's source, where it is not on this machine yet; the lock may lack the component.
fn of_component(project: &Project, component: &Component, is_missing: bool) -> Vec<Lack> {
    let sources = &project.sources;
    if let Some(folder) = &component.instead {
        if folder.exists() {
            return Vec::new();
        }
        let why = format!("there is no `{}`, that stands in for it", folder.display());
        return vec![Lack { of: component.name.clone(), why, mend: Vec::new() }];
    }
    let locked = sources.lock.components.get(&component.name).filter(|_| !is_missing);
    let locked = locked.map(|locked| &locked.content);
    let asked = match (&component.source, locked) {
        (Source::Deb(_) | Source::Local(_), _) => Ok(()),
        (_, Some(content)) if sources.origins.has(component, content).is_ok_and(|there| there) => Ok(()),
        (Source::User(_), locked) => {
            let files = match locked {
                Some(Content::Files(files)) => Some(files.as_slice()),
                _ => None,
            };
            sources.origins.user(component).and_then(|user| user.bring(files)).map(drop)
        }
        _ => sources.origins.probe(component, PATIENCE),
    };
    asked.err().map(|error| Lack::of_error(&component.name, &error)).into_iter().collect()
}

/// The archives that packages have to be asked from, each with a file that it must have.
fn archives(project: &Project, components: &[&Component], missing: &[String]) -> BTreeMap<String, String> {
    let sources = &project.sources;
    let mut needed = BTreeSet::new();
    for component in components {
        let Source::Deb(deb) = &component.source else { continue };
        if component.instead.is_some() {
            continue;
        }
        if missing.contains(&component.name) {
            needed.extend(deb.suites.iter().cloned());
        } else if let Some(locked) = sources.lock.components.get(&component.name) {
            let packages = locked.content.packages().iter();
            let lacking = packages.filter(|package| !sources.fetcher.has(&recipes::wanted(package)));
            needed.extend(lacking.map(|package| package.suite.clone()));
        }
    }
    suites(&sources.config, &needed)
}

fn suites(config: &Config, names: &BTreeSet<String>) -> BTreeMap<String, String> {
    let suites = names.iter().filter_map(|name| config.suites.suites.get(name));
    suites.map(|suite| (suite.archive.clone(), suite.file("InRelease"))).collect()
}

fn archive(project: &Project, name: &str, path: &str) -> Vec<Lack> {
    let asked = project.sources.fetcher.probe(name, path, PATIENCE);
    asked.err().map(|error| Lack::of_error(&format!("archive `{name}`"), &error)).into_iter().collect()
}
