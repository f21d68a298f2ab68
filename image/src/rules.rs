//! Which versions of a board's parts go together: `image/rules.toml`, checked before a lock is written and
//! before anything is built.
//!
//! A board's parts are its kernel and what its `[parts]` name. A rule that fits their versions says which
//! versions the others must have, and how `octep_cp_agent` is started; a set says which were run together.

use std::fmt;

use anyhow::{Result, anyhow};
use dpu_plan::{Plan, Versions};

use crate::config::{Config, Revision, Rule, Set, Source, Start};
use crate::debian::version::Version;
use crate::lock::{Content, Lock};

/// What a part can be called.
pub const PARTS: [&str; 6] = ["firmware", "octep-agent", "kernel", "host-drivers", "cilium", "cilium-agent"];

/// Versions that a rule takes.
///
/// `25.03` takes `25.03` and whatever begins with `25.03.` or `25.03-`; `>=12.25.03` and `<13` compare as
/// Debian's versions do; of several, joined by `, `, all have to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Range {
    text: String,
}

/// A part of a board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// One of [`PARTS`].
    pub name: &'static str,
    pub component: String,
    /// None where nothing says it: the part is then in no range.
    pub version: Option<String>,
    /// What exactly is taken: a commit, a digest, a package.
    pub pinned: String,
}

/// A part that a rule does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub part: Part,
    pub needed: Range,
    /// The parts for which the rule holds.
    pub because: String,
    pub reason: String,
}

impl Range {
    /// Reads a range.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        for bound in text.split(", ") {
            let version = bound.trim_start_matches(">=").trim_start_matches('<');
            Version::parse(version).map_err(|error| error.to_string())?;
        }
        Ok(Self { text: text.to_owned() })
    }

    /// Whether a version is in it.
    pub fn contains(&self, version: &str) -> bool {
        let Ok(version) = Version::parse(version) else { return false };
        self.text.split(", ").all(|bound| match (bound.strip_prefix(">="), bound.strip_prefix('<')) {
            (Some(least), _) => Version::parse(least).is_ok_and(|least| version >= least),
            (_, Some(limit)) => Version::parse(limit).is_ok_and(|limit| version < limit),
            _ => match version.as_str().strip_prefix(bound) {
                Some(rest) => rest.is_empty() || rest.starts_with(['.', '-']),
                None => false,
            },
        })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, needed, because, reason, .. } = self;
        let version = part.version.as_deref().unwrap_or("of no known version");
        let name = part.name;
        write!(f, "`{name}` is {version}, and with {because} it has to be {needed}: {reason}")
    }
}

/// The board's parts, in the order of [`PARTS`].
pub fn parts(config: &Config, lock: &Lock) -> Vec<Part> {
    let named = |name| match name {
        "kernel" => Some(&config.board.kernel.source),
        "firmware" => config.board.parts.firmware.as_ref(),
        "octep-agent" => config.board.parts.octep_agent.as_ref(),
        "host-drivers" => config.board.parts.host_drivers.as_ref(),
        "cilium" => config.board.parts.cilium.as_ref(),
        _ => config.board.parts.cilium_agent.as_ref(),
    };
    let parts = PARTS.into_iter().filter_map(|name| {
        let component = config.components.get(named(name)?)?;
        let locked = lock.components.get(&component.name).map(|locked| &locked.content);
        let (version, pinned) = match (&component.source, locked) {
            (_, _) if component.instead.is_some() => (component.version.clone(), "a local folder".into()),
            (Source::Deb(_), Some(Content::Packages(packages))) => match packages.as_slice() {
                [one] => (Some(one.version.clone()), format!("{} {}", one.name, one.arch)),
                several => (None, format!("{} packages", several.len())),
            },
            (_, Some(Content::Git(git))) => (component.version.clone(), git.commit.clone()),
            (Source::Git(git), _) => match &git.revision {
                Revision::Commit { commit, .. } => (component.version.clone(), commit.clone()),
                Revision::Branch(branch) => (component.version.clone(), format!("branch {branch}")),
            },
            (_, Some(Content::Oci(image))) => {
                (component.version.clone(), format!("sha256:{}", image.manifest.sha256))
            }
            (_, Some(Content::Files(files))) => (component.version.clone(), format!("{} files", files.len())),
            _ => (component.version.clone(), "not in the lock yet".into()),
        };
        Some(Part { name, component: component.name.clone(), version, pinned })
    });
    parts.collect()
}

fn version_of<'a>(parts: &'a [Part], name: &str) -> Option<&'a str> {
    parts.iter().find(|part| part.name == name)?.version.as_deref()
}

/// The rules that fit the parts.
fn fitting<'a>(config: &'a Config, parts: &[Part]) -> Vec<(&'a String, &'a Rule)> {
    let fits = |rule: &Rule| {
        rule.when
            .iter()
            .all(|(name, range)| version_of(parts, name).is_some_and(|version| range.contains(version)))
    };
    config.rules.rules.iter().filter(|(_, rule)| fits(rule)).collect()
}

/// What of the parts no rule takes.
pub fn violations(config: &Config, parts: &[Part]) -> Vec<Violation> {
    let mut found = Vec::new();
    for (_, rule) in fitting(config, parts) {
        let because: Vec<_> = rule
            .when
            .keys()
            .map(|part| format!("`{part}` {}", version_of(parts, part).unwrap_or_default()))
            .collect();
        for part in parts {
            let Some(needed) = rule.needs.get(part.name) else { continue };
            if !part.version.as_deref().is_some_and(|version| needed.contains(version)) {
                found.push(Violation {
                    part: part.clone(),
                    needed: needed.clone(),
                    because: because.join(", "),
                    reason: rule.reason.clone(),
                });
            }
        }
    }
    found.extend(unknown_firmware(config, parts));
    found
}

/// Firmware for which no rule says how the agent is started could need anything.
fn unknown_firmware(config: &Config, parts: &[Part]) -> Option<Violation> {
    let part = parts.iter().find(|part| part.name == "firmware")?;
    let of_firmware = |rule: &Rule| {
        let range = rule.start.as_ref().and_then(|_| rule.when.get("firmware"));
        range.map(ToString::to_string)
    };
    if fitting(config, parts).into_iter().any(|(_, rule)| of_firmware(rule).is_some()) {
        return None;
    }
    let known: Vec<_> = config.rules.rules.values().filter_map(of_firmware).collect();
    let reason = "no rule says how octep_cp_agent is started on it".to_owned();
    let needed = Range { text: known.join(" or ") };
    Some(Violation { part: part.clone(), needed, because: "any agent".into(), reason })
}

/// Fails with all that no rule takes.
pub fn enforce(config: &Config, lock: &Lock) -> Result<()> {
    use crate::hint::WithHint as _;
    let violations = violations(config, &parts(config, lock));
    if violations.is_empty() {
        return plan(config, lock).map(drop);
    }
    let lines: Vec<_> = violations.iter().map(|violation| format!("\n  {violation}")).collect();
    Err(anyhow!("the parts of board `{}` do not go together:{}", config.board.name, lines.concat())).hint(
        || "take versions that do, see `cargo xtask matrix`, or add the rule to `image/rules.toml`".into(),
    )
}

/// How `octep_cp_agent` is started with these parts.
pub fn start<'a>(config: &'a Config, parts: &[Part]) -> Option<&'a Start> {
    fitting(config, parts).into_iter().find_map(|(_, rule)| rule.start.as_ref())
}

/// The board's plan, with how `octep_cp_agent` is started.
///
/// # Errors
/// The board has no device that the rule names.
pub fn plan(config: &Config, lock: &Lock) -> Result<Plan> {
    use crate::hint::WithHint as _;
    let mut plan = config.board.plan.clone();
    if let Some(octep) = &mut plan.octep {
        octep.start = start(config, &parts(config, lock)).cloned();
    }
    plan.checked()
        .map_err(|problems| anyhow!("with what `image/rules.toml` says of its firmware: {problems}"))
        .hint(|| format!("write the device as `[[setup.octep.devices]]` of board `{}`", config.board.name))
}

/// What of the parts is not as it was in a set, for people.
fn differences(set: &Set, parts: &[Part]) -> Vec<String> {
    let differs = |part: &Part| {
        let (version, commit) = (set.parts.get(part.name), set.commits.get(part.name));
        let other_version = version.is_some_and(|version| part.version.as_ref() != Some(version));
        let other_commit = commit.is_some_and(|commit| part.pinned != *commit);
        if !other_version && !other_commit {
            return None;
        }
        let of = |version: Option<&String>| version.cloned().unwrap_or_else(|| "no known version".into());
        let mut text = format!("{} is {}", part.name, of(part.version.as_ref()));
        if other_version {
            text += &format!(", was {}", of(version));
        }
        if let Some(commit) = commit.filter(|_| other_commit) {
            text += &format!(", from commit {commit}");
        }
        Some(text)
    };
    parts.iter().filter_map(differs).collect()
}

/// The set that was run with this board's firmware, and what of the parts is otherwise.
pub fn nearest<'a>(config: &'a Config, parts: &[Part]) -> Option<(&'a String, &'a Set, Vec<String>)> {
    let firmware = version_of(parts, "firmware")?;
    let of_firmware = |(_, set): &(&String, &Set)| set.parts.get("firmware").is_some_and(|of| of == firmware);
    let (name, set) = config.rules.sets.iter().find(of_firmware)?;
    Some((name, set, differences(set, parts)))
}

/// What a card is told of its parts: [`dpu_plan::VERSIONS`].
pub fn for_card(config: &Config, lock: &Lock) -> Result<Option<String>> {
    let parts = parts(config, lock);
    if version_of(&parts, "firmware").is_none() {
        return Ok(None);
    }
    let versions = parts.into_iter().filter_map(|part| Some((part.name.to_owned(), part.version?))).collect();
    let text = toml::to_string(&Versions { versions })?;
    Ok(Some(format!("# What this image was built of.\n{text}")))
}

/// The board's parts and what the rules say of each, for people.
pub fn table(config: &Config, lock: &Lock) -> String {
    let parts = parts(config, lock);
    let wrong = violations(config, &parts);
    let fitting = fitting(config, &parts);
    let mut rows = vec![["part", "component", "version", "needed", "taken"].map(str::to_owned)];
    for part in &parts {
        let ranges = fitting.iter().filter_map(|(_, rule)| {
            let when = rule.start.as_ref().and_then(|_| rule.when.get(part.name));
            rule.needs.get(part.name).or(when).map(ToString::to_string)
        });
        let mut ranges: Vec<_> = ranges.collect();
        ranges.dedup();
        let is_wrong = wrong.iter().any(|violation| violation.part.name == part.name);
        let needed = if ranges.is_empty() { "any".into() } else { ranges.join(" and ") };
        rows.push([
            part.name.into(),
            part.component.clone(),
            part.version.clone().unwrap_or_else(|| "not known".into()),
            if is_wrong { format!("{needed}  WRONG") } else { needed },
            part.pinned.clone(),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<_> = (0..5).map(width).collect();
    let mut text = format!("board {}\n\n", config.board.name);
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text.push('\n');
    for violation in &wrong {
        text += &format!("wrong: {violation}\n");
    }
    match start(config, &parts) {
        Some(Start::Arguments(arguments)) => text += &format!("octep_cp_agent is started with {arguments}\n"),
        Some(Start::Module(module)) => {
            text += &format!("octep_cp_agent finds its devices through the module {module}\n");
        }
        None => {}
    }
    match nearest(config, &parts) {
        Some((name, set, differences)) => {
            text += &format!("run together by {} ({name})", set.verified);
            text += if differences.is_empty() { ": just these\n" } else { ", but for:\n" };
            text.extend(differences.iter().map(|difference| format!("  {difference}\n")));
        }
        None if fitting.is_empty() => text += "no rule says anything of these parts\n",
        None => text += "nobody has said that these versions were run together\n",
    }
    if !config.rules.sets.is_empty() {
        text += "\nsets that are known:\n";
        for (name, set) in &config.rules.sets {
            let parts: Vec<_> = set.parts.iter().map(|(part, version)| format!("{part} {version}")).collect();
            text += &format!("  {name}: {}\n", parts.join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_takes_versions_by_whole_numbers() {
        let takes = |range: &str, version: &str| Range::parse(range).unwrap().contains(version);
        for (range, version) in [
            ("25.03", "25.03"),
            ("25.03", "25.03.0"),
            ("1.17", "1.17.0-dev"),
            (">=12.25.03", "12.25.06"),
            (">=12.25.03, <12.25.06", "12.25.05"),
            ("6.1", "6.1.192-2"),
        ] {
            assert!(takes(range, version), "{range} {version}");
        }
        for (range, version) in [
            ("25.03", "25.030"),
            ("25.03", "25.04.0"),
            (">=12.25.03", "12.25.01"),
            (">=12.25.03, <12.25.06", "12.25.06"),
            ("6.1", "6.12.1"),
            ("6.1", "no version: at all"),
        ] {
            assert!(!takes(range, version), "{range} {version}");
        }
        assert!(Range::parse("").is_err() && Range::parse(">=").is_err() && Range::parse("1, ").is_err());
    }
}
