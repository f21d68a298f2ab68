//! A stand-in for what stands in front of a registry: it wants a token, breaks off, or alters what it passes on.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::json;
use tempfile::TempDir;

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

/// A home with a login, as `docker login` leaves it.
pub fn home_with_login(host: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let login = json!({ "auths": { host: { "auth": "bWU6c2VjcmV0" } } });
    fs::create_dir_all(home.path().join(".docker")).unwrap();
    fs::write(home.path().join(".docker/config.json"), login.to_string()).unwrap();
    home
}
