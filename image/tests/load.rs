//! Boards, components and suites: what is read, and what a person is told when they are wrong.

use std::fs;
use std::path::Path;

use dpukit_image::config::{Config, Source};
use dpukit_image::load::{boards, load};
use proptest::prelude::*;
use tempfile::TempDir;

/// A checkout made of the examples in the documentation of `load`.
struct Checkout(TempDir);

const BOARD: &str = "image/boards/board.toml";
const BASE: &str = "image/boards/base.toml";
const SUITES: &str = "image/suites.toml";
const SHELL: &str = "image/components/shell.toml";
const AGENT: &str = "image/components/agent.toml";

const OCTEP: &str = "image/components/octep.toml";
const CILIUM: &str = "image/components/cilium.toml";
const SDK: &str = "image/components/sdk.toml";
const RULES: &str = "image/rules.toml";
const METAL: &str = "image/boards/metal.toml";

const FILES: [(&str, &str); 22] = [
    (SUITES, include_str!("../src/load/example/suites.toml")),
    (BASE, include_str!("../src/load/example/base.toml")),
    (BOARD, include_str!("../src/load/example/board.toml")),
    (SHELL, include_str!("../src/load/example/deb.toml")),
    (AGENT, include_str!("../src/load/example/local.toml")),
    (OCTEP, include_str!("../src/load/example/git.toml")),
    (CILIUM, include_str!("../src/load/example/oci.toml")),
    (SDK, include_str!("../src/load/example/user.toml")),
    (RULES, include_str!("../src/load/example/rules.toml")),
    (METAL, include_str!("../src/load/example/metal.toml")),
    ("image/components/tools.toml", TOOLS),
    ("image/components/linux.toml", TOOLS),
    ("image/components/u-boot.toml", U_BOOT),
    ("image/u-boot/board.config", ""),
    ("image/u-boot/board.env", ""),
    ("image/keys/trixie-stable.asc", ""),
    ("kernel-config/base.config", ""),
    ("kernel-config/virt.config", ""),
    ("kernel-config/requirements/cilium.toml", ""),
    ("rootfs-overlay/etc/fstab", ""),
    ("agent/Cargo.toml", ""),
    ("agent/plan/Cargo.toml", ""),
];

const TOOLS: &str = r#"description = "Tools"
[deb]
architecture = "amd64"
suites = ["trixie"]
packages = ["bash"]
"#;

const U_BOOT: &str = r#"description = "U-Boot"
[deb]
architecture = "source"
suites = ["trixie"]
packages = ["u-boot"]
"#;

impl Checkout {
    fn new() -> Self {
        let checkout = Self(tempfile::tempdir().unwrap());
        for (path, text) in FILES {
            checkout.write(path, text);
        }
        checkout
    }

    fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Replaces a text that must be in the file.
    fn edit(&self, path: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.0.path().join(path)).unwrap();
        assert!(text.contains(from), "`{from}` is not in {path}");
        self.write(path, text.replacen(from, to, 1));
    }

    fn load(&self) -> Config {
        load(self.0.path(), "board").unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// What a person reads.
    fn problems(&self) -> String {
        load(self.0.path(), "board").expect_err("nothing was found wrong").to_string()
    }
}

/// What a person reads after one change of a file.
fn after(path: &str, from: &str, to: &str) -> String {
    let checkout = Checkout::new();
    checkout.edit(path, from, to);
    checkout.problems()
}

/// What a person reads after some changes of a file.
fn after_all(path: &str, edits: &[(&str, &str)]) -> String {
    let checkout = Checkout::new();
    for (from, to) in edits {
        checkout.edit(path, from, to);
    }
    checkout.problems()
}

/// What a person reads, without the lines that show the file: place and message, then the hint.
fn lines(problems: &str) -> Vec<&str> {
    lines_of(problems, &["image/"])
}

fn lines_of<'p>(problems: &'p str, files: &[&str]) -> Vec<&'p str> {
    let is_shown =
        |line: &&str| line.starts_with("  hint: ") || files.iter().any(|file| line.starts_with(file));
    problems.lines().filter(is_shown).map(str::trim).collect()
}

#[test]
fn the_examples_of_the_documentation_are_a_checkout() {
    let config = Checkout::new().load();
    let board = &config.board;
    assert_eq!((board.name.as_str(), board.description.as_str()), ("board", "A card in an emulator"));
    assert_eq!(board.disk.boot, 64 << 20);
    assert_eq!(board.kernel.fragments, ["base", "virt"]);
    let line = "console=ttyAMA0,115200n8 panic=10 default_hugepagesz=32M hugepagesz=32M hugepages=8";
    assert_eq!(board.boot.cmdline, line, "with what follows from the huge pages");
    assert_eq!(board.root.hostname, "dpu", "from the base");
    assert_eq!(board.plan.link.id.to_string(), "8086:10ca");
    let emulator = board.emulator.as_ref().unwrap();
    assert_eq!((emulator.memory, emulator.cpus, emulator.expect_vfio["1b36:0005"]), (2 << 30, 2, 1));
    let Source::Deb(shell) = &config.components["shell"].source else { panic!("not packages") };
    assert_eq!(shell.links["usr/bin/awk"], "mawk");
    assert!(config.suites.suites["trixie-backports"].only_when_named);
}

#[test]
fn the_parts_of_a_board_of_metal_are_read() {
    let checkout = Checkout::new();
    checkout.write("mirrors/octep.git/HEAD", "");
    checkout.write("dpukit.local.toml", include_str!("../src/load/example/local-settings.toml"));
    let config = load(checkout.0.path(), "metal").unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.board.parts.firmware.as_deref(), Some("sdk"));
    assert_eq!(config.board.kernel.vendor.unwrap().path, Path::new("config/card.config"));
    assert_eq!(config.board.kernel.base, "defconfig");
    let endpoint = &config.board.endpoint;
    assert_eq!(endpoint.mac.as_deref(), Some("02:00:00:01:06:00"));
    assert_eq!((endpoint.vfs, endpoint.speed), (Some(8), Some(10_000)));
    let trimmed = &config.board.kernels["trimmed"];
    assert!(trimmed.vendor.is_none() && trimmed.base == "tinyconfig" && trimmed.source == "linux");
    let Source::Git(octep) = &config.components["octep"].source else { panic!("not a commit") };
    assert!(octep.submodules && octep.mirrors.len() == 1);
    let Source::Oci(cilium) = &config.components["cilium"].source else { panic!("not an image") };
    assert_eq!((cilium.registry.as_str(), cilium.tag.as_deref()), ("registry.example.org", Some("v1.17.0")));
    let Source::User(sdk) = &config.components["sdk"].source else { panic!("not the user's") };
    assert_eq!(sdk.install["microcode"], "/usr/lib/firmware/mrvl");
    assert!(config.rules.rules["SDK 12.25.01"].needs["octep-agent"].contains("25.03.0"));
    assert_eq!(config.local.files["sdk"], Path::new("/home/me/SDK12.25.01.tar.xz"));
    assert_eq!(config.local.overrides["octep"], checkout.0.path().join("../octep"));
}

#[test]
fn what_is_wrong_with_sources_that_are_not_packages_is_said_at_once() {
    let checkout = Checkout::new();
    checkout.edit(OCTEP, "https://git.example.org", "git@git.example.org:");
    checkout.edit(OCTEP, "aa84a2331f76b68583e7b5861f17f5f3cef0fbd0", "aa84a23");
    checkout.edit(OCTEP, "mirrors = [\"https://", "mirrors = [\"https://me:secret@");
    checkout.edit(CILIUM, "registry.example.org/cilium/cilium:v1.17.0", "cilium/cilium:v1.17.0");
    checkout.edit(CILIUM, "sha256:", "md5:");
    checkout.edit(SDK, "flash-cn10ka-SDK{version}.img", "flash-{release}.img");
    checkout.edit(SDK, "microcode = \"/usr", "mikrocode = \"/usr");
    checkout.edit(RULES, "octep-agent = \"25.03\"", "octep = \"25.03\"");
    checkout.edit(RULES, "firmware = \"12.25.01\" }\nneeds", "firmware = \">= 12\" }\nneeds");
    checkout.edit(METAL, "firmware = \"sdk\"", "firmware = \"agent\"");
    checkout.write("dpukit.local.toml", "git-mirrors = \"nowhere\"\n[files]\nsdc = \"x\"\n");
    let problems = load(checkout.0.path(), "metal").expect_err("nothing was found wrong").to_string();
    insta::assert_snapshot!(lines_of(&problems, &["image/", "dpukit.local.toml"]).join("\n"), @"
    dpukit.local.toml:1:15: there is no folder `nowhere`
    hint: write it from the checkout's top, or with a slash in front
    dpukit.local.toml:3:1: there is no component `sdc`
    hint: did you mean `sdk`?
    image/boards/metal.toml:8:12: the component `agent` is a crate (`[local]`), and files of the user's (`[user]`) are wanted
    image/components/cilium.toml:6:13: `cilium/cilium:v1.17.0` is not the reference of an image
    hint: write it with its registry, as `quay.io/cilium/cilium:v1.17.0`; a digest has its own key
    image/components/cilium.toml:9:10: `md5:3e1bf5a5c0f0e3cf2a7ad8e2a4dc7d1b0ca9d2d7a45e3d0f7a1e0ac2f1b0c9d8` is not a digest
    hint: write `sha256:` and 64 hexadecimal digits
    image/components/octep.toml:6:7: `git@git.example.org:/octep.git` is not the address of a repository
    hint: write it as `https://host/path.git`
    image/components/octep.toml:8:10: `aa84a23` is not the whole name of a commit
    hint: write all its 40 hexadecimal digits, as `git rev-parse` prints them
    image/components/octep.toml:14:12: the address holds a user or a password, and would show it in logs
    hint: let git's `credential.helper` of your account know it
    image/components/sdk.toml:11:9: the pattern `flash-{release}.img` has braces
    hint: only `{version}` stands for something
    image/components/sdk.toml:19:1: `mikrocode` is none of the files and folders
    hint: did you mean `microcode`?
    image/rules.toml:5:21: version ` 12` has ` `, which no version may have
    hint: write versions as `25.03`, `>=12.25.03` or `>=12.25.03, <12.26`
    image/rules.toml:6:11: there is no part `octep`
    hint: there is: `firmware`, `octep-agent`, `kernel`, `host-drivers`, `cilium`, `cilium-agent`
    ");
}

#[test]
fn what_is_wrong_with_a_board_of_metal_is_said_at_once() {
    let checkout = Checkout::new();
    checkout.edit(METAL, "pages = \"4KiB\"", "pages = \"16KiB\"");
    checkout.edit(METAL, "config = \"makers\"", "config = \"maker\"");
    checkout.edit(METAL, "mac = \"02:", "mac = \"03:");
    checkout.edit(METAL, "vfs = 8", "vfs = 128");
    checkout.edit(METAL, "octep-agent = \"octep\"", "cilium-agent = \"octep\"");
    checkout.edit(METAL, "speed = 10000", "speed = \"10G\"");
    let problems = load(checkout.0.path(), "metal").expect_err("nothing was found wrong").to_string();
    insta::assert_snapshot!(lines(&problems).join("\n"));
}

#[test]
fn what_follows_from_something_else_is_not_to_be_written() {
    let checkout = Checkout::new();
    checkout.edit(BOARD, "panic=10", "hugepages=8 panic=10");
    let mut told = lines(&checkout.problems()).join("\n");
    let checkout = Checkout::new();
    let octep = "octep = { program = \"/a\", config = \"/b\", start = { module = \"m\" } }";
    checkout.edit(BOARD, "[setup]\n", &format!("[setup]\n{octep}\n"));
    told += &format!("\n{}", lines(&checkout.problems()).join("\n"));
    let checkout = Checkout::new();
    checkout.edit(BOARD, "sizes = [\"32MiB\"]", "sizes = [\"512MiB\"]");
    told += &format!("\n{}", lines(&checkout.problems()).join("\n"));
    insta::assert_snapshot!(told);
}

#[test]
fn a_component_without_a_commit_or_with_two_sources_is_refused() {
    let report = [
        after_all(OCTEP, &[("commit = ", "#"), ("branch = ", "#")]),
        after(OCTEP, "[git]", "[oci]\nreference = \"a.org/b:c\"\n[git]"),
        after_all(CILIUM, &[("digest = ", "#"), (":v1.17.0", "")]),
        after(SDK, "version = \"12.25.01\"", ""),
    ];
    insta::assert_snapshot!(report.iter().flat_map(|problems| lines(problems)).collect::<Vec<_>>().join("\n"), @r#"
    image/components/octep.toml:6:1: nothing says which commit is meant
    hint: write `commit = "<40 digits>"`, or `branch` for its newest when the lock is made
    image/components/octep.toml:5:2: a component has one source, and this is its second
    hint: write one table: `[deb]` for Debian packages, `[local]` for a crate, `[git]` for a commit, `[oci]` for a container image, `[user]` for files that the user brings
    image/components/cilium.toml:6:13: the reference has no tag, and there is no `digest`
    hint: write `reference = "quay.io/name:tag"`, or `digest = "sha256:…"`
    image/components/sdk.toml:11:9: `{version}` stands for nothing: the component has no `version`
    "#);
}

#[test]
fn what_is_added_stands_behind_what_is_inherited() {
    let checkout = Checkout::new();
    assert_eq!(checkout.load().board.firewall.open, ["tcp/10250", "udp/8472", "tcp/9962-9964"]);
    checkout.edit(BOARD, "[add.firewall]", "[firewall]");
    assert_eq!(checkout.load().board.firewall.open, ["tcp/9962-9964"]);
}

#[test]
fn the_boards_of_this_checkout_are_right() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let listed = boards(root).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(listed.iter().any(|board| board.name == "virt" && !board.is_abstract));
    for board in listed.iter().filter(|board| !board.is_abstract) {
        load(root, &board.name).unwrap_or_else(|problems| panic!("{problems}"));
    }
}

#[test]
fn an_unknown_key_is_shown_with_the_key_that_was_meant() {
    insta::assert_snapshot!(after(BOARD, "fragments =", "fragmets ="), @r#"
    the declarations of the image have an error

    image/boards/board.toml:17:1: unknown key `kernel.fragmets`
        |
     17 | fragmets = ["base", "virt"]
        | ^^^^^^^^ not known here
      hint: did you mean `kernel.fragments`?
    "#);
    insta::assert_snapshot!(after(BOARD, "[boot]", "[boot]\nimage-limit = 1\ncolour = 2"), @r"
    the declarations of the image have 2 errors

    image/boards/board.toml:42:1: unknown key `boot.image-limit`
        |
     42 | image-limit = 1
        | ^^^^^^^^^^^ not known here
      hint: did you mean `kernel.image-limit`?

    image/boards/board.toml:43:1: unknown key `boot.colour`
        |
     43 | colour = 2
        | ^^^^^^ not known here
      hint: the keys of `[boot]` are `cmdline`
    ");
}

#[test]
fn a_value_of_another_type_is_shown_with_the_type_that_is_wanted() {
    insta::assert_snapshot!(after(BOARD, "cpus = 2", "cpus = \"two\""), @r#"
    the declarations of the image have an error

    image/boards/board.toml:71:8: `emulator.cpus` has to be a number, and is a text
        |
     71 | cpus = "two"
        |        ^^^^^ has to be a number
      hint: write it as in `cpus = 1`
    "#);
    insta::assert_snapshot!(after(BOARD, "fragments = [\"base\", \"virt\"]", "fragments = \"base\""), @r#"
    the declarations of the image have an error

    image/boards/board.toml:17:13: `kernel.fragments` has to be a list of texts, and is a text
        |
     17 | fragments = "base"
        |             ^^^^^^ has to be a list of texts
      hint: write it as in `fragments = ["…"]`
    "#);
    insta::assert_snapshot!(after(BOARD, "[disk]", "disk = 3\n[disks]"), @r"
    the declarations of the image have 2 errors

    image/boards/board.toml:36:1: unknown key `u-boot.disk`
        |
     36 | disk = 3
        | ^^^^ not known here
      hint: did you mean `disk`?

    image/boards/board.toml:37:2: unknown key `disks`
        |
     37 | [disks]
        |  ^^^^^ not known here
      hint: did you mean `disk`?
    ");
}

#[test]
fn what_a_table_lacks_is_shown_at_its_head() {
    insta::assert_snapshot!(after(BOARD, "source = \"linux\"\n", ""), @r"
    the declarations of the image have an error

    image/boards/board.toml:11:2: `[kernel]` lacks `source`
        |
     11 | [kernel]
        |  ^^^^^^ to be added in here
    ");
    insta::assert_snapshot!(after(BASE, "hostname = \"dpu\"", ""), @r"
    the declarations of the image have an error

    image/boards/base.toml:13:2: `[root]` lacks `hostname`
        |
     13 | [root]
        |  ^^^^ to be added in here
    ");
    insta::assert_snapshot!(after(BOARD, "[network]\n", ""), @r#"
    the declarations of the image have 2 errors

    image/boards/board.toml:3:1: the file lacks `[network]`
       |
     3 | extends = "base"
       | ^^^^^^^ to be added in here

    image/boards/board.toml:55:1: unknown key `updates.dhcp-drivers`
        |
     55 | dhcp-drivers = ["virtio_net"]
        | ^^^^^^^^^^^^ not known here
      hint: did you mean `network.dhcp-drivers`?
    "#);
}

#[test]
fn errors_of_all_files_are_shown_at_once() {
    let checkout = Checkout::new();
    checkout.edit(BOARD, "16MiB", "16MB");
    checkout.edit(BASE, "\"rootfs-overlay\"", "\"rootfs-overlai\"");
    checkout.edit(SHELL, "\"arm64\"", "arm64");
    checkout.edit(AGENT, "path = \"agent\"", "path = \"agents\"");
    checkout.edit(SUITES, "\"trixie-stable\"", "\"trixie-stale\"");
    insta::assert_snapshot!(checkout.problems(), @r#"
    the declarations of the image have 5 errors

    image/boards/base.toml:20:13: there is no folder `rootfs-overlai` in the checkout
        |
     20 | overlays = ["rootfs-overlai"]
        |             ^^^^^^^^^^^^^^^^ `root.overlays`
      hint: did you mean `rootfs-overlay`?

    image/boards/board.toml:21:15: `16MB` is not a size
        |
     21 | image-limit = "16MB"
        |               ^^^^^^ `kernel.image-limit`
      hint: did you mean `16MiB`?

    image/components/agent.toml:7:8: there is no folder `agents` in the checkout
       |
     7 | path = "agents"
       |        ^^^^^^^^ `local.path`
      hint: did you mean `agent`?

    image/components/shell.toml:8:16: string values must be quoted, expected literal string
       |
     8 | architecture = arm64
       |                ^^^^^ TOML does not allow this here

    image/suites.toml:12:9: there is no key `image/keys/trixie-stale.asc`
        |
     12 | keys = ["trixie-stale"]
        |         ^^^^^^^^^^^^^^ `suite.trixie.keys`
      hint: did you mean `trixie-stable`?
    "#);
}

#[test]
fn errors_of_syntax_are_shown_with_their_place() {
    insta::assert_snapshot!(after(BOARD, "boot = \"64MiB\"", "boot = \"64MiB\nroot = "), @r#"
    the declarations of the image have 3 errors

    image/boards/board.toml:37:14: invalid basic string, expected `"`
        |
     37 | boot = "64MiB
        |              ^ TOML does not allow this here

    image/boards/board.toml:38:8: string values must be quoted, expected literal string
        |
     38 | root =
        |        ^ TOML does not allow this here

    image/boards/board.toml:39:1: duplicate key
        |
     39 | root = "128MiB"
        | ^^^^ TOML does not allow this here
    "#);
    insta::assert_snapshot!(after(SHELL, "[deb.without]", "[deb]"), @r"
    the declarations of the image have an error

    image/components/shell.toml:22:2: duplicate key
        |
     22 | [deb]
        |  ^^^ TOML does not allow this here
    ");
}

#[test]
fn what_is_wrong_with_the_setup_is_shown_in_the_file_it_comes_from() {
    let checkout = Checkout::new();
    let text = fs::read_to_string(checkout.0.path().join(BOARD)).unwrap();
    let start = text.find("# What `dpu-agent").unwrap();
    let end = text.find("# How QEMU").unwrap();
    checkout.write(BOARD, format!("{}[setup]\nswop = \"off\"\n{}", &text[..start], &text[end..]));
    let base = fs::read_to_string(checkout.0.path().join(BASE)).unwrap();
    let setup = r#"
[setup]
swap = "of"
[setup.huge-pages]
totel = "256MB"
sizes = ["32MiB", "1GB"]
mount = "/dev/huge"
[setup.link]
id = "8086-10ca"
address = "192.168.1.1/24"
[[setup.vfio]]
id = "1b36:0005"
[[setup.sriov]]
id = "8086:10c9"
vfs = 0
"#;
    checkout.write(BASE, base + setup);
    insta::assert_snapshot!(checkout.problems(), @r#"
    the declarations of the image have 7 errors

    image/boards/base.toml:30:8: `of` is not known here
        |
     30 | swap = "of"
        |        ^^^^ `setup.swap`
      hint: did you mean `off`?

    image/boards/base.toml:32:1: unknown key `totel`
        |
     32 | totel = "256MB"
        | ^^^^^ `setup.huge-pages.totel`
      hint: did you mean `total`?

    image/boards/base.toml:33:19: `1GB` is not a size: write a number and KiB, MiB, GiB or TiB, as `32MiB`
        |
     33 | sizes = ["32MiB", "1GB"]
        |                   ^^^^^ `setup.huge-pages.sizes[1]`

    image/boards/base.toml:36:6: `8086-10ca` is not a PCI id: write vendor and device as `177d:a080`
        |
     36 | id = "8086-10ca"
        |      ^^^^^^^^^^^ `setup.link.id`

    image/boards/base.toml:38:1: the table lacks `name`
        |
     38 | [[setup.vfio]]
        | ^^^^^^^^^^^^^^ `setup.vfio[0]`

    image/boards/base.toml:42:7: the number 0 is not a number from 1 to 65535
        |
     42 | vfs = 0
        |       ^ `setup.sriov[0].vfs`

    image/boards/board.toml:59:1: unknown key `swop`
        |
     59 | swop = "off"
        | ^^^^ `setup.swop`
      hint: did you mean `swap`?
    "#);
}

#[test]
fn what_the_setup_gets_wrong_together_is_shown_at_its_head() {
    insta::assert_snapshot!(after(BOARD, "[\"32MiB\"]", "[]"), @"
    the declarations of the image have an error

    image/boards/board.toml:59:1: `huge-pages.sizes` is empty: name at least one page size
        |
     59 | [setup]
        | ^^^^^^^ `setup`
    ");
}

#[test]
fn a_path_made_twice_is_shown_with_the_first_place() {
    insta::assert_snapshot!(after(SHELL, "[deb.links]", "[deb.links]\n\"etc/nsswitch.conf\" = \"x\""), @r#"
    the declarations of the image have an error

    image/components/shell.toml:32:1: `/etc/nsswitch.conf` is made twice
        |
     32 | "etc/nsswitch.conf" = "usr/share/libc-bin/nsswitch.conf"
        | ^^^^^^^^^^^^^^^^^^^ the second time
      hint: the first is at image/components/shell.toml:27:1: take one of them out
    "#);
    insta::assert_snapshot!(after(SHELL, "[deb.links]", "[deb.links]\n\"bin/dpu-agent\" = \"x\""), @r#"
    the declarations of the image have an error

    image/components/shell.toml:27:1: `/usr/bin/dpu-agent` is made twice
        |
     27 | "bin/dpu-agent" = "x"
        | ^^^^^^^^^^^^^^^ the second time
      hint: the first is at image/components/agent.toml:13:13: take one of them out
    "#);
    let again = "dpu-agent = \"/usr/bin/dpu-agent\"\ndpu-init = \"/usr/bin/dpu-agent\"";
    insta::assert_snapshot!(after(AGENT, "dpu-agent = \"/usr/bin/dpu-agent\"", again), @r#"
    the declarations of the image have an error

    image/components/agent.toml:14:12: `/usr/bin/dpu-agent` is made twice
        |
     14 | dpu-init = "/usr/bin/dpu-agent"
        |            ^^^^^^^^^^^^^^^^^^^^ the second time
      hint: the first is at image/components/agent.toml:13:13: take one of them out
    "#);
}

#[test]
fn boards_that_extend_each_other_in_a_circle_are_named() {
    let checkout = Checkout::new();
    checkout.edit(BASE, "abstract = true", "extends = \"board\"");
    insta::assert_snapshot!(checkout.problems(), @r#"
    the declarations of the image have an error

    image/boards/base.toml:2:11: boards extend each other in a circle: board -> base -> board
       |
     2 | extends = "board"
       |           ^^^^^^^ the circle closes here
    "#);
    checkout.edit(BASE, "extends = \"board\"", "extends = \"base\"");
    insta::assert_snapshot!(checkout.problems(), @r#"
    the declarations of the image have an error

    image/boards/base.toml:2:11: boards extend each other in a circle: board -> base -> base
       |
     2 | extends = "base"
       |           ^^^^^^ the circle closes here
    "#);
}

#[test]
fn a_board_that_is_not_there_or_only_a_base_is_not_loaded() {
    let checkout = Checkout::new();
    let root = checkout.0.path();
    insta::assert_snapshot!(load(root, "bord").unwrap_err(), @r"
    the declarations of the image have an error

    image/boards: there is no board `bord`
      hint: did you mean `board`?
    ");
    insta::assert_snapshot!(load(root, "../x").unwrap_err(), @r"
    the declarations of the image have an error

    image/boards: there is no board `../x`
      hint: there is: `base`, `board`, `metal`
    ");
    insta::assert_snapshot!(load(root, "base").unwrap_err(), @r"
    the declarations of the image have an error

    image/boards/base.toml:2:1: the board `base` is only there to be extended: it cannot be built
       |
     2 | abstract = true
       | ^^^^^^^^
      hint: name a board that is not `abstract`, with `--board`
    ");
    insta::assert_snapshot!(after(BOARD, "extends = \"base\"", "extends = \"bass\""), @r#"
    the declarations of the image have an error

    image/boards/board.toml:3:11: there is no board `bass`
       |
     3 | extends = "bass"
       |           ^^^^^^ `extends`
      hint: did you mean `base`?
    "#);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let checkout = Checkout::new();
    checkout.write("image/components/latin.toml", b"description = \"\xe9\"\n");
    checkout.write("image/components/a b.toml", "");
    checkout.write("image/components/README.md", "not looked at");
    fs::create_dir(checkout.0.path().join("image/components/folder.toml")).unwrap();
    fs::remove_file(checkout.0.path().join(SUITES)).unwrap();
    insta::assert_snapshot!(checkout.problems(), @r#"
    the declarations of the image have 4 errors

    image/components/a b.toml: the file is not named as a board or component can be
      hint: a name has letters, digits, `.`, `+`, `-` and `_`, and begins with a letter or a digit

    image/components/folder.toml: the file cannot be read: Is a directory (os error 21)

    image/components/latin.toml:1:16: this is not UTF-8
       |
     1 | description = "�"
       |                ^ the first byte that is not
      hint: TOML is written in UTF-8: save the file in that encoding

    image/suites.toml: the file cannot be read: No such file or directory (os error 2)
    "#);
    let empty = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(boards(empty.path()).unwrap_err(), @r"
    the declarations of the image have an error

    image/boards: the folder cannot be read: No such file or directory (os error 2)
      hint: run this in the checkout, or name the checkout with `--root`
    ");
}

#[test]
fn boards_are_listed_with_what_they_are() {
    let checkout = Checkout::new();
    let listed = boards(checkout.0.path()).unwrap();
    let listed: Vec<_> = listed.iter().map(|board| (board.name.as_str(), board.is_abstract)).collect();
    assert_eq!(listed, [("base", true), ("board", false), ("metal", false)]);
    checkout.edit(BASE, "abstract = true", "abstract = \"yes\"");
    insta::assert_snapshot!(boards(checkout.0.path()).unwrap_err(), @r#"
    the declarations of the image have an error

    image/boards/base.toml:2:12: `abstract` has to be `true` or `false`, and is a text
       |
     2 | abstract = "yes"
       |            ^^^^^ has to be `true` or `false`
      hint: write it as in `abstract = true`
    "#);
}

#[test]
fn wrong_values_are_refused_with_what_to_write_instead() {
    let mut report = String::new();
    for (path, from, to) in WRONG {
        let problems = after(path, from, to);
        report += &format!("{from} -> {to}\n    {}\n", lines(&problems).join("\n    "));
    }
    insta::assert_snapshot!(report, @r#"
    16MiB -> 16 MiB
        image/boards/board.toml:21:15: `16 MiB` is not a size
        hint: write it without spaces, as `64MiB`
    16MiB -> 16m
        image/boards/board.toml:21:15: `16m` is not a size
        hint: did you mean `16MiB`?
    16MiB -> 0MiB
        image/boards/board.toml:21:15: `0MiB` is no size: it is zero
    16MiB -> 16384KiB
        image/boards/board.toml:21:15: `16384KiB` is not a size
        hint: sizes are multiples of 1 MiB: write a number and `MiB` or `GiB`
    16MiB -> 99999999999999999999GiB
        image/boards/board.toml:21:15: `99999999999999999999GiB` is more than any card has
        hint: the largest size is `16TiB`
    16MiB -> 1.5GiB
        image/boards/board.toml:21:15: `1.5GiB` is not a size
        hint: write a number and `MiB` or `GiB`, as `64MiB`
    "16MiB" -> 16
        image/boards/board.toml:21:15: `kernel.image-limit` has to be a text, and is a number
        hint: write it as in `image-limit = "…"`
    16MiB -> 65MiB
        image/boards/board.toml:21:15: a kernel of 65 MiB is let through, and `disk.boot` has 64 MiB
    disk = "2GiB" -> disk = "256MiB"
        image/boards/board.toml:74:8: the disk has 256 MiB, and two slots and the data partition need 450 MiB
    source = "linux" -> source = "linx"
        image/boards/board.toml:13:10: there is no component `linx`
        hint: did you mean `linux`?
    source = "linux" -> source = "agent"
        image/boards/board.toml:13:10: the component `agent` is a crate (`[local]`), and packages (`[deb]`) or a commit (`[git]`) are wanted
    source = "linux" -> source = "shell"
        image/boards/board.toml:13:10: the component `shell` is for arm64, and one for amd64 is wanted
    agent = "agent" -> agent = "shell"
        image/boards/base.toml:16:9: the component `shell` is packages (`[deb]`), and a crate (`[local]`) is wanted
    "virt"] -> "vrit"]
        image/boards/board.toml:17:22: there is no file `kernel-config/vrit.config`
        hint: did you mean `virt`?
    "virt"] -> "base"]
        image/boards/board.toml:17:22: `base` comes twice in `kernel.fragments`
    ["cilium"] -> ["syllium"]
        image/boards/board.toml:19:17: there is no file `kernel-config/requirements/syllium.toml`
        hint: there is: `cilium`
    "trixie", -> "trixi",
        image/components/shell.toml:10:11: there is no suite `trixi`
        hint: did you mean `trixie`?
    iproute2/trixie-backports -> iproute2/trixie-backport
        image/components/shell.toml:12:29: `trixie-backport` is not in this component's `suites`
        hint: did you mean `trixie-backports`?
    "mawk", -> "Mawk",
        image/components/shell.toml:12:21: `Mawk` is not the name of a Debian package
        hint: it has lower-case letters, digits, `+`, `-` and `.`, as `libc6-dev`
    "mawk", -> "mawk:arm46",
        image/components/shell.toml:12:21: there is no architecture `arm46`
        hint: did you mean `arm64`?
    "mawk", -> "libcap2-bin",
        image/components/shell.toml:23:1: `libcap2-bin` is both wanted and ruled out
        hint: take it out of `packages`, or out of `without`
    archive = "debian" -> archive = "debain"
        image/suites.toml:10:11: there is no archive `debain`
        hint: did you mean `debian`?
    ["trixie-stable"] -> []
        image/suites.toml:12:8: without a key, nothing of the suite can be trusted
        hint: name the keys that sign its Release file
    https://mirrors.edge.kernel.org/debian -> https://mirrors.edge.kernel.org/debian/
        image/suites.toml:3:12: `https://mirrors.edge.kernel.org/debian/` is not the address of an archive
        hint: did you mean `https://mirrors.edge.kernel.org/debian`?
    https://mirrors.edge.kernel.org/debian -> mirrors.edge.kernel.org
        image/suites.toml:3:12: `mirrors.edge.kernel.org` is not the address of an archive
        hint: write it as `https://host/path`
    ["rootfs-overlay"] -> ["/rootfs-overlay"]
        image/boards/base.toml:20:13: `/rootfs-overlay` is not a relative path
        hint: did you mean `rootfs-overlay`?
    ["rootfs-overlay"] -> ["../rootfs-overlay"]
        image/boards/base.toml:20:13: `../rootfs-overlay` is not a relative path
        hint: write it as `usr/bin/sh`: without `.`, `..`, `//` or a slash at its ends
    path = "agent" -> path = "rootfs-overlay"
        image/components/agent.toml:7:8: the folder `rootfs-overlay` holds no crate: there is no `rootfs-overlay/Cargo.toml`
    "usr/bin/awk" -> "/usr/bin/awk"
        image/components/shell.toml:27:1: `/usr/bin/awk` is not a relative path
        hint: did you mean `usr/bin/awk`?
    "usr/share/doc/*" -> "/usr/share/doc/*"
        image/components/shell.toml:18:14: the pattern `/usr/share/doc/*` begins with a slash, as no path in a package does
        hint: did you mean `usr/share/doc/*`?
    "usr/share/doc/*" -> "usr/share/doc/["
        image/components/shell.toml:18:14: `usr/share/doc/[` is not a pattern: unclosed character class; missing ']'
    0640 root shadow -> 0690 root shadow
        image/components/shell.toml:35:16: `0690 root shadow` is not a mode with user and group
        hint: write it as `0640 root shadow`
    zutils usr/bin/zcat.gzip -> zutils
        image/components/shell.toml:40:18: `zutils` is not a package and a path
        hint: write it as `zutils usr/bin/zcat.gzip`
    zutils usr/bin/zcat.gzip -> zutils /usr/bin/zcat.gzip
        image/components/shell.toml:40:18: `/usr/bin/zcat.gzip` is not a relative path
        hint: did you mean `usr/bin/zcat.gzip`?
    "the link `/bin/sh` is in its package" -> ""
        image/components/shell.toml:44:8: the text is empty
        hint: write the reason
    "/usr/bin/dpu-agent" -> "usr/bin/dpu-agent"
        image/components/agent.toml:13:13: `usr/bin/dpu-agent` is not an absolute path
        hint: did you mean `/usr/bin/dpu-agent`?
    [local.install]
    dpu-agent = "/usr/bin/dpu-agent" -> 
        image/components/agent.toml:6:1: nothing of the crate would be in the image: `[local.install]` is missing
        hint: write `[local.install]` and in it `PROGRAM = "/usr/bin/PROGRAM"`
    [local] -> [deb]
    [local]
        image/components/agent.toml:4:2: `[deb]` lacks `suites`, `architecture`, `packages`
        image/components/agent.toml:5:2: a component has one source, and this is its second
        hint: write one table: `[deb]` for Debian packages, `[local]` for a crate, `[git]` for a commit, `[oci]` for a container image, `[user]` for files that the user brings
    architecture = "arm64" -> architecture = "arm"
        image/components/shell.toml:8:16: there is no architecture `arm`
        hint: there is: `amd64`, `arm64`, `source`
    hostname = "dpu" -> hostname = "DPU"
        image/boards/base.toml:22:12: `DPU` is not a host name
        hint: it has lower-case letters, digits and hyphens, at most 64, and a hyphen at neither end
    tcp/10250 -> 10250/tcp
        image/boards/base.toml:27:9: `10250/tcp` is not what a firewall can open
        hint: did you mean `tcp/10250`?
    tcp/10250 -> tcp/70000
        image/boards/base.toml:27:9: `tcp/70000` is not what a firewall can open
        hint: ports are from 1 to 65535
    tcp/9962-9964 -> tcp/9964-9962
        image/boards/board.toml:9:9: `tcp/9964-9962` is not what a firewall can open
        hint: did you mean `tcp/9962-9964`?
    tcp/9962-9964 -> tcp/10250
        image/boards/board.toml:9:9: `tcp/10250` comes twice in `firewall.open`
    [add.firewall] -> [add.firewal]
        image/boards/board.toml:8:6: there is no list `firewal` to add to
        hint: did you mean `firewall`?
    tinyconfig -> tiny
        image/boards/board.toml:15:8: `tiny` is not a configuration of the kernel
        hint: write `tinyconfig`, `defconfig` or another target of its `make` that ends in `config`
    panic=10 -> root=/dev/sda1
        image/boards/board.toml:43:11: `root=/dev/sda1` is the builder's to say, for it knows the root
        hint: leave `root=/dev/sda1` out
    panic=10 -> $panic
        image/boards/board.toml:43:11: U-Boot's script cannot hold the letter `$`
    ["virtio_net"] -> ["virtio net"]
        image/boards/board.toml:56:17: `virtio net` is not the name of a driver
        hint: a name has letters, digits, `.`, `+`, `-` and `_`, and begins with a letter or a digit
    { "1b36:0005" = 1 } -> { "1b36-0005" = 1 }
        image/boards/board.toml:81:17: `1b36-0005` is not a PCI id: write vendor and device as `177d:a080`
        hint: did you mean `1b36:0005`?
    { "1b36:0005" = 1 } -> { "1b36:0005" = 0 }
        image/boards/board.toml:81:31: 0 is not from 1 to 256
    { "1b36:0005" = 1 } -> { "1b36:0006" = 1 }
        image/boards/board.toml:81:17: nothing binds `1b36:0006` to `vfio-pci`
        hint: write `[[setup.vfio]]` with `id = "1b36:0006"`, or take it out here
    netdev={link} -> netdev={lnik}
        image/boards/board.toml:76:23: `{lnik}` stands for nothing
        hint: only `{link}` stands for something
    link-host = "192.168.1.2" -> link-host = "192.168.1.2/24"
        image/boards/board.toml:78:13: `192.168.1.2/24` is not an IPv4 address
        hint: without the network's size: `192.168.1.2`
    link-host = "192.168.1.2" -> link-host = "192.168.2.2"
        image/boards/board.toml:78:13: `192.168.2.2` and the card's `192.168.1.1` are not in one network of 256 addresses
    link-card = "192.168.1.1" -> link-card = "192.168.1.3"
        image/boards/board.toml:79:13: the card is looked for at `192.168.1.3`, and sets itself up as `192.168.1.1`
        hint: write the address of `setup.link.address`
    cpus = 2 -> cpus = 0
        image/boards/board.toml:71:8: 0 is not from 1 to 512
    cpus = 2 -> cpus = 2.5
        image/boards/board.toml:71:8: `emulator.cpus` has to be a number, and is a number with a fraction
        hint: write it as in `cpus = 1`
    "#);
}

/// One wrong value each: file, what stands there, what is put there instead.
const WRONG: &[(&str, &str, &str)] = &[
    // Sizes.
    (BOARD, "16MiB", "16 MiB"),
    (BOARD, "16MiB", "16m"),
    (BOARD, "16MiB", "0MiB"),
    (BOARD, "16MiB", "16384KiB"),
    (BOARD, "16MiB", "99999999999999999999GiB"),
    (BOARD, "16MiB", "1.5GiB"),
    (BOARD, "\"16MiB\"", "16"),
    (BOARD, "16MiB", "65MiB"),
    (BOARD, "disk = \"2GiB\"", "disk = \"256MiB\""),
    // Names of other things.
    (BOARD, "source = \"linux\"", "source = \"linx\""),
    (BOARD, "source = \"linux\"", "source = \"agent\""),
    (BOARD, "source = \"linux\"", "source = \"shell\""),
    (BASE, "agent = \"agent\"", "agent = \"shell\""),
    (BOARD, "\"virt\"]", "\"vrit\"]"),
    (BOARD, "\"virt\"]", "\"base\"]"),
    (BOARD, "[\"cilium\"]", "[\"syllium\"]"),
    (SHELL, "\"trixie\",", "\"trixi\","),
    (SHELL, "iproute2/trixie-backports", "iproute2/trixie-backport"),
    (SHELL, "\"mawk\",", "\"Mawk\","),
    (SHELL, "\"mawk\",", "\"mawk:arm46\","),
    (SHELL, "\"mawk\",", "\"libcap2-bin\","),
    (SUITES, "archive = \"debian\"", "archive = \"debain\""),
    (SUITES, "[\"trixie-stable\"]", "[]"),
    (SUITES, "https://mirrors.edge.kernel.org/debian", "https://mirrors.edge.kernel.org/debian/"),
    (SUITES, "https://mirrors.edge.kernel.org/debian", "mirrors.edge.kernel.org"),
    (BASE, "[\"rootfs-overlay\"]", "[\"/rootfs-overlay\"]"),
    (BASE, "[\"rootfs-overlay\"]", "[\"../rootfs-overlay\"]"),
    (AGENT, "path = \"agent\"", "path = \"rootfs-overlay\""),
    // Paths, patterns, modes.
    (SHELL, "\"usr/bin/awk\"", "\"/usr/bin/awk\""),
    (SHELL, "\"usr/share/doc/*\"", "\"/usr/share/doc/*\""),
    (SHELL, "\"usr/share/doc/*\"", "\"usr/share/doc/[\""),
    (SHELL, "0640 root shadow", "0690 root shadow"),
    (SHELL, "zutils usr/bin/zcat.gzip", "zutils"),
    (SHELL, "zutils usr/bin/zcat.gzip", "zutils /usr/bin/zcat.gzip"),
    (SHELL, "\"the link `/bin/sh` is in its package\"", "\"\""),
    (AGENT, "\"/usr/bin/dpu-agent\"", "\"usr/bin/dpu-agent\""),
    (AGENT, "[local.install]\ndpu-agent = \"/usr/bin/dpu-agent\"", ""),
    // Sources.
    (AGENT, "[local]", "[deb]\n[local]"),
    (SHELL, "architecture = \"arm64\"", "architecture = \"arm\""),
    // The card.
    (BASE, "hostname = \"dpu\"", "hostname = \"DPU\""),
    (BASE, "tcp/10250", "10250/tcp"),
    (BASE, "tcp/10250", "tcp/70000"),
    (BOARD, "tcp/9962-9964", "tcp/9964-9962"),
    (BOARD, "tcp/9962-9964", "tcp/10250"),
    (BOARD, "[add.firewall]", "[add.firewal]"),
    (BOARD, "tinyconfig", "tiny"),
    (BOARD, "panic=10", "root=/dev/sda1"),
    (BOARD, "panic=10", "$panic"),
    (BOARD, "[\"virtio_net\"]", "[\"virtio net\"]"),
    // The emulator.
    (BOARD, "{ \"1b36:0005\" = 1 }", "{ \"1b36-0005\" = 1 }"),
    (BOARD, "{ \"1b36:0005\" = 1 }", "{ \"1b36:0005\" = 0 }"),
    (BOARD, "{ \"1b36:0005\" = 1 }", "{ \"1b36:0006\" = 1 }"),
    (BOARD, "netdev={link}", "netdev={lnik}"),
    (BOARD, "link-host = \"192.168.1.2\"", "link-host = \"192.168.1.2/24\""),
    (BOARD, "link-host = \"192.168.1.2\"", "link-host = \"192.168.2.2\""),
    (BOARD, "link-card = \"192.168.1.1\"", "link-card = \"192.168.1.3\""),
    (BOARD, "cpus = 2", "cpus = 0"),
    (BOARD, "cpus = 2", "cpus = 2.5"),
];

#[test]
fn a_file_of_great_depth_is_refused() {
    let depth = 100_000;
    for part in ["[", "x.", "{x="] {
        let checkout = Checkout::new();
        checkout.write(BOARD, format!("x = {}", part.repeat(depth)));
        assert!(checkout.problems().len() < 10_000, "{part}");
    }
    let checkout = Checkout::new();
    checkout.write(BOARD, format!("{}x = 1", "x.".repeat(depth)));
    assert!(checkout.problems().len() < 10_000);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_makes_the_loader_panic(file in 0..FILES.len() - 9, text in "(?s).{0,200}") {
        let checkout = Checkout::new();
        checkout.write(FILES[file].0, text);
        let _ = load(checkout.0.path(), "board").map_err(|problems| problems.to_string());
        let _ = boards(checkout.0.path()).map_err(|problems| problems.to_string());
    }

    #[test]
    fn no_change_of_a_right_file_makes_the_loader_panic(
        file in 0..FILES.len() - 9,
        at in any::<prop::sample::Index>(),
        cut in 0..30_usize,
        word in "[a-z0-9\"=\\[\\]{}., \n\u{e9}-]{0,12}",
    ) {
        let checkout = Checkout::new();
        let (path, text) = FILES[file];
        let start = text.floor_char_boundary(at.index(text.len()));
        let end = text.ceil_char_boundary(start + cut);
        checkout.write(path, format!("{}{word}{}", &text[..start], &text[end..]));
        if let Err(problems) = load(checkout.0.path(), "board") {
            prop_assert!(!problems.is_empty());
            prop_assert!(problems.to_string().lines().count() > 2);
        }
    }
}
