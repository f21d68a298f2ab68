//! Packages that mirrors have dropped, as Debian's snapshot service keeps them.
//!
//! The service (<https://snapshot.debian.org>, "machine-usable interface") names files by their SHA-1:
//! `/mr/binary/NAME/VERSION/binfiles` tells the hash of each architecture's file, `/file/HASH` is the
//! file. It is only an address: the caller checks what comes by SHA-256.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use crate::fetch::Package;

/// The largest answer that is read.
const LIMIT: u64 = 1 << 20;
/// How long it may take.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Deserialize)]
struct Files {
    result: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    architecture: String,
    hash: String,
}

/// Where `service` has the package's file.
///
/// # Errors
/// Where the service can't be asked, does not know the package, or its answer makes no sense.
pub fn address(agent: &ureq::Agent, service: &str, package: &Package) -> Result<String> {
    let service = service.trim_end_matches('/');
    let Package { name, version, arch } = package;
    let question = format!("{service}/mr/binary/{name}/{version}/binfiles");
    let request = agent.get(&question).config().timeout_recv_body(Some(PATIENCE)).build();
    let mut answer = request.call().with_context(|| question.clone())?;
    let text = answer.body_mut().with_config().limit(LIMIT).read_to_string();
    let files: Files = text
        .map_err(anyhow::Error::from)
        .and_then(|text| Ok(serde_json::from_str(&text)?))
        .with_context(|| format!("reading the answer of {question}"))?;
    let found = files.result.iter().find(|file| file.architecture == *arch);
    let hash =
        found.map(|file| file.hash.as_str()).filter(|hash| hash.bytes().all(|c| c.is_ascii_hexdigit()));
    let hash = hash.with_context(|| format!("{question} has no file for {arch}"))?;
    Ok(format!("{service}/file/{hash}"))
}
