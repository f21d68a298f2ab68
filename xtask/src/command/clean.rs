//! `clean`: removes `out/`.

use std::process::ExitCode;

use anyhow::Result;
use dpukit_image::store::remove_tree;

use crate::flags::Common;

pub fn run(common: &Common) -> Result<ExitCode> {
    remove_tree(&common.root().join("out"))?;
    Ok(ExitCode::SUCCESS)
}
