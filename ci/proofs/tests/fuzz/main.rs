//! Whatever the programs are given, they answer: no panic, no hang, nothing half done. What is given is made by
//! proptest; the programs are the real ones, as whole processes.

mod input;
mod requests;
mod results;
mod state;

use std::time::Duration;

use dpukit_proofs::stage::{Stage, WORLD, end_pod, make_pod};
use dpukit_proofs::traffic::ping;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};

/// What a process costs on a busy machine, beside the deadline of its call.
pub const SLACK: Duration = Duration::from_secs(3);

/// Runs a property so many times. A run that fails prints what made it fail, made small.
fn property<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let config = Config { failure_persistence: None, max_shrink_iters: 64, ..Config::with_cases(cases) };
    TestRunner::new(config).run(strategy, test).unwrap_or_else(|error| panic!("{error}"));
}

/// JSON that may have the words that are looked for.
pub fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[0-9a-f]{0,4}[:./][0-9a-f]{0,4}".prop_map(Value::from),
        Just(Value::from("10.244.0.9/32")),
        Just(Value::from("fd00::9/128")),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let keys = prop_oneof![
            "type|ca|certificate|key|ips|address|gateway|interface|interfaces|mac|containerID|ifname|routes|dst|gw",
            ".{0,4}"
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys, inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

/// A pod can be made and unmade.
pub fn works(stage: &Stage, pod: &str) -> Result<(), TestCaseError> {
    make_pod(pod);
    let added = stage.call("ADD", pod, &json!({}));
    prop_assert!(added.success, "{added:?}\n{}", stage.logs());
    let reached = ping(pod, WORLD[0], Duration::from_secs(10));
    prop_assert!(reached.is_ok(), "{reached:?}\n{}", stage.logs());
    let deleted = stage.call("DEL", pod, &json!({}));
    prop_assert!(deleted.success, "{deleted:?}\n{}", stage.logs());
    end_pod(pod);
    prop_assert!(!stage.agent.log().contains("panicked"), "{}", stage.logs());
    Ok(())
}
