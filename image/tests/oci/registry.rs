//! A stand-in for a registry: Debian's `docker-registry` on this machine, with images that the tests make.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dpukit_image::hash::Hash;
use serde_json::{Value, json};
use tempfile::TempDir;

/// `me` with the password `secret`, as htpasswd(1) writes it.
const PASSWORDS: &str = "me:$2y$05$xUC8/yzLyV6jwwDEbHNDc.MeKvvDW79z/y36AiBNklg/259wlXAom\n";

/// A registry in a folder of its own, gone with this value.
pub struct StandInRegistry {
    _folder: TempDir,
    child: Child,
    pub host: String,
    authorization: Option<String>,
}

impl Drop for StandInRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the program is here; CI has to have it.
pub fn is_there() -> bool {
    let found = Command::new("docker-registry").arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(
        found || std::env::var_os("CI").is_none(),
        "`docker-registry` is not here; `ci/install` installs what is needed"
    );
    if !found {
        eprintln!("not run: `docker-registry` is not here; `ci/install` installs what is needed");
    }
    found
}

impl StandInRegistry {
    /// Starts a registry, with a password if it is private.
    pub fn new(private: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The port is free when it is asked for, and taken again a moment later.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let passwords = folder.path().join("passwords");
        fs::write(&passwords, PASSWORDS).unwrap();
        let mut config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {0} }} }}\nhttp: {{ addr: \"{host}\" }}\n",
            folder.path().display()
        );
        if private {
            config +=
                &format!("auth: {{ htpasswd: {{ realm: stand-in, path: {} }} }}\n", passwords.display());
        }
        let file = folder.path().join("config.yml");
        fs::write(&file, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let start = Instant::now();
        while TcpStream::connect(&host).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "the registry did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let authorization = private.then(|| "Basic bWU6c2VjcmV0".to_owned());
        Self { _folder: folder, child, host, authorization }
    }

    fn put(&self, address: &str, kind: &str, body: &[u8]) -> u16 {
        let mut request = ureq::put(address).header("Content-Type", kind);
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        request.send(body).unwrap().status().as_u16()
    }

    fn blob(&self, name: &str, bytes: &[u8]) -> Value {
        let mut request = ureq::post(format!("http://{}/v2/{name}/blobs/uploads/", self.host));
        if let Some(authorization) = &self.authorization {
            request = request.header("Authorization", authorization);
        }
        let answer = request.send_empty().unwrap();
        let place = answer.headers()["Location"].to_str().unwrap();
        let digest = format!("sha256:{}", Hash::of(bytes));
        let mark = if place.contains('?') { '&' } else { '?' };
        assert_eq!(
            self.put(&format!("{place}{mark}digest={digest}"), "application/octet-stream", bytes),
            201
        );
        json!({ "digest": digest, "size": bytes.len() })
    }

    fn document(&self, name: &str, reference: &str, kind: &str, document: &Value) -> Value {
        let bytes = serde_json::to_vec(document).unwrap();
        let address = format!("http://{}/v2/{name}/manifests/{reference}", self.host);
        assert_eq!(self.put(&address, kind, &bytes), 201);
        json!({ "mediaType": kind, "digest": format!("sha256:{}", Hash::of(&bytes)), "size": bytes.len() })
    }

    /// Puts an image of one layer for an architecture; returns its descriptor.
    pub fn image(&self, name: &str, tag: &str, architecture: &str, layer: &[u8]) -> Value {
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{}", Hash::of(layer))] },
        });
        let mut config = self.blob(name, &serde_json::to_vec(&config).unwrap());
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let mut layer = self.blob(name, layer);
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar".into();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer] });
        let mut descriptor = self.document(name, tag, kind, &manifest);
        descriptor["platform"] = json!({ "architecture": architecture, "os": "linux" });
        descriptor
    }

    /// Puts an index of images; returns its digest.
    pub fn index(&self, name: &str, tag: &str, images: &[Value]) -> Hash {
        let kind = "application/vnd.oci.image.index.v1+json";
        let index = json!({ "schemaVersion": 2, "mediaType": kind, "manifests": images });
        let descriptor = self.document(name, tag, kind, &index);
        descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().parse().unwrap()
    }
}
