//! Downloads from servers that misbehave: each answers by script, on this machine's loopback.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dpukit_image::config::Archive;
use dpukit_image::fetch::{Fetcher, Missing, Options, Package, Wanted};
use dpukit_image::hash::Hash;
use dpukit_image::hint::report;

const CONTENT: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// How a server answers one request.
#[derive(Clone, Copy)]
enum Answer {
    /// The file, or the rest that is asked for.
    Good,
    /// The whole file, whatever is asked for.
    NoRanges,
    /// Another file of the same size.
    Altered,
    /// So many bytes of it, then the connection ends.
    Cut(usize),
    /// The head, then nothing.
    Stall,
    /// An octet now and then.
    Drip,
    /// A `Content-Range` that is not what was asked for.
    Lie,
    Status(u16),
    /// A redirect to itself.
    Loop,
    /// Which files a snapshot service has.
    Known(&'static str),
}

/// A server; requests' `Range` headers and paths in the order they came.
struct Server {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
    paths: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// Answers by the script, then with its last entry for ever.
    fn new(script: &'static [Answer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}/debian", listener.local_addr().unwrap());
        let requests = Arc::<Mutex<Vec<String>>>::default();
        let paths = Arc::<Mutex<Vec<String>>>::default();
        let (seen, asked) = (requests.clone(), paths.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, asked, stream) = (seen.clone(), asked.clone(), stream.unwrap());
                std::thread::spawn(move || answer(stream, script, &seen, &asked));
            }
        });
        Self { address, requests, paths }
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, script: &[Answer], seen: &Mutex<Vec<String>>, asked: &Mutex<Vec<String>>) {
    let mut range = String::new();
    let mut path = String::new();
    for (number, line) in BufReader::new(stream.try_clone().unwrap()).lines().enumerate() {
        let Ok(line) = line else { return };
        if number == 0 {
            path = line.split(' ').nth(1).map(str::to_owned).unwrap_or_default();
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("range")
        {
            range = value.trim().into();
        }
        if line.is_empty() {
            break;
        }
    }
    asked.lock().unwrap().push(path.clone());
    let number = {
        let mut seen = seen.lock().unwrap();
        seen.push(range.clone());
        seen.len() - 1
    };
    let start: usize =
        range.strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse().ok()).unwrap_or(0);
    let size = CONTENT.len();
    let head = |status: &str, length: usize, more: &str| {
        format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n{more}\r\n")
    };
    let rest = |first: usize| {
        let range = format!("Content-Range: bytes {first}-{}/{size}\r\n", size - 1);
        if start == 0 { head("200 OK", size, "") } else { head("206 Partial Content", size - start, &range) }
    };
    let (head, body): (String, Vec<u8>) = match script[number.min(script.len() - 1)] {
        Answer::Good => (rest(start), CONTENT[start..].to_vec()),
        Answer::NoRanges => (head("200 OK", size, ""), CONTENT.to_vec()),
        Answer::Altered => (rest(start), vec![b'!'; size - start]),
        Answer::Cut(bytes) => (rest(start), CONTENT[start..(start + bytes).min(size)].to_vec()),
        Answer::Stall => {
            let _ = stream.write_all(rest(start).as_bytes());
            std::thread::sleep(Duration::from_secs(20));
            return;
        }
        Answer::Drip => {
            let _ = stream.write_all(rest(start).as_bytes());
            for octet in &CONTENT[start..] {
                std::thread::sleep(Duration::from_millis(500));
                if stream.write_all(&[*octet]).is_err() {
                    break;
                }
            }
            return;
        }
        Answer::Lie => (rest(start + 3), CONTENT[start..].to_vec()),
        Answer::Status(code) => (head(&format!("{code} No"), 0, ""), Vec::new()),
        Answer::Known(files) => (head("200 OK", files.len(), ""), files.into()),
        Answer::Loop => (head("302 Found", 0, &format!("Location: {path}\r\n")), Vec::new()),
    };
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(&body);
}

fn options() -> Options {
    Options { patience: Duration::from_secs(1), ..Options::default() }
}

fn fetcher(cache: &Path, servers: &[&Server]) -> Fetcher {
    let mirrors = servers.iter().map(|server| server.address.clone()).collect();
    Fetcher::with_archives(cache, archives(mirrors, None), options()).unwrap()
}

fn archives(mirrors: Vec<String>, snapshot: Option<String>) -> BTreeMap<String, Archive> {
    BTreeMap::from([("debian".into(), Archive { mirrors, snapshot })])
}

fn wanted() -> Wanted {
    Wanted {
        archive: "debian".into(),
        path: "pool/x/x_1_arm64.deb".into(),
        size: CONTENT.len() as u64,
        sha256: Hash::of(CONTENT),
        package: Some(Package { name: "x".into(), version: "1:1".into(), arch: "arm64".into() }),
    }
}

/// Fetches from servers with these scripts; the error's report if it fails.
fn fetch(cache: &Path, servers: &[&Server]) -> Result<(), String> {
    let fetcher = fetcher(cache, servers);
    fetcher.fetch_all(&[wanted()], &|_| {}).map_err(|error| report(&error))?;
    assert_eq!(fs::read(fetcher.path(&wanted().sha256)).unwrap(), CONTENT);
    Ok(())
}

fn leftovers(cache: &Path) -> Vec<String> {
    let files = fs::read_dir(cache.join("downloads")).unwrap();
    files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "rejected")
        .collect()
}

#[test]
fn a_good_server_is_asked_once() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::new(&[Answer::Good]);
    fetch(cache.path(), &[&server]).unwrap();
    fetch(cache.path(), &[&server]).unwrap();
    assert_eq!(server.requests(), [""]);
    assert_eq!(leftovers(cache.path()), [wanted().sha256.to_string()]);
}

#[test]
fn a_body_that_breaks_off_is_asked_for_its_rest() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::new(&[Answer::Cut(10), Answer::Cut(5), Answer::Good]);
    fetch(cache.path(), &[&server]).unwrap();
    assert_eq!(server.requests(), ["", "bytes=10-", "bytes=15-"]);
}

#[test]
fn what_a_failed_download_gave_is_kept_for_the_next_run() {
    let bad: [(&'static [Answer], &str); 2] = [
        (&[Answer::Cut(10), Answer::Status(500)], "answered 500"),
        (&[Answer::Cut(10), Answer::Stall], "timeout"),
    ];
    for (script, reason) in bad {
        let cache = tempfile::tempdir().unwrap();
        let error = fetch(cache.path(), &[&Server::new(script)]).unwrap_err();
        assert!(error.contains(reason), "{error}");
        assert!(error.contains("hint: run the command again: it goes on where it stopped"), "{error}");
        let good = Server::new(&[Answer::Good]);
        fetch(cache.path(), &[&good]).unwrap();
        assert_eq!(good.requests(), ["bytes=10-"]);
    }
}

#[test]
fn a_server_without_ranges_or_with_lying_ones_is_taken_from_the_start() {
    for second in [&[Answer::Cut(10), Answer::NoRanges], &[Answer::Cut(10), Answer::Lie]] {
        let cache = tempfile::tempdir().unwrap();
        let (bad, good) = (Server::new(second), Server::new(&[Answer::Good]));
        fetch(cache.path(), &[&bad, &good]).unwrap();
    }
}

#[test]
fn the_next_mirror_is_asked_where_one_fails() {
    for script in [
        &[Answer::Status(404)] as &'static [Answer],
        &[Answer::Status(500)],
        &[Answer::Altered],
        &[Answer::Loop],
        &[Answer::Stall],
        &[Answer::Cut(0)],
    ] {
        let cache = tempfile::tempdir().unwrap();
        let (bad, good) = (Server::new(script), Server::new(&[Answer::Good]));
        fetch(cache.path(), &[&bad, &good]).unwrap();
        assert_eq!(good.requests().len(), 1);
    }
}

#[test]
fn a_server_that_breaks_off_is_told_with_how_far_it_came() {
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(cache.path(), &[&Server::new(&[Answer::Cut(10), Answer::Cut(0)])]).unwrap_err();
    assert!(error.contains("broke off after 10 of"), "{error}");
}

#[test]
fn a_server_that_says_a_word_now_and_then_does_not_hold_a_build() {
    let cache = tempfile::tempdir().unwrap();
    let slow = Server::new(&[Answer::Drip]);
    let error = fetch(cache.path(), &[&slow]).unwrap_err();
    assert!(error.contains("timeout"), "{error}");
    // Neither for what is not named by a hash.
    let error = fetcher(cache.path(), &[&slow]).get("debian", "dists/x/InRelease", None).unwrap_err();
    assert!(format!("{error:#}").contains("timeout"), "{error:#}");
}

#[test]
fn a_server_error_is_tried_again() {
    let cache = tempfile::tempdir().unwrap();
    fetch(cache.path(), &[&Server::new(&[Answer::Status(503), Answer::Good])]).unwrap();
}

#[test]
fn an_altered_file_is_kept_apart_and_named() {
    let cache = tempfile::tempdir().unwrap();
    let error = fetch(cache.path(), &[&Server::new(&[Answer::Altered])]).unwrap_err();
    let rejected = cache.path().join("downloads/rejected").join(format!("{}-x_1_arm64.deb", wanted().sha256));
    assert!(
        error.contains("not that of the lock") && error.contains(&rejected.display().to_string()),
        "{error}"
    );
    assert_eq!(fs::read(rejected).unwrap(), vec![b'!'; CONTENT.len()]);
    assert!(!cache.path().join("downloads").join(wanted().sha256.to_string()).exists());
}

#[test]
fn what_every_mirror_dropped_comes_from_the_snapshot_service() {
    let binary: (&'static [Answer], _, _) = (
        &[
            Answer::Known(
                r#"{"binary":"x","result":[{"architecture":"amd64","hash":"bb"},{"architecture":"arm64","hash":"0a1b"}]}"#,
            ),
            Answer::Good,
        ],
        wanted(),
        "/debian/mr/binary/x/1:1/binfiles",
    );
    let package = Package { arch: "source".into(), ..wanted().package.unwrap() };
    let source: (&'static [Answer], _, _) = (
        &[
            Answer::Known(
                r#"{"fileinfo":{"bb":[{"name":"x_1.dsc"}],"0a1b":[{"name":"y.tar.xz"},{"name":"x_1.orig.tar.xz"}]},"result":[]}"#,
            ),
            Answer::Good,
        ],
        Wanted { path: "pool/x/x_1.orig.tar.xz".into(), package: Some(package), ..wanted() },
        "/debian/mr/package/x/1:1/srcfiles?fileinfo=1",
    );
    for (answers, wanted, question) in [binary, source] {
        let cache = tempfile::tempdir().unwrap();
        let mirror = Server::new(&[Answer::Status(404)]);
        let service = Server::new(answers);
        let archives = archives(vec![mirror.address.clone()], Some(service.address.clone()));
        let fetcher = Fetcher::with_archives(cache.path(), archives, options()).unwrap();
        fetcher.fetch_all(std::slice::from_ref(&wanted), &|_| {}).unwrap();
        assert_eq!(fs::read(fetcher.path(&wanted.sha256)).unwrap(), CONTENT);
        assert_eq!(*service.paths.lock().unwrap(), [question, "/debian/file/0a1b"]);
    }
}

#[test]
fn only_what_every_mirror_denies_is_gone() {
    let nonsense = Answer::Known(r#"{"result":[{"architecture":"arm64","hash":"../../x"}]}"#);
    let cases: [(&'static [Answer], &'static [Answer], bool); 4] = [
        (&[Answer::Status(404)], &[Answer::Status(404)], true),
        (&[Answer::Status(410)], Box::leak(Box::new([nonsense])), true),
        (&[Answer::Status(403)], &[Answer::Good], false),
        (&[Answer::Altered], &[Answer::Good], false),
    ];
    for (mirror, service, gone) in cases {
        let cache = tempfile::tempdir().unwrap();
        let (mirror, service) = (Server::new(mirror), Server::new(service));
        let archives = archives(vec![mirror.address.clone()], Some(service.address.clone()));
        let fetcher = Fetcher::with_archives(cache.path(), archives, options()).unwrap();
        let error = fetcher.fetch_all(&[wanted()], &|_| {}).unwrap_err();
        let missing = error.downcast_ref::<Missing>().expect("the failures are typed");
        assert_eq!(missing.gone, if gone { vec![wanted().sha256] } else { vec![] }, "{error:#}");
        assert_eq!(service.requests().is_empty(), !gone, "the service is asked for what is gone alone");
    }
}

#[test]
fn a_mirror_that_can_not_be_reached_has_no_say_in_what_is_gone() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = format!("http://127.0.0.1:{closed}/debian");
    let denies = Server::new(&[Answer::Status(404)]);
    for (mirrors, gone) in [(vec![denies.address.clone(), closed.clone()], 1), (vec![closed], 0)] {
        let cache = tempfile::tempdir().unwrap();
        let fetcher = Fetcher::with_archives(cache.path(), archives(mirrors, None), options()).unwrap();
        let error = fetcher.fetch_all(&[wanted()], &|_| {}).unwrap_err();
        assert_eq!(error.downcast_ref::<Missing>().unwrap().gone.len(), gone, "{error:#}");
    }
}

#[test]
fn every_mirror_that_failed_is_named_with_its_reason() {
    let cache = tempfile::tempdir().unwrap();
    let (first, second) = (Server::new(&[Answer::Status(404)]), Server::new(&[Answer::Loop]));
    let error = fetch(cache.path(), &[&first, &second]).unwrap_err();
    assert!(error.contains(&first.address) && error.contains("answered 404"), "{error}");
    assert!(error.contains(&second.address) && error.contains("redirect"), "{error}");
}

#[test]
fn a_refused_connection_is_a_clear_error() {
    let cache = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let archives = archives(vec![format!("http://127.0.0.1:{port}/debian")], None);
    let fetcher = Fetcher::with_archives(cache.path(), archives, options()).unwrap();
    let error = report(&fetcher.fetch_all(&[wanted()], &|_| {}).unwrap_err());
    assert!(error.contains("refused"), "{error}");
}

#[test]
fn offline_opens_no_connection_and_lists_what_lacks() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::new(&[Answer::Good]);
    let archives = archives(vec![server.address.clone()], None);
    let options = Options { offline: true, ..options() };
    let fetcher = Fetcher::with_archives(cache.path(), archives, options).unwrap();
    let error = report(&fetcher.fetch_all(&[wanted()], &|_| {}).unwrap_err());
    assert!(error.contains("pool/x/x_1_arm64.deb (36 bytes)"), "{error}");
    assert!(fetcher.get("debian", "dists/x/InRelease", None).is_err());
    assert_eq!(server.requests(), Vec::<String>::new());
}

#[test]
fn builds_at_once_download_a_file_once() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::new(&[Answer::Good]);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| fetch(cache.path(), &[&server]).unwrap());
        }
    });
    assert_eq!(server.requests(), [""]);
}

#[test]
fn a_cache_that_can_not_be_written_is_a_clear_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = report(&Fetcher::with_archives(file.path(), BTreeMap::new(), options()).unwrap_err());
    assert!(error.contains("opening the downloads") && error.contains("DPUKIT_CACHE"), "{error}");
}
