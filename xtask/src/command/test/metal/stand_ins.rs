//! Stand-ins for all that the board's makers have, as folders in place of its components.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use dpukit_image::config::{Config, Local};
use dpukit_image::hash::Hash;
use dpukit_image::load;
use dpukit_image::project::lock_path;
use serde_json::json;

const BOARD: &str = "cn106";
const FOLDER: &str = "image/tests/stand-ins";

/// What is known of the vendor's configuration, and an option that nothing else sets: it shows that the file
/// was laid over.
pub const VENDOR: &str = "\
CONFIG_ARM64_64K_PAGES=y
CONFIG_OCTEONTX2_AF=y
CONFIG_OCTEONTX2_PF=y
CONFIG_OCTEONTX2_VF=y
CONFIG_CRYPTO_DEV_OCTEONTX2_CPT=y
CONFIG_VFIO=y
CONFIG_VFIO_PCI=y
CONFIG_VFIO_NOIOMMU=y
CONFIG_ARM_SMMU_V3=y
CONFIG_OVERLAY_FS=m
CONFIG_CRYPTO_TEST=m
";

/// A folder with all of them.
pub struct StandIns {
    checkout: PathBuf,
    folder: tempfile::TempDir,
    overrides: BTreeMap<String, PathBuf>,
}

impl StandIns {
    /// `kernel` is the source that stands in for the makers'.
    pub fn new(checkout: &Path, kernel: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let file = |path: &str, text: &str| -> Result<()> {
            let path = at(path);
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            fs::write(path, text).map_err(Into::into)
        };
        file("vendor/config/kernel/v6.1/cn10k.config", VENDOR)?;
        file("sdk/lib/firmware/mrvl/ae.out", "stand-in")?;
        for name in ["fw-update-cn10ka-SDK12.25.01.bin", "flash-cn10ka-SDK12.25.01.img"] {
            file(&format!("sdk/{name}"), "stand-in")?;
        }
        container_image(&at("cilium")).context("making the stand-in for Cilium's image")?;
        let overrides = [
            ("linux-marvell", kernel.to_owned()),
            ("dao", at("vendor")),
            ("octep-agent", checkout.join(FOLDER).join("octep")),
            ("octeon-ep", checkout.join(FOLDER).join("octeon-ep")),
            ("sdk", at("sdk")),
            ("cilium", at("cilium")),
            ("cilium-agent", checkout.join(FOLDER).join("cilium")),
        ];
        let overrides = overrides.map(|(name, path)| (name.to_owned(), path)).into();
        Ok(Self { checkout: checkout.to_owned(), folder, overrides })
    }

    /// The board with them in place, some lines of its file changed, and a lock of its own.
    pub fn board(&self, changes: &[(&str, &str)]) -> Result<Config> {
        let root = tempfile::tempdir_in(self.folder.path())?.keep();
        for folder in ["agent", "kernel-config", "rootfs-overlay", "shim"] {
            symlink(self.checkout.join(folder), root.join(folder))?;
        }
        for folder in ["components", "keys", "patches", "suites.toml", "rules.toml"] {
            let place = root.join("image").join(folder);
            fs::create_dir_all(place.parent().unwrap_or(&root))?;
            symlink(self.checkout.join("image").join(folder), place)?;
        }
        let boards = root.join("image/boards");
        fs::create_dir_all(&boards)?;
        for file in fs::read_dir(self.checkout.join("image/boards"))? {
            let file = file?;
            fs::copy(file.path(), boards.join(file.file_name()))?;
        }
        let path = boards.join(format!("{BOARD}.toml"));
        let mut text = fs::read_to_string(&path)?;
        for (from, to) in changes {
            ensure!(text.contains(from), "`{from}` is not in the file of board {BOARD}");
            text = text.replace(from, to);
        }
        fs::write(&path, text)?;
        let lock = lock_path(&root, BOARD);
        fs::create_dir_all(lock.parent().unwrap_or(&root))?;
        let theirs = lock_path(&self.checkout, BOARD);
        fs::copy(&theirs, &lock).with_context(|| format!("copying `{}`", theirs.display()))?;
        let mut config = load::load(&root, BOARD)?;
        config.local = Local { overrides: self.overrides.clone(), ..Local::default() };
        config.stand_in()?;
        Ok(config)
    }
}

/// An OCI layout of one image for the card, with one file in it.
fn container_image(folder: &Path) -> Result<()> {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let blob = |bytes: &[u8], kind: &str| -> Result<serde_json::Value> {
        let hash = Hash::of(bytes).to_string();
        fs::write(blobs.join(&hash), bytes)?;
        Ok(json!({
            "mediaType": format!("application/vnd.oci.image.{kind}"),
            "digest": format!("sha256:{hash}"),
            "size": bytes.len(),
        }))
    };
    let layer = folder.join("layer");
    let mut archive = tar::Builder::new(File::create(&layer)?);
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(8);
    archive.append_data(&mut header, "stand-in", &b"stand-in"[..])?;
    archive.into_inner()?;
    let bytes = fs::read(&layer)?;
    fs::remove_file(layer)?;
    let config = json!({
        "architecture": "arm64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", Hash::of(&bytes))] },
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(&serde_json::to_vec(&config)?, "config.v1+json")?,
        "layers": [blob(&bytes, "layer.v1.tar")?],
    });
    let index = json!({
        "schemaVersion": 2,
        "manifests": [blob(&serde_json::to_vec(&manifest)?, "manifest.v1+json")?],
    });
    fs::write(folder.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok(())
}
