//! Container images that a card comes with: `/usr/lib/dpukit/images.toml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Where the list is in the image.
pub const IMAGES: &str = "/usr/lib/dpukit/images.toml";

/// The images, which containerd is given at first boot.
///
/// The list is in the root, behind dm-verity; the archives are on the data partition, which nothing guards: they are
/// taken only if they are what the list says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Images {
    /// `[[image]]`
    #[serde(default)]
    pub image: Vec<CardImage>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CardImage {
    /// As Kubernetes asks for it: `quay.io/cilium/cilium:v1.17.0`.
    pub name: String,
    /// Of its manifest for the card: `sha256:…`.
    pub digest: String,
    /// The archive (an OCI layout in a tar file), which is removed once containerd has it.
    pub archive: PathBuf,
    /// The archive's SHA-256, in hexadecimal.
    pub sha256: String,
}
