//! The kernel's configuration: fragments of wanted options, tables of what users of the image rely
//! on, and whether Kconfig took them.
//!
//! A fragment, `kernel-config/<name>.config`, is a list of `CONFIG_NAME=value` lines. The comment
//! directly above a line, or above a run of lines, is their reason, and none may lack one; a blank
//! line ends a group. A fragment that changes what an earlier one asked for says so with a comment
//! `# overrides: <reason>`. The tables' schema is in [`requirements`].

pub mod config;
pub mod explain;
pub mod fragment;
pub mod requirements;

use anyhow::{Context as _, Result, anyhow};

pub use config::{Change, Config, diff};
pub use explain::{Explained, Explanation, NotTaken, not_taken};
pub use fragment::{Fragment, Wanted, effective, merge};
pub use requirements::{Finding, Outcome, Requirements, check};

use crate::hint::WithHint as _;

/// Fails with every wanted option that did not take and every requirement that is not met.
///
/// `version` is the kernel's, and `explained` what `kernel-config/explain.py` printed for the
/// options of `fragments` and `tables`.
pub fn audit(
    config: &Config,
    fragments: &[Fragment],
    tables: &[Requirements],
    version: &str,
    explained: &str,
) -> Result<()> {
    let explained = Explained::parse(explained)?;
    let mut wrong: Vec<_> =
        not_taken(config, fragments)?.iter().map(|option| option.line(&explained)).collect();
    for finding in unmet(config, tables, version)? {
        let why = match finding.want.as_str() {
            "n" => explained.why(&finding.option, "n"),
            _ => explained.why(&finding.option, "y"),
        };
        let why = if why.is_empty() { why } else { format!(" ({why})") };
        wrong.push(format!("{finding}{why}"));
    }
    failed("the kernel's configuration is not as wanted", &wrong)
        .hint(|| "mend the fragments in `kernel-config/`; its README says how".into())
}

/// Fails with every requirement that `config`, which names its kernel's version, does not meet.
pub fn require(config: &Config, tables: &[Requirements]) -> Result<()> {
    let version = config.version().context(
        "the configuration does not name its kernel's version in a line `# Linux/… Kernel Configuration`",
    )?;
    let wrong: Vec<_> = unmet(config, tables, version)?.iter().map(ToString::to_string).collect();
    failed("the kernel's configuration lacks what users of the image rely on", &wrong)
}

fn unmet(config: &Config, tables: &[Requirements], version: &str) -> Result<Vec<Finding>> {
    let findings = check(config, tables, version)?.into_iter();
    Ok(findings.filter(|finding| finding.outcome == Outcome::Unmet).collect())
}

fn failed(what: &str, wrong: &[String]) -> Result<()> {
    if wrong.is_empty() {
        return Ok(());
    }
    Err(anyhow!("{what}, {} in all:\n    {}", wrong.len(), wrong.join("\n    ")))
}

#[cfg(test)]
mod tests;
