use proptest::prelude::*;

use super::*;
use crate::hint::report;

/// An index of lines `name version architecture; Field: value; …`.
fn index(lines: &str) -> Index {
    let lines = lines.lines().map(str::trim).filter(|line| !line.is_empty());
    let stanzas = lines.map(|line| {
        let mut parts = line.split(';').map(str::trim);
        let head: Vec<_> = parts.next().unwrap().split(' ').collect();
        let [name, version, architecture] = head[..] else { panic!("{line}") };
        let fields: String = parts.flat_map(|field| [field, "\n"]).collect();
        let path = format!("pool/{name}_{}_{architecture}.deb", version.replace(':', "."));
        let hash = crate::hash::Hash::of(line);
        format!(
            "Package: {name}\nVersion: {version}\nArchitecture: {architecture}\n{fields}\
             Filename: {path}\nSize: 1\nSHA256: {hash}\n\n"
        )
    });
    Index::read("test", stanzas.collect::<String>().as_bytes()).unwrap()
}

/// Suites with the architectures' indexes; `!` before a suite's name marks it only-when-named.
struct World(Vec<(&'static str, Vec<(&'static str, Index)>)>);

impl World {
    /// One suite `stable` for `arm64`.
    fn of(lines: &str) -> Self {
        Self(vec![("stable", vec![("arm64", index(lines))])])
    }

    fn request<'a>(&'a self, wanted: &[&'a str]) -> Request<'a> {
        let suites = self.0.iter().map(|(name, indexes)| Suite {
            name: name.trim_start_matches('!'),
            only_when_named: name.starts_with('!'),
            indexes: indexes.iter().map(|(architecture, index)| (*architecture, index)).collect(),
        });
        Request {
            wanted: wanted.iter().map(|wanted| Wanted::parse(wanted).unwrap()).collect(),
            suites: suites.collect(),
            architecture: "arm64",
            without: BTreeSet::new(),
            dependencies: true,
        }
    }

    fn choose(&self, wanted: &[&str]) -> String {
        chosen(&self.request(wanted)).unwrap()
    }

    fn error(&self, wanted: &[&str]) -> String {
        report(&chosen(&self.request(wanted)).unwrap_err())
    }
}

/// The chosen packages as `name` where all is plain, else `name=version:architecture/suite`.
fn chosen(request: &Request<'_>) -> Result<String> {
    let names = resolve(request)?.into_iter().map(|chosen| {
        let (package, mut text) = (chosen.package, chosen.package.name().to_owned());
        if package.version_text() != "1" {
            text.extend(["=", package.version_text()]);
        }
        if !["arm64", "all"].contains(&package.architecture()) {
            text.extend([":", package.architecture()]);
        }
        if chosen.suite != "stable" {
            text.extend(["/", chosen.suite]);
        }
        text
    });
    Ok(names.collect::<Vec<_>>().join(" "))
}

#[test]
fn what_the_wanted_depend_on_is_taken_and_nothing_else() {
    let world = World::of(
        "a 1 arm64; Depends: b; Recommends: z; Suggests: z
         b 1 arm64; Pre-Depends: c
         c 1 all; Depends: a
         e 1 arm64; Essential: yes
         z 1 arm64",
    );
    assert_eq!(world.choose(&["a"]), "a b c");
    let alone = Request { dependencies: false, ..world.request(&["a", "z"]) };
    assert_eq!(chosen(&alone).unwrap(), "a z");
}

#[test]
fn the_highest_version_of_all_suites_is_taken() {
    let suites = |first, second| {
        World(vec![("stable", vec![("arm64", index(first))]), ("security", vec![("arm64", index(second))])])
    };
    assert_eq!(suites("a 1.9 arm64", "a 1.10 arm64").choose(&["a"]), "a=1.10/security");
    assert_eq!(suites("a 1.10 arm64", "a 1.9 arm64").choose(&["a"]), "a=1.10");
    assert_eq!(suites("a 1 arm64\na 2 arm64\n", "a 1.5 arm64").choose(&["a"]), "a=2");
    // Of equal versions, the first suite's.
    assert_eq!(suites("a 1 arm64", "a 1 arm64").choose(&["a"]), "a");
}

#[test]
fn the_first_alternative_counts_unless_another_is_there_anyway() {
    let packages = "a 1 arm64; Depends: x | y
                    b 1 arm64; Depends: y
                    g 1 arm64; Depends: gone | y
                    v 1 arm64; Depends: y (>= 2) | x
                    x 1 arm64
                    y 1 arm64";
    let world = World::of(packages);
    assert_eq!(world.choose(&["a"]), "a x");
    assert_eq!(world.choose(&["a", "y"]), "a y");
    // Even where the need for `y` comes later in the order of names.
    assert_eq!(world.choose(&["a", "b"]), "a b y");
    assert_eq!(world.choose(&["g"]), "g y");
    assert_eq!(world.choose(&["v"]), "v x");
}

#[test]
fn a_virtual_package_is_filled_by_a_provider() {
    let world = World::of(
        "a 1 arm64; Depends: mail
         b 1 arm64; Depends: mail (>= 2)
         c 1 arm64; Depends: real
         exim 1 arm64; Provides: mail; Priority: optional
         postfix 1 arm64; Provides: mail (= 3); Priority: optional
         sendmail 1 arm64; Provides: mail (= 1); Priority: important
         real 1 arm64
         other 1 arm64; Provides: real; Priority: required",
    );
    // By priority first; what is there already comes before.
    assert_eq!(world.choose(&["a"]), "a sendmail");
    assert_eq!(world.choose(&["a", "exim"]), "a exim");
    // Only a version answers a version.
    assert_eq!(world.choose(&["b"]), "b postfix");
    assert_eq!(world.choose(&["b", "exim"]), "b exim postfix");
    // A real package comes before its providers.
    assert_eq!(world.choose(&["c"]), "c real");
}

#[test]
fn what_is_left_out_is_not_taken_and_not_missed() {
    let world = World::of(
        "a 1 arm64; Depends: b, x | y
         b 1 arm64; Depends: c
         c 1 arm64
         x 1 arm64
         y 1 arm64",
    );
    let without = |names: &[&'static str]| {
        let request = Request { without: names.iter().copied().collect(), ..world.request(&["a"]) };
        chosen(&request).map_err(|error| report(&error))
    };
    assert_eq!(without(&["b"]).unwrap(), "a x");
    assert_eq!(without(&["b", "x"]).unwrap(), "a y");
    assert_eq!(without(&["b", "x", "y"]).unwrap(), "a");
    assert_eq!(without(&["a"]).unwrap_err(), "error: `a` is both asked for and left out by `without`");
}

#[test]
fn a_suite_that_is_only_taken_from_when_named_gives_what_is_named_and_what_that_needs() {
    let world = World(vec![
        (
            "stable",
            vec![(
                "arm64",
                index(
                    "rustc 1 arm64; Depends: std (= 1)
                     std 1 arm64
                     user 1 arm64; Depends: std
                     libc 1 arm64",
                ),
            )],
        ),
        (
            "!backports",
            vec![(
                "arm64",
                index(
                    "rustc 2 arm64; Depends: std (= 2), llvm, libc
                     std 2 arm64
                     llvm 2 arm64
                     libc 2 arm64",
                ),
            )],
        ),
    ]);
    assert_eq!(world.choose(&["rustc"]), "rustc std");
    let backported = "llvm=2/backports rustc=2/backports std=2/backports";
    assert_eq!(world.choose(&["rustc/backports"]), format!("libc {backported}"));
    // Packages that were content with the older one get the one that is settled on.
    assert_eq!(world.choose(&["rustc/backports", "user"]), format!("libc {backported} user"));
    assert_eq!(
        world.error(&["llvm"]),
        "error: there is no package `llvm` for `arm64` in the suites `stable`, `backports`\n\
         hint: it is in `backports`: ask for `llvm/backports`"
    );
    assert_eq!(
        world.error(&["rustc/stable", "rustc/backports"]),
        "error: `rustc` is needed both in version 2 of `backports` and in version 1 of `stable`"
    );
}

#[test]
fn packages_of_another_architecture_bring_their_own_libraries_but_not_programs() {
    let native = "cross 1 arm64; Depends: libc:amd64
                  make 1 arm64; Multi-Arch: foreign
                  libc 1 arm64; Multi-Arch: same
                  perl 1 arm64; Multi-Arch: allowed
                  data 1 all
                  doc 1 all; Multi-Arch: foreign
                  tool 1 arm64";
    let foreign = "libx 1 amd64; Multi-Arch: same; Depends: libc, make, doc
                   libc 1 amd64; Multi-Arch: same
                   make 1 amd64; Multi-Arch: foreign
                   perl 1 amd64; Multi-Arch: allowed
                   tool 1 amd64
                   data 1 all
                   doc 1 all; Multi-Arch: foreign
                   any 1 amd64; Depends: perl:any
                   same 1 amd64; Depends: perl
                   native 1 amd64; Depends: tool:native
                   bad 1 amd64; Depends: data
                   twice 1 amd64; Depends: tool";
    let world = World(vec![("stable", vec![("arm64", index(native)), ("amd64", index(foreign))])]);
    assert_eq!(world.choose(&["libx:amd64"]), "doc libc:amd64 libx:amd64 make");
    assert_eq!(world.choose(&["libx:amd64", "libc"]), "doc libc:amd64 libc libx:amd64 make");
    assert_eq!(world.choose(&["any:amd64"]), "any:amd64 perl");
    assert_eq!(world.choose(&["same:amd64"]), "perl:amd64 same:amd64");
    assert_eq!(world.choose(&["native:amd64"]), "native:amd64 tool");
    assert_eq!(world.choose(&["cross"]), "cross libc:amd64");
    // A package of `all` that is not `foreign` serves only the machine's architecture.
    assert!(world.error(&["bad:amd64"]).contains("`bad:amd64` (1) depends on `data`"));
    let error = world.error(&["twice:amd64", "tool"]);
    assert!(error.contains("can't both be there: they are not `Multi-Arch: same`"), "{error}");
    assert_eq!(
        world.error(&["doc:amd64"]),
        "error: there is no package `doc` for `amd64` in the suites `stable`\n\
         hint: it serves all architectures: ask for `doc` without `:amd64`"
    );
    let skewed = World(vec![(
        "stable",
        vec![
            ("arm64", index("libc 2 arm64; Multi-Arch: same")),
            ("amd64", index("libc 1 amd64; Multi-Arch: same")),
        ],
    )]);
    assert!(skewed.error(&["libc", "libc:amd64"]).contains("must be of the same version"));
}

#[test]
fn packages_that_exclude_each_other_are_both_named_with_the_way_they_came_in() {
    let world = World::of(
        "a 1 arm64; Depends: b
         b 1 arm64; Depends: c
         c 1 arm64; Conflicts: d
         d 1 arm64
         e 1 arm64; Breaks: a (<< 2)
         f 1 arm64; Breaks: a (<< 1)
         m 1 arm64; Provides: mta; Conflicts: mta
         n 1 arm64; Provides: mta; Conflicts: mta",
    );
    assert_eq!(
        world.error(&["a", "d"]),
        "error: packages exclude each other: `c` (1, needed by `b` for `a`) conflicts with `d` (1): it says `d`\n\
         hint: ask for another alternative by name, or leave one out with `without`"
    );
    assert!(world.error(&["a", "e"]).contains("`e` (1) breaks `a` (1): it says `a (<< 2)`"));
    assert_eq!(world.choose(&["a", "f"]), "a b c f");
    assert_eq!(world.choose(&["m"]), "m");
    assert!(world.error(&["m", "n"]).contains("`m` (1) conflicts with `n` (1): it says `mta`"));
}

#[test]
fn a_package_that_is_not_there_is_named_with_what_to_write_instead() {
    let world = World::of(
        "openssh-server 1 arm64; Depends: openssh-client (>= 2)
         openssh-client 1 arm64
         exim 1 arm64; Provides: mail
         broken 1 arm64; Depends: exin | gone",
    );
    assert_eq!(
        world.error(&["openssh-sever"]),
        "error: there is no package `openssh-sever` for `arm64` in the suites `stable`\n\
         hint: did you mean `openssh-server`?"
    );
    assert_eq!(
        world.error(&["mail"]),
        "error: there is no package `mail` for `arm64` in the suites `stable`\n\
         hint: it is a virtual package; ask for one that provides it: `exim`"
    );
    assert_eq!(
        world.error(&["openssh-server"]),
        "error: `openssh-server` (1) depends on `openssh-client (>= 2)`, which nothing in `stable` fills\n\
         hint: there is `openssh-client` 1 for `arm64` in `stable`"
    );
    assert_eq!(
        world.error(&["broken"]),
        "error: `broken` (1) depends on `exin | gone`, which nothing in `stable` fills\n\
         hint: did you mean `exim`?"
    );
    assert_eq!(
        world.error(&["exim/sid"]),
        "error: `exim/sid` names a suite that the component does not have\nhint: its suites are `stable`"
    );
    assert_eq!(
        world.error(&["exin/stable"]),
        "error: there is no package `exin` for `arm64` in `stable`\nhint: did you mean `exim`?"
    );
    assert_eq!(world.error(&["xyz"]), "error: there is no package `xyz` for `arm64` in the suites `stable`");
}

#[test]
fn a_wanted_package_is_read_and_written() {
    for text in ["gcc", "g++:arm64", "gcc/trixie", "libstd-rust-dev:arm64/trixie-backports"] {
        assert_eq!(Wanted::parse(text).unwrap().to_string(), text);
    }
    for text in ["", "GCC", "gcc:", "gcc:all", "gcc:any", "gcc/", "/trixie", ":arm64", "gcc arm64"] {
        assert!(Wanted::parse(text).is_err(), "{text}");
    }
}

/// A small archive: for each package its groups of alternatives, and whether it provides `virtual`.
/// Names are numbers below [`COUNT`]; [`COUNT`] itself stands for the virtual package.
type Archive = Vec<(Vec<Vec<usize>>, bool)>;

const COUNT: usize = 8;

fn name(number: usize) -> String {
    if number == COUNT { "virtual".into() } else { format!("p{number}") }
}

fn archive() -> impl Strategy<Value = Archive> {
    let group = proptest::collection::vec(0..=COUNT, 1..4);
    let package = (proptest::collection::vec(group, 0..3), any::<bool>());
    proptest::collection::vec(package, COUNT)
}

fn lines(archive: &Archive, order: &[usize]) -> String {
    let lines = order.iter().map(|number| {
        let (groups, provides) = &archive[*number];
        let groups =
            groups.iter().map(|group| group.iter().map(|to| name(*to)).collect::<Vec<_>>().join(" | "));
        let provides = if *provides { "; Provides: virtual" } else { "" };
        format!("{} 1 arm64; Depends: {}{provides}\n", name(*number), groups.collect::<Vec<_>>().join(", "))
    });
    lines.collect()
}

proptest! {
    #[test]
    fn the_outcome_does_not_depend_on_any_order(
        archive in archive(),
        order in Just((0..COUNT).collect::<Vec<_>>()).prop_shuffle(),
        wanted in proptest::collection::vec(0..COUNT, 1..4),
    ) {
        let names: Vec<_> = wanted.iter().map(|number| name(*number)).collect();
        let mut names: Vec<_> = names.iter().map(String::as_str).collect();
        let straight = World::of(&lines(&archive, &(0..COUNT).collect::<Vec<_>>()));
        let first = chosen(&straight.request(&names)).map_err(|error| report(&error));
        names.reverse();
        let shuffled = World::of(&lines(&archive, &order));
        let second = chosen(&shuffled.request(&names)).map_err(|error| report(&error));
        prop_assert_eq!(first, second);
    }

    #[test]
    fn every_dependency_of_what_is_chosen_is_filled(archive in archive(), wanted in 0..COUNT) {
        let world = World::of(&lines(&archive, &(0..COUNT).collect::<Vec<_>>()));
        // Only a virtual package that nobody provides can be missing here.
        let Ok(text) = chosen(&world.request(&[&name(wanted)])) else { return Ok(()) };
        let chosen: BTreeSet<_> = text.split(' ').map(|name| name[1..].parse::<usize>().unwrap()).collect();
        prop_assert!(chosen.contains(&wanted));
        let is_there = |to: &usize| match *to {
            COUNT => chosen.iter().any(|number| archive[*number].1),
            number => chosen.contains(&number),
        };
        for number in &chosen {
            for group in &archive[*number].0 {
                prop_assert!(group.iter().any(is_there), "p{}: {:?} in {}", number, group, text);
            }
        }
    }
}
