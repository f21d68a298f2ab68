use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::ensure;
use proptest::prelude::*;
use tempfile::TempDir;

use super::resolve::resolve_all;
use super::*;
use crate::config::{Archive, Suite, Suites};
use crate::debian::Source;
use crate::debian::keyring::tests::{Pair, now};
use crate::hint::report;

#[test]
fn a_release_file_that_is_older_than_the_locks_is_refused() {
    let of = |date: &str| {
        let suite =
            LockedSuite { archive: "debian-security".into(), date: date.into(), sha256: Hash::of(date) };
        Lock { suites: BTreeMap::from([("trixie".into(), suite)]), ..Lock::default() }
    };
    let (old, new) = (of("2026-09-21T00:53:02Z"), of("2026-11-01T00:00:00Z"));
    assert!(old.refuse_older(&new).is_ok() && new.refuse_older(&new.clone()).is_ok());
    assert!(Lock::default().refuse_older(&old).is_ok());
    let error = report(&new.refuse_older(&old).unwrap_err());
    assert!(error.contains("`trixie` is of 2026-09-21T00:53:02Z, older than the lock's"), "{error}");
    assert!(error.contains("DPUKIT_MIRROR_DEBIAN_SECURITY"), "{error}");
}

/// An archive in a folder, that remembers what was asked of it.
pub(crate) struct Folder {
    pub(crate) folder: TempDir,
    asked: RefCell<Vec<String>>,
}

impl Source for Folder {
    fn get(&self, archive: &str, path: &str, want: Option<(u64, Hash)>) -> Result<Vec<u8>> {
        self.asked.borrow_mut().push(path.to_owned());
        let bytes = std::fs::read(self.folder.path().join(archive).join(path))?;
        if let Some((size, hash)) = want {
            ensure!(size == bytes.len() as u64 && hash == Hash::of(&bytes), "`{path}` is not what is wanted");
        }
        Ok(bytes)
    }
}

impl Folder {
    /// Has a key file `test` for the suites to come.
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("test.asc"), Pair::generate(1).armor()).unwrap();
        Self { folder, asked: RefCell::new(Vec::new()) }
    }

    /// Puts a suite in place, of lines `name version; Field: value; …` for each architecture.
    pub(crate) fn put(&self, suite: &str, architectures: &[(&str, &str)]) {
        let mut files = String::new();
        let base = self.folder.path().join("debian/dists").join(suite);
        for (architecture, lines) in architectures {
            let index = compress(&stanzas(architecture, lines));
            let path = format!("main/binary-{architecture}/Packages.xz");
            let _ = writeln!(files, " {} {} {path}", Hash::of(&index), index.len());
            std::fs::create_dir_all(base.join(&path).parent().unwrap()).unwrap();
            std::fs::write(base.join(path), index).unwrap();
        }
        let text = format!("Codename: {suite}\nDate: Sat, 21 Nov 2026 09:15:44 UTC\nSHA256:\n{files}");
        std::fs::write(base.join("InRelease"), Pair::generate(1).sign(&text)).unwrap();
    }

    fn scope<'a>(&self, suites: &'a Suites, wishes: &[(&'a str, Wish<'a>)]) -> Scope<'a> {
        Scope { keys: self.folder.path().to_owned(), suites, wishes: wishes.iter().cloned().collect() }
    }
}

fn stanzas(architecture: &str, lines: &str) -> String {
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    let stanzas = lines.map(|line| {
        let (head, fields) = line.split_once(';').unwrap_or((line, ""));
        let (name, version) = head.split_once(' ').unwrap();
        let fields = fields.split(';').map(str::trim).filter(|field| !field.is_empty());
        let fields: String = fields.flat_map(|field| [field, "\n"]).collect();
        let hash = Hash::of(format!("{line} {architecture}"));
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n{fields}\
             Filename: pool/{name}_{version}_{architecture}.deb\nSize: 7\nSHA256: {hash}\n\n"
        )
    });
    stanzas.collect()
}

fn compress(text: &str) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 0);
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// Suites of the archive `debian`; `!` before a name marks it only-when-named.
fn suites(names: &[&str]) -> Suites {
    let suites = names.iter().map(|name| {
        let path = name.trim_start_matches('!').to_owned();
        let only_when_named = name.starts_with('!');
        (
            path.clone(),
            Suite {
                archive: "debian".into(),
                path,
                origin: None,
                keys: vec!["test".into()],
                only_when_named,
            },
        )
    });
    let archive = Archive { mirrors: vec![], snapshot: None };
    Suites { archives: [("debian".to_owned(), archive)].into(), suites: suites.collect() }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

fn wish<'a>(suites: &'a [String], packages: &'a [String]) -> Wish<'a> {
    Wish { suites, architecture: "arm64", packages, dependencies: true, without: BTreeSet::new() }
}

fn package(name: &str, version: &str) -> LockedPackage {
    LockedPackage {
        name: name.into(),
        version: version.into(),
        arch: "arm64".into(),
        suite: "stable".into(),
        archive: "debian".into(),
        path: format!("pool/{name}_{version}_arm64.deb"),
        size: 7,
        sha256: Hash::of(format!("{name} {version}")),
    }
}

fn lock(components: &[(&str, &[LockedPackage])]) -> Lock {
    let components = components.iter().map(|(name, packages)| {
        let locked =
            LockedComponent { request: Hash::of(name), content: Content::Packages(packages.to_vec()) };
        ((*name).to_owned(), locked)
    });
    let date = "2026-11-21T09:15:44Z".to_owned();
    let suite = LockedSuite { archive: "debian".into(), date, sha256: Hash::of("stable") };
    Lock { suites: [("stable".to_owned(), suite)].into(), components: components.collect() }
}

fn example() -> Lock {
    lock(&[
        ("root", &[package("bash", "5.2"), package("libc6", "2.41-1")]),
        ("tools", &[package("gcc", "4:14.2")]),
    ])
}

fn error(text: &str) -> String {
    format!("{:#}", Lock::parse(text).unwrap_err())
}

#[test]
fn a_lock_has_one_line_for_each_package() {
    insta::assert_snapshot!(example().to_string(), @r#"
    # Written by `cargo xtask lock`; what is changed here by hand is lost.
    # After a merge conflict take either side and run `cargo xtask lock`.
    version = 1

    [[suite]]
    name = "stable"
    archive = "debian"
    date = "2026-11-21T09:15:44Z"
    sha256 = "f379ccb92b9116442dc65bdc35648a85d3786b34779db7f704a901fa07b00cb6"

    [component.root]
    request = "4813494d137e1631bba301d5acab6e7bb7aa74ce1185d456565ef51d737677b2"
    packages = [
      { name = "bash", version = "5.2", arch = "arm64", suite = "stable", archive = "debian", path = "pool/bash_5.2_arm64.deb", size = 7, sha256 = "6084e539f2d6e98c7843034953ca924755b529ebac428d500a25d8243fabab17" },
      { name = "libc6", version = "2.41-1", arch = "arm64", suite = "stable", archive = "debian", path = "pool/libc6_2.41-1_arm64.deb", size = 7, sha256 = "b92bd7553bfb064573afada0dd4834fc00cda8bed84ed9c0bb79137e99968d18" },
    ]

    [component.tools]
    request = "f9d35d43770d39092a663e665e82ae1d84a9e0da3d0d10c407acada6a40cd281"
    packages = [
      { name = "gcc", version = "4:14.2", arch = "arm64", suite = "stable", archive = "debian", path = "pool/gcc_4:14.2_arm64.deb", size = 7, sha256 = "cf8e02b8c1a16cd170ab94cba13e216a5b104dbf869b72523060df5fab4d3a98" },
    ]
    "#);
}

#[test]
fn a_lock_is_written_whole_and_read_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("locks/virt.toml");
    assert_eq!(Lock::read(&path).unwrap(), Lock::default());
    example().write(&path).unwrap();
    example().write(&path).unwrap();
    assert_eq!(Lock::read(&path).unwrap(), example());
    let files: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
}

#[test]
fn a_lock_that_cannot_be_read_says_how_to_mend_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("virt.toml");
    for bytes in [&b"version = 2\n"[..], b"version = 1\n\xff"] {
        std::fs::write(&path, bytes).unwrap();
        let error = report(&Lock::read(&path).unwrap_err());
        assert!(error.contains("virt.toml`"), "{error}");
        assert!(error.ends_with("or remove it and run `cargo xtask lock`"), "{error}");
    }
}

#[test]
fn what_is_wrong_in_a_lock_is_said_with_its_line() {
    let good = example().to_string();
    let bash = Hash::of("bash 5.2").to_string();
    for (text, wrong) in [
        (good.replace("version = 1", "version = 2"), "line 3: the lock is of version 2"),
        (good.replace("version = 1", ""), "missing field `version`"),
        (good.replace("version = 1", "version = 1\n<<<<<<< HEAD"), "line 4: a mark of a merge conflict"),
        (good.replace("[[suite]]", "=======\n[[suite]]"), "line 5: a mark of a merge conflict"),
        (good.replace("[[suite]]", ">>>>>>> branch\n[[suite]]"), "line 5: a mark of a merge conflict"),
        (good.replace(&bash, "abc"), "line 14: `abc` is not a SHA-256"),
        (good.replace(&bash, &bash.to_uppercase()), "line 14: `"),
        (
            good.replace("pool/bash", "../bash"),
            "line 14: `../bash_5.2_arm64.deb` is not a path within an archive",
        ),
        (good.replace("pool/bash", "/bash"), "line 14: `/bash_5.2_arm64.deb` is not a path"),
        (good.replace("\"bash\"", "\"Bash\""), "line 14: `Bash` is not a package's name"),
        (good.replace("\"5.2\"", "\"5_2\""), "line 14: version `5_2` has `_`"),
        (good.replace("\"bash\"", "\"libc6\""), "line 15: `libc6:arm64` is there twice in `root`"),
        (good.replacen("size = 7", "size = -7", 1), "line 14: "),
        (good.replacen("size = 7", "weight = 7", 1), "line 14: unknown field `weight`"),
        (good.replacen("size = 7, ", "", 1), "line 14: missing field `size`"),
        (
            good.replace("name = \"stable\"", "name = \"old\""),
            "line 14: the suite `stable` is not in the lock",
        ),
        (
            good.replacen("archive = \"debian\"", "archive = \"other\"", 1),
            "line 14: the suite `stable` is of the archive `other`",
        ),
        (good.replace("component.tools", "component.root"), "line 18: "),
        (format!("{good}\nmore = 1\n"), "line 24: unknown field `more`"),
    ] {
        assert_ne!(text, good, "{wrong}");
        assert!(error(&text).contains(wrong), "{} has not {wrong}", error(&text));
    }
    let twice = good.replace(
        "[component.root]",
        &format!(
            "{}\n[component.root]",
            &good[good.find("[[suite").unwrap()..good.find("[component").unwrap()]
        ),
    );
    assert!(error(&twice).contains("line 11: the suite `stable` is there twice"), "{}", error(&twice));
}

#[test]
fn a_lock_that_was_cut_short_is_refused_or_lacks_components() {
    let good = example();
    let text = good.to_string();
    for end in 0..text.len() {
        let Ok(cut) = Lock::parse(&text[..end]) else { continue };
        for (name, component) in &cut.components {
            assert_eq!(Some(component), good.components.get(name), "cut at {end}");
        }
    }
    assert!(error("").contains("missing field `version`"));
    let cut = &text[..text.find("libc6").unwrap()];
    assert!(error(cut).starts_with("line 15: "), "{}", error(cut));
}

#[test]
fn components_are_resolved_and_each_file_is_asked_for_once() {
    let archive = Folder::new();
    archive.put(
        "stable",
        &[
            ("arm64", "bash 5.2; Depends: libc6\nlibc6 2.41; Multi-Arch: same\nvim 9"),
            ("amd64", "libc6 2.41; Multi-Arch: same\ngcc 14; Depends: libc6"),
        ],
    );
    archive.put("new", &[("arm64", "vim 10; Depends: bash (>= 5)"), ("amd64", "")]);
    let known = suites(&["stable", "!new"]);
    let (all, only) = (names(&["stable", "new"]), names(&["stable"]));
    let (root, tools) = (names(&["vim/new", "libc6:amd64"]), names(&["bash"]));
    let scope = archive.scope(&known, &[("root", wish(&all, &root)), ("tools", wish(&only, &tools))]);
    let lock = resolve_all(&scope, &archive, now()).unwrap();
    let list = |name: &str| {
        let packages = lock.components[name].content.packages().iter();
        packages
            .map(|p| format!("{}:{}={}/{}", p.name, p.arch, p.version, p.suite))
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        list("root"),
        "bash:arm64=5.2/stable libc6:amd64=2.41/stable libc6:arm64=2.41/stable vim:arm64=10/new"
    );
    assert_eq!(list("tools"), "bash:arm64=5.2/stable libc6:arm64=2.41/stable");
    let bash = &lock.components["tools"].content.packages()[0];
    assert_eq!(
        (bash.path.as_str(), bash.size, bash.archive.as_str()),
        ("pool/bash_5.2_arm64.deb", 7, "debian")
    );
    assert_eq!(lock.suites["stable"].date, "2026-11-21T09:15:44Z");
    assert_eq!(lock.suites.keys().collect::<Vec<_>>(), ["new", "stable"]);
    let mut asked = archive.asked.take();
    let count = asked.len();
    asked.sort();
    asked.dedup();
    assert_eq!((count, asked.len()), (6, 6), "{asked:?}");
    assert_eq!(Lock::parse(&lock.to_string()).unwrap(), lock);
    assert_eq!(lock.missing_of(&scope), [""; 0]);
}

#[test]
fn a_flat_repository_gives_what_is_of_the_architecture() {
    let archive = Folder::new();
    archive.put("stable", &[("arm64", "conntrack 1.4")]);
    // As those of openSUSE's build service: gzip, one index, paths from `./` on, and a name that says nothing.
    let lines = "kubelet 1.32.0-1.1; Depends: conntrack, kubernetes-cni\nkubernetes-cni 1.6.0-1.1";
    let text = ["s390x", "arm64", "amd64"].map(|architecture| stanzas(architecture, lines)).concat();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.replace("Filename: pool/", "Filename: ./arm64/").as_bytes()).unwrap();
    let index = encoder.finish().unwrap();
    let base = archive.folder.path().join("kubernetes");
    std::fs::create_dir(&base).unwrap();
    let release = format!(
        "Origin: obs://build/kubernetes\nCodename: deb\nDate: Sat Nov 21 09:15:44 2026\nSHA256:\n {} {} Packages.gz\n",
        Hash::of(&index),
        index.len()
    );
    std::fs::write(base.join("Packages.gz"), index).unwrap();
    std::fs::write(base.join("InRelease"), Pair::generate(1).sign(&release)).unwrap();

    let mut known = suites(&["stable"]);
    let flat = Suite {
        archive: "kubernetes".into(),
        path: "./".into(),
        origin: Some("obs://build/kubernetes".into()),
        keys: vec!["test".into()],
        only_when_named: false,
    };
    known.suites.insert("kubernetes".into(), flat);
    known.archives.insert("kubernetes".into(), Archive { mirrors: vec![], snapshot: None });
    let (all, root) = (names(&["stable", "kubernetes"]), names(&["kubelet"]));
    let scope = archive.scope(&known, &[("root", wish(&all, &root))]);
    let lock = resolve_all(&scope, &archive, now()).unwrap();
    let packages = lock.components["root"].content.packages().iter();
    let listed: Vec<_> =
        packages.map(|p| format!("{}:{} {}/{}", p.name, p.arch, p.archive, p.path)).collect();
    assert_eq!(
        listed,
        [
            "conntrack:arm64 debian/pool/conntrack_1.4_arm64.deb",
            "kubelet:arm64 kubernetes/arm64/kubelet_1.32.0-1.1_arm64.deb",
            "kubernetes-cni:arm64 kubernetes/arm64/kubernetes-cni_1.6.0-1.1_arm64.deb",
        ]
    );
}

#[test]
fn what_cannot_be_resolved_names_the_component() {
    let archive = Folder::new();
    archive.put("stable", &[("arm64", "bash 5.2")]);
    let known = suites(&["stable"]);
    let (stable, none) = (names(&["stable"]), names(&["none"]));
    let resolve = |suites, packages: &[&str], at| {
        let packages = names(packages);
        let scope = archive.scope(&known, &[("root", wish(suites, &packages))]);
        report(&resolve_all(&scope, &archive, at).unwrap_err())
    };
    let bash = resolve(&stable, &["bush"], now());
    assert!(
        bash.starts_with("error: resolving the component `root`\n  cause: there is no package `bush`"),
        "{bash}"
    );
    assert!(bash.ends_with("hint: did you mean `bash`?"), "{bash}");
    assert!(resolve(&none, &["bash"], now()).contains("there is no suite `none` in `image/suites.toml`"));
    assert!(resolve(&stable, &["bash:amd64"], now()).contains("the suite has no packages for `amd64`"));
    assert!(resolve(&stable, &["Bash"], now()).contains("`Bash` does not begin with a package's name"));
    let early = now() - Duration::from_hours(24 * 30);
    assert!(resolve(&stable, &["bash"], early).contains("made in the future"));
    let index = archive.folder.path().join("debian/dists/stable/main/binary-arm64/Packages.xz");
    std::fs::write(index, compress("Package: bash\n")).unwrap();
    assert!(resolve(&stable, &["bash"], now()).contains("is not what is wanted"));
}

#[test]
fn a_component_is_stale_once_it_asks_for_something_else() {
    let known = suites(&["stable", "!new"]);
    let archive = Folder::new();
    let (stable, both) = (names(&["stable"]), names(&["stable", "new"]));
    let (packages, turned, more) = (names(&["a", "b"]), names(&["b", "a"]), names(&["a", "b", "c"]));
    let first = wish(&stable, &packages);
    let mut lock = lock(&[("root", &[])]);
    let missing = |lock: &Lock, known: &Suites, wish: Wish<'_>| {
        lock.missing_of(&archive.scope(known, &[("root", wish)]))
    };
    assert_eq!(missing(&Lock::default(), &known, first.clone()), ["root"]);
    assert_eq!(missing(&lock, &known, first.clone()), ["root"]);
    lock.components.get_mut("root").unwrap().request = first.hash(&known);
    assert_eq!(missing(&lock, &known, first.clone()), [""; 0]);
    assert_eq!(missing(&lock, &known, wish(&stable, &turned)), [""; 0]);
    for other in [
        wish(&stable, &more),
        wish(&both, &packages),
        Wish { architecture: "amd64", ..first.clone() },
        Wish { dependencies: false, ..first.clone() },
        Wish { without: BTreeSet::from(["c"]), ..first.clone() },
    ] {
        assert_eq!(missing(&lock, &known, other), ["root"]);
    }
    // And once a suite means something else.
    assert_eq!(missing(&lock, &suites(&["!stable"]), first), ["root"]);
}

#[test]
fn an_update_takes_over_what_is_new_and_drops_what_is_gone() {
    let mut old = lock(&[("root", &[package("a", "1")]), ("gone", &[package("b", "1")])]);
    let mut other = package("c", "1");
    other.suite = "new".into();
    let mut newer = lock(&[("tools", &[other])]);
    newer.suites = [("new".to_owned(), newer.suites["stable"].clone())].into();
    old.update_for(&["root", "tools"], newer);
    assert_eq!(old.components.keys().collect::<Vec<_>>(), ["root", "tools"]);
    assert_eq!(old.suites.keys().collect::<Vec<_>>(), ["new", "stable"]);
    old.update_for(&["tools"], Lock::default());
    assert_eq!(old.suites.keys().collect::<Vec<_>>(), ["new"]);
}

#[test]
fn a_difference_is_told_by_component_and_package() {
    let mut rebuilt = package("e", "1");
    rebuilt.sha256 = Hash::of("other");
    let old = ["a", "b", "c", "d", "e"].map(|name| package(name, "1"));
    let new = [package("a", "1"), package("b", "1.1"), package("d", "0.9"), rebuilt, package("f", "1")];
    let (old, new) = (lock(&[("root", &old), ("same", &[])]), lock(&[("root", &new), ("same", &[])]));
    let text: Vec<_> = old.differences(&new).iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(text.join("\n"), @r"
    `root`:
      upgraded b:arm64 1 -> 1.1
      removed  c:arm64 1
      lowered  d:arm64 1 -> 0.9
      changed  e:arm64 1, with other content
      added    f:arm64 1
    ");
    assert_eq!(old.differences(&old), []);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "([a-z=\"\\[\\]{},. 0-9]|\n|\\PC){0,60}") {
        let _ = Lock::parse(&text);
    }

    #[test]
    fn what_is_written_is_read_the_same(date in "\\PC{0,12}", name in "\\PC{1,8}") {
        let mut lock = example();
        lock.suites.get_mut("stable").unwrap().date = date;
        let component = lock.components["root"].clone();
        lock.components.insert(name, component);
        prop_assert_eq!(Lock::parse(&lock.to_string()).unwrap(), lock);
    }
}

fn of_other_sources() -> Lock {
    let blob = |text: &str| Blob { media_type: "a/b+json".into(), size: 3, sha256: Hash::of(text) };
    let file = |name: &str| LockedFile {
        name: name.into(),
        file: "x \"y\".img".into(),
        size: 7,
        sha256: Hash::of(name),
    };
    let contents = [
        ("git", Content::Git(LockedGit { commit: "0a".repeat(20), content: Hash::of("files") })),
        (
            "oci",
            Content::Oci(LockedOci {
                manifest: blob("manifest"),
                blobs: vec![blob("config"), blob("layer")],
            }),
        ),
        ("user", Content::Files(vec![file("flash"), file("microcode/cpt04/ae.out")])),
    ];
    let components = contents
        .into_iter()
        .map(|(name, content)| (name.to_owned(), LockedComponent { request: Hash::of(name), content }));
    Lock { suites: BTreeMap::new(), components: components.collect() }
}

#[test]
fn commits_images_and_files_are_read_back_as_they_were_written() {
    let lock = of_other_sources();
    let text = lock.to_string();
    let read = Lock::parse(&text).unwrap_or_else(|error| panic!("{error:#}\n{text}"));
    assert_eq!(read, lock);
    assert_eq!(read.to_string(), text);
    let mut newer = lock.clone();
    let Some(Content::Git(git)) = newer.components.get_mut("git").map(|locked| &mut locked.content) else {
        panic!("no commit")
    };
    git.commit = "0b".repeat(20);
    git.content = Hash::of("other files");
    let told: Vec<_> = lock.differences(&newer).iter().map(ToString::to_string).collect();
    let (old, new) = ("0a".repeat(20), "0b".repeat(20));
    assert_eq!(told, [format!("`git`:\n  changed  commit {old} -> {new}")]);
}

#[test]
fn what_can_not_be_of_a_commit_an_image_or_a_file_is_refused_with_its_line() {
    let text = of_other_sources().to_string();
    let after = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        format!("{:#}", Lock::parse(&text.replacen(from, to, 1)).unwrap_err())
    };
    let commit = "0a".repeat(20);
    for (from, to, said) in [
        (commit.as_str(), "0a0a", "`0a0a` is not a commit"),
        ("microcode/cpt04", "microcode/..", "is not a file's name"),
        ("name = \"microcode/cpt04/ae.out\"", "name = \"flash\"", "the file `flash` is there twice"),
        ("manifest = {", "manifest-of = {", "unknown field"),
        ("git = {", "files = []\ngit = {", "has to have one of"),
    ] {
        let error = after(from, to);
        assert!(error.starts_with("line ") && error.contains(said), "{error}");
    }
}
