//! The host's container image, for clusters that bring the service by a `DaemonSet`: the package's programs and files, as
//! an archive of an OCI layout (image specification, image-layout.md), which containerd, Docker, Podman and skopeo read.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::host::{CRATES, LICENCES, PROGRAMS, VERSION, licences, pack, package_files};
use super::{Sources, copy_entered, folder_enters, images};
use crate::config::LocalSource;
use crate::hash::Hash;
use crate::step::Graph;

/// The step that makes the archive, named by [`host_image_name`].
pub const HOST_IMAGE: &str = "host-image";

/// What a container of it does where nothing else is said: see `dpu-host run --help`.
const COMMAND: [&str; 3] = ["run", "--host-root", "/host"];
/// Manuals are for people at the host, units for hosts that have the package. What says whose the programs are stays.
const LEFT_OUT: [&str; 3] = ["usr/share/man/", "usr/share/lintian/", "usr/lib/systemd/system/"];

/// The archive's file name.
pub fn host_image_name() -> String {
    format!("dpukit-host_{VERSION}_amd64.oci.tar")
}

/// The name that the image has until somebody gives it to a registry.
pub fn host_image_reference() -> String {
    format!("localhost/dpukit-host:{VERSION}")
}

pub fn steps<'a>(graph: &mut Graph<'a>, sources: &'a Sources, local: &'a LocalSource) -> Result<()> {
    let (root, folder) = (&sources.config.root, Path::new(super::host::FOLDER));
    let step = graph.step(HOST_IMAGE).needs(PROGRAMS).needs(CRATES).content("version", VERSION);
    let step = step.content("programs", format!("{:?}", local.install));
    let step = step.content(
        "code",
        concat!(include_str!("host_image.rs"), include_str!("host.rs"), include_str!("images.rs")),
    );
    folder_enters(step, root, folder)?.run(move |room| {
        let folder = copy_entered(room, root, folder)?;
        let mut files = package_files(local, &folder, &room.result(PROGRAMS))?;
        files.retain(|path, _| !LEFT_OUT.iter().any(|start| path.starts_with(start)));
        let licences = licences(&room.result(CRATES).join("vendor"))?;
        files.insert(LICENCES.to_owned(), (0o644, licences.into_bytes()));
        let layout = room.place.scratch.join("layout");
        write_layout(&files, &layout)?;
        images::pack(&[&layout], &room.place.out.join(host_image_name()))
    });
    Ok(())
}

fn write_layout(files: &BTreeMap<String, (u32, Vec<u8>)>, layout: &Path) -> Result<()> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("making `{}`", blobs.display()))?;
    let blob = |kind: &str, bytes: &[u8]| -> Result<Value> {
        let hash = Hash::of(bytes).to_string();
        fs::write(blobs.join(&hash), bytes).with_context(|| format!("writing a {kind}"))?;
        let kind = format!("application/vnd.oci.image.{kind}");
        Ok(json!({ "mediaType": kind, "digest": format!("sha256:{hash}"), "size": bytes.len() }))
    };
    let layer = layer(files)?;
    let packed = blob("layer.v1.tar+gzip", &pack(&layer)?)?;
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {
            "Entrypoint": ["/usr/sbin/dpu-host"],
            "Cmd": COMMAND,
            // The host's own programs are found by it as well.
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", Hash::of(&layer))] },
    });
    let config = blob("config.v1+json", config.to_string().as_bytes())?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [packed] });
    let mut manifest = blob("manifest.v1+json", manifest.to_string().as_bytes())?;
    manifest["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    manifest["annotations"] = json!({
        "io.containerd.image.name": host_image_reference(),
        "org.opencontainers.image.ref.name": VERSION,
    });
    let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
    fs::write(layout.join("index.json"), index.to_string())?;
    Ok(fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?)
}

/// The image's only layer; the same bytes each time.
fn layer(files: &BTreeMap<String, (u32, Vec<u8>)>) -> Result<Vec<u8>> {
    let mut layer = tar::Builder::new(Vec::new());
    for (path, (mode, bytes)) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(*mode);
        header.set_size(bytes.len() as u64);
        layer
            .append_data(&mut header, path, bytes.as_slice())
            .with_context(|| format!("packing `{path}`"))?;
    }
    Ok(layer.into_inner()?)
}
