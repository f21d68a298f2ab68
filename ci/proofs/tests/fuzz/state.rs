//! Files that the programs keep, damaged.

use std::time::Duration;

use dpukit_proofs::inside::inside;
use dpukit_proofs::stage::{Stage, WORLD};
use dpukit_proofs::traffic::ping;
use proptest::prelude::*;
use serde_json::json;

use crate::{any_json, property, works};

/// What a file of state may have become: a good one that was cut or changed, or anything.
fn spoil(good: Vec<u8>) -> impl Strategy<Value = Vec<u8>> {
    let cut = (Just(good.clone()), any::<prop::sample::Index>()).prop_map(|(mut octets, at)| {
        octets.truncate(at.index(octets.len().max(1)));
        octets
    });
    let changed = (Just(good), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4));
    let changed = changed.prop_map(|(mut octets, changes)| {
        for (at, octet) in changes {
            let at = at.index(octets.len().max(1));
            octets[at] = octet;
        }
        octets
    });
    prop_oneof![
        cut,
        changed,
        any_json().prop_map(|json| json.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs"]
fn state_files_that_are_damaged_cost_nobody_else_anything() {
    if !inside("state::state_files_that_are_damaged_cost_nobody_else_anything") {
        return;
    }
    let stage = Stage::new(1, 3);
    let empty: Vec<_> = stage.agent.files.below("/var/lib");
    // A pod that is there all the time.
    stage.add("stays");
    let claim = stage.files("claims").remove(0);
    let claim = std::fs::read(stage.host.at(&format!("/var/lib/dpukit/claims/{claim}"))).unwrap();
    let damaged = stage.vfs[2].address.clone();
    property(40, &(spoil(claim.clone()), spoil(claim)), |(claim, tombstone)| {
        stage.host.write(&format!("/var/lib/dpukit/claims/{damaged}"), claim);
        stage.host.write("/var/lib/dpukit/tombstones/gone:eth0", tombstone);
        for command in ["STATUS", "DEL"] {
            let answer = stage.call(command, "nobody", &json!({}));
            prop_assert!(answer.success, "{command}: {answer:?}\n{}", stage.logs());
        }
        works(&stage, "comes")?;
        let _ = std::fs::remove_file(stage.host.at(&format!("/var/lib/dpukit/claims/{damaged}")));
        let _ = std::fs::remove_file(stage.host.at("/var/lib/dpukit/tombstones/gone:eth0"));
        Ok(())
    });

    let files: Vec<_> = stage.agent.files.below("/var/lib");
    let record = files.iter().find(|file| !empty.contains(file) && file.contains("stays"));
    let record = record.unwrap_or_else(|| panic!("the agent keeps no record of a pod: {files:?}")).clone();
    let good = std::fs::read(stage.agent.files.at(&format!("/var/lib/{record}"))).unwrap();
    property(24, &spoil(good.clone()), |octets| {
        stage.agent.kill();
        stage.agent.files.write(&format!("/var/lib/{}", record.replace("stays", "spoilt")), octets);
        stage.agent.start();
        stage.wait_until_ready();
        let stays = ping("stays", WORLD[0], Duration::from_secs(10));
        prop_assert!(stays.is_ok(), "{stays:?}\n{}", stage.logs());
        works(&stage, "comes")
    });
    stage.del("stays");
    let gc = stage.call("GC", "", &json!({"cni.dev/valid-attachments": null}));
    assert!(gc.success, "{gc:?}\n{}", stage.logs());
    assert!(dpukit_proofs::driver::strays(&stage.vfs).is_empty());
}
