//! Container images out of registries, by the OCI distribution specification (v1.1).
//!
//! A manifest names an image's configuration and layers by hash and size, so all but the manifest are
//! [downloads](crate::fetch) like any other: resumed, checked, kept in `<cache>/downloads`. Credentials are
//! those that the user gave podman, skopeo or docker, helpers included; where there are none, the registry is
//! asked without.

mod access;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde::Deserialize;

use crate::config::{Archive, OciSource};
use crate::fetch::{Fetcher, Options, Wanted};
use crate::hash::Hash;
use crate::hint::WithHint as _;
use crate::lock::{Blob, LockedOci};
use access::Place;

/// What the card runs.
const ARCHITECTURE: &str = "arm64";
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
const MANIFESTS: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// More media types, layers or platforms than any image has.
const MANY: usize = 1000;

/// An image's registries.
pub struct Registry<'a> {
    cache: &'a Path,
    source: &'a OciSource,
    options: &'a Options,
}

/// An index or a manifest, as far as it is looked at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    media_type: Option<String>,
    /// Of an index.
    manifests: Option<Vec<Descriptor>>,
    /// Of a manifest.
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    platform: Option<Platform>,
}

/// Of an index's entry, and of an image's configuration.
#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

impl Descriptor {
    fn blob(&self) -> Result<Blob> {
        let hash = self.digest.strip_prefix("sha256:").and_then(|digits| digits.parse().ok());
        let sha256 =
            hash.with_context(|| format!("`{}` is not a digest of SHA-256", self.digest.escape_debug()))?;
        Ok(Blob { media_type: self.media_type.clone(), size: self.size, sha256 })
    }
}

impl<'a> Registry<'a> {
    pub fn new(cache: &'a Path, source: &'a OciSource, options: &'a Options) -> Self {
        Self { cache, source, options }
    }

    /// The image for the card's architecture that the reference means now.
    pub fn resolve(&self) -> Result<LockedOci> {
        let reference = self.asked();
        self.ask(|place| self.resolve_at(place, &reference))
    }

    fn resolve_at(&self, place: &Place, reference: &str) -> Result<LockedOci> {
        let bytes = self.manifest(place, reference)?;
        let mut document = read(&bytes)?;
        let mut bytes = bytes;
        if let Some(entries) = document.manifests.take() {
            ensure!(entries.len() <= MANY, "the index has {} entries", entries.len());
            let is_ours = |entry: &&Descriptor| {
                entry.platform.as_ref().is_some_and(|platform| {
                    (platform.os.as_str(), platform.architecture.as_str()) == ("linux", ARCHITECTURE)
                })
            };
            let Some(ours) = entries.iter().find(is_ours) else {
                let there = entries.iter().filter_map(|entry| entry.platform.as_ref());
                let there: Vec<_> =
                    there.map(|platform| format!("{}/{}", platform.os, platform.architecture)).collect();
                bail!("it is not there for linux/{ARCHITECTURE}, only for {}", there.join(", "));
            };
            bytes = self.manifest(place, &format!("sha256:{}", ours.blob()?.sha256))?;
            document = read(&bytes)?;
        }
        let config = document.config.context("the manifest names no configuration")?.blob()?;
        let layers = document.layers.context("the manifest names no layers")?;
        ensure!(layers.len() <= MANY, "the manifest has {} layers", layers.len());
        let mut blobs = vec![config];
        for layer in &layers {
            blobs.push(layer.blob()?);
        }
        let media_type = document.media_type.unwrap_or_else(|| MANIFESTS[0].to_owned());
        let manifest = Blob { media_type, size: bytes.len() as u64, sha256: Hash::of(&bytes) };
        self.keep(&manifest, &bytes)?;
        let locked = LockedOci { manifest, blobs };
        self.check_platform(&locked)?;
        Ok(locked)
    }

    /// An index or manifest; one that is asked for by its digest has to have it.
    fn manifest(&self, place: &Place, reference: &str) -> Result<Vec<u8>> {
        let bytes = get_manifest(place, reference, self.options.patience)?;
        if let Some(digest) = reference.strip_prefix("sha256:") {
            let found = Hash::of(&bytes).to_string();
            ensure!(found == digest, "it gave a manifest with the hash {found} for `{reference}`");
        }
        Ok(bytes)
    }

    /// Whoever names a manifest rather than an index may have named another architecture's.
    fn check_platform(&self, locked: &LockedOci) -> Result<()> {
        let config = &locked.blobs[0];
        self.download(std::slice::from_ref(config), &|_| {})?;
        let bytes = fs::read(self.path(&config.sha256)).context("reading the image's configuration")?;
        let platform: Platform =
            serde_json::from_slice(&bytes).context("reading the image's configuration")?;
        ensure!(
            platform.architecture == ARCHITECTURE,
            "the image is for {}/{}, and one for linux/{ARCHITECTURE} is wanted",
            platform.os,
            platform.architecture
        );
        Ok(())
    }

    fn path(&self, sha256: &Hash) -> PathBuf {
        self.cache.join("downloads").join(sha256.to_string())
    }

    fn keep(&self, blob: &Blob, bytes: &[u8]) -> Result<()> {
        crate::store::write_atomically(&self.path(&blob.sha256), bytes)
    }

    /// Whether all of an image is here.
    pub fn has(&self, locked: &LockedOci) -> bool {
        self.has_all(std::slice::from_ref(&locked.manifest)) && self.has_all(&locked.blobs)
    }

    /// Brings what is not here; `progress` is told of bytes as they come, or are found.
    pub fn fetch(&self, locked: &LockedOci, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
        if !self.path(&locked.manifest.sha256).is_file() {
            let reference = format!("sha256:{}", locked.manifest.sha256);
            let bytes = self.ask(|place| self.manifest(place, &reference))?;
            self.keep(&locked.manifest, &bytes)?;
        }
        self.download(&locked.blobs, progress)
    }

    fn download(&self, blobs: &[Blob], progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
        let wanted: Vec<_> = blobs
            .iter()
            .map(|blob| Wanted {
                archive: self.name(),
                path: format!("blobs/sha256:{}", blob.sha256),
                size: blob.size,
                sha256: blob.sha256,
                package: None,
            })
            .collect();
        if self.has_all(blobs) {
            return self.fetcher(BTreeMap::new(), &[])?.fetch_all(&wanted, progress);
        }
        let places = self.places();
        let mut tokens = BTreeMap::new();
        for place in &places {
            // A mirror that gives no token is asked without, and says so itself.
            if !self.options.offline
                && let Ok(Some(token)) = place.authorization(self.options.patience)
            {
                tokens.insert(place.base.clone(), token);
            }
        }
        self.fetcher(tokens, &places)?.fetch_all(&wanted, progress)
    }

    fn has_all(&self, blobs: &[Blob]) -> bool {
        blobs.iter().all(|blob| self.path(&blob.sha256).metadata().is_ok_and(|meta| meta.len() == blob.size))
    }

    fn fetcher(&self, tokens: BTreeMap<String, String>, places: &[Place]) -> Result<Fetcher> {
        let mirrors = places.iter().map(|place| place.base.clone()).collect();
        let archive = Archive { mirrors, snapshot: None };
        let archives = BTreeMap::from([(self.name(), archive)]);
        Ok(Fetcher::with_archives(self.cache, archives, self.options.clone())?.with_authorization(tokens))
    }

    /// Writes an image as an OCI layout (image specification, image-layout.md): what `ctr image import` and
    /// `skopeo copy oci:` read.
    pub fn layout(&self, locked: &LockedOci, out: &Path) -> Result<()> {
        let blobs = out.join("blobs/sha256");
        fs::create_dir_all(&blobs).with_context(|| format!("making `{}`", blobs.display()))?;
        for blob in std::iter::once(&locked.manifest).chain(&locked.blobs) {
            let (from, to) = (self.path(&blob.sha256), blobs.join(blob.sha256.to_string()));
            let context = || format!("copying `{}`", from.display());
            let found = Hash::of_file(&from).with_context(context)?;
            if found != blob.sha256 {
                return Err(anyhow!("`{}` was altered: it has the hash {found}", from.display()))
                    .hint(|| "remove the file: the next run downloads it anew".into());
            }
            fs::copy(&from, &to).with_context(context)?;
        }
        let Blob { media_type, size, sha256 } = &locked.manifest;
        let name = self.source.reference();
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": INDEXES[0],
            "manifests": [{
                "mediaType": media_type, "digest": format!("sha256:{sha256}"), "size": size,
                "platform": { "architecture": ARCHITECTURE, "os": "linux" },
                "annotations": {
                    "io.containerd.image.name": name,
                    "org.opencontainers.image.ref.name": self.source.tag.as_deref().unwrap_or("latest"),
                },
            }],
        });
        fs::write(out.join("index.json"), serde_json::to_string(&index)?)?;
        fs::write(out.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(())
    }

    /// Asks whether the image can be had.
    pub fn probe(&self, patience: Duration) -> Result<()> {
        let reference = self.asked();
        self.ask(|place| get_manifest(place, &reference, patience).map(drop))
    }

    /// The digest or tag that a registry is asked for.
    fn asked(&self) -> String {
        match (self.source.digest, &self.source.tag) {
            (Some(digest), _) => format!("sha256:{digest}"),
            (None, tag) => tag.clone().unwrap_or_else(|| "latest".into()),
        }
    }

    fn name(&self) -> String {
        format!("{}/{}", self.source.registry, self.source.repository)
    }

    fn places(&self) -> Vec<Place> {
        let OciSource { registry, repository, mirrors, .. } = self.source;
        let mirrors = mirrors.iter().map(|mirror| match mirror.split_once('/') {
            Some((host, path)) => Place::new(host, &format!("{path}/{repository}")),
            None => Place::new(mirror, repository),
        });
        std::iter::once(Place::new(registry, repository)).chain(mirrors).collect()
    }

    fn ask<T>(&self, question: impl Fn(&Place) -> Result<T>) -> Result<T> {
        if self.options.offline {
            bail!("offline, the image `{}` can't be asked for", self.source.reference());
        }
        let mut said = Vec::new();
        for place in self.places() {
            match question(&place) {
                Ok(answer) => return Ok(answer),
                Err(error) => said.push(format!("{}: {error:#}", place.host)),
            }
        }
        Err(anyhow!("the image `{}` can't be had: {}", self.source.reference(), said.join("; "))).hint(|| {
            format!(
                "name a registry that you reach as `mirrors` of the component; where a login is needed, run \
                 `podman login {}` or `docker login`",
                self.source.registry
            )
        })
    }
}

fn get_manifest(place: &Place, reference: &str, patience: Duration) -> Result<Vec<u8>> {
    let accept = [INDEXES, MANIFESTS].concat().join(", ");
    place.get(&format!("manifests/{reference}"), &accept, patience)
}

fn read(bytes: &[u8]) -> Result<Document> {
    serde_json::from_slice(bytes).context("reading the manifest")
}
