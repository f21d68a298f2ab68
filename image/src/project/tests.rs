use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};

use tempfile::TempDir;

use super::*;
use crate::config::{Archive, Suites};
use crate::hint::report;
use crate::load;
use crate::lock::tests::Folder;
use crate::source::folder::copy_checkout;

/// A component of one package.
const COMPONENT: &str = "linux-6.1";
const SUITES: [&str; 2] = ["bookworm", "bookworm-security"];

/// A copy of this checkout, whose kernel comes from an archive made here.
struct Checkout {
    archive: Folder,
    folder: TempDir,
    address: String,
}

impl Checkout {
    fn new() -> Self {
        let archive = Folder::new();
        let folder = tempfile::tempdir().unwrap();
        copy_checkout(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap(), folder.path()).unwrap();
        fs::copy(archive.folder.path().join("test.asc"), folder.path().join("image/keys/test.asc")).unwrap();
        let address = serve(archive.folder.path().join("debian"));
        let checkout = Self { archive, folder, address };
        checkout.has("6.1.900-1");
        checkout
    }

    /// Gives the archive the kernel in this version, and no other.
    fn has(&self, version: &str) {
        self.archive.put("bookworm-security", &[("amd64", "")]);
        self.archive.put("bookworm", &[("amd64", &format!("linux-source-6.1 {version}"))]);
    }

    fn open(&self, terms: Terms) -> Project {
        let mut config = load::load(self.folder.path(), "virt").unwrap();
        let Suites { archives, suites } = &mut config.suites;
        archives.insert("own".into(), Archive { mirrors: vec![self.address.clone()], snapshot: None });
        for name in SUITES {
            let suite = suites.get_mut(name).unwrap();
            (suite.archive, suite.path, suite.keys) = ("own".into(), name.into(), vec!["test".into()]);
        }
        let cache = self.folder.path().join("cache");
        let mut project = Project::opened(config, &cache, terms, Request::default()).unwrap();
        // The archive made here is older than what Debian had when the lock was written.
        for name in SUITES {
            if let Some(suite) = project.sources.lock.suites.get_mut(name) {
                suite.date = "2000-01-01T00:00:00Z".into();
            }
        }
        project
    }

    fn lock(&self) -> String {
        fs::read_to_string(lock_path(self.folder.path(), "virt")).unwrap()
    }
}

/// Answers with the files of a folder; its address.
fn serve(folder: PathBuf) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || listener.incoming().for_each(|stream| answer(stream.unwrap(), &folder)));
    address
}

fn answer(mut stream: TcpStream, folder: &Path) {
    let lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let head: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    let path = head[0].split(' ').nth(1).unwrap().trim_start_matches('/');
    let (status, body) = fs::read(folder.join(path)).map_or(("404 No", Vec::new()), |body| ("200 OK", body));
    let length = body.len();
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(&body);
}

fn hashes(project: &Project) -> Vec<Hash> {
    let packages = project.sources.lock.components[COMPONENT].content.packages();
    packages.iter().map(|package| package.sha256).collect()
}

#[test]
fn what_no_mirror_has_any_more_is_resolved_anew_and_the_lock_is_rewritten() {
    let checkout = Checkout::new();
    let mut project = checkout.open(Terms::default());
    let differences = project.replace_gone(&hashes(&project)).unwrap();
    assert_eq!(differences.len(), 1, "{differences:?}");
    assert!(checkout.lock().contains("linux-source-6.1_6.1.900-1_amd64.deb"), "the lock is as it was");
    let written = Lock::read(&lock_path(checkout.folder.path(), "virt")).unwrap();
    assert_eq!(project.sources.lock, written);
}

#[test]
fn a_lock_is_kept_where_the_indexes_still_name_what_is_gone() {
    let checkout = Checkout::new();
    let mut project = checkout.open(Terms::default());
    project.replace_gone(&hashes(&project)).unwrap();
    let before = checkout.lock();
    let error = report(&project.replace_gone(&hashes(&project)).unwrap_err());
    assert!(error.contains("still name") && error.contains("try again in some minutes"), "{error}");
    assert_eq!(checkout.lock(), before);
    // Not even what is new beside it is written.
    checkout.has("6.1.901-1");
    fs::remove_dir_all(checkout.archive.folder.path().join("debian/dists/bookworm")).unwrap();
    assert!(project.replace_gone(&hashes(&project)).is_err());
    assert_eq!(checkout.lock(), before);
}

#[test]
fn a_lock_that_may_not_be_changed_is_not_though_packages_are_gone() {
    let checkout = Checkout::new();
    let before = checkout.lock();
    for terms in [Terms { locked: true, offline: false }, Terms { locked: false, offline: true }] {
        let mut project = checkout.open(terms);
        let error = report(&project.replace_gone(&hashes(&project)).unwrap_err());
        assert!(error.contains("may not be changed") && error.contains(COMPONENT), "{error}");
        assert_eq!(checkout.lock(), before);
    }
}
