//! From wanted packages to all that they need.
//!
//! The outcome is what `apt-get install --no-install-recommends` takes on an empty system, with
//! nothing that is not asked for or depended on: essential packages are not added by themselves.
//! It depends only on the set of wanted packages and on what the suites hold, not on any order in
//! which they are written. There is no going back on a choice: where two chosen packages exclude
//! each other, that is an error, and the mend is to ask for one alternative by name.
//!
//! - Of several versions the highest counts; of equal ones, that of the suite named first.
//! - A suite marked only-when-named gives what is asked for as `name/suite`, and to those packages
//!   what they need and no other suite can give.
//! - Needs that only one package can fill are filled first, so that a choice between alternatives
//!   falls on what is there already wherever it can.
//! - Of alternatives the first counts that the suites have; of several providers of a virtual
//!   package, those of the machine's architecture, then of the highest priority, then by name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use anyhow::{Context as _, Result, bail, ensure};

use super::packages::{Index, MultiArch, Package};
use super::relation::{self, Group, Operator, Qualifier, Relation};
use crate::hint::{Hint, WithHint as _};

/// What to resolve, and from what.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// See [`Wanted::parse`].
    pub wanted: Vec<Wanted<'a>>,
    /// The suites to take packages from.
    pub suites: Vec<Suite<'a>>,
    /// The architecture of packages that are asked for without one, and of those for `all`.
    pub architecture: &'a str,
    /// Names of packages that are never taken, even where something depends on them.
    pub without: BTreeSet<&'a str>,
    /// Whether what the wanted packages depend on is taken too.
    pub dependencies: bool,
}

/// A suite with its indexes.
#[derive(Debug, Clone)]
pub struct Suite<'a> {
    /// As the configuration calls it.
    pub name: &'a str,
    /// Whether it only gives packages that are asked for by its name.
    pub only_when_named: bool,
    /// By architecture; that of [`Request::architecture`] must be among them.
    pub indexes: BTreeMap<&'a str, &'a Index>,
}

/// A package that is asked for: `name`, `name:arch`, `name/suite` or `name:arch/suite`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted<'a> {
    /// The package's name.
    pub name: &'a str,
    /// None for that of [`Request::architecture`].
    pub architecture: Option<&'a str>,
    /// The suite whose version must be taken; none for the highest.
    pub suite: Option<&'a str>,
}

/// A package that is taken, and the name of the suite that it is taken from.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    /// The package, as its index has it.
    pub package: Package<'a>,
    /// As the configuration calls it.
    pub suite: &'a str,
}

/// All packages that the request comes down to, sorted by name and architecture.
pub fn resolve<'a>(request: &'a Request<'a>) -> Result<Vec<Chosen<'a>>> {
    let mut pins = Pins::new();
    let wanted = request.wanted();
    for wanted in &wanted {
        if let Some(suite) = wanted.suite {
            let candidate = request.find_in_suite(wanted, suite)?;
            pin(&mut pins, candidate)?;
        }
    }
    // Each turn settles one more package on the version of a suite that is only taken from when
    // named, and there are as many as packages at most.
    loop {
        let mut choice = Choice { request, pins: &pins, chosen: BTreeMap::new(), providers: BTreeMap::new() };
        match choice.choose_all(&wanted)? {
            Outcome::Done => {
                choice.check_exclusions()?;
                return Ok(choice.into_packages());
            }
            Outcome::Pin(candidate) => pin(&mut pins, candidate)?,
        }
    }
}

impl<'a> Wanted<'a> {
    /// Reads how a component asks for a package.
    pub fn parse(text: &'a str) -> Result<Self> {
        let (package, suite) = match text.split_once('/') {
            Some((package, suite)) => (package, Some(suite)),
            None => (text, None),
        };
        let (name, architecture) = match package.split_once(':') {
            Some((name, architecture)) => (name, Some(architecture)),
            None => (package, None),
        };
        let form = "write `name`, `name:arch`, `name/suite` or `name:arch/suite`";
        ensure!(relation::is_name(name), "`{text}` does not begin with a package's name: {form}");
        ensure!(suite != Some(""), "`{text}` has no suite after `/`: {form}");
        let is_known =
            |name: &str| relation::is_architecture(name) && !matches!(name, "all" | "any" | "native");
        if let Some(wrong) = architecture.filter(|architecture| !is_known(architecture)) {
            bail!("`{text}` asks for the architecture `{wrong}`, and packages are not of that: {form}");
        }
        Ok(Self { name, architecture, suite })
    }
}

impl fmt::Display for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        self.architecture.map_or(Ok(()), |architecture| write!(f, ":{architecture}"))?;
        self.suite.map_or(Ok(()), |suite| write!(f, "/{suite}"))
    }
}

/// A package's name and the architecture that it serves.
type Key<'a> = (&'a str, &'a str);

/// Packages whose version is settled.
type Pins<'a> = BTreeMap<Key<'a>, Candidate<'a>>;

/// A package that could be taken.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    package: Package<'a>,
    suite: &'a str,
    only_when_named: bool,
    /// The architecture that it serves: the machine's for those of `all`.
    architecture: &'a str,
}

impl<'a> Candidate<'a> {
    fn key(&self) -> Key<'a> {
        (self.package.name(), self.architecture)
    }

    fn is_same(&self, other: &Candidate<'_>) -> bool {
        self.key() == other.key() && self.package.sha256() == other.package.sha256()
    }
}

fn pin<'a>(pins: &mut Pins<'a>, candidate: Candidate<'a>) -> Result<()> {
    let other = pins.insert(candidate.key(), candidate);
    if let Some(other) = other.filter(|other| !other.is_same(&candidate)) {
        bail!(
            "`{}` is needed both in version {} of `{}` and in version {} of `{}`",
            candidate.package.name(),
            other.package.version_text(),
            other.suite,
            candidate.package.version_text(),
            candidate.suite
        );
    }
    Ok(())
}

/// What the suites have.
impl<'a> Request<'a> {
    /// The wanted packages in an order of their own, each once.
    fn wanted(&self) -> BTreeSet<Wanted<'a>> {
        self.wanted.iter().copied().collect()
    }

    /// All packages of that name for that architecture, whatever the suite.
    fn candidates(&'a self, name: &'a str, architecture: &'a str) -> impl Iterator<Item = Candidate<'a>> {
        self.suites.iter().flat_map(move |suite| {
            let packages =
                suite.indexes.get(architecture).into_iter().flat_map(move |index| index.named(name));
            packages.filter_map(move |package| self.candidate(suite, package, architecture))
        })
    }

    fn candidate(
        &self,
        suite: &'a Suite<'a>,
        package: Package<'a>,
        architecture: &'a str,
    ) -> Option<Candidate<'a>> {
        let own = package.architecture();
        let serves = own == architecture || (own == "all" && architecture == self.architecture);
        serves.then_some(Candidate {
            package,
            suite: suite.name,
            only_when_named: suite.only_when_named,
            architecture,
        })
    }

    /// The architectures that there are indexes of, the machine's first.
    fn architectures(&'a self) -> impl Iterator<Item = &'a str> {
        let all = self.suites.iter().flat_map(|suite| suite.indexes.keys().copied());
        let foreign: BTreeSet<_> = all.filter(|architecture| *architecture != self.architecture).collect();
        std::iter::once(self.architecture).chain(foreign)
    }

    fn find_in_suite(&'a self, wanted: &Wanted<'a>, suite: &str) -> Result<Candidate<'a>> {
        let architecture = wanted.architecture.unwrap_or(self.architecture);
        if !self.suites.iter().any(|known| known.name == suite) {
            return Err(anyhow::anyhow!("`{wanted}` names a suite that the component does not have"))
                .hint(|| format!("its suites are {}", quote(self.suites.iter().map(|suite| suite.name))));
        }
        let mut found =
            self.candidates(wanted.name, architecture).filter(|candidate| candidate.suite == suite);
        found
            .next()
            .with_context(|| {
                format!("there is no package `{}` for `{architecture}` in `{suite}`", wanted.name)
            })
            .map_err(|error| self.with_advice(error, wanted.name, architecture))
    }

    /// Attaches what is known about a name that was not found.
    fn with_advice(&'a self, error: anyhow::Error, name: &'a str, architecture: &'a str) -> anyhow::Error {
        let Some(advice) = self.advice(name, architecture) else { return error };
        error.context(Hint(advice))
    }

    fn advice(&'a self, name: &'a str, architecture: &'a str) -> Option<String> {
        if let Some(found) = self.candidates(name, architecture).next() {
            return Some(format!("it is in `{}`: ask for `{name}/{}`", found.suite, found.suite));
        }
        if let Some(found) = self.architectures().find_map(|other| self.candidates(name, other).next()) {
            return Some(match found.package.architecture() {
                "all" => format!("it serves all architectures: ask for `{name}` without `:{architecture}`"),
                other => format!("it is there for `{other}` only"),
            });
        }
        let indexes = || self.suites.iter().flat_map(|suite| suite.indexes.values());
        let providers: BTreeSet<_> =
            indexes().flat_map(|index| index.providers(name)).map(|p| p.name()).collect();
        if !providers.is_empty() {
            return Some(format!(
                "it is a virtual package; ask for one that provides it: {}",
                quote(providers)
            ));
        }
        let names: BTreeSet<_> =
            indexes().flat_map(|index| index.packages()).map(|package| package.name()).collect();
        let alike = alike(name, names.iter().copied());
        (!alike.is_empty()).then(|| format!("did you mean {}?", quote(alike)))
    }
}

/// How a try to choose ended.
enum Outcome<'a> {
    Done,
    /// The package must be settled on this version first; then all is chosen anew.
    Pin(Candidate<'a>),
}

/// What is chosen so far.
struct Choice<'r, 'a> {
    request: &'a Request<'a>,
    pins: &'r Pins<'a>,
    chosen: BTreeMap<Key<'a>, Taken<'a>>,
    /// The chosen packages that provide a name, by that name.
    providers: BTreeMap<&'a str, Vec<Key<'a>>>,
}

struct Taken<'a> {
    candidate: Candidate<'a>,
    /// The package that needed it; none for those that are asked for.
    needed_by: Option<Key<'a>>,
}

/// One group of a chosen package's dependencies.
struct Need<'a> {
    by: Key<'a>,
    group: Group<'a>,
    /// All that can fill it, the best first.
    targets: Vec<Candidate<'a>>,
}

impl<'a> Choice<'_, 'a> {
    fn choose_all(&mut self, wanted: &BTreeSet<Wanted<'a>>) -> Result<Outcome<'a>> {
        let mut fresh = VecDeque::new();
        for wanted in wanted {
            let candidate = self.find(wanted)?;
            self.take(candidate, None, &mut fresh)?;
        }
        if !self.request.dependencies {
            return Ok(Outcome::Done);
        }
        // Needs that leave a choice, by who has them and their place in its fields.
        let mut open = BTreeMap::new();
        loop {
            while let Some(key) = fresh.pop_front() {
                for (need, place) in self.needs(key)?.into_iter().zip(0..) {
                    if need.targets.len() > 1 {
                        open.insert((key, place), need);
                    } else if let Outcome::Pin(candidate) = self.fill(&need, &mut fresh)? {
                        return Ok(Outcome::Pin(candidate));
                    }
                }
            }
            let Some((_, need)) = open.pop_first() else { return Ok(Outcome::Done) };
            if let Outcome::Pin(candidate) = self.fill(&need, &mut fresh)? {
                return Ok(Outcome::Pin(candidate));
            }
        }
    }

    /// Takes the best target, unless something that is chosen fills the need already.
    fn fill(&mut self, need: &Need<'a>, fresh: &mut VecDeque<Key<'a>>) -> Result<Outcome<'a>> {
        if need.group.iter().any(|relation| self.is_met(relation, need.by.1)) {
            return Ok(Outcome::Done);
        }
        // Without a target all that could fill the need is left out on purpose: see `needs`.
        let Some(target) = need.targets.first() else { return Ok(Outcome::Done) };
        let settled = self.best(target.package.name(), target.architecture);
        if settled.is_none_or(|settled| !settled.is_same(target)) {
            return Ok(Outcome::Pin(*target));
        }
        self.take(*target, Some(need.by), fresh)?;
        Ok(Outcome::Done)
    }

    fn take(
        &mut self,
        candidate: Candidate<'a>,
        needed_by: Option<Key<'a>>,
        fresh: &mut VecDeque<Key<'a>>,
    ) -> Result<()> {
        let key = candidate.key();
        if self.chosen.contains_key(&key) {
            return Ok(());
        }
        self.chosen.insert(key, Taken { candidate, needed_by });
        for provided in provided(&candidate)? {
            self.providers.entry(provided.name).or_default().push(key);
        }
        fresh.push_back(key);
        Ok(())
    }

    /// The package that is asked for.
    fn find(&self, wanted: &Wanted<'a>) -> Result<Candidate<'a>> {
        let (name, architecture) = (wanted.name, wanted.architecture.unwrap_or(self.request.architecture));
        ensure!(!self.request.without.contains(name), "`{name}` is both asked for and left out by `without`");
        self.best(name, architecture)
            .with_context(|| {
                let suites = quote(self.request.suites.iter().map(|suite| suite.name));
                format!("there is no package `{name}` for `{architecture}` in the suites {suites}")
            })
            .map_err(|error| self.request.with_advice(error, name, architecture))
    }

    /// The version of a package that counts.
    fn best(&self, name: &'a str, architecture: &'a str) -> Option<Candidate<'a>> {
        if let Some(pinned) = self.pins.get(&(name, architecture)) {
            return Some(*pinned);
        }
        let candidates =
            self.request.candidates(name, architecture).filter(|candidate| !candidate.only_when_named);
        // `max_by` gives the last of equals, and the first suite is to win.
        let candidates: Vec<_> = candidates.collect();
        candidates.into_iter().rev().max_by(|a, b| a.package.version().ok().cmp(&b.package.version().ok()))
    }

    /// The dependencies of a chosen package, with what can fill each.
    fn needs(&self, key: Key<'a>) -> Result<Vec<Need<'a>>> {
        let Some(taken) = self.chosen.get(&key) else { return Ok(Vec::new()) };
        let package = taken.candidate.package;
        let mut needs = Vec::new();
        for field in [package.pre_depends(), package.depends()] {
            for group in relation::parse(field).with_context(|| format!("package `{}`", package.name()))? {
                let all = self.group_targets(&group, &taken.candidate)?;
                if all.is_empty() {
                    return Err(self.unmet(key, &group));
                }
                let targets =
                    all.into_iter().filter(|t| !self.request.without.contains(t.package.name())).collect();
                needs.push(Need { by: key, group, targets });
            }
        }
        Ok(needs)
    }

    fn group_targets(&self, group: &[Relation<'a>], by: &Candidate<'a>) -> Result<Vec<Candidate<'a>>> {
        let mut targets: Vec<Candidate<'a>> = Vec::new();
        let mut add = |found: Vec<Candidate<'a>>| {
            for candidate in found {
                if !targets.iter().any(|target| target.is_same(&candidate)) {
                    targets.push(candidate);
                }
            }
        };
        for relation in group {
            add(self.targets(relation, by.architecture, |candidate| self.is_best(candidate))?);
        }
        if targets.is_empty() && by.only_when_named {
            for relation in group {
                let of_suite = |candidate: &Candidate<'a>| candidate.suite == by.suite;
                targets.extend(self.targets(relation, by.architecture, of_suite)?);
            }
        }
        Ok(targets)
    }

    fn is_best(&self, candidate: &Candidate<'a>) -> bool {
        let best = self.best(candidate.package.name(), candidate.architecture);
        best.is_some_and(|best| best.is_same(candidate))
    }

    /// What fills a relation: packages of that name, then providers, the best of each first.
    fn targets(
        &self,
        relation: &Relation<'a>,
        by: &str,
        allowed: impl Fn(&Candidate<'a>) -> bool,
    ) -> Result<Vec<Candidate<'a>>> {
        let request = self.request;
        let mut targets = Vec::new();
        for architecture in request.architectures() {
            let named = request.candidates(relation.name, architecture);
            targets.extend(
                named.filter(|candidate| allowed(candidate) && self.is_named(relation, candidate, by)),
            );
        }
        let mut providers = Vec::new();
        for suite in &request.suites {
            for (architecture, index) in &suite.indexes {
                for package in index.providers(relation.name) {
                    let candidate = request.candidate(suite, package, architecture);
                    let Some(candidate) = candidate.filter(|candidate| allowed(candidate)) else { continue };
                    if self.is_provided(relation, &candidate, by)? {
                        providers.push(candidate);
                    }
                }
            }
        }
        let native = request.architecture;
        providers.sort_by_key(|candidate| {
            (candidate.architecture != native, candidate.package.priority(), candidate.key())
        });
        targets.extend(providers);
        Ok(targets)
    }

    /// Whether something that is chosen fills the relation for a package of architecture `by`.
    fn is_met(&self, relation: &Relation<'a>, by: &str) -> bool {
        let named = self
            .request
            .architectures()
            .filter_map(|architecture| self.chosen.get(&(relation.name, architecture)));
        let providers = self.providers.get(relation.name).into_iter().flatten();
        named.map(|taken| &taken.candidate).any(|candidate| self.is_named(relation, candidate, by))
            || providers
                .filter_map(|key| self.chosen.get(key))
                .any(|taken| self.is_provided(relation, &taken.candidate, by).unwrap_or(false))
    }

    fn is_named(&self, relation: &Relation<'_>, candidate: &Candidate<'_>, by: &str) -> bool {
        candidate.package.name() == relation.name
            && self.serves(relation.qualifier, candidate, by)
            && candidate.package.version().is_ok_and(|version| relation.accepts(&version))
    }

    fn is_provided(&self, relation: &Relation<'_>, candidate: &Candidate<'_>, by: &str) -> Result<bool> {
        if !self.serves(relation.qualifier, candidate, by) {
            return Ok(false);
        }
        Ok(provided(candidate)?.iter().any(|provided| is_same_as_provided(relation, provided)))
    }

    /// Whether a package stands in for its name in a relation of a package of architecture `by`,
    /// as `dpkg` sees it (<https://wiki.ubuntu.com/MultiarchSpec>).
    fn serves(&self, qualifier: Option<Qualifier<'_>>, candidate: &Candidate<'_>, by: &str) -> bool {
        let multi_arch = candidate.package.multi_arch();
        match qualifier {
            None => candidate.architecture == by || multi_arch == MultiArch::Foreign,
            Some(Qualifier::Any) => multi_arch == MultiArch::Allowed,
            Some(Qualifier::Native) => candidate.architecture == self.request.architecture,
            Some(Qualifier::Architecture(architecture)) => candidate.architecture == architecture,
        }
    }

    /// Refuses pairs of chosen packages that may not be there together.
    fn check_exclusions(&self) -> Result<()> {
        let mut wrong = Vec::new();
        for (key, taken) in &self.chosen {
            wrong.extend(self.check_architectures(*key, &taken.candidate));
            let package = taken.candidate.package;
            for (what, field) in [("conflicts with", package.conflicts()), ("breaks", package.breaks())] {
                for relation in relation::parse(field)?.iter().flatten() {
                    wrong.extend(self.excluded(*key, relation)?.into_iter().map(|other| {
                        let versions = [*key, other].map(|key| self.describe(key));
                        format!("{} {what} {}: it says `{relation}`", versions[0], versions[1])
                    }));
                }
            }
        }
        if wrong.is_empty() {
            return Ok(());
        }
        Err(anyhow::anyhow!("packages exclude each other: {}", wrong.join("; ")))
            .hint(|| "ask for another alternative by name, or leave one out with `without`".into())
    }

    /// The chosen packages that a relation of `key` excludes. A package never excludes its own name:
    /// that is how it says that there may be only one provider.
    fn excluded(&self, key: Key<'a>, relation: &Relation<'a>) -> Result<Vec<Key<'a>>> {
        let mut excluded = Vec::new();
        let is_other = |other: &Key<'a>| other.0 != key.0;
        let fits = |candidate: &Candidate<'_>| match relation.qualifier {
            None | Some(Qualifier::Any) => true,
            Some(Qualifier::Native) => candidate.architecture == self.request.architecture,
            Some(Qualifier::Architecture(architecture)) => candidate.architecture == architecture,
        };
        for architecture in self.request.architectures() {
            let Some(taken) = self.chosen.get(&(relation.name, architecture)) else { continue };
            if is_other(&(relation.name, architecture))
                && fits(&taken.candidate)
                && relation.accepts(&taken.candidate.package.version()?)
            {
                excluded.push((relation.name, architecture));
            }
        }
        for other in self.providers.get(relation.name).into_iter().flatten().filter(|other| is_other(other)) {
            let Some(taken) = self.chosen.get(other) else { continue };
            let provided = provided(&taken.candidate)?;
            if fits(&taken.candidate)
                && provided.iter().any(|provided| is_same_as_provided(relation, provided))
            {
                excluded.push(*other);
            }
        }
        excluded.dedup();
        Ok(excluded)
    }

    /// Only packages marked `same` may be there for two architectures, and in one version.
    fn check_architectures(&self, key: Key<'a>, candidate: &Candidate<'a>) -> Option<String> {
        let mut others = self.chosen.range((key.0, "")..).take_while(|(other, _)| other.0 == key.0);
        let (other_key, other) = others.find(|(other, _)| **other > key)?;
        let (a, b) = (candidate.package, other.candidate.package);
        let both = format!("{} and {}", self.describe(key), self.describe(*other_key));
        if a.multi_arch() != MultiArch::Same || b.multi_arch() != MultiArch::Same {
            return Some(format!("{both} can't both be there: they are not `Multi-Arch: same`"));
        }
        (a.version_text() != b.version_text()).then(|| format!("{both} must be of the same version"))
    }

    fn unmet(&self, key: Key<'a>, group: &[Relation<'a>]) -> anyhow::Error {
        let suites = quote(self.request.suites.iter().map(|suite| suite.name));
        let text = format!(
            "{} depends on `{}`, which nothing in {suites} fills",
            self.describe(key),
            relation::join(group)
        );
        let mut there = BTreeSet::new();
        for relation in group {
            for architecture in self.request.architectures() {
                there.extend(self.request.candidates(relation.name, architecture).map(|candidate| {
                    format!(
                        "`{}` {} for `{architecture}` in `{}`",
                        relation.name,
                        candidate.package.version_text(),
                        candidate.suite
                    )
                }));
            }
        }
        let error = anyhow::anyhow!(text);
        if there.is_empty() {
            return match group.first() {
                Some(relation) => self.request.with_advice(error, relation.name, key.1),
                None => error,
            };
        }
        error.context(Hint(format!("there is {}", there.into_iter().collect::<Vec<_>>().join(", "))))
    }

    /// A chosen package with its version and the way by which it came in.
    fn describe(&self, key: Key<'a>) -> String {
        let Some(taken) = self.chosen.get(&key) else { return format!("`{}`", key.0) };
        let mut way = Vec::new();
        let mut at = taken.needed_by;
        while let Some(taken) = at.and_then(|key| self.chosen.get(&key)) {
            way.push(format!("`{}`", taken.candidate.package.name()));
            at = taken.needed_by;
        }
        let version = taken.candidate.package.version_text();
        let foreign = if key.1 == self.request.architecture { String::new() } else { format!(":{}", key.1) };
        let way = if way.is_empty() { String::new() } else { format!(", needed by {}", way.join(" for ")) };
        format!("`{}{foreign}` ({version}{way})", key.0)
    }

    fn into_packages(self) -> Vec<Chosen<'a>> {
        let taken = self.chosen.into_values();
        taken.map(|taken| Chosen { package: taken.candidate.package, suite: taken.candidate.suite }).collect()
    }
}

fn provided<'a>(candidate: &Candidate<'a>) -> Result<Vec<Relation<'a>>> {
    let package = candidate.package;
    let groups =
        relation::parse(package.provides()).with_context(|| format!("package `{}`", package.name()))?;
    Ok(groups.into_iter().flatten().collect())
}

/// Whether what a package provides is what the relation asks for: a version is met only by a
/// version (Debian Policy 7.5).
fn is_same_as_provided(relation: &Relation<'_>, provided: &Relation<'_>) -> bool {
    relation.name == provided.name
        && match (&relation.version, &provided.version) {
            (None, _) => true,
            (Some(_), Some((Operator::Equal, version))) => relation.accepts(version),
            (Some(_), _) => false,
        }
}

fn quote<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Up to three names that differ from `name` by a slip of the hand, the nearest first.
fn alike<'n>(name: &str, names: impl Iterator<Item = &'n str>) -> Vec<&'n str> {
    let limit = (name.len() / 4).clamp(1, 3);
    let near = names.filter(|other| other.len().abs_diff(name.len()) <= limit);
    let mut near: Vec<_> =
        near.map(|other| (distance(name, other), other)).filter(|(far, _)| *far <= limit).collect();
    near.sort_unstable();
    near.into_iter().map(|(_, other)| other).take(3).collect()
}

/// How many letters must be put in, taken out or changed to make `b` of `a`.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<_> = (0..=b.len()).collect();
    for (at, byte) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (column, other) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(byte != other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests;
