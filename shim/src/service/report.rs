//! What a phase or a check has to say.

use serde::{Deserialize, Serialize};

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// All is as it should be.
    Good,
    /// It is not yet as it should be, and nothing is wrong so far.
    Waiting,
    /// Something is wrong.
    Failed,
    /// It could not be found out.
    Unknown,
}

impl State {
    /// The state's name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// Sentences, sorted by what they mean.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// What was as it should be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub found: Vec<String>,
    /// What was changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub did: Vec<String>,
    /// What is waited for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits: Vec<String>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<String>,
    /// What could not be found out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
    /// What people should know, and what keeps no pod from starting.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Report {
    /// Something is as it should be.
    pub fn found(&mut self, text: impl Into<String>) {
        self.found.push(text.into());
    }

    /// Something was changed.
    pub fn did(&mut self, text: impl Into<String>) {
        self.did.push(text.into());
    }

    /// Something is to come.
    pub fn waits(&mut self, text: impl Into<String>) {
        self.waits.push(text.into());
    }

    /// Something is wrong.
    pub fn wrong(&mut self, text: impl Into<String>) {
        self.wrong.push(text.into());
    }

    /// Takes an operation's failure as a thing that is wrong; others go on.
    pub fn try_to(&mut self, operation: impl FnOnce(&mut Self) -> anyhow::Result<()>) {
        if let Err(error) = operation(self) {
            self.wrong.push(format!("{error:#}"));
        }
    }

    /// As [`Report::try_to`], for a check: its failure means that nothing could be found out.
    pub fn look(&mut self, check: impl FnOnce(&mut Self) -> anyhow::Result<()>) {
        if let Err(error) = check(self) {
            self.unknown.push(format!("{error:#}"));
        }
    }

    /// How it went, all in all.
    pub fn state(&self) -> State {
        if !self.wrong.is_empty() {
            State::Failed
        } else if !self.unknown.is_empty() {
            State::Unknown
        } else if !self.waits.is_empty() {
            State::Waiting
        } else {
            State::Good
        }
    }

    /// Why it is not good, in one line; empty where it is.
    pub fn trouble(&self) -> String {
        line(&[&self.wrong, &self.unknown, &self.waits])
    }

    /// What is to be told of it, in one line: its trouble, and the notes.
    pub fn news(&self) -> String {
        line(&[&self.wrong, &self.unknown, &self.waits, &self.notes])
    }
}

fn line(lists: &[&Vec<String>]) -> String {
    lists.iter().copied().flatten().cloned().collect::<Vec<_>>().join("; ")
}
