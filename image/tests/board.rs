//! The board of metal, `cn106`, with stand-ins for all that its makers have: what is told where they lack, and
//! what becomes of them. Needs git; its image needs `docker-registry`, without which it is left out.

#[path = "oci/registry.rs"]
mod registry;

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dpukit_image::config::{Config, Revision, Source};
use dpukit_image::hash::Hash;
use dpukit_image::hint::report;
use dpukit_image::load::load;
use dpukit_image::lock::{Content, Lock, board_components};
use dpukit_image::preflight::{self, Unready};
use dpukit_image::project::{Project, Terms};
use dpukit_image::recipes::{self, DRIVERS, FIRMWARE, IMAGES, Request};
use dpukit_image::rules;
use dpukit_image::step::{Event, Watch};
use registry::StandInRegistry;
use tempfile::TempDir;

const BOARD: &str = "cn106";

struct Silent;

impl Watch for Silent {
    fn event(&self, _: Event<'_>) {}
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The board, with every address turned to one of this machine.
fn board(at: &str) -> Config {
    let mut config = load(&root(), BOARD).unwrap_or_else(|problems| panic!("{problems}"));
    // A developer's own settings must not decide what is tested.
    config.local = dpukit_image::config::Local::default();
    for component in config.components.values_mut() {
        match &mut component.source {
            Source::Git(git) => {
                let name = git.url.rsplit('/').next().unwrap().to_owned();
                git.url = format!("http://{at}/{name}");
            }
            Source::Oci(oci) => at.clone_into(&mut oci.registry),
            _ => {}
        }
    }
    config
}

/// The components that are not Debian's: those have their own tests.
fn of_makers(config: &Config) -> BTreeSet<String> {
    let components = board_components(config).into_iter();
    components
        .filter(|component| component.source.kind() != "deb")
        .map(|component| component.name.clone())
        .collect()
}

fn opened(config: Config, cache: &Path) -> Project {
    Project::opened(config, cache, Terms::default(), Request::default()).unwrap()
}

/// What preflight says, but for what it says of this machine.
fn lacks(config: Config) -> Unready {
    let cache = tempfile::tempdir().unwrap();
    let draws = of_makers(&config);
    let error = preflight::check(&opened(config, cache.path()), Some(&draws)).unwrap_err();
    let mut unready: Unready = error.downcast().unwrap();
    unready.lacks.retain(|lack| lack.of != "disk space" && lack.of != "user namespaces");
    unready
}

#[test]
fn all_that_lacks_is_listed_at_once_with_its_mend() {
    let mut unready = lacks(board("127.0.0.1:9"));
    for lack in &mut unready.lacks {
        // Each version of git and each system has its own words for what lies behind the address.
        for end in ["can't be had: ", "http://127.0.0.1:9/"] {
            if let Some((start, _)) = lack.why.split_once(end) {
                lack.why = format!("{start}{end}…");
            }
        }
    }
    insta::assert_snapshot!(unready, @r#"
    board `cn106` can't be built here: 7 things are missing

    cilium: the image `127.0.0.1:9/cilium/cilium:v1.17.0` can't be had: …
      mend: name a registry that you reach as `mirrors` of the component; where a login is needed, run `podman login 127.0.0.1:9` or `docker login`

    cilium-agent: unable to access 'http://127.0.0.1:9/…
      mend: where the address can't be reached, put a clone named `cilium.git` into a folder and name the folder as `git-mirrors` in `dpukit.local.toml`

    dao: unable to access 'http://127.0.0.1:9/…
      mend: where the address can't be reached, put a clone named `dao.git` into a folder and name the folder as `git-mirrors` in `dpukit.local.toml`

    linux-marvell: unable to access 'http://127.0.0.1:9/…
      mend: where the address can't be reached, put a clone named `linux-marvell.git` into a folder and name the folder as `git-mirrors` in `dpukit.local.toml`

    octeon-ep: unable to access 'http://127.0.0.1:9/…
      mend: where the address can't be reached, put a clone named `pcie_ep_octeon_host.git` into a folder and name the folder as `git-mirrors` in `dpukit.local.toml`

    octep-agent: unable to access 'http://127.0.0.1:9/…
      mend: where the address can't be reached, put a clone named `pcie_ep_octeon_target.git` into a folder and name the folder as `git-mirrors` in `dpukit.local.toml`

    sdk: Marvell's SDK for OCTEON 10: no file was named for it
      mend: get version 12.25.01 from Marvell's portal for customers: sign in, accept the licence, and download the SDK of this version as it is; name it with `--sdk FILE`, or `files.sdk = "FILE"` in `dpukit.local.toml`
    "#);
}

#[test]
fn servers_that_say_nothing_cost_less_than_five_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap().to_string();
    let start = Instant::now();
    let unready = lacks(board(&at));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(unready.lacks.iter().any(|lack| lack.why.contains("no answer within")), "{unready}");
}

#[test]
fn the_matrix_says_what_goes_together() {
    let config = board("127.0.0.1:9");
    insta::assert_snapshot!(rules::table(&config, &Lock::default()), @"
    board cn106

    part          component      version     needed         taken
    firmware      sdk            12.25.01    12.25.01       not in the lock yet
    octep-agent   octep-agent    25.03.0     25.03          aa84a2331f76b68583e7b5861f17f5f3cef0fbd0
    kernel        linux-marvell  6.1.67      6.1.67         177cbd9a96f8bb53b93afd8c2b044615cc73e6f3
    host-drivers  octeon-ep      not known   any            c1dd4d9d0026650032300a6de424aba9737cfaa1
    cilium        cilium         1.17.0      >=1.17, <1.18  not in the lock yet
    cilium-agent  cilium-agent   1.17.0-dev  >=1.17, <1.18  c81fa2e447990c8834320b2c5401a4a759c76e55

    octep_cp_agent is started with --dpi_dev {dpi} --pem_dev {pem}
    run together by the card's makers, in their CNI-offload guide (SDK 12.25.01), but for:
      cilium is 1.17.0, was 1.17.0-dev

    sets that are known:
      SDK 12.25.01: cilium 1.17.0-dev, cilium-agent 1.17.0-dev, firmware 12.25.01, kernel 6.1.67, octep-agent 25.03.0
      SDK 12.25.06: firmware 12.25.06, octep-agent 25.04.0
    ");
    let mut other = config.clone();
    other.components.get_mut("octep-agent").unwrap().version = Some("25.04.0".into());
    insta::assert_snapshot!(rules::table(&other, &Lock::default()), @"
    board cn106

    part          component      version     needed         taken
    firmware      sdk            12.25.01    12.25.01       not in the lock yet
    octep-agent   octep-agent    25.04.0     25.03  WRONG   aa84a2331f76b68583e7b5861f17f5f3cef0fbd0
    kernel        linux-marvell  6.1.67      6.1.67         177cbd9a96f8bb53b93afd8c2b044615cc73e6f3
    host-drivers  octeon-ep      not known   any            c1dd4d9d0026650032300a6de424aba9737cfaa1
    cilium        cilium         1.17.0      >=1.17, <1.18  not in the lock yet
    cilium-agent  cilium-agent   1.17.0-dev  >=1.17, <1.18  c81fa2e447990c8834320b2c5401a4a759c76e55

    wrong: `octep-agent` is 25.04.0, and with `firmware` 12.25.01 it has to be 25.03: the makers ran this firmware with agent 25.03.0 and kernel 6.1.67
    octep_cp_agent is started with --dpi_dev {dpi} --pem_dev {pem}
    run together by the card's makers, in their CNI-offload guide (SDK 12.25.01), but for:
      octep-agent is 25.04.0, was 25.03.0
      cilium is 1.17.0, was 1.17.0-dev

    sets that are known:
      SDK 12.25.01: cilium 1.17.0-dev, cilium-agent 1.17.0-dev, firmware 12.25.01, kernel 6.1.67, octep-agent 25.03.0
      SDK 12.25.06: firmware 12.25.06, octep-agent 25.04.0
    ");
}

#[test]
fn parts_that_do_not_go_together_are_neither_locked_nor_built() {
    let with = |changes: &[(&str, &str)]| {
        let mut config = board("127.0.0.1:9");
        for (name, version) in changes {
            config.components.get_mut(*name).unwrap().version = Some((*version).into());
        }
        config
    };
    let told = |changes: &[(&str, &str)]| match rules::enforce(&with(changes), &Lock::default()) {
        Ok(()) => "fine".to_owned(),
        Err(error) => report(&error),
    };
    let said: Vec<_> = [
        &[("octep-agent", "25.04.0")] as &[_],
        &[("sdk", "12.25.06")],
        &[("sdk", "12.25.06"), ("octep-agent", "25.04.0")],
        &[("sdk", "12.25.03")],
        &[("sdk", "12.24.11")],
        &[("sdk", "11.0"), ("cilium", "1.18.0")],
        &[("linux-marvell", "6.6.20"), ("cilium", "1.18.0")],
    ]
    .into_iter()
    .map(|changes| format!("{changes:?}: {}", told(changes)))
    .collect();
    insta::assert_snapshot!(said.join("\n\n"), @r#"
    [("octep-agent", "25.04.0")]: error: the parts of board `cn106` do not go together:
      `octep-agent` is 25.04.0, and with `firmware` 12.25.01 it has to be 25.03: the makers ran this firmware with agent 25.03.0 and kernel 6.1.67
    hint: take versions that do, see `cargo xtask matrix`, or add the rule to `image/rules.toml`

    [("sdk", "12.25.06")]: error: the parts of board `cn106` do not go together:
      `octep-agent` is 25.03.0, and with `firmware` 12.25.06 it has to be 25.04: the makers ran this firmware with agent 25.04.0
    hint: take versions that do, see `cargo xtask matrix`, or add the rule to `image/rules.toml`

    [("sdk", "12.25.06"), ("octep-agent", "25.04.0")]: fine

    [("sdk", "12.25.03")]: fine

    [("sdk", "12.24.11")]: error: the parts of board `cn106` do not go together:
      `octep-agent` is 25.03.0, and with `firmware` 12.24.11 it has to be 24.11: this firmware's agent is the one of its own SDK
    hint: take versions that do, see `cargo xtask matrix`, or add the rule to `image/rules.toml`

    [("sdk", "11.0"), ("cilium", "1.18.0")]: error: the parts of board `cn106` do not go together:
      `firmware` is 11.0, and with any agent it has to be 12.24.11 or 12.25.01 or >=12.25.03, <12.25.06 or >=12.25.06: no rule says how octep_cp_agent is started on it
    hint: take versions that do, see `cargo xtask matrix`, or add the rule to `image/rules.toml`

    [("linux-marvell", "6.6.20"), ("cilium", "1.18.0")]: error: the parts of board `cn106` do not go together:
      `cilium` is 1.18.0, and with `firmware` 12.25.01 it has to be >=1.17, <1.18: the makers ran 1.17, and the agent speaks the API of that version
      `kernel` is 6.6.20, and with `firmware` 12.25.01 it has to be 6.1.67: the makers ran this firmware with agent 25.03.0 and kernel 6.1.67
    hint: take versions that do, see `cargo xtask matrix`, or add the rule to `image/rules.toml`
    "#);
    let cache = tempfile::tempdir().unwrap();
    let mut project = opened(with(&[("sdk", "12.25.06")]), cache.path());
    assert!(report(&project.make_current().unwrap_err()).contains("do not go together"));
    let start = |changes: &[(&str, &str)]| {
        let config = with(changes);
        rules::start(&config, &rules::parts(&config, &Lock::default())).cloned()
    };
    let arguments = |text: &str| Some(dpukit_image::config::Start::Arguments(text.into()));
    assert_eq!(start(&[]), arguments("--dpi_dev {dpi} --pem_dev {pem}"));
    let newer = "--sdp_rvu_pf {sdp-rvu-pf} --pem_dev {pem}";
    assert_eq!(start(&[("sdk", "12.25.06"), ("octep-agent", "25.04.0")]), arguments(newer));
    let module = Some(dpukit_image::config::Start::Module("pcie_marvell_cnxk_ep".into()));
    assert_eq!(start(&[("sdk", "12.24.11")]), module);
}

#[test]
fn a_board_without_a_device_that_the_agent_is_given_is_refused() {
    let mut config = board("127.0.0.1:9");
    config.board.plan.octep.as_mut().unwrap().devices.retain(|device| device.name != "pem");
    let error = report(&rules::enforce(&config, &Lock::default()).unwrap_err());
    insta::assert_snapshot!(error, @r"
    error: with what `image/rules.toml` says of its firmware: `octep_cp_agent` is to be given the device `pem`, which `octep.devices` does not name
    hint: write the device as `[[setup.octep.devices]]` of board `cn106`
    ");
}

#[test]
fn sets_that_were_run_together_keep_the_rules() {
    let config = board("127.0.0.1:9");
    for (name, set) in &config.rules.sets {
        let mut config = config.clone();
        for (part, component) in [
            ("firmware", "sdk"),
            ("octep-agent", "octep-agent"),
            ("kernel", "linux-marvell"),
            ("host-drivers", "octeon-ep"),
            ("cilium", "cilium"),
            ("cilium-agent", "cilium-agent"),
        ] {
            if let Some(version) = set.parts.get(part) {
                config.components.get_mut(component).unwrap().version = Some(version.clone());
            }
        }
        rules::enforce(&config, &Lock::default())
            .unwrap_or_else(|error| panic!("{name}: {}", report(&error)));
    }
}

/// Stand-ins for all that the board's makers have.
struct StandIns {
    folder: TempDir,
    registry: Option<StandInRegistry>,
}

const UPDATE: &[u8] = b"stand-in for fw-update";
const FLASH: &[u8] = b"stand-in for flash";
const MICROCODE: &[u8] = b"stand-in for microcode";

impl StandIns {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            registry: registry::is_there().then(|| StandInRegistry::new(false)),
        }
    }

    /// Makes a repository with files; its commit.
    fn repository(&self, name: &str, paths: &[&str], text: &str) -> String {
        let folder = self.folder.path().join("mirrors").join(name);
        for path in paths {
            let file = folder.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        }
        let git = |arguments: &[&str]| {
            let output = Command::new("git")
                .args(["-c", "user.name=x", "-c", "user.email=x@example.org"])
                .args(arguments)
                .current_dir(&folder)
                .output()
                .expect("git is needed to run the tests");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        git(&["init", "--quiet"]);
        git(&["add", "."]);
        git(&["commit", "--quiet", "--message", "stand-in"]);
        git(&["rev-parse", "HEAD"])
    }

    fn sdk(&self) -> PathBuf {
        let path = self.folder.path().join("stand-in-sdk.tar.gz");
        let packed =
            flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::fast());
        let mut archive = tar::Builder::new(packed);
        for (name, content) in [
            ("sdk/fw-update-cn10ka-SDK12.25.01.bin", UPDATE),
            ("sdk/flash-cn10ka-SDK12.25.01.img", FLASH),
            ("sdk/rootfs/lib/firmware/mrvl/cpt04/ae.out", MICROCODE),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, name, content).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap().flush().unwrap();
        path
    }

    /// The board with all of them.
    fn board(&self) -> Config {
        let mut config = board("127.0.0.1:9");
        config.local.git_mirrors = Some(self.folder.path().join("mirrors"));
        config.local.files.insert("sdk".into(), self.sdk());
        for component in config.components.values_mut() {
            if let Source::Git(git) = &mut component.source {
                let name = git.url.rsplit('/').next().unwrap().trim_end_matches(".git");
                let paths: &[_] = match name {
                    "dao" => &["config/kernel/v6.1/cn10k.config"],
                    "pcie_ep_octeon_host" => {
                        &["Makefile", "drivers/octeon_ep/Makefile", "drivers/octeon_ep_vf/Makefile"]
                    }
                    _ => &["README"],
                };
                let commit = self.repository(name, paths, "# stand-in\n");
                git.revision = Revision::Commit { commit, branch: None };
            }
        }
        match (&self.registry, config.components.get_mut("cilium").map(|component| &mut component.source)) {
            (Some(registry), Some(Source::Oci(oci))) => {
                let image = registry.image(&oci.repository, "arm64", "arm64", b"stand-in");
                registry.index(&oci.repository, oci.tag.as_deref().unwrap(), &[image]);
                oci.registry.clone_from(&registry.host);
            }
            _ => config.board.parts.cilium = None,
        }
        config
    }
}

/// Debian's part of the lock is as it is committed; all else is written into a folder of the test's.
fn with_own_lock(mut config: Config, folder: &Path) -> Config {
    let lock = "image/locks/cn106.toml";
    fs::create_dir_all(folder.join("image/locks")).unwrap();
    fs::copy(config.root.join(lock), folder.join(lock)).unwrap();
    folder.clone_into(&mut config.root);
    config
}

#[test]
fn with_stand_ins_the_sources_are_locked_and_become_steps() {
    let stand_ins = StandIns::new();
    let (cache, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let config = with_own_lock(stand_ins.board(), own.path());
    let draws = of_makers(&config);
    let mut project = opened(config, cache.path());
    // What lacks is what no stand-in is for: this machine's own.
    if let Err(error) = preflight::check(&project, Some(&draws)) {
        let unready: Unready = error.downcast().unwrap();
        let of: Vec<_> = unready.lacks.iter().map(|lack| lack.of.as_str()).collect();
        let known = ["disk space", "user namespaces"];
        assert!(of.iter().all(|of| known.contains(of)), "{unready}");
    }
    project.make_current().unwrap_or_else(|error| panic!("{}", report(&error)));
    let written = Lock::read(&own.path().join("image/locks/cn106.toml")).unwrap();
    assert_eq!(written, project.sources.lock);
    assert_eq!(written.missing(&project.sources.config), Vec::<String>::new());
    let Content::Files(files) = &written.components["sdk"].content else { panic!("no files") };
    assert_eq!(files.len(), 3);

    // Go builds no agent from a stand-in that is one file.
    project.sources.config.board.parts.cilium_agent = None;
    project.sources.config.root = root();
    let graph = recipes::graph(&project.sources).unwrap();
    let mut targets = vec![FIRMWARE, DRIVERS, "dao-source", "octep-agent-source", "linux-marvell-source"];
    targets.extend(graph.has(IMAGES).then_some(IMAGES));
    graph.build(&project.store, &targets, 2, &Silent).unwrap_or_else(|error| panic!("{}", report(&error)));
    let out = |step: &str| project.store.out(&graph.recipe(step).entry());
    assert_eq!(fs::read(out(FIRMWARE).join("bundle/flash-cn10ka-SDK12.25.01.img")).unwrap(), FLASH);
    let sums = fs::read_to_string(out(FIRMWARE).join("bundle/SHA256SUMS")).unwrap();
    assert!(sums.contains(&format!("{}  fw-update-cn10ka-SDK12.25.01.bin\n", Hash::of(UPDATE))));
    assert_eq!(fs::read(out(FIRMWARE).join("root/usr/lib/firmware/mrvl/cpt04/ae.out")).unwrap(), MICROCODE);
    assert!(out("dao-source").join("config/kernel/v6.1/cn10k.config").is_file());
    if graph.has(IMAGES) {
        assert!(out("cilium").join("oci-layout").is_file());
        let list = fs::read_to_string(out(IMAGES).join("root/usr/lib/dpukit/images.toml")).unwrap();
        let list: dpu_plan::Images = toml::from_str(&list).unwrap();
        let [image] = list.image.as_slice() else { panic!("{list:?}") };
        let Content::Oci(locked) = &written.components["cilium"].content else { panic!("no image") };
        assert_eq!(image.digest, format!("sha256:{}", locked.manifest.sha256));
        let archive = out(IMAGES).join("data").join(image.archive.strip_prefix("/data").unwrap());
        assert_eq!(image.sha256, Hash::of_file(&archive).unwrap().to_string());
    }
    let Content::Git(drivers) = &written.components["octeon-ep"].content else { panic!("no commit") };
    let package = format!("dpukit-octeon-ep-dkms_0.1.0+git{}_all.deb", &drivers.commit[..12]);
    let conf = format!("usr/src/dpukit-octeon-ep-0.1.0+git{}/dkms.conf", &drivers.commit[..12]);
    let mut found = false;
    dpukit_image::deb::data(&out(DRIVERS).join(package), |object, _| {
        found |= object.path == conf;
        Ok(())
    })
    .unwrap();
    assert!(found, "`{conf}` is not in the package");
    nothing_of_the_users_is_shared(cache.path());
    for step in ["root", "system", "boot", "image"] {
        assert!(graph.recipe(step).entry().starts_with("private-"), "`{step}` holds the microcode");
    }
    assert!(!graph.recipe("kernel").entry().starts_with("private-"));

    // All of it is here now: nobody is asked, and neither archive nor mirrors are needed.
    drop(stand_ins);
    let mut config = project.sources.config.clone();
    config.local = dpukit_image::config::Local::default();
    config.root = own.path().to_owned();
    let again = opened(config, cache.path());
    if let Err(error) = preflight::check(&again, Some(&draws)) {
        let unready: Unready = error.downcast().unwrap();
        assert!(unready.lacks.iter().all(|lack| !draws.contains(&lack.of)), "{unready}");
    }
}

/// Looks through all of a cache but its private part for the content of the user's files.
fn nothing_of_the_users_is_shared(cache: &Path) {
    let files = walkdir::WalkDir::new(cache).into_iter().map(Result::unwrap);
    for file in files.filter(|file| file.file_type().is_file()) {
        if file.path().starts_with(cache.join("private")) {
            continue;
        }
        let content = fs::read(file.path()).unwrap();
        for secret in [UPDATE, FLASH, MICROCODE] {
            let found = content.windows(secret.len()).any(|bytes| bytes == secret);
            assert!(!found, "`{}` holds a file of the user's", file.path().display());
        }
    }
}

#[test]
fn a_developers_folder_stands_in_for_a_component() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("Makefile"), "all:\n").unwrap();
    let stand_ins = StandIns::new();
    let (cache, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut config = stand_ins.board();
    for name in ["octep-agent", "linux-marvell"] {
        config.local.overrides.insert(name.into(), folder.path().to_owned());
    }
    config.stand_in().unwrap();
    let mut project = opened(with_own_lock(config, own.path()), cache.path());
    project.make_current().unwrap_or_else(|error| panic!("{}", report(&error)));
    assert!(!project.sources.lock.components.contains_key("octep-agent"), "no lock is needed");
    project.sources.config.root = root();
    let entry = || {
        let graph = recipes::graph(&project.sources).unwrap();
        graph.build(&project.store, &["octep-agent-source"], 1, &Silent).unwrap();
        (graph.recipe("octep-agent-source").entry(), graph.recipe("kernel").entry())
    };
    let first = entry();
    assert_eq!(entry(), first);
    fs::write(folder.path().join("Makefile"), "all: more\n").unwrap();
    let second = entry();
    assert!(first.0 != second.0 && first.1 != second.1, "a change is not seen");
    assert_eq!(fs::read_to_string(project.store.out(&second.0).join("Makefile")).unwrap(), "all: more\n");
}

#[test]
fn what_no_folder_can_stand_in_for_is_told() {
    let told = |name: &str, path: &str| {
        let mut config = board("127.0.0.1:9");
        config.local.overrides.insert(name.into(), path.into());
        report(&config.stand_in().unwrap_err())
    };
    let said = [
        told("octep", "/tmp"),
        told("root", "/tmp"),
        told("agent", "/tmp"),
        told("octep-agent", "/nonexistent"),
    ];
    insta::assert_snapshot!(said.join("\n\n"), @"
    error: there is no component `octep`, that `/tmp` would stand in for
    hint: there is: `agent`, `cilium`, `cilium-agent`, `dao`, `host`, `linux-6.1`, `linux-marvell`, `octeon-ep`, `octep-agent`, `oracle`, `root`, `sdk`, `tools-base`, `tools-cross`, `tools-emulator`, `tools-go`, `tools-kernel`, `tools-rust`, `tools-u-boot`, `tools-update`, `u-boot`

    error: `root` is many packages, and no folder can stand in for them
    hint: change what it takes in `image/components/root.toml`

    error: `agent` is part of this checkout
    hint: change it in `agent`

    error: there is no `/nonexistent`, that would stand in for `octep-agent`
    hint: name a folder
    ");
}
