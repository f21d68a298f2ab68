//! `dpu-host restore`: everything back as it was, for the package's end.

use std::time::Duration;

use anyhow::Result;

use super::machine::Machine;
use super::report::Report;
use super::run::lock;
use super::state;
use super::{cni, phases};
use crate::files;

/// Takes our CNI configuration and our links away, puts those of others back, and takes away the VFs that
/// no pod has. The link's address and the drivers stay until the host's next start.
///
/// # Errors
/// Where the service runs. What else goes wrong is in the report, and stops nothing.
pub fn restore(machine: &Machine) -> Result<Report> {
    let _lock = lock(&machine.files, Duration::from_secs(10))?;
    let mut report = Report::default();
    cni::restore(machine, &mut report);
    phases::restore_plugin(machine, &mut report);
    report.try_to(|report| phases::restore_vfs(machine, report));
    report.try_to(|_| files::remove(&machine.files.at(state::PATH)));
    Ok(report)
}
