//! Container images out of registries: from `docker-registry`, a stand-in that the tests start, with images
//! that they make. They need that program; without it they say so, and in CI they fail.

mod door;
mod registry;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use door::{Manner, StandInDoor, home_with_login};
use dpukit_image::config::{Local, OciSource};
use dpukit_image::fetch::Options;
use dpukit_image::hash::Hash;
use dpukit_image::hint::report;
use dpukit_image::source::Origins;
use registry::{StandInRegistry, is_there};
use serde_json::Value;
use tempfile::TempDir;

const NAME: &str = "stand-in/cilium";

fn layer(of: &str) -> Vec<u8> {
    of.repeat(20_000).into_bytes()
}

/// A registry with an index of two architectures at `v1`; its digest, and that of the manifest for arm64.
fn filled(private: bool) -> (StandInRegistry, Hash, Hash) {
    let registry = StandInRegistry::new(private);
    let amd64 = registry.image(NAME, "amd64", "amd64", &layer("amd64"));
    let arm64 = registry.image(NAME, "arm64", "arm64", &layer("arm64"));
    let index = registry.index(NAME, "v1", &[amd64, arm64.clone()]);
    (registry, index, hash(&arm64["digest"]))
}

fn hash(digest: &Value) -> Hash {
    digest.as_str().unwrap().strip_prefix("sha256:").unwrap().parse().unwrap()
}

fn source(host: &str, tag: &str) -> OciSource {
    OciSource {
        registry: host.into(),
        repository: NAME.into(),
        tag: Some(tag.into()),
        digest: None,
        mirrors: Vec::new(),
    }
}

fn origins(offline: bool) -> (TempDir, Origins) {
    let cache = tempfile::tempdir().unwrap();
    let options = Options { offline, patience: Duration::from_secs(3), ..Options::default() };
    let origins = Origins::new(cache.path(), &Local::default(), options);
    (cache, origins)
}

#[test]
fn an_image_for_arm64_is_kept_as_a_layout() {
    if !is_there() {
        return;
    }
    let (registry, index, arm64) = filled(false);
    let (cache, origins) = origins(false);
    let source = source(&registry.host, "v1");
    let oci = origins.oci(&source);
    let locked = oci.resolve().unwrap_or_else(|error| panic!("{}", report(&error)));
    assert_eq!((locked.manifest.sha256, locked.blobs.len()), (arm64, 2));
    assert_eq!(locked.blobs[1].sha256, Hash::of(layer("arm64")));
    assert!(!oci.has(&locked), "layers are not fetched for the lock");
    oci.fetch(&locked, &|_| {}).unwrap();
    assert!(oci.has(&locked));
    drop(registry);
    let out = cache.path().join("out");
    oci.fetch(&locked, &|_| {}).unwrap();
    oci.layout(&locked, &out).unwrap();
    let index_file: Value = serde_json::from_slice(&fs::read(out.join("index.json")).unwrap()).unwrap();
    assert_eq!(hash(&index_file["manifests"][0]["digest"]), arm64);
    assert_ne!(index, arm64);
    for blob in locked.blobs.iter().chain([&locked.manifest]) {
        let file = out.join("blobs/sha256").join(blob.sha256.to_string());
        assert_eq!(Hash::of_file(&file).unwrap(), blob.sha256);
    }
    assert_eq!(fs::read_to_string(out.join("oci-layout")).unwrap(), r#"{"imageLayoutVersion":"1.0.0"}"#);
}

#[test]
fn a_digest_may_be_that_of_the_index_or_of_the_manifest() {
    if !is_there() {
        return;
    }
    let (registry, index, arm64) = filled(false);
    // The tag moves on; what is meant stays.
    registry.image(NAME, "v1", "arm64", &layer("newer"));
    for digest in [index, arm64] {
        let (_cache, origins) = origins(false);
        let source = OciSource { digest: Some(digest), ..source(&registry.host, "v1") };
        assert_eq!(origins.oci(&source).resolve().unwrap().manifest.sha256, arm64);
    }
}

#[test]
fn what_is_not_there_or_for_another_architecture_is_named() {
    if !is_there() {
        return;
    }
    let (registry, ..) = filled(false);
    let other = registry.image(NAME, "s390x", "s390x", &layer("s390x"));
    registry.index(NAME, "others", &[other]);
    let (_cache, origins) = origins(false);
    let error = |tag: &str| {
        let source = source(&registry.host, tag);
        report(&origins.oci(&source).resolve().unwrap_err())
    };
    assert!(error("v2").contains("it has no `v2`"), "{}", error("v2"));
    assert!(error("others").contains("only for linux/s390x"), "{}", error("others"));
    assert!(error("amd64").contains("the image is for linux/amd64"), "{}", error("amd64"));
    let wrong = OciSource { digest: Some(Hash::of("x")), ..source(&registry.host, "v1") };
    assert!(report(&origins.oci(&wrong).resolve().unwrap_err()).contains("it has no `sha256:"));
}

#[test]
fn a_manifest_that_is_not_the_one_asked_for_is_refused() {
    if !is_there() {
        return;
    }
    let (registry, index, _) = filled(false);
    let door = StandInDoor::new(&registry.host, Manner { alters_manifests: true, ..Manner::default() });
    let (_cache, origins) = origins(false);
    let source = OciSource { digest: Some(index), ..source(&door.host, "v1") };
    let error = report(&origins.oci(&source).resolve().unwrap_err());
    assert!(error.contains("it gave a manifest with the hash"), "{error}");
}

#[test]
fn layers_that_break_off_are_asked_for_their_rest() {
    if !is_there() {
        return;
    }
    let (registry, ..) = filled(false);
    let door = StandInDoor::new(&registry.host, Manner { cuts: 2, ..Manner::default() });
    let (_cache, origins) = origins(false);
    let source = source(&door.host, "v1");
    let oci = origins.oci(&source);
    let locked = oci.resolve().unwrap();
    oci.fetch(&locked, &|_| {}).unwrap_or_else(|error| panic!("{}", report(&error)));
    let seen = door.seen.lock().unwrap();
    assert!(seen.iter().any(|line| line.ends_with("bytes=50000-")), "{seen:?}");
}

#[test]
fn a_mirror_is_asked_where_the_registry_does_not_answer() {
    if !is_there() {
        return;
    }
    let (registry, _, arm64) = filled(false);
    let (_cache, origins) = origins(false);
    let source = OciSource { mirrors: vec![registry.host.clone()], ..source("127.0.0.1:9", "v1") };
    let oci = origins.oci(&source);
    let locked = oci.resolve().unwrap();
    assert_eq!(locked.manifest.sha256, arm64);
    oci.fetch(&locked, &|_| {}).unwrap();
}

#[test]
fn offline_nothing_is_asked_for() {
    let (_cache, origins) = origins(true);
    let source = source("127.0.0.1:9", "v1");
    let error = report(&origins.oci(&source).resolve().unwrap_err());
    assert!(error.contains("offline, the image `127.0.0.1:9/stand-in/cilium:v1`"), "{error}");
}

/// Runs a test below in a process of its own, at the home of a user.
fn at_home(test: &str, home: &TempDir, address: &str) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env("HOME", home.path())
        .env("XDG_RUNTIME_DIR", home.path())
        .env("STAND_IN", address)
        .env_remove("DOCKER_CONFIG")
        .env_remove("REGISTRY_AUTH_FILE")
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    assert!(!text.contains("secret") && !text.contains("bWU6"), "a password was shown: {text}");
}

#[test]
fn a_login_is_taken_from_where_docker_and_podman_keep_it() {
    if !is_there() {
        return;
    }
    let (registry, ..) = filled(true);
    let empty = tempfile::tempdir().unwrap();
    at_home("without_a_login", &empty, &registry.host);
    at_home("with_a_login", &home_with_login(&registry.host), &registry.host);
    // podman's own place.
    let podman = home_with_login(&registry.host);
    fs::create_dir_all(podman.path().join("containers")).unwrap();
    fs::rename(podman.path().join(".docker/config.json"), podman.path().join("containers/auth.json"))
        .unwrap();
    at_home("with_a_login", &podman, &registry.host);
    // A token in exchange for the login.
    let (open, ..) = filled(false);
    let door = StandInDoor::new(&open.host, Manner { wants_token: true, ..Manner::default() });
    at_home("without_a_login", &empty, &door.host);
    at_home("with_a_login", &home_with_login(&door.host), &door.host);
}

fn stand_in() -> String {
    PathBuf::from(std::env::var_os("STAND_IN").unwrap()).display().to_string()
}

#[test]
#[ignore = "run by the test above, at a home with a login"]
fn with_a_login() {
    let (_cache, origins) = origins(false);
    let source = source(&stand_in(), "v1");
    let oci = origins.oci(&source);
    oci.probe(Duration::from_secs(3)).unwrap_or_else(|error| panic!("{}", report(&error)));
    let locked = oci.resolve().unwrap_or_else(|error| panic!("{}", report(&error)));
    oci.fetch(&locked, &|_| {}).unwrap_or_else(|error| panic!("{}", report(&error)));
}

#[test]
#[ignore = "run by the test above, at a home without a login"]
fn without_a_login() {
    let (_cache, origins) = origins(false);
    let source = source(&stand_in(), "v1");
    let error = report(&origins.oci(&source).probe(Duration::from_secs(3)).unwrap_err());
    assert!(
        error.contains("does not let this user") || error.contains("gives no token for no login"),
        "{error}"
    );
    assert!(error.contains("podman login"), "{error}");
}
