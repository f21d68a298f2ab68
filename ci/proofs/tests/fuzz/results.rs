//! What IPAM plugins answer, on the host and on the card.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Mutex;

use dpukit_proofs::clean::Picture;
use dpukit_proofs::driver::strays;
use dpukit_proofs::inside::inside;
use dpukit_proofs::run::show;
use dpukit_proofs::stage::{Shape, Stage, end_pod, make_pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{any_json, property, works};

/// How a plugin ends: what it writes, and its exit code.
type Ending = (Vec<u8>, u8);

/// A result that is near to a good one, or anything.
fn any_ending() -> impl Strategy<Value = Ending> {
    const KEYS: [&str; 5] = ["cniVersion", "ips", "routes", "dns", "interfaces"];
    let change = prop::collection::vec((prop::sample::select(KEYS.to_vec()), any_json()), 0..3);
    let near = change.prop_map(|changes| {
        let mut result = json!({"cniVersion": "1.0.0", "ips": [{"address": "10.244.0.9/24"}]});
        for (key, value) in changes {
            result[key] = value;
        }
        result.to_string().into_bytes()
    });
    let near = near.boxed();
    let address = prop_oneof!["[0-9]{1,3}(\\.[0-9]{1,3}){3}/[0-9]{1,2}", "[0-9a-f:]{0,12}/[0-9]{1,3}"];
    let addresses = prop::collection::vec(address, 0..3).prop_map(|addresses| {
        let ips: Vec<_> = addresses.into_iter().map(|address| json!({"address": address})).collect();
        json!({"cniVersion": "1.0.0", "ips": ips}).to_string().into_bytes()
    });
    let cut = (near.clone(), any::<prop::sample::Index>()).prop_map(|(mut text, at)| {
        text.truncate(at.index(text.len()));
        text
    });
    let error = any_json().prop_map(|code| json!({"code": code, "msg": "no"}).to_string().into_bytes());
    let octets = prop_oneof![
        5 => near,
        3 => addresses,
        1 => cut,
        1 => error,
        1 => prop::collection::vec(any::<u8>(), 0..100),
        1 => Just(vec![b' '; 300_000]),
    ];
    (octets, prop_oneof![4 => Just(0), 1 => any::<u8>()])
}

/// A plugin that ends as its files say for an ADD, and well for everything else.
fn make_plugin(folder: &Path, name: &str) {
    fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    let script = "#!/bin/sh\ncat >/dev/null\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\n\
                  cat \"$0.says\"\nexit \"$(cat \"$0.code\")\"\n";
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn set(folder: &Path, name: &str, (octets, code): Ending) {
    fs::write(folder.join(format!("{name}.says")), octets).unwrap();
    fs::write(folder.join(format!("{name}.code")), code.to_string()).unwrap();
}

/// How often an ADD was made, and how often not.
type Tally = Mutex<[u32; 2]>;

/// An ADD is made whole, or leaves nothing.
fn is_whole_or_nothing(
    stage: &Stage,
    change: &Value,
    path: Option<&Path>,
    tally: &Tally,
) -> Result<(), TestCaseError> {
    make_pod("p");
    let empty = Picture::take(&stage.host, &stage.agent.files);
    let mut call = stage.prepare("ADD", "p", change);
    if let Some(path) = path {
        call.path = path.display().to_string();
    }
    let added = call.make();
    tally.lock().unwrap()[usize::from(!added.success)] += 1;
    let has_eth0 = show("p", "link").iter().any(|link| link["ifname"] == "eth0");
    prop_assert_eq!(added.success, has_eth0, "{:?}\n{}", added, stage.logs());
    if !added.success {
        let (code, _) = added.error();
        prop_assert!(code != 199, "{added:?}\n{}", stage.logs());
        let left = empty.differences(&Picture::take(&stage.host, &stage.agent.files));
        prop_assert!(
            left.is_empty() && strays(&stage.vfs).is_empty(),
            "{added:?}: {left:?}\n{}",
            stage.logs()
        );
    }
    call.command = "DEL";
    let deleted = call.make();
    prop_assert!(deleted.success, "{deleted:?}\n{}", stage.logs());
    end_pod("p");
    let left = empty.differences(&Picture::take(&stage.host, &stage.agent.files));
    prop_assert!(left.is_empty() && strays(&stage.vfs).is_empty(), "{left:?}\n{}", stage.logs());
    prop_assert!(!stage.agent.log().contains("panicked"), "{}", stage.logs());
    Ok(())
}

/// What was never tried was not looked at.
fn must_have_both(tally: &Tally) {
    let [made, refused] = *tally.lock().unwrap();
    println!("proof: {made} ADDs were made, {refused} were refused");
    assert!(made > 0 && refused > 0, "{made} ADDs were made, {refused} were refused");
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn the_hosts_ipam_plugin_may_answer_anything() {
    if !inside("results::the_hosts_ipam_plugin_may_answer_anything") {
        return;
    }
    let stage = Stage::new(1, 1);
    let folder = stage.host.at("/plugins");
    make_plugin(&folder, "odd");
    let change = json!({"ipam": {"type": "odd"}});
    let tally = Tally::default();
    property(150, &any_ending(), |ending| {
        set(&folder, "odd", ending);
        is_whole_or_nothing(&stage, &change, Some(&folder), &tally)
    });
    must_have_both(&tally);
    works(&stage, "comes").unwrap();
    stage.must_be_clean();
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn the_cards_ipam_plugin_may_answer_anything() {
    if !inside("results::the_cards_ipam_plugin_may_answer_anything") {
        return;
    }
    // One subnet, since the answers that are near to a good one hold one address.
    let stage = Stage::without_agent(Shape { pfs: 1, vfs: 1, bridged: true, ipv6: false, secure: false });
    let folder = stage.agent.files.at("/plugins");
    make_plugin(&folder, "host-local");
    set(&folder, "host-local", (Vec::new(), 0));
    let plan = stage.agent.files.read("/usr/lib/dpukit/plan.toml");
    stage
        .agent
        .files
        .write("/usr/lib/dpukit/plan.toml", format!("{plan}plugins = [{:?}]\n", folder.display()));
    stage.agent.start();
    stage.wait_until_ready();
    let tally = Tally::default();
    property(150, &any_ending(), |ending| {
        set(&folder, "host-local", ending);
        is_whole_or_nothing(&stage, &json!({}), None, &tally)
    });
    must_have_both(&tally);
}
