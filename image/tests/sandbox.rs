//! What a step can and can't do, tried with the real tool root of board `virt`.
//!
//! Needs user namespaces, and a network where the store lacks the tool root.

use std::fs;
use std::path::{Path, PathBuf};

use dpukit_image::project::{Project, Terms};
use dpukit_image::recipes::{self, Request};
use dpukit_image::sandbox::Sandbox;
use dpukit_image::step::{Event, Watch};
use dpukit_image::store::{Workplace, cache_folder};
use dpukit_image::{hint, load};

struct Silent;

impl Watch for Silent {
    fn event(&self, _: Event<'_>) {}
}

/// The tool root with bubblewrap and small programs, out of the store.
fn tools() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let config = load::load(root, "virt").unwrap();
    let project = Project::open(config, &cache_folder().unwrap(), Terms::default(), Request::default());
    let project = project.unwrap_or_else(|error| panic!("{}", hint::report(&error)));
    let graph = recipes::graph(&project.sources).unwrap();
    let name = project.sources.config.board.tools.base.as_str();
    graph
        .build(&project.store, &[name], 2, &Silent)
        .unwrap_or_else(|error| panic!("{}", hint::report(&error)));
    project.store.out(&graph.recipe(name).entry())
}

fn run(script: &str) -> (anyhow::Result<()>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let place = Workplace {
        out: folder.path().join("out"),
        scratch: folder.path().join("scratch"),
        log: folder.path().join("log"),
    };
    fs::create_dir(&place.out).unwrap();
    fs::create_dir(&place.scratch).unwrap();
    fs::write(folder.path().join("input"), "given").unwrap();
    let sandbox = Sandbox::new(tools()).input("file", folder.path().join("input"));
    (sandbox.run(&place, script), folder)
}

fn output(script: &str) -> String {
    let (result, folder) = run(&format!("{{ {script}; }} >/out/text 2>&1 || true"));
    result.unwrap_or_else(|error| panic!("{}", hint::report(&error)));
    fs::read_to_string(folder.path().join("out/text")).unwrap()
}

#[test]
fn a_step_reads_its_inputs_and_writes_its_result() {
    assert_eq!(output("cat /in/file"), "given");
}

#[test]
fn a_step_has_no_network() {
    assert_eq!(output("tail -n +3 /proc/net/dev | grep -v ' *lo:'"), "");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let text = output(&format!("echo hello >/dev/tcp/127.0.0.1/{port}"));
    assert!(text.contains("Connection refused"), "{text}");
}

#[test]
fn a_step_sees_neither_the_checkout_nor_the_users_folders() {
    let checkout = env!("CARGO_MANIFEST_DIR");
    assert!(output(&format!("ls {checkout}")).contains("No such file"));
    assert_eq!(output("find /root /home -mindepth 1 2>/dev/null"), "");
    let text = output("env; cut -d' ' -f5 /proc/self/mountinfo");
    assert!(!text.contains(checkout) && !text.contains("CARGO"), "{text}");
}

#[test]
fn a_step_writes_nowhere_but_its_result_and_scratch() {
    for place in ["/usr/x", "/etc/x", "/in/x", "/in/file", "/x/y"] {
        let (result, _folder) = run(&format!("echo bad >{place}"));
        let error = hint::report(&result.unwrap_err());
        assert!(error.contains("Read-only") || error.contains("No such file"), "{place}: {error}");
    }
}

#[test]
fn a_step_can_tell_neither_user_host_nor_locale() {
    assert_eq!(output("id -u; uname -n; echo $LC_ALL $TZ $HOME; pwd"), "0\ndpukit\nC UTC /root\n/build\n");
}

#[test]
fn a_failed_step_shows_the_end_of_its_log() {
    let (result, folder) = run("for n in $(seq 50); do echo line $n; done; exit 3");
    let error = hint::report(&result.unwrap_err());
    assert!(
        error.contains("exit status: 3") && error.contains("line 21\n") && error.contains("line 50"),
        "{error}"
    );
    assert!(!error.contains("line 20\n"), "{error}");
    assert!(error.contains(&folder.path().join("log").display().to_string()), "{error}");
}
