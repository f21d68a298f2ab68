//! One layer more over the container image of an OCI layout (image specification: `manifest.md`, `config.md`,
//! `layer.md`).

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use walkdir::WalkDir;

use crate::hash::Hash;

/// Lays the files below a folder over the image that a descriptor names. The blobs that are new then are written to `to`,
/// a layout's folder; returns the new image's descriptor.
///
/// # Errors
/// Where the layout lacks what descriptor or manifest name, or has something else under that name.
pub fn over(layout: &Path, image: &Value, files: &Path, created_by: &str, to: &Path) -> Result<Value> {
    let mut manifest = read(layout, image).context("the image's manifest")?;
    let mut config = read(layout, &manifest["config"]).context("the image's configuration")?;
    let blobs = to.join("blobs/sha256");
    fs::create_dir_all(&blobs).with_context(|| format!("making `{}`", blobs.display()))?;
    let layer = write(files, &blobs).context("packing the layer")?;

    push(&mut config["rootfs"]["diff_ids"], json!(format!("sha256:{}", layer.unpacked)))?;
    // It may be left out, and where it is there it has an entry for each layer.
    if config["history"].is_array() {
        push(&mut config["history"], json!({ "created_by": created_by }))?;
    }
    rename(&mut manifest["config"], &config, &blobs)?;
    // Both families of media types have a name for the same.
    let is_dockers = manifest["mediaType"].as_str().is_some_and(|kind| kind.contains("docker"));
    let kind = if is_dockers {
        "application/vnd.docker.image.rootfs.diff.tar.gzip"
    } else {
        "application/vnd.oci.image.layer.v1.tar+gzip"
    };
    let descriptor =
        json!({ "mediaType": kind, "digest": format!("sha256:{}", layer.packed), "size": layer.size });
    push(&mut manifest["layers"], descriptor)?;
    let mut image = image.clone();
    rename(&mut image, &manifest, &blobs)?;
    Ok(image)
}

/// A layer among the blobs.
struct Layer {
    /// The hash of the blob, which is its name.
    packed: Hash,
    /// The hash of the archive that it unpacks to.
    unpacked: Hash,
    /// Bytes of the blob.
    size: u64,
}

/// Packs a folder's files and links as root's, without its folders; the same bytes each time.
fn write(files: &Path, blobs: &Path) -> Result<Layer> {
    let path = blobs.join("layer");
    let packed = Hashed::new(File::create(&path)?);
    let unpacked = Hashed::new(GzEncoder::new(packed, Compression::default()));
    let mut archive = tar::Builder::new(unpacked);
    for file in WalkDir::new(files).sort_by_file_name() {
        let file = file?;
        let name = file.path().strip_prefix(files)?;
        let context = || format!("packing `{}`", name.display());
        let mut header = tar::Header::new_ustar();
        if file.file_type().is_symlink() {
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            archive.append_link(&mut header, name, fs::read_link(file.path())?).with_context(context)?;
        } else if file.file_type().is_file() {
            let about = file.metadata()?;
            header.set_mode(if about.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 });
            header.set_size(about.len());
            archive.append_data(&mut header, name, File::open(file.path())?).with_context(context)?;
        }
    }
    let (packer, unpacked) = archive.into_inner()?.finish();
    let (file, packed) = packer.finish()?.finish();
    file.sync_all()?;
    let size = file.metadata()?.len();
    fs::rename(&path, blobs.join(packed.to_string()))?;
    Ok(Layer { packed, unpacked, size })
}

/// A writer that knows the hash of what went through it.
struct Hashed<W> {
    to: W,
    hasher: Sha256,
}

impl<W: Write> Hashed<W> {
    fn new(to: W) -> Self {
        Self { to, hasher: Sha256::new() }
    }

    fn finish(self) -> (W, Hash) {
        (self.to, Hash::from(<[u8; 32]>::from(self.hasher.finalize())))
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The JSON that a descriptor names.
fn read(layout: &Path, descriptor: &Value) -> Result<Value> {
    let digest = descriptor["digest"].as_str().context("a descriptor has no digest")?;
    let hash: Hash = digest
        .strip_prefix("sha256:")
        .with_context(|| format!("`{}` is no SHA-256", digest.escape_debug()))?
        .parse()
        .map_err(anyhow::Error::msg)?;
    let path = layout.join("blobs/sha256").join(hash.to_string());
    let bytes = fs::read(&path).with_context(|| format!("reading `{}`", path.display()))?;
    ensure!(Hash::of(&bytes) == hash, "`{}` is not what its name says", path.display());
    serde_json::from_slice(&bytes).with_context(|| format!("reading `{}`", path.display()))
}

/// Writes JSON among the blobs, and has a descriptor name it.
fn rename(descriptor: &mut Value, content: &Value, blobs: &Path) -> Result<()> {
    let bytes = serde_json::to_vec(content)?;
    let hash = Hash::of(&bytes);
    fs::write(blobs.join(hash.to_string()), &bytes)?;
    descriptor["digest"] = json!(format!("sha256:{hash}"));
    descriptor["size"] = json!(bytes.len());
    Ok(())
}

fn push(list: &mut Value, more: Value) -> Result<()> {
    list.as_array_mut().context("the image lacks one of its lists of layers")?.push(more);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Read as _;
    use std::os::unix::fs::symlink;

    use super::*;

    /// An image without layers, of a media type; returns its descriptor.
    fn image(layout: &Path, kind: &str, history: &Value) -> Value {
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let mut manifest = json!({ "mediaType": kind, "config": { "mediaType": "c" }, "layers": [] });
        let config = json!({ "architecture": "arm64", "rootfs": { "diff_ids": [] }, "history": history, "config": {} });
        rename(&mut manifest["config"], &config, &blobs).unwrap();
        let mut image = json!({ "mediaType": kind, "platform": { "architecture": "arm64" } });
        rename(&mut image, &manifest, &blobs).unwrap();
        image
    }

    fn files(folder: &Path) {
        fs::create_dir_all(folder.join("usr/bin")).unwrap();
        let program = folder.join("usr/bin/program");
        fs::write(&program, "program").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(folder.join("usr/.wh..wh..opq"), "").unwrap();
        symlink("program", folder.join("usr/bin/link")).unwrap();
    }

    #[test]
    fn an_image_gets_a_layer_and_says_so_everywhere() {
        let folder = tempfile::tempdir().unwrap();
        let [layout, over_it, to] = ["layout", "files", "to"].map(|name| folder.path().join(name));
        files(&over_it);
        let image = image(&layout, "application/vnd.oci.image.manifest.v1+json", &json!([]));
        let new = over(&layout, &image, &over_it, "a patch", &to).unwrap();
        assert_ne!(new["digest"], image["digest"]);
        assert_eq!(new["platform"], image["platform"]);

        let manifest = read(&to, &new).unwrap();
        let config = read(&to, &manifest["config"]).unwrap();
        assert_eq!(manifest["config"]["mediaType"], "c");
        assert_eq!(config["history"], json!([{ "created_by": "a patch" }]));
        let layer = &manifest["layers"][0];
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let hash = layer["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let packed = fs::read(to.join("blobs/sha256").join(hash)).unwrap();
        assert_eq!(
            (Hash::of(&packed).to_string(), json!(packed.len())),
            (hash.into(), layer["size"].clone())
        );
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut unpacked).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", Hash::of(&unpacked))]));
        let mut archive = tar::Archive::new(unpacked.as_slice());
        let entries = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap())
        });
        let entries: BTreeMap<_, _> = entries.collect();
        let expected = [("usr/.wh..wh..opq", 0o644), ("usr/bin/link", 0o777), ("usr/bin/program", 0o755)];
        assert_eq!(entries, expected.map(|(name, mode)| (name.to_owned(), mode)).into());

        // Nothing else is left there, and a second time is the same.
        assert_eq!(fs::read_dir(to.join("blobs/sha256")).unwrap().count(), 3);
        assert_eq!(over(&layout, &image, &over_it, "a patch", &folder.path().join("again")).unwrap(), new);
    }

    #[test]
    fn dockers_images_stay_dockers() {
        let folder = tempfile::tempdir().unwrap();
        let [layout, over_it, to] = ["layout", "files", "to"].map(|name| folder.path().join(name));
        files(&over_it);
        let kind = "application/vnd.docker.distribution.manifest.v2+json";
        let image = image(&layout, kind, &Value::Null);
        let new = over(&layout, &image, &over_it, "a patch", &to).unwrap();
        let manifest = read(&to, &new).unwrap();
        let layer = &manifest["layers"][0]["mediaType"];
        assert_eq!(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip");
        assert!(read(&to, &manifest["config"]).unwrap()["history"].is_null());
    }

    #[test]
    fn a_layout_that_is_not_what_it_says_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let [layout, over_it, to] = ["layout", "files", "to"].map(|name| folder.path().join(name));
        files(&over_it);
        let image = image(&layout, "application/vnd.oci.image.manifest.v1+json", &json!([]));
        let refused =
            |image: &Value| format!("{:#}", over(&layout, image, &over_it, "a patch", &to).unwrap_err());
        let elsewhere = json!({ "digest": "sha256:../../../etc/passwd" });
        assert!(refused(&elsewhere).contains("is not a SHA-256"), "{}", refused(&elsewhere));
        assert!(refused(&json!({ "digest": "sha512:0" })).contains("`sha512:0` is no SHA-256"));
        assert!(refused(&json!({})).contains("a descriptor has no digest"));
        let hash = image["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        fs::write(layout.join("blobs/sha256").join(hash), "{}").unwrap();
        assert!(refused(&image).contains("is not what its name says"), "{}", refused(&image));
    }
}
