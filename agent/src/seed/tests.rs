//! Seeds that are right, wrong, taken, and hostile.

use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;
use crate::fake::{self, Fake};

const EXAMPLE: &str = include_str!("example.toml");
const TOKEN: &str = "abcdef.0123456789abcdef";
const CA: &str = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";

/// A card with a seed in its folder.
fn card(seed: &str) -> Fake {
    let fake = fake::virt();
    fake.file("/data/dpukit-seed/dpukit-seed.toml", seed);
    fake.file("/data/dpukit-seed/token", TOKEN);
    fake.file("/data/dpukit-seed/registry-ca.pem", CA);
    fake.file(
        "/etc/containerd/config.toml",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = \"/usr/lib/cni\"\n",
    );
    fake
}

fn looked(fake: &Fake) -> String {
    let mut report = Report::default();
    report.look(|report| look(&fake.card(), report));
    report.lines()
}

#[test]
fn a_seed_becomes_files_and_is_wiped() {
    let fake = card(EXAMPLE);
    let report = take(&fake.card(), false);
    assert!(report.is_good(), "{}", report.lines());
    let mut text = String::new();
    for path in [
        "/etc/dpukit/host",
        "/etc/ssh/authorized_keys.d/root",
        "/etc/credstore/dpukit.pairing-code",
        "/etc/systemd/network/10-seed-0.network",
        "/etc/systemd/timesyncd.conf.d/10-seed.conf",
        "/etc/containerd/certs.d/docker.io/hosts.toml",
        "/etc/containerd/config.toml",
        JOIN,
    ] {
        let mode = fs::metadata(fake.card().tree.at(path)).unwrap().permissions().mode() & 0o777;
        text += &format!("== {mode:o} {path}\n{}\n", fake.read(path).trim_end());
    }
    insta::assert_snapshot!(text);
    let tree = fake.card().tree;
    assert_eq!(tree.names("/data/dpukit-seed").unwrap(), ["registry-ca.pem"], "what is no secret may stay");
    assert!(
        !fake.read(RECORD).contains("0123456789abcdef") && !report.lines().contains("ACDE"),
        "{}",
        report.lines()
    );

    assert!(
        looked(&fake)
            .contains("the seed wants the card in Kubernetes, and the image has no `/usr/bin/kubeadm`")
    );
    assert_eq!(
        take(&fake.card(), false).lines(),
        "  found   the card took its seed from `/data/dpukit-seed`\n"
    );
}

#[test]
fn a_card_without_a_seed_is_closed() {
    let fake = fake::virt();
    assert!(looked(&fake).contains("no seed was looked for"));
    let says = "  absent  no seed was given: nobody is let in whom the image does not know\n";
    assert_eq!(take(&fake.card(), false).lines(), says);
    assert_eq!(looked(&fake), says);
    assert!(!fake.card().tree.exists("/etc/ssh/authorized_keys.d/root"));
}

#[test]
fn a_wrong_seed_is_told_whole_and_taken_in_no_part() {
    for (right, wrong, says) in [
        ("\"node1\"", "\"node 1\"", "`host` is `node 1`"),
        ("ssh-ed25519 AAAA", "nonsense AAAA", "`ssh-keys`: the 1. is no line of a public key"),
        ("\"ACDE-FGHJ-KM\"", "\"SECRET\"", "`pairing-code` is none"),
        ("\"enP2p3s0\"", "\"a/b\"", "`a/b` is no interface's name"),
        ("\"10.1.2.3/24\"", "\"10.1.2.3\"", "line 11: `10.1.2.3` is not an interface address"),
        ("\"ntp.example.org\"", "\"ntp example\"", "`ntp example` is no server's name"),
        ("https://registry", "ftp://registry", "is no address that begins with `https://`"),
        ("\"docker.io\"", "\"../..\"", "`../..` is no registry"),
        ("\"registry-ca.pem\"", "\"/etc/shadow\"", "is not the name of a file beside the seed"),
        ("\"registry-ca.pem\"", "\"none.pem\"", "reading `none.pem`: No such file"),
        ("\"10.1.2.10:6443\"", "\"10.1.2.10\"", "not as `10.1.2.10:6443`"),
        ("\"sha256:0123", "\"sha256:", "is not `sha256:` and 64 digits"),
        ("\"token\"", "\"registry-ca.pem\"", "holds no token of kubeadm's"),
        ("host = \"node1\"", "hots = \"node1\"", "line 2: unknown field `hots`"),
        ("pairing-code = \"", "pairing-code = \"\\", "line 6: "),
    ] {
        assert!(EXAMPLE.contains(right), "{right}");
        let fake = card(&EXAMPLE.replacen(right, wrong, 1));
        let lines = take(&fake.card(), false).lines();
        assert!(lines.contains(says) && lines.contains("is not taken"), "{says}: {lines}");
        assert!(
            !lines.contains("SECRET") && !lines.contains("ACDE-FGHJ") && !lines.contains(TOKEN),
            "{lines}"
        );
        assert!(looked(&fake).contains(says), "the doctor says it too");
        let tree = fake.card().tree;
        assert!(!tree.exists("/etc/dpukit/host") && !tree.exists(RECORD));
        assert!(tree.exists("/data/dpukit-seed/dpukit-seed.toml"), "it stays to be mended");
    }
    let fake = card("host = \"-\"\n[time]\nservers = [\" \"]\n");
    let lines = take(&fake.card(), false).lines();
    assert!(lines.contains("`host`") && lines.contains("`time.servers`"), "{lines}");
}

#[test]
fn a_second_seed_is_taken_only_if_that_is_said() {
    let fake = card("host = \"node1\"\n");
    take(&fake.card(), false);
    fake.file("/data/dpukit-seed/dpukit-seed.toml", "host = \"node2\"\n");
    let lines = take(&fake.card(), false).lines();
    assert!(lines.contains("the card has taken one from `/data/dpukit-seed`"), "{lines}");
    assert_eq!(fake.read("/etc/dpukit/host"), "node1\n");
    assert!(take(&fake.card(), true).is_good());
    assert_eq!(fake.read("/etc/dpukit/host"), "node2\n");
}

#[test]
fn a_partition_of_its_name_is_opened_wiped_and_closed() {
    let fake = fake::virt();
    fake.file("/sys/class/block/sda1/uevent", "DEVNAME=sda1\nPARTNAME=dpukit-seed\n");
    // The made-up `mount` mounts nothing: the seed lies where the partition would be.
    fake.file("/run/dpukit/seed-partition/dpukit-seed.toml", "host = \"node1\"\n");
    let report = take(&fake.card(), false);
    assert_eq!(
        report.did,
        ["took the seed in the partition `/dev/sda1`: /etc/dpukit/host"],
        "{}",
        report.lines()
    );
    let mounts: Vec<_> = fake.ran().into_iter().filter(|line| line.contains("mount")).collect();
    assert_eq!(
        mounts[2..],
        [
            "mount -o ro,nosuid,nodev,noexec /dev/sda1 /run/dpukit/seed-partition",
            "mount -o remount,rw /run/dpukit/seed-partition",
            "umount /run/dpukit/seed-partition"
        ]
    );
    assert!(!fake.card().tree.exists("/run/dpukit/seed-partition/dpukit-seed.toml"));
    assert_eq!(
        take(&fake.card(), false).lines(),
        "  found   the card took its seed from the partition `/dev/sda1`\n"
    );
}

#[test]
fn a_credential_is_taken_once_though_it_comes_again() {
    let (fake, folder) = (fake::virt(), tempfile::tempdir().unwrap());
    let seed = folder.path().join(NAME);
    fs::write(&seed, "host = \"node1\"\n").unwrap();
    let take = || take_with(&fake.card(), false, Some(folder.path().to_owned())).lines();
    assert_eq!(take(), "  did     took the seed in the credential `dpukit.seed`: /etc/dpukit/host\n");
    assert!(seed.exists(), "it is systemd's");
    assert_eq!(take(), "  found   the card took its seed from the credential `dpukit.seed`\n");
}

#[test]
fn a_partition_that_does_not_mount_is_told() {
    let fake = fake::virt();
    fake.file("/sys/class/block/sda1/uevent", "PARTNAME=dpukit-seed\n");
    fake.fail("mount", "mount: wrong fs type");
    assert!(take(&fake.card(), false).lines().contains("wrong fs type"));
}

#[test]
fn a_join_is_tried_until_it_is_done() {
    let fake = card(EXAMPLE);
    take(&fake.card(), false);
    fake.file(KUBEADM, "");
    assert!(looked(&fake).contains("has not joined its Kubernetes yet"));
    fake.fail("kubeadm", "no route to host");
    fake.idle("systemctl");
    assert!(join(&fake.card(), &mut Report::default()).is_err());
    assert!(fake.card().tree.exists(JOIN));
    let fake = card(EXAMPLE);
    take(&fake.card(), false);
    fake.idle("kubeadm");
    fake.idle("systemctl");
    join(&fake.card(), &mut Report::default()).unwrap();
    assert!(!fake.card().tree.exists(JOIN));
    assert!(fake.ran()[0].ends_with("enable kubelet.service"), "{:?}", fake.ran());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,80}") {
        let _ = Seed::parse(&text);
        let seed = format!("host = {text:?}\nssh-keys = [{text:?}]\npairing-code = {text:?}\n");
        if let Ok(seed) = Seed::parse(&seed) {
            let _ = seed.files(&|_| Ok(String::new()), &|_| Ok(String::new()));
        }
    }
}
