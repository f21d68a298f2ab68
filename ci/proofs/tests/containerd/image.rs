//! The image that every pod begins with, made here: one static program that sleeps.

use std::fs::{self, File};
use std::path::Path;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use tar::{Builder, Header};

/// The image's name.
pub const NAME: &str = "localhost/dpukit/pause:1";

const PROGRAM: &str = "/usr/bin/busybox";

/// Writes it as `docker save` would.
pub fn write(archive: &Path) {
    let program = fs::read(PROGRAM).unwrap_or_else(|error| panic!("`{PROGRAM}`: {error}"));
    let mut layer = Builder::new(Vec::new());
    append(&mut layer, "busybox", 0o755, &program);
    let layer = layer.into_inner().unwrap();
    let sum = format!("{:x}", Sha256::digest(&layer));
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/busybox", "sleep", "2147483647"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]);
    let mut image = Builder::new(File::create(archive).unwrap());
    append(&mut image, "config.json", 0o644, config.to_string().as_bytes());
    append(&mut image, "layer.tar", 0o644, &layer);
    append(&mut image, "manifest.json", 0o644, manifest.to_string().as_bytes());
    image.into_inner().unwrap();
}

fn append(builder: &mut Builder<impl std::io::Write>, name: &str, mode: u32, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(mode);
    header.set_cksum();
    builder.append_data(&mut header, name, content).unwrap();
}
