//! Steps, and running those that are missing from the store.
//!
//! A step is a pure function of its recipe. Keys come from recipes, not results, so all of them are
//! known before anything runs; a step whose entry is there needs none of the steps before it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, mpsc};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};

use crate::hash::Hash;
use crate::hint;
use crate::store::{self, Input, LastBuild, Recipe, Store, Workplace};

type Run<'a> = Box<dyn Fn(&Room<'_>) -> Result<()> + Send + Sync + 'a>;

/// A step: what enters it, and what makes its result.
pub struct Step<'a> {
    recipe: Recipe,
    needs: Vec<String>,
    draws: Vec<String>,
    run: Run<'a>,
}

/// What a running step sees.
pub struct Room<'a> {
    /// Where results, scratch and log go.
    pub place: &'a Workplace,
    /// How many threads or compilers the step may use.
    pub jobs: usize,
    graph: &'a Graph<'a>,
    store: &'a Store,
    step: &'a str,
    watch: &'a dyn Watch,
}

/// Told what happens in a build; shared between threads.
pub trait Watch: Send + Sync {
    /// Called for each event, from any thread.
    fn event(&self, event: Event<'_>);
}

/// What happens in a build.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// A step begins.
    Started { step: &'a str },
    /// Bytes that a running step has dealt with, of how many where known.
    Progress { step: &'a str, done: u64, total: Option<u64> },
    /// Something a person should know.
    Notice { step: &'a str, text: String },
    /// A step's result is in the store.
    Finished(&'a Outcome),
    /// A step failed; the log is what it printed.
    Failed { step: &'a str, log: PathBuf },
}

/// How a step went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The step's name.
    pub step: String,
    /// Whether it was made now; otherwise it came from the store.
    pub built: bool,
    /// Seconds that it took now.
    pub seconds: f64,
    /// Bytes of the result.
    pub bytes: u64,
}

/// All steps of a build, each after those that it needs.
#[derive(Default)]
pub struct Graph<'a> {
    steps: BTreeMap<String, Step<'a>>,
}

/// Collects what enters a step.
pub struct Builder<'g, 'a> {
    graph: &'g mut Graph<'a>,
    recipe: Recipe,
    needs: Vec<String>,
    draws: Vec<String>,
}

impl<'a> Graph<'a> {
    /// Begins a step.
    pub fn step<'g>(&'g mut self, name: &str) -> Builder<'g, 'a> {
        let recipe = Recipe { name: name.to_owned(), inputs: BTreeMap::new(), private: false };
        Builder { graph: self, recipe, needs: Vec::new(), draws: Vec::new() }
    }

    /// Whether there is a step of this name.
    pub fn has(&self, step: &str) -> bool {
        self.steps.contains_key(step)
    }

    /// The components whose sources are needed to make `target`, as far as the store lacks it; none if it is
    /// there.
    pub fn draws(&self, store: &Store, target: &str) -> Result<Option<BTreeSet<String>>> {
        let mut missing = Vec::new();
        self.plan(store, target, &mut missing, &mut Vec::new())?;
        let draws = missing.iter().flat_map(|step| self.steps[step].draws.iter().cloned()).collect();
        Ok((!missing.is_empty()).then_some(draws))
    }

    /// A step's recipe.
    ///
    /// # Panics
    /// If there is no such step: the caller made the graph.
    pub fn recipe(&self, step: &str) -> &Recipe {
        &self.steps[step].recipe
    }

    /// All recipes, to remember them.
    pub fn recipes(&self) -> LastBuild {
        self.steps.iter().map(|(name, step)| (name.clone(), step.recipe.clone())).collect()
    }

    /// A step and all that it needs, directly or not.
    ///
    /// # Panics
    /// If there is no such step: the caller made the graph.
    pub fn behind(&self, step: &str) -> BTreeSet<String> {
        let mut found = BTreeSet::from([step.to_owned()]);
        for need in &self.steps[step].needs {
            found.append(&mut self.behind(need));
        }
        found
    }

    /// Makes `targets` and what they need, as far as the store lacks it, `jobs` steps at a time.
    /// Returns how each step that was looked at went, in the order they ended.
    pub fn build(
        &self,
        store: &Store,
        targets: &[&str],
        jobs: usize,
        watch: &dyn Watch,
    ) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        let mut missing = Vec::new();
        for target in targets {
            self.plan(store, target, &mut missing, &mut outcomes)?;
        }
        for outcome in &outcomes {
            watch.event(Event::Finished(outcome));
        }
        outcomes.extend(self.make(store, missing, jobs, watch)?);
        Ok(outcomes)
    }

    /// Puts `step` behind all that it needs into `missing`, or into `present` if the store has it.
    fn plan(
        &self,
        store: &Store,
        step: &str,
        missing: &mut Vec<String>,
        present: &mut Vec<Outcome>,
    ) -> Result<()> {
        if missing.iter().any(|name| name == step) || present.iter().any(|outcome| outcome.step == step) {
            return Ok(());
        }
        let entry = self.recipe(step).entry();
        if store.has(&entry) {
            let bytes = store.used(&entry)?.bytes;
            present.push(Outcome { step: step.to_owned(), built: false, seconds: 0.0, bytes });
            return Ok(());
        }
        for need in &self.steps[step].needs {
            self.plan(store, need, missing, present)?;
        }
        missing.push(step.to_owned());
        Ok(())
    }

    fn make(
        &self,
        store: &Store,
        missing: Vec<String>,
        jobs: usize,
        watch: &dyn Watch,
    ) -> Result<Vec<Outcome>> {
        let mut waiting = missing;
        let mut outcomes = Vec::new();
        let mut failure = None;
        std::thread::scope(|scope| {
            let (sender, receiver) = mpsc::channel();
            let mut running: Vec<String> = Vec::new();
            loop {
                while failure.is_none() && running.len() < jobs {
                    let blocked = |need: &String| waiting.contains(need) || running.contains(need);
                    let ready = waiting.iter().position(|step| !self.steps[step].needs.iter().any(blocked));
                    let Some(at) = ready else { break };
                    let step = waiting.remove(at);
                    running.push(step.clone());
                    let sender = sender.clone();
                    scope.spawn(move || {
                        // Whoever waits for the step must hear of a panic too.
                        let make = AssertUnwindSafe(|| self.make_one(store, &step, jobs, watch));
                        let made = catch_unwind(make)
                            .unwrap_or_else(|_| Err(anyhow!("step `{step}` panicked: this is a defect")));
                        let _ = sender.send((step, made));
                    });
                }
                if running.is_empty() {
                    break;
                }
                let Ok((step, made)) = receiver.recv() else { break };
                running.retain(|name| *name != step);
                match made {
                    Ok(outcome) => outcomes.push(outcome),
                    Err(error) => {
                        failure.get_or_insert(error);
                    }
                }
            }
        });
        failure.map_or(Ok(outcomes), Err)
    }

    fn make_one(&self, store: &Store, name: &str, jobs: usize, watch: &dyn Watch) -> Result<Outcome> {
        let step = &self.steps[name];
        let start = Instant::now();
        let entry = step.recipe.entry();
        watch.event(Event::Started { step: name });
        let waiting = || {
            let text = "another build is making this; waiting for it".into();
            watch.event(Event::Notice { step: name, text });
        };
        let made = store.produce(&step.recipe, waiting, |place| {
            fs::write(&place.log, "")
                .with_context(|| format!("opening the log `{}`", place.log.display()))?;
            (step.run)(&Room { place, jobs, graph: self, store, step: name, watch })
        });
        let made = made.map_err(|error| hint::where_full(error, store::space_hint));
        let built = made.with_context(|| format!("step `{name}` failed")).inspect_err(|_| {
            watch.event(Event::Failed { step: name, log: store.log(&entry) });
        })?;
        let bytes = store.used(&entry)?.bytes;
        let outcome = Outcome { step: name.to_owned(), built, seconds: start.elapsed().as_secs_f64(), bytes };
        watch.event(Event::Finished(&outcome));
        Ok(outcome)
    }
}

impl<'a> Builder<'_, 'a> {
    /// Content that enters the step.
    #[must_use]
    pub fn content(mut self, name: impl Into<String>, content: impl AsRef<[u8]>) -> Self {
        self.recipe.inputs.insert(name.into(), Input::Content(Hash::of(content)));
        self
    }

    /// Content that enters the step, by its hash.
    #[must_use]
    pub fn hash(mut self, name: impl Into<String>, hash: Hash) -> Self {
        self.recipe.inputs.insert(name.into(), Input::Content(hash));
        self
    }

    /// Another step whose result enters the step.
    #[must_use]
    pub fn needs(mut self, step: &str) -> Self {
        let entry = self.graph.recipe(step).entry();
        self.recipe.inputs.insert(format!("step {step}"), Input::Step(entry));
        self.recipe.private |= self.graph.recipe(step).private;
        self.needs.push(step.to_owned());
        self
    }

    /// A component whose source the step brings when it runs.
    #[must_use]
    pub fn draws_on(mut self, component: &str) -> Self {
        self.draws.push(component.to_owned());
        self
    }

    /// Something enters that may not be shared, and so the result may not be either.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.recipe.private = true;
        self
    }

    /// Ends the step with what makes it.
    pub fn run(self, run: impl Fn(&Room<'_>) -> Result<()> + Send + Sync + 'a) {
        let name = self.recipe.name.clone();
        let Self { graph, recipe, needs, draws } = self;
        graph.steps.insert(name, Step { recipe, needs, draws, run: Box::new(run) });
    }
}

impl Room<'_> {
    /// The name of the entry of a step that this one needs.
    pub fn entry(&self, step: &str) -> String {
        self.graph.recipe(step).entry()
    }

    /// The folder with the result of a step that this one needs.
    pub fn result(&self, step: &str) -> PathBuf {
        self.store.out(&self.graph.recipe(step).entry())
    }

    /// The hash of content that entered the step by this name.
    pub fn input(&self, name: &str) -> Option<Hash> {
        match self.graph.recipe(self.step).inputs.get(name) {
            Some(Input::Content(hash)) => Some(*hash),
            _ => None,
        }
    }

    /// The names of all that entered whose names begin so.
    pub fn inputs(&self, start: &str) -> BTreeSet<String> {
        let names = self.graph.recipe(self.step).inputs.keys();
        names.filter(|name| name.starts_with(start)).cloned().collect()
    }

    /// Says how far the step is.
    pub fn progress(&self, done: u64, total: Option<u64>) {
        self.watch.event(Event::Progress { step: self.step, done, total });
    }

    /// Says something that a person should know.
    pub fn notice(&self, text: impl Into<String>) {
        self.watch.event(Event::Notice { step: self.step, text: text.into() });
    }
}

/// Why a step's entry is not that of the last build: each input that changed, with the step it
/// changed in, or nothing if the recipe is the same.
pub fn why(now: &LastBuild, last: &LastBuild, step: &str) -> Vec<String> {
    let mut reasons = Vec::new();
    let seen = Mutex::new(BTreeSet::new());
    why_into(now, last, step, &seen, &mut reasons);
    reasons
}

fn why_into(
    now: &LastBuild,
    last: &LastBuild,
    step: &str,
    seen: &Mutex<BTreeSet<String>>,
    reasons: &mut Vec<String>,
) {
    if !seen.lock().is_ok_and(|mut seen| seen.insert(step.to_owned())) {
        return;
    }
    let Some(new) = now.get(step) else { return };
    let Some(old) = last.get(step) else {
        reasons.push(format!("{step}: was not part of the last build"));
        return;
    };
    for (name, input) in &new.inputs {
        match (input, old.inputs.get(name)) {
            (_, None) => reasons.push(format!("{step}: `{name}` is new")),
            (input, Some(before)) if input == before => {}
            (Input::Step(_), Some(_)) => {
                why_into(now, last, name.strip_prefix("step ").unwrap_or(name), seen, reasons);
            }
            (Input::Content(_), Some(_)) => reasons.push(format!("{step}: `{name}` changed")),
        }
    }
    let gone = old.inputs.keys().filter(|name| !new.inputs.contains_key(*name));
    reasons.extend(gone.map(|name| format!("{step}: `{name}` is gone")));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hint::report;
    use anyhow::{anyhow, bail};
    use std::io::ErrorKind;

    struct Silent;

    impl Watch for Silent {
        fn event(&self, _: Event<'_>) {}
    }

    fn graph(source: &'static str) -> Graph<'static> {
        let mut graph = Graph::default();
        graph
            .step("source")
            .content("text", source)
            .run(move |room| Ok(fs::write(room.place.out.join("text"), source)?));
        graph.step("other").content("text", "fixed").run(|_| Ok(()));
        graph.step("whole").needs("source").needs("other").run(|room| {
            let text = fs::read_to_string(room.result("source").join("text"))?;
            Ok(fs::write(room.place.out.join("text"), text + "!")?)
        });
        graph
    }

    fn built(store: &Store, graph: &Graph<'_>) -> Vec<String> {
        let outcomes = graph.build(store, &["whole"], 2, &Silent).unwrap();
        let mut names: Vec<_> =
            outcomes.into_iter().filter(|outcome| outcome.built).map(|outcome| outcome.step).collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_changed_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(built(&store, &graph("a")), ["other", "source", "whole"]);
        assert_eq!(built(&store, &graph("a")), Vec::<String>::new());
        assert_eq!(built(&store, &graph("b")), ["source", "whole"]);
        let entry = graph("b").recipe("whole").entry();
        assert_eq!(fs::read_to_string(store.out(&entry).join("text")).unwrap(), "b!");
    }

    #[test]
    fn what_is_behind_a_step_is_all_that_it_needs() {
        let names = |step| graph("a").behind(step).into_iter().collect::<Vec<_>>();
        assert_eq!(names("whole"), ["other", "source", "whole"]);
        assert_eq!(names("other"), ["other"]);
    }

    #[test]
    fn why_names_the_input_at_the_root_of_the_change() {
        let (last, now) = (graph("a").recipes(), graph("b").recipes());
        assert_eq!(why(&now, &last, "whole"), ["source: `text` changed"]);
        assert_eq!(why(&now, &now, "whole"), Vec::<String>::new());
    }

    #[test]
    fn a_failed_step_stops_what_needs_it_and_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut graph = Graph::default();
        graph.step("bad").run(|_| bail!("no luck"));
        graph.step("after").needs("bad").run(|_| unreachable!("runs only after `bad`"));
        let error = graph.build(&store, &["after"], 2, &Silent).unwrap_err();
        assert_eq!(format!("{error:#}"), "step `bad` failed: no luck");
    }

    #[test]
    fn a_full_disk_is_told_with_what_frees_it_whoever_finds_it_full() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for (found, is_full) in [
            (anyhow!(std::io::Error::from(ErrorKind::StorageFull)), true),
            (anyhow!("the end of its log:\ncat: write error: No space left on device"), true),
            (anyhow!(std::io::Error::from(ErrorKind::NotFound)), false),
        ] {
            let found = Mutex::new(Some(found));
            let mut graph = Graph::default();
            graph.step("full").run(|_| Err(found.lock().unwrap().take().unwrap()));
            let error = report(&graph.build(&store, &["full"], 1, &Silent).unwrap_err());
            assert_eq!(error.contains("hint: `cargo xtask store gc` frees"), is_full, "{error}");
        }
    }
}
