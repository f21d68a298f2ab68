//! `key`: makes a key that signs updates.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use dpukit_image::update;

use crate::flags::Key;

pub fn run(flags: &Key) -> Result<ExitCode> {
    let folder = std::path::absolute(&flags.folder).context("finding the folder")?;
    let [key, certificate] = update::new_key(&folder)?;
    println!("Made `{}`, which nobody else may have, and its certificate.", key.display());
    println!("Put this into `dpukit.local.toml` of the checkout, and build the image again:");
    println!();
    println!("[signing]");
    println!("key = {:?}", key.display().to_string());
    println!("certificate = {:?}", certificate.display().to_string());
    Ok(ExitCode::SUCCESS)
}
