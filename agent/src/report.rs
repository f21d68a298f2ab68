//! What a phase or a check has to say.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// All is as it should be.
    Good,
    /// The board does not have what it is about, nor should it.
    Absent,
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
            Self::Absent => "absent",
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
    /// What the board does not have, nor should have.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub absent: Vec<String>,
    /// What is wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub wrong: Vec<String>,
    /// What could not be found out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<String>,
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

    /// The board lacks something that it need not have.
    pub fn absent(&mut self, text: impl Into<String>) {
        self.absent.push(text.into());
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
        } else if !self.absent.is_empty() && self.found.is_empty() && self.did.is_empty() {
            State::Absent
        } else {
            State::Good
        }
    }

    /// Whether nothing is wrong, and all could be found out.
    pub fn is_good(&self) -> bool {
        matches!(self.state(), State::Good | State::Absent)
    }

    /// The sentences, one to a line, each under its word.
    pub fn lines(&self) -> String {
        let sorted = [
            ("found", &self.found),
            ("did", &self.did),
            ("absent", &self.absent),
            ("wrong", &self.wrong),
            ("unknown", &self.unknown),
        ];
        let mut lines = String::new();
        for (word, sentence) in sorted.iter().flat_map(|(word, all)| all.iter().map(move |one| (word, one))) {
            // A string takes all that is written to it.
            let _ = writeln!(lines, "  {word:<8}{sentence}");
        }
        lines
    }
}
