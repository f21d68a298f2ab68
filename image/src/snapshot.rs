//! Packages that mirrors have dropped, as Debian's snapshot service keeps them.
//!
//! The service (<https://snapshot.debian.org>, "machine-usable interface") names files by their SHA-1:
//! `/mr/binary/NAME/VERSION/binfiles` tells the hash of each architecture's file,
//! `/mr/package/NAME/VERSION/srcfiles?fileinfo=1` the names of a source package's files by their hashes, and
//! `/file/HASH` is the file. It is only an address: the caller checks what comes by SHA-256.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::debian::sources::SOURCE;
use crate::fetch::Package;

/// The largest answer that is read.
const LIMIT: u64 = 1 << 20;
/// How long it may take.
const PATIENCE: Duration = Duration::from_mins(1);

#[derive(Deserialize)]
struct BinaryFiles {
    result: Vec<BinaryFile>,
}

#[derive(Deserialize)]
struct BinaryFile {
    architecture: String,
    hash: String,
}

#[derive(Deserialize)]
struct SourceFiles {
    /// By SHA-1; a file may have been in several archives.
    fileinfo: BTreeMap<String, Vec<SourceFile>>,
}

#[derive(Deserialize)]
struct SourceFile {
    name: String,
}

/// Where `service` has a package's file; of a source package, which has several, that of the name `file`.
///
/// # Errors
/// Where the service can't be asked, does not know the package, or its answer makes no sense.
pub fn address(agent: &ureq::Agent, service: &str, package: &Package, file: &str) -> Result<String> {
    let service = service.trim_end_matches('/');
    let Package { name, version, arch } = package;
    let (question, hash) = if arch == SOURCE {
        let question = format!("{service}/mr/package/{name}/{version}/srcfiles?fileinfo=1");
        let files: SourceFiles = ask(agent, &question)?;
        let is_it = |(_, known): &(String, Vec<SourceFile>)| known.iter().any(|known| known.name == file);
        (question, files.fileinfo.into_iter().find(is_it).map(|(hash, _)| hash))
    } else {
        let question = format!("{service}/mr/binary/{name}/{version}/binfiles");
        let files: BinaryFiles = ask(agent, &question)?;
        (question, files.result.into_iter().find(|file| file.architecture == *arch).map(|file| file.hash))
    };
    let hash = hash.filter(|hash| hash.bytes().all(|c| c.is_ascii_hexdigit()));
    let hash = hash.with_context(|| format!("{question} does not know `{file}`"))?;
    Ok(format!("{service}/file/{hash}"))
}

fn ask<T: DeserializeOwned>(agent: &ureq::Agent, question: &str) -> Result<T> {
    let request = agent.get(question).config().timeout_recv_body(Some(PATIENCE)).build();
    let mut answer = request.call().with_context(|| question.to_owned())?;
    let text = answer.body_mut().with_config().limit(LIMIT).read_to_string();
    text.map_err(anyhow::Error::from)
        .and_then(|text| Ok(serde_json::from_str(&text)?))
        .with_context(|| format!("reading the answer of {question}"))
}
