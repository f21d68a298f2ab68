//! Commits out of git repositories, from stand-ins for servers: this machine's git and the tests' own
//! repositories. They need git.

mod server;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use dpukit_image::config::{GitSource, Local, Revision};
use dpukit_image::hint::report;
use dpukit_image::source::Origins;
use dpukit_image::source::git::Git;
use server::{Manner, StandInServer};
use tempfile::TempDir;

/// Repositories that the tests make: `main.git` with the submodule `lib.git`.
struct StandIn {
    folder: TempDir,
    commit: String,
    older: String,
}

fn git(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "protocol.file.allow=always"])
        .args(["-c", "init.defaultBranch=main", "-c", "core.autocrlf=false"])
        .args(arguments)
        .current_dir(folder)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .output()
        .expect("git is needed to run the tests");
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl StandIn {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::write(
            root.join("server.config"),
            "[uploadpack]\nallowFilter = true\nallowAnySHA1InWant = true\n[safe]\ndirectory = *\n",
        )
        .unwrap();
        let (lib, main) = (root.join("work/lib"), root.join("work/main"));
        for work in [&lib, &main] {
            fs::create_dir_all(work).unwrap();
            git(work, &["init", "--quiet"]);
        }
        fs::write(lib.join("lib.c"), "int lib;\n").unwrap();
        git(&lib, &["add", "."]);
        git(&lib, &["commit", "--quiet", "--message", "lib"]);

        fs::write(main.join("Makefile"), "all:\n").unwrap();
        git(&main, &["add", "."]);
        git(&main, &["commit", "--quiet", "--message", "older"]);
        let older = git(&main, &["rev-parse", "HEAD"]);
        fs::create_dir_all(main.join("src")).unwrap();
        fs::write(main.join("run.sh"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(main.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("run.sh", main.join("link")).unwrap();
        for number in 0..7 {
            fs::write(main.join(format!("src/{number}.c")), format!("int x{number};\n").repeat(200)).unwrap();
        }
        // Each of these would change a checkout, or `git archive`.
        fs::write(main.join("hidden"), "$Id$ $Format:%H$\n").unwrap();
        fs::write(
            main.join(".gitattributes"),
            "hidden export-ignore ident export-subst\n*.c text eol=crlf\n*.sh filter=evil\n",
        )
        .unwrap();
        git(&main, &["submodule", "--quiet", "add", "../lib", "libs/lib"]);
        git(&main, &["config", "--file", ".gitmodules", "submodule.libs/lib.url", "../lib.git"]);
        git(&main, &["add", "."]);
        git(&main, &["commit", "--quiet", "--message", "main"]);
        let commit = git(&main, &["rev-parse", "HEAD"]);
        for name in ["lib", "main"] {
            let bare = format!("{name}.git");
            git(root, &["clone", "--quiet", "--bare", &format!("work/{name}"), &bare]);
            git(&root.join(bare), &["update-server-info"]);
        }
        Self { folder, commit, older }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn source(&self, base: &str) -> GitSource {
        GitSource {
            url: format!("{base}/main.git"),
            mirrors: Vec::new(),
            revision: Revision::Commit { commit: self.commit.clone(), branch: None },
            submodules: true,
        }
    }

    fn files(&self) -> String {
        format!("file://{}", self.path().display())
    }
}

fn opened(cache: &Path) -> Git {
    Git::new(cache, None, false).unwrap()
}

/// All paths below a folder, with their kinds.
fn listed(folder: &Path) -> Vec<String> {
    let files =
        walkdir::WalkDir::new(folder).min_depth(1).sort_by_file_name().into_iter().map(Result::unwrap);
    let files = files.filter(|file| !file.file_type().is_dir());
    files.map(|file| file.path().strip_prefix(folder).unwrap().display().to_string()).collect()
}

#[test]
fn a_commit_comes_as_it_is_in_the_repository_with_its_submodule() {
    let stand_in = StandIn::new();
    let server = StandInServer::new(stand_in.path(), Manner::Smart);
    let (cache, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = stand_in.source(&server.address);
    let git = opened(cache.path());
    assert!(!git.has(&source, &stand_in.commit));
    let locked = git.resolve(&source).unwrap();
    assert!(git.has(&source, &stand_in.commit));
    let asked = server.wants.lock().unwrap().len();
    assert_eq!(git.export(&source, &locked.commit, Some(out.path())).unwrap(), locked.content);
    assert_eq!(server.wants.lock().unwrap().len(), asked, "all of it was here");
    assert_eq!(
        listed(out.path()),
        [
            ".gitattributes",
            ".gitmodules",
            "Makefile",
            "hidden",
            "libs/lib/lib.c",
            "link",
            "run.sh",
            "src/0.c",
            "src/1.c",
            "src/2.c",
            "src/3.c",
            "src/4.c",
            "src/5.c",
            "src/6.c",
        ]
    );
    let read = |path: &str| fs::read_to_string(out.path().join(path)).unwrap();
    assert_eq!(read("hidden"), "$Id$ $Format:%H$\n");
    assert!(!read("src/0.c").contains('\r'));
    assert_eq!(fs::read_link(out.path().join("link")).unwrap(), Path::new("run.sh"));
    let mode = |path: &str| out.path().join(path).metadata().unwrap().permissions().mode() & 0o111;
    assert_eq!((mode("run.sh"), mode("Makefile")), (0o111, 0));
    // Only the commit itself, not what came before it.
    let kept = fs::read_dir(cache.path().join("git")).unwrap().map(|file| file.unwrap().path());
    let kept =
        kept.filter(|path| path.join("HEAD").is_file()).find(|path| path.to_string_lossy().ends_with("main"));
    let status = Command::new("git")
        .arg("--git-dir")
        .arg(kept.unwrap())
        .args(["cat-file", "-e", &stand_in.older])
        .env("GIT_NO_LAZY_FETCH", "1")
        .stderr(std::process::Stdio::null())
        .status();
    let status = status.unwrap();
    assert!(!status.success(), "the history came too");
}

#[test]
fn every_way_to_a_commit_gives_the_same_hash() {
    let stand_in = StandIn::new();
    let hash = |source: &GitSource, mirrors: Option<&Path>| {
        let cache = tempfile::tempdir().unwrap();
        let git = Git::new(cache.path(), mirrors, false).unwrap();
        git.resolve(source).unwrap_or_else(|error| panic!("{}", report(&error))).content
    };
    let smart = StandInServer::new(stand_in.path(), Manner::Smart);
    let first = hash(&stand_in.source(&smart.address), None);
    assert_eq!(hash(&stand_in.source(&stand_in.files()), None), first, "files");
    let dumb = StandInServer::new(stand_in.path(), Manner::Dumb);
    let branch = Some("main".to_owned());
    let commit = stand_in.commit.clone();
    // A server of files alone gives branches only; the submodule's is not known, so it is left out.
    let on_branch = |base: &str, submodules| GitSource {
        revision: Revision::Commit { commit: commit.clone(), branch: branch.clone() },
        submodules,
        ..stand_in.source(base)
    };
    let without = hash(&on_branch(&smart.address, false), None);
    assert_ne!(without, first);
    assert_eq!(hash(&on_branch(&dumb.address, false), None), without, "dumb");
    // Repositories of a folder stand for an address that nobody answers.
    let nowhere = stand_in.source("http://127.0.0.1:9/x");
    assert_eq!(hash(&nowhere, Some(stand_in.path())), first, "a folder of mirrors");
    let mirrored = GitSource { mirrors: vec![format!("{}/main.git", smart.address)], ..nowhere };
    assert_eq!(hash(&mirrored, None), first, "a mirror");
    let newest = GitSource { revision: Revision::Branch("main".into()), ..stand_in.source(&smart.address) };
    assert_eq!(hash(&newest, None), first, "a branch");
}

#[test]
fn a_commit_or_branch_that_is_not_there_is_named() {
    let stand_in = StandIn::new();
    let server = StandInServer::new(stand_in.path(), Manner::Smart);
    let cache = tempfile::tempdir().unwrap();
    let error = |revision| {
        let source = GitSource { revision, ..stand_in.source(&server.address) };
        report(&opened(cache.path()).resolve(&source).unwrap_err())
    };
    let wrong = "0123456789012345678901234567890123456789";
    let said = error(Revision::Commit { commit: wrong.into(), branch: None });
    assert!(said.contains(wrong) && said.contains("main.git"), "{said}");
    let said = error(Revision::Commit { commit: wrong.into(), branch: Some("main".into()) });
    assert!(said.contains("the branch `main` does not have it"), "{said}");
    let said = error(Revision::Branch("mian".into()));
    assert!(said.contains("there is no branch `mian`"), "{said}");
}

#[test]
fn a_fetch_that_breaks_off_is_tried_again_and_goes_on_where_it_stopped() {
    let stand_in = StandIn::new();
    let whole =
        opened(tempfile::tempdir().unwrap().path()).resolve(&stand_in.source(&stand_in.files())).unwrap();
    // The first answer with objects has the folders.
    for at in [1, 2] {
        let server = StandInServer::new(stand_in.path(), Manner::CutOnce(at));
        let cache = tempfile::tempdir().unwrap();
        let locked = opened(cache.path()).resolve(&stand_in.source(&server.address));
        assert_eq!(locked.unwrap_or_else(|error| panic!("{at}: {}", report(&error))), whole, "{at}");
    }
    let cache = tempfile::tempdir().unwrap();
    let bad = StandInServer::new(stand_in.path(), Manner::CutFrom(4));
    let source = |server: &StandInServer| stand_in.source(&server.address);
    opened(cache.path()).in_batches_of(2).resolve(&source(&bad)).unwrap_err();
    // Another server has another address: what is kept is kept by the first address, and it is a mirror.
    let good = StandInServer::new(stand_in.path(), Manner::Smart);
    let again = GitSource { mirrors: vec![source(&good).url], submodules: false, ..source(&bad) };
    let git = opened(cache.path()).in_batches_of(100);
    git.fetch(&again, &stand_in.commit).unwrap();
    let wants: Vec<_> = good.wants.lock().unwrap().clone();
    // 13 files are in the commit; those of two batches were here, and the commit itself is asked for once more.
    assert!(wants.iter().sum::<usize>() < 13, "{wants:?}");
}

#[test]
fn submodules_can_not_name_files_of_this_machine() {
    let stand_in = StandIn::new();
    let main = stand_in.path().join("work/main");
    for url in ["file:///etc", "/etc", "ext::sh -c touch% /x", "../../../../lib.git", "ssh://x/y"] {
        git(&main, &["config", "--file", ".gitmodules", "submodule.libs/lib.url", url]);
        git(&main, &["commit", "--quiet", "--all", "--message", url]);
        git(&main, &["push", "--quiet", "--force", "../../main.git", "HEAD:main"]);
        let server = StandInServer::new(stand_in.path(), Manner::Smart);
        let cache = tempfile::tempdir().unwrap();
        let revision = Revision::Branch("main".into());
        let source = GitSource { revision, ..stand_in.source(&server.address) };
        let error = report(&opened(cache.path()).resolve(&source).unwrap_err());
        assert!(error.contains("submodule"), "{url}: {error}");
    }
}

#[test]
fn offline_only_what_is_here_is_taken() {
    let stand_in = StandIn::new();
    let server = StandInServer::new(stand_in.path(), Manner::Smart);
    let cache = tempfile::tempdir().unwrap();
    let source = stand_in.source(&server.address);
    let offline = || Git::new(cache.path(), None, true).unwrap();
    let error = report(&offline().resolve(&source).unwrap_err());
    assert!(error.contains("`--offline` forbids") && error.contains("git-mirrors"), "{error}");
    assert!(server.wants.lock().unwrap().is_empty());
    opened(cache.path()).resolve(&source).unwrap();
    offline().resolve(&source).unwrap();
}

#[test]
fn a_server_that_says_nothing_is_given_up_in_time() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/x.git", silent.local_addr().unwrap());
    let revision = Revision::Branch("main".into());
    let source = GitSource { url, mirrors: Vec::new(), revision, submodules: false };
    let cache = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let error = opened(cache.path()).probe(&source, Duration::from_secs(1)).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(3));
    assert!(report(&error).contains("no answer within 1 s"), "{}", report(&error));
}

/// Runs one of the tests below in a process of its own, whose environment is `set`.
fn in_environment(test: &str, set: &[(&str, PathBuf)]) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--ignored", "--nocapture"])
        .envs(set.iter().map(|(name, value)| (name, value)));
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn neither_configuration_nor_variables_of_git_have_a_say() {
    let home = tempfile::tempdir().unwrap();
    let proof = home.path().join("ran");
    let evil = home.path().join("evil");
    fs::write(&evil, format!("#!/bin/sh\necho ran >>{}\nexit 1\n", proof.display())).unwrap();
    fs::set_permissions(&evil, fs::Permissions::from_mode(0o755)).unwrap();
    let evil = evil.display();
    let config = format!(
        "[url \"http://127.0.0.1:9/\"]\n\tinsteadOf = http://\n[core]\n\thooksPath = {}\n\tfsmonitor = {evil}\n\tsshCommand = {evil}\n\
         \taskPass = {evil}\n\tgitProxy = {evil}\n[filter \"evil\"]\n\tsmudge = {evil}\n\trequired = true\n[fetch]\n\tfsckObjects = true\n\
         [http]\n\tproxy = http://127.0.0.1:9\n[remote \"http://127.0.0.1:9\"]\n\turl = x\n[alias]\n\tfetch = !{evil}\n",
        home.path().display()
    );
    fs::write(home.path().join(".gitconfig"), &config).unwrap();
    fs::write(home.path().join("config"), config).unwrap();
    let at = |name: &str| home.path().join(name);
    in_environment(
        "under_a_hostile_configuration",
        &[
            ("HOME", at("")),
            ("GIT_CONFIG_GLOBAL", at("config")),
            ("GIT_CONFIG_SYSTEM", at("config")),
            ("GIT_CONFIG_PARAMETERS", PathBuf::from("'core.gitproxy=false'")),
            ("GIT_CONFIG_COUNT", "1".into()),
            ("GIT_CONFIG_KEY_0", "http.proxy".into()),
            ("GIT_CONFIG_VALUE_0", "http://127.0.0.1:9".into()),
            ("GIT_DIR", at("nowhere")),
            ("GIT_INDEX_FILE", at("nowhere")),
            ("GIT_OBJECT_DIRECTORY", at("nowhere")),
            ("GIT_SSH_COMMAND", at("evil")),
            ("GIT_ASKPASS", at("evil")),
            ("GIT_EXTERNAL_DIFF", at("evil")),
            ("GIT_TEMPLATE_DIR", at("")),
            ("GIT_EXEC_PATH", at("")),
            ("GIT_TRACE", at("trace")),
        ],
    );
    assert!(!proof.exists(), "something of the configuration was run");
    assert_eq!(fs::read_to_string(at("trace")).unwrap_or_default(), "", "git traced where it was told to");
}

#[test]
#[ignore = "run by the test above, with a hostile environment"]
fn under_a_hostile_configuration() {
    // The stand-in's own git is kept from the environment by running it through `env`.
    let made = tempfile::tempdir().unwrap();
    let clean = Command::new("env")
        .args(["-i", "PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "sh", "-euc"])
        .arg(
            "git init --quiet --bare main.git; git init --quiet --initial-branch=main work; cd work; echo a >a; \
             echo '* filter=evil' >.gitattributes; git add .; \
             git -c user.name=x -c user.email=x@y commit --quiet -m x; git push --quiet ../main.git HEAD:main; \
             cd ../main.git; git update-server-info",
        )
        .current_dir(made.path())
        .output()
        .unwrap();
    assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
    let server = StandInServer::new(made.path(), Manner::Dumb);
    let source = GitSource {
        url: format!("{}/main.git", server.address),
        mirrors: Vec::new(),
        revision: Revision::Branch("main".into()),
        submodules: false,
    };
    let (cache, out) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let git = opened(cache.path());
    let locked = git.resolve(&source).unwrap_or_else(|error| panic!("{}", report(&error)));
    git.export(&source, &locked.commit, Some(out.path())).unwrap();
    assert_eq!(fs::read_to_string(out.path().join("a")).unwrap(), "a\n");
}

#[test]
fn a_private_repository_is_opened_by_the_users_helper_and_nobody_is_asked() {
    let stand_in = StandIn::new();
    let server = StandInServer::new(stand_in.path(), Manner::Private);
    let source = stand_in.source(&server.address);
    // Without a helper: the machine that runs the tests has none for this address.
    let cache = tempfile::tempdir().unwrap();
    let start = Instant::now();
    opened(cache.path()).probe(&source, Duration::from_secs(5)).unwrap_err();
    assert!(start.elapsed() < Duration::from_secs(4), "somebody was asked");

    let home = tempfile::tempdir().unwrap();
    fs::write(
        home.path().join(".gitconfig"),
        "[credential]\n\thelper = \"!f() { echo username=me; echo password=secret; }; f\"\n",
    )
    .unwrap();
    let path = home.path().join("address");
    fs::write(&path, format!("{} {}", server.address, stand_in.commit)).unwrap();
    in_environment("with_a_helper_for_passwords", &[("HOME", home.path().to_owned())]);
}

#[test]
#[ignore = "run by the test above, with a home that has a helper"]
fn with_a_helper_for_passwords() {
    let home = PathBuf::from(std::env::var_os("HOME").unwrap());
    let text = fs::read_to_string(home.join("address")).unwrap();
    let (address, commit) = text.split_once(' ').unwrap();
    let revision = Revision::Commit { commit: commit.into(), branch: None };
    let source =
        GitSource { url: format!("{address}/main.git"), mirrors: Vec::new(), revision, submodules: true };
    let cache = tempfile::tempdir().unwrap();
    opened(cache.path()).resolve(&source).unwrap_or_else(|error| panic!("{}", report(&error)));
}

#[test]
fn the_folder_of_mirrors_is_that_of_the_local_settings() {
    let stand_in = StandIn::new();
    let cache = tempfile::tempdir().unwrap();
    let local = Local { git_mirrors: Some(stand_in.path().to_owned()), ..Local::default() };
    let origins = Origins::new(cache.path(), &local, dpukit_image::fetch::Options::default());
    origins.git().unwrap().resolve(&stand_in.source("http://127.0.0.1:9/x")).unwrap();
}
