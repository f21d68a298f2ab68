//! The card that the agent runs on.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use dpu_plan::Plan;

use crate::programs::{Programs, System};
use crate::tree::Tree;

/// The system, its programs, and what the board wants of them.
pub struct Card {
    /// The system's files.
    pub tree: Tree,
    /// The system's programs.
    pub programs: Box<dyn Programs>,
    /// What is to be set up.
    pub plan: Plan,
    /// How long to wait for what the kernel does in its own time, as a driver that probes.
    pub patience: Duration,
}

impl Card {
    /// The running card. For tests, `DPUKIT_ROOT` names a folder that its files are in; what is written to
    /// `/proc/sys`, asked of the kernel and run is always the system's.
    pub fn system() -> Result<Self> {
        let tree = std::env::var_os("DPUKIT_ROOT").map_or_else(Tree::system, Tree::below);
        let text = tree.read(dpu_plan::PATH)?;
        let plan = text.parse().with_context(|| format!("`{}` is no plan", dpu_plan::PATH))?;
        Ok(Self { tree, programs: Box::new(System), plan, patience: Duration::from_secs(10) })
    }

    /// Asks until there is an answer, or patience ends.
    pub fn wait_for<T>(&self, ask: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        self.wait_at_most(self.patience, ask)
    }

    /// Asks until there is an answer, or so much time has passed, or patience ends.
    pub fn wait_at_most<T>(
        &self,
        most: Duration,
        mut ask: impl FnMut() -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        const PAUSE: Duration = Duration::from_millis(50);
        let end = Instant::now() + most.min(self.patience);
        loop {
            if let Some(answer) = ask()? {
                return Ok(Some(answer));
            }
            if Instant::now() >= end {
                return Ok(None);
            }
            std::thread::sleep(PAUSE.min(self.patience));
        }
    }
}
