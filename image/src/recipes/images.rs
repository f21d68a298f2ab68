//! Container images that a card has without a registry: each as an OCI layout, and then as the archive that the card
//! gives its containerd at first boot.
//!
//! The archive is on the data partition: Cilium's agent has some 250 MB packed, more than all else of the root, and
//! would be there twice, in the verified root and unpacked by containerd, for ever. On data it is removed once it is
//! unpacked. What guards it is its hash, which is in the root.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail, ensure};
use dpu_plan::{CardImage, IMAGES as LIST, Images};
use walkdir::WalkDir;

use super::cilium::{self, CILIUM_AGENT};
use super::{Sources, layer};
use crate::config::{Component, OciSource, Source};
use crate::hash::Hash;
use crate::hint::WithHint as _;
use crate::lock::Content;
use crate::source::folder;
use crate::step::{Graph, Room};

/// The step that makes the archives: in `data/` what goes onto the data partition, in `root/` their list.
pub const IMAGES: &str = "images";

/// The folder of the archives, below the data partition's mount.
const ARCHIVES: &str = "images";
/// What of the data partition its file system and what the card writes at its first boot may take.
const SPARE: u64 = 64 << 20;

pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources) -> Result<()> {
    let Some(name) = &sources.config.board.parts.cilium else { return Ok(()) };
    let component = sources.component(name)?;
    let Source::Oci(source) = &component.source else { bail!("`{name}` is not a container image") };
    layout(graph, sources, component, source)?;
    let is_patched = cilium::steps(graph, sources)?;
    let limit = sources.config.board.disk.data;
    let mut step = graph.step(IMAGES).needs(name);
    if is_patched {
        step = step.needs(CILIUM_AGENT);
    }
    step.content("code", concat!(include_str!("images.rs"), include_str!("layer.rs")))
        .content("size", limit.to_string())
        .content("name", source.reference())
        .run(move |room| {
            let layer = is_patched.then(|| room.result(CILIUM_AGENT).join("layer"));
            archive(room, component, source, layer.as_deref(), limit)
        });
    Ok(())
}

/// Packs the layout with a layer over its image where there is one, and lists it for the card.
fn archive(
    room: &Room<'_>,
    component: &Component,
    source: &OciSource,
    layer: Option<&Path>,
    limit: u64,
) -> Result<()> {
    let layout = room.result(&component.name);
    let ours = room.place.scratch.join("layout");
    fs::create_dir_all(&ours)?;
    let digest = index(&layout, source, layer, &ours)?;
    // Of two systems with two images each takes its own.
    let (_, hex) = digest.split_once(':').with_context(|| format!("`{digest}` is no digest"))?;
    let path = PathBuf::from(ARCHIVES).join(format!("{}-{}.tar", component.name, &hex[..hex.len().min(12)]));
    let to = room.place.out.join("data").join(&path);
    fs::create_dir_all(to.parent().unwrap_or(&to))?;
    let context = || format!("packing the image of `{}`", component.name);
    pack(&[&layout, &ours], &to).with_context(context)?;
    let size = to.metadata()?.len();
    if size + SPARE > limit {
        let (size, limit) = (size >> 20, limit >> 20);
        return Err(anyhow::anyhow!(
            "the image of `{}` has {size} MiB, and the data partition {limit} MiB",
            component.name
        ))
        .hint(|| "make `disk.data` of the board larger".into());
    }
    let image = CardImage {
        name: source.reference(),
        digest,
        archive: Path::new("/data").join(path),
        sha256: Hash::of_file(&to).with_context(context)?.to_string(),
    };
    let list = room.place.out.join("root").join(LIST.trim_start_matches('/'));
    fs::create_dir_all(list.parent().unwrap_or(&list))?;
    fs::write(list, toml::to_string(&Images { image: vec![image] })?)?;
    Ok(())
}

/// Writes to `ours` what the layout gets in addition or instead: an index in which the image has the name that Kubernetes
/// asks for, whoever made it, and the layer. Returns the image's digest.
fn index(layout: &Path, source: &OciSource, layer: Option<&Path>, ours: &Path) -> Result<String> {
    let path = layout.join("index.json");
    let context = || format!("reading `{}`", path.display());
    let mut index: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).with_context(context)?).with_context(context)?;
    let Some([manifest]) = index["manifests"].as_array_mut().map(Vec::as_mut_slice) else {
        bail!("`{}` does not name one image, for the card alone", path.display())
    };
    if let Some(layer) = layer {
        *manifest = layer::over(layout, manifest, layer, "dpukit: patched agent", ours)?;
    }
    let digest = manifest["digest"].as_str().with_context(context)?.to_owned();
    manifest["annotations"] = serde_json::json!({ "io.containerd.image.name": source.reference() });
    fs::write(ours.join("index.json"), serde_json::to_vec(&index)?)?;
    Ok(digest)
}

/// Packs layouts as one, in which a later one's files take the place of an earlier one's; the same bytes each time.
pub(super) fn pack(layouts: &[&Path], to: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    for layout in layouts {
        for file in WalkDir::new(layout) {
            let file = file?;
            if file.file_type().is_file() {
                files.insert(file.path().strip_prefix(layout)?.to_owned(), file.into_path());
            }
        }
    }
    let mut archive = tar::Builder::new(File::create(to)?);
    for (name, path) in files {
        let file = File::open(path)?;
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(file.metadata()?.len());
        archive.append_data(&mut header, name, file)?;
    }
    archive.into_inner()?.sync_all()?;
    Ok(())
}

/// Adds the step with the layout of an image; it is named as the component.
fn layout<'a>(
    graph: &mut Graph<'a>,
    sources: &'a Sources,
    component: &'a Component,
    source: &'a OciSource,
) -> Result<()> {
    let name = &component.name;
    if let Some(instead) = &component.instead {
        ensure!(
            instead.join("oci-layout").is_file(),
            "`{}` is not an OCI layout: it has no `oci-layout`",
            instead.display()
        );
        let hash = folder::hash(instead).with_context(|| format!("reading `{}`", instead.display()))?;
        graph.step(name).hash("files", hash).run(move |room| folder::copy(instead, &room.place.out));
        return Ok(());
    }
    let Content::Oci(locked) = sources.content(name)? else { bail!("the lock has no image of `{name}`") };
    let reference = format!("{}/{} {:?}", source.registry, source.repository, source.tag);
    let step = graph.step(name).draws_on(name).hash("manifest", locked.manifest.sha256);
    step.content("reference", reference).run(move |room| {
        let total = locked.blobs.iter().map(|blob| blob.size).sum();
        let done = AtomicU64::new(0);
        let registry = sources.origins.oci(source);
        registry.fetch(locked, &|bytes| {
            let done = done.fetch_add(bytes, Ordering::Relaxed) + bytes;
            room.progress(done, Some(total));
        })?;
        registry.layout(locked, &room.place.out)
    });
    Ok(())
}
