//! `rauc install`, and what it says.
//!
//! RAUC 1.8 prints a line ` 20% Checking bundle` for each step and, where it fails, the reason as `LastError: …`, both
//! on standard output; standard error has its log.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::programs::Programs;

/// Has RAUC install a bundle; `tell` gets the progress in hundredths, and the step.
///
/// # Errors
/// RAUC does not, with its reason.
pub fn install(programs: &dyn Programs, bundle: &Path, mut tell: impl FnMut(u32, &str)) -> Result<()> {
    const REFUSED: &str = "RAUC does not install the bundle";
    let path = bundle.to_str().context("the bundle's path is no UTF-8")?;
    let mut reason = None;
    let installed = programs.watch("rauc", &["install", path], &mut |line| {
        if let Some((percent, step)) = progress(line) {
            tell(percent, step);
        } else if let Some(why) = line.strip_prefix("LastError: ") {
            reason = Some(why.trim().to_owned()).filter(|why| !why.is_empty());
        }
    });
    match (installed, reason) {
        (Ok(()), _) => Ok(()),
        (Err(_), Some(reason)) => bail!("{REFUSED}: {reason}"),
        (Err(error), None) => Err(error.context(REFUSED)),
    }
}

fn progress(line: &str) -> Option<(u32, &str)> {
    let (percent, step) = line.trim_start().split_once('%')?;
    let percent = percent.parse().ok().filter(|percent| *percent <= 100)?;
    Some((percent, step.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_rauc_are_read_and_others_left() {
        assert_eq!(progress(" 20% Checking bundle"), Some((20, "Checking bundle")));
        assert_eq!(progress("100% Installing done."), Some((100, "Installing done.")));
        for other in
            ["installing", "idle", "", "200% more than all", "-1% x", "% x", "Installing `/a%b` succeeded"]
        {
            assert_eq!(progress(other), None, "{other}");
        }
    }

    #[test]
    fn the_reason_is_told_without_what_is_around_it() {
        struct Rauc(&'static str);
        impl Programs for Rauc {
            fn read(&self, _: &str, _: &[&str]) -> Result<String> {
                bail!("nothing but `watch` is asked for")
            }
            fn watch(&self, program: &str, arguments: &[&str], tell: &mut dyn FnMut(&str)) -> Result<()> {
                self.0.lines().for_each(tell);
                bail!("`{program} {}` failed with exit status: 1: Installing failed", arguments.join(" "))
            }
        }
        let told = |says| format!("{:#}", install(&Rauc(says), Path::new("/b"), |_, _| ()).unwrap_err());
        let says = " 40% Checking bundle failed.\nLastError: signature verification failed\nidle";
        assert_eq!(told(says), "RAUC does not install the bundle: signature verification failed");
        for without in ["", "LastError: ", "idle"] {
            let failed = "`rauc install /b` failed with exit status: 1: Installing failed";
            assert_eq!(told(without), format!("RAUC does not install the bundle: {failed}"));
        }
    }
}
