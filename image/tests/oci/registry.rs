//! Stand-ins for a registry: Debian's `docker-registry` on this machine, with images that the tests make; and
//! a door in front of it that wants a token, or breaks off.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
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

/// A door in front of a registry: wants a token, which it gives to who knows the password; breaks off the first
/// answers with layers; alters what it passes on.
pub struct StandInDoor {
    pub host: String,
    pub seen: Arc<Mutex<Vec<String>>>,
}

#[derive(Clone, Copy, Default)]
pub struct Manner {
    pub wants_token: bool,
    /// So many answers with blobs of more than 1000 bytes end after half of them.
    pub cuts: usize,
    /// Another manifest than that which is asked for.
    pub alters_manifests: bool,
}

impl StandInDoor {
    pub fn new(registry: &str, manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let seen = Arc::<Mutex<Vec<String>>>::default();
        let (log, own, registry) = (seen.clone(), host.clone(), registry.to_owned());
        let cuts = Arc::new(Mutex::new(manner.cuts));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (log, own, registry, cuts) = (log.clone(), own.clone(), registry.clone(), cuts.clone());
                std::thread::spawn(move || pass(stream.unwrap(), &own, &registry, manner, &cuts, &log));
            }
        });
        Self { host, seen }
    }
}

fn pass(
    mut stream: TcpStream,
    own: &str,
    registry: &str,
    manner: Manner,
    cuts: &Mutex<usize>,
    log: &Mutex<Vec<String>>,
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let headers: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let header = |name: &str| {
        let find = |line: &&String| line.to_ascii_lowercase().starts_with(&format!("{name}: "));
        headers.iter().find(find).map(|line| line[name.len() + 2..].to_owned()).unwrap_or_default()
    };
    let range = header("range");
    log.lock().unwrap().push(format!("{path} {range}").trim().to_owned());
    let mut say = |status: &str, more: &str, length: usize, body: &[u8]| {
        let head =
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n{more}\r\n");
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(body);
    };
    if path.starts_with("/token") {
        if header("authorization") != "Basic bWU6c2VjcmV0" {
            return say("401 No", "", 0, b"");
        }
        assert!(path.contains("scope=repository%3A") && path.contains("service=stand-in"), "{path}");
        let body = br#"{"access_token":"abc"}"#;
        return say("200 OK", "", body.len(), body);
    }
    if manner.wants_token && header("authorization") != "Bearer abc" {
        let wish = format!("WWW-Authenticate: Bearer realm=\"http://{own}/token\",service=\"stand-in\"\r\n");
        return say("401 No", &wish, 0, b"");
    }
    let mut request =
        ureq::get(format!("http://{registry}{path}")).config().http_status_as_error(false).build();
    for name in ["accept", "range"] {
        let value = header(name);
        if !value.is_empty() {
            request = request.header(name, value);
        }
    }
    let mut answer = request.call().unwrap();
    let mut body = Vec::new();
    answer.body_mut().as_reader().read_to_end(&mut body).unwrap();
    if manner.alters_manifests && path.contains("/manifests/") {
        body.push(b' ');
    }
    let passed = ["content-range", "content-type"]
        .into_iter()
        .filter_map(|name| Some(format!("{name}: {}\r\n", answer.headers().get(name)?.to_str().ok()?)));
    let passed: String = passed.collect();
    let mut whole = body.as_slice();
    let mut cuts = cuts.lock().unwrap();
    if path.contains("/blobs/") && body.len() > 1000 && *cuts > 0 {
        *cuts -= 1;
        whole = &body[..body.len() / 2];
    }
    say(&answer.status().to_string(), &passed, body.len(), whole);
}

/// A home with logins, as `docker login` leaves it.
pub fn home_with_login(host: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    write_login(home.path(), host);
    home
}

fn write_login(home: &Path, host: &str) {
    let login = json!({ "auths": { host: { "auth": "bWU6c2VjcmV0" } } });
    fs::create_dir_all(home.join(".docker")).unwrap();
    fs::write(home.join(".docker/config.json"), login.to_string()).unwrap();
}
