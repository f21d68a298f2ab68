//! Lists of scripts, through all that a caller can ask for.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;

use super::fake::{Fake, attachment, soon};
use super::*;

const TWO: &str =
    r#"{"name":"cep","cniVersion":"1.0.0","plugins":[{"type":"main","bridge":"br0"},{"type":"extra"}]}"#;
const MADE: &str = r#"say '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24","gateway":"10.0.0.1"},{"address":"fd00::5/64"},{"address":"10.0.0.6/24"}],"routes":[{"dst":"0.0.0.0/0","custom":7}],"dns":{"nameservers":["10.0.0.53"]}}'"#;
/// Hands on what came before, as plugins that only add something do.
const PASS: &str = r#"say "$input" | sed 's/.*"prevResult":\({.*}\),"type".*/\1/'"#;

fn two() -> Fake {
    let fake = Fake::new(TWO, &["main", "extra"]);
    fake.on("main", "ADD", MADE).on("extra", "ADD", PASS);
    fake
}

fn text(refusal: Refusal) -> String {
    match refusal {
        Refusal::Later(error) => format!("later: {error:#}"),
        Refusal::Never(error) => format!("never: {error:#}"),
    }
}

#[tokio::test]
async fn an_add_goes_forward_and_hands_on_results() {
    let fake = two();
    let made = fake.delegate.add(&attachment(), soon()).await.unwrap();
    insta::assert_snapshot!(fake.environment(), @r"
    CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c01;K8S_POD_UID=u-1
    CNI_COMMAND=ADD
    CNI_CONTAINERID=c01
    CNI_IFNAME=sdp3
    CNI_NETNS=/proc/1/ns/net
    CNI_NETNS_OVERRIDE=1
    CNI_PATH=/there/none:/there/bin
    ");
    insta::assert_snapshot!(fake.calls(), @r#"
    main ADD {"MacAddr":"02:00:00:00:00:07","VfPCI":"0002:01:00.3","bridge":"br0","cniVersion":"1.0.0","name":"cep","type":"main"}
    extra ADD {"cniVersion":"1.0.0","name":"cep","prevResult":{"cniVersion":"1.0.0","dns":{"nameservers":["10.0.0.53"]},"ips":[{"address":"10.0.0.5/24","gateway":"10.0.0.1"},{"address":"fd00::5/64"},{"address":"10.0.0.6/24"}],"routes":[{"custom":7,"dst":"0.0.0.0/0"}]},"type":"extra"}
    "#);
    let end = |address: &str, gateway: Option<&str>| End {
        address: address.parse().unwrap(),
        gateway: gateway.map(|text| text.parse().unwrap()),
    };
    assert_eq!(made.ends, [end("10.0.0.5", Some("10.0.0.1")), end("fd00::5", None)]);
    assert_eq!(made.dns, ["10.0.0.53".parse::<IpAddr>().unwrap()]);
    assert_eq!(fake.begun(), 1);
}

#[tokio::test]
async fn check_goes_forward_and_del_backward_with_the_whole_result() {
    let fake = two();
    let made = fake.delegate.add(&attachment(), soon()).await.unwrap();
    fake.calls();
    fake.delegate.check(&attachment(), &made, soon()).await.unwrap();
    let calls = fake.calls();
    assert_eq!(calls.matches(r#""custom":7"#).count(), 2, "{calls}");
    assert!(calls.starts_with("main CHECK") && calls.contains("\nextra CHECK"), "{calls}");

    // What made it is what takes it away, though the list is gone.
    fs::remove_file(fake.path().join("net.d/10.conflist")).unwrap();
    fake.delegate.del(&attachment(), Some(&made), soon()).await.unwrap();
    let calls = fake.calls();
    assert_eq!(calls.matches(r#""custom":7"#).count(), 2, "{calls}");
    assert!(calls.starts_with("extra DEL") && calls.contains("\nmain DEL"), "{calls}");
    assert_eq!(fake.begun(), 0);
}

#[tokio::test]
async fn a_failed_check_says_what_the_plugin_said() {
    let fake = two();
    let made = fake.delegate.add(&attachment(), soon()).await.unwrap();
    fake.on("extra", "CHECK", r#"say '{"code":101,"msg":"no rule","details":"table cep"}'; exit 1"#);
    let refusal = fake.delegate.check(&attachment(), &made, soon()).await.unwrap_err();
    assert_eq!(text(refusal), "never: CHECK of the plugin `extra`: no rule; table cep (code 101)");
}

#[tokio::test]
async fn a_failed_add_is_undone_by_all_plugins() {
    for (script, expected) in [
        (r#"say '{"code":11,"msg":"busy"}'; exit 1"#, "later: ADD of the plugin `extra`: busy (code 11)"),
        (
            r#"say '{"code":7,"msg":"wrong","details":"mtu"}'; exit 1"#,
            "never: ADD of the plugin `extra`: wrong; mtu (code 7)",
        ),
        ("say oh no >&2; exit 3", "never: ADD of the plugin `extra`: it ended with exit status: 3: oh no"),
        ("kill -9 $$", "later: ADD of the plugin `extra`: it ended with signal: 9 (SIGKILL) and no reason"),
        (
            "say nothing",
            "never: reading what the plugin `extra` answered to ADD: expected ident at line 1 column 2",
        ),
        (
            r#"say '{"ips":[{"address":"10.0.0.5"}]}'"#,
            "never: reading what the plugin `extra` answered to ADD: `10.0.0.5` is no address with a prefix, like `10.1.0.7/32`",
        ),
        (
            "head -c 2000000 /dev/zero; sleep 60",
            "never: ADD of the plugin `extra`: it answered with more than 1048576 octets",
        ),
    ] {
        let fake = two();
        fake.on("extra", "ADD", script);
        let refusal = fake.delegate.add(&attachment(), soon()).await.unwrap_err();
        assert_eq!(text(refusal), expected);
        let calls = fake.calls();
        let order: Vec<_> = calls.lines().map(|call| call.split(" {").next().unwrap()).collect();
        assert_eq!(order, ["main ADD", "extra ADD", "extra DEL", "main DEL"]);
        // Plugins that clean up by the result get what there is of it.
        assert!(calls.lines().last().unwrap().contains(r#""prevResult":{"cniVersion""#), "{calls}");
        assert_eq!(fake.begun(), 0);
    }
}

#[tokio::test]
async fn what_could_not_be_undone_is_undone_before_the_next_try() {
    let fake = two();
    fake.on("extra", "ADD", r#"say '{"code":7,"msg":"wrong"}'; exit 1"#);
    fake.on("main", "DEL", r#"say '{"code":11,"msg":"busy"}'; exit 1"#);
    let refusal = fake.delegate.add(&attachment(), soon()).await.unwrap_err();
    assert_eq!(
        text(refusal),
        "never: ADD of the plugin `extra`: wrong (code 7); undoing it: DEL of the plugin `main`: busy (code 11)"
    );
    assert_eq!(fake.begun(), 1);
    fake.order();
    let refusal = fake.delegate.add(&attachment(), soon()).await.unwrap_err();
    assert!(text(refusal).starts_with("later: undoing an earlier try: "));
    assert_eq!(fake.order(), ["extra DEL", "main DEL"]);
    fake.on("main", "DEL", "").on("extra", "ADD", PASS);
    fake.delegate.add(&attachment(), soon()).await.unwrap();
    assert_eq!(fake.order(), ["extra DEL", "main DEL", "main ADD", "extra ADD"]);
}

#[tokio::test]
async fn a_plugin_ends_with_the_deadline_and_all_that_it_started() {
    let fake = two();
    fake.on("extra", "ADD", r#"sleep 1000 & echo $! >"$there/child"; sleep 1000"#);
    let begun = Instant::now();
    let refusal = fake.delegate.add(&attachment(), begun + Duration::from_secs(2)).await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(text(refusal).starts_with("later: ADD of the plugin `extra`: no answer in 1."));
    assert_eq!(fake.order(), ["main ADD", "extra ADD", "extra DEL", "main DEL"]);
    let child = fs::read_to_string(fake.path().join("child")).unwrap();
    let gone = || match fs::read_to_string(format!("/proc/{}/stat", child.trim())) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    let end = soon();
    while !gone() {
        assert!(Instant::now() < end, "the child of the plugin lives");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_is_not_waited_for_beyond_the_deadline() {
    let fake = two();
    fake.on("main", "DEL", "setsid sleep 3 & exit 0");
    let begun = Instant::now();
    let refusal = fake.delegate.del(&attachment(), None, begun + Duration::from_millis(1500)).await;
    assert!(text(refusal.unwrap_err()).contains("something that it started held its output open"));
    assert!(begun.elapsed() < Duration::from_millis(2500), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn plugins_that_are_not_there_are_named() {
    let fake = Fake::new(TWO, &["main"]);
    fake.on("main", "ADD", MADE);
    let refusal = text(fake.delegate.add(&attachment(), soon()).await.unwrap_err());
    assert!(refusal.starts_with("never: ADD of the plugin `extra`: the plugin `extra` is in none of `"));
    let ready = format!("{:#}", fake.delegate.ready().await.unwrap_err());
    assert!(ready.ends_with("install it there"), "{ready}");
}

#[tokio::test]
async fn names_that_would_say_something_else_are_refused() {
    let fake = two();
    let wrong: [fn(&mut Attachment); 4] = [
        |one| one.container = "../c".into(),
        |one| one.vf.interface = "a b".into(),
        |one| one.pod.name = "web;K8S_POD_UID=x".into(),
        |one| one.interface = "a/b".into(),
    ];
    for change in wrong {
        let mut attachment = attachment();
        change(&mut attachment);
        assert!(text(fake.delegate.add(&attachment, soon()).await.unwrap_err()).starts_with("never: "));
    }
    assert_eq!((fake.calls().as_str(), fake.begun()), ("", 0));
}

#[tokio::test]
async fn addresses_of_the_host_reach_the_plugin_that_takes_them() {
    let given = [End { address: "10.9.0.7".parse().unwrap(), gateway: None }];
    let wanting = Attachment { given: given.to_vec(), ..attachment() };
    let fake = two();
    let refusal = text(fake.delegate.add(&wanting, soon()).await.unwrap_err());
    assert_eq!(
        refusal,
        "never: the host gave the pod 10.9.0.7, and no plugin of the list `cep` takes the capability `ips`: declare it there, or let the card give addresses"
    );
    assert_eq!(fake.calls(), "");

    let list = r#"{"name":"cep","cniVersion":"0.3.1","plugins":[{"type":"main","capabilities":{"ips":true,"deviceID":true,"mac":true}}]}"#;
    let fake = Fake::new(list, &["main"]);
    fake.on("main", "ADD", r#"say '{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.9.0.7/32"}]}'"#);
    assert_eq!(fake.delegate.add(&wanting, soon()).await.unwrap().ends, given);
    assert_eq!(fake.last()["runtimeConfig"], json!({ "ips": ["10.9.0.7/32"], "deviceID": "0002:01:00.3" }));
}

#[tokio::test]
async fn results_of_every_version_are_read_and_handed_on_in_the_lists() {
    for (answered, ip, spoken, expected) in [
        (
            "0.3.1",
            r#""version":"4","address":"10.0.0.5/24""#,
            "0.3.1",
            json!({ "version": "4", "address": "10.0.0.5/24" }),
        ),
        ("0.4.0", r#""version":"4","address":"10.0.0.5/24""#, "1.0.0", json!({ "address": "10.0.0.5/24" })),
        ("1.0.0", r#""address":"10.0.0.5/24""#, "0.4.0", json!({ "version": "4", "address": "10.0.0.5/24" })),
        (
            "1.1.0",
            r#""address":"10.0.0.5/24","new":1"#,
            "1.1.0",
            json!({ "address": "10.0.0.5/24", "new": 1 }),
        ),
    ] {
        let list = format!(
            r#"{{"name":"cep","cniVersion":"{spoken}","plugins":[{{"type":"main"}},{{"type":"extra"}}]}}"#
        );
        let fake = Fake::new(&list, &["main", "extra"]);
        fake.on("main", "ADD", &format!(r#"say '{{"cniVersion":"{answered}","ips":[{{{ip}}}]}}'"#));
        fake.on("extra", "ADD", "say '{}'");
        let made = fake.delegate.add(&attachment(), soon()).await.unwrap();
        let handed = &fake.last()["prevResult"];
        assert_eq!((&handed["cniVersion"], &handed["ips"][0]), (&json!(spoken), &expected));
        // CHECK is not known to 0.3.1, nor does DEL know the result there.
        fake.delegate.check(&attachment(), &made, soon()).await.unwrap();
        assert_eq!(fake.order().len(), if spoken == "0.3.1" { 0 } else { 2 });
        fake.delegate.del(&attachment(), Some(&made), soon()).await.unwrap();
        assert_eq!(fake.last().get("prevResult").is_some(), spoken != "0.3.1");
    }
}

#[tokio::test]
async fn what_was_begun_and_is_not_known_is_taken_away() {
    let fake = two();
    fake.on("extra", "ADD", "sleep 1000");
    // The agent is killed in the middle of an ADD.
    let killed = tokio::time::timeout(Duration::from_secs(1), fake.delegate.add(&attachment(), soon())).await;
    assert!(killed.is_err());
    assert_eq!((fake.order().len(), fake.begun()), (2, 1));
    assert_eq!(fake.delegate.reconcile(&[]).await.unwrap().freed, 1);
    assert_eq!(fake.order(), ["extra DEL", "main DEL"]);
    assert_eq!(fake.delegate.reconcile(&[]).await.unwrap().freed, 0);
}

#[tokio::test]
async fn a_del_is_told_the_name_of_the_add_unless_another_device_has_it() {
    let named =
        |name: &str| Attachment { vf: Vf { interface: name.into(), ..attachment().vf }, ..attachment() };
    for (now, is_taken, expected) in [
        ("sdp9", false, Some("CNI_IFNAME=sdp3")),
        ("", false, Some("CNI_IFNAME=sdp3")),
        ("sdp9", true, Some("CNI_IFNAME=sdp9")),
        ("", true, None),
    ] {
        let fake = two();
        let made = fake.delegate.add(&named("sdp3"), soon()).await.unwrap();
        fake.calls();
        if is_taken {
            fs::create_dir_all(fake.path().join("net/sdp3")).unwrap();
        }
        fake.delegate.del(&named(now), Some(&made), soon()).await.unwrap();
        let order = fake.order();
        match expected {
            Some(name) => {
                assert_eq!(order, ["extra DEL", "main DEL"]);
                assert!(fake.environment().contains(name), "{now}: {}", fake.environment());
            }
            None => assert!(order.is_empty(), "another pod's interface is touched: {order:?}"),
        }
        assert_eq!(fake.begun(), 0, "a DEL that can't be done better is not asked for again");
    }
}

const COLLECTED: &str = r#"{"name":"cep","cniVersion":"1.1.0","plugins":[{"type":"main"}]}"#;

#[tokio::test]
async fn plugins_are_told_what_is_valid_and_asked_for_their_state() {
    let fake = Fake::new(COLLECTED, &["main"]);
    fake.on("main", "ADD", MADE);
    let made = fake.delegate.add(&attachment(), soon()).await.unwrap();
    fake.calls();
    assert_eq!(fake.delegate.reconcile(&[(attachment(), made.clone())]).await.unwrap().freed, 0);
    fake.calls();
    // A VF that has another name by now is still known to the plugins by its old one.
    let renamed = Attachment { vf: Vf { interface: "sdp9".into(), ..attachment().vf }, ..attachment() };
    assert_eq!(fake.delegate.reconcile(&[(renamed, made)]).await.unwrap().freed, 0);
    insta::assert_snapshot!(fake.calls().lines().last().unwrap(), @r#"main GC {"cni.dev/attachments":[{"containerID":"c01","ifname":"sdp3"}],"cni.dev/valid-attachments":[{"containerID":"c01","ifname":"sdp3"}],"cniVersion":"1.1.0","name":"cep","type":"main"}"#);
    fake.delegate.ready().await.unwrap();
    assert_eq!(fake.order(), ["main STATUS"]);
    fake.on("main", "STATUS", r#"say '{"code":50,"msg":"no uplink"}'; exit 1"#);
    let error = format!("{:#}", fake.delegate.ready().await.unwrap_err());
    assert_eq!(error, "STATUS of the plugin `main`: no uplink (code 50)");

    let fake = Fake::new(&COLLECTED.replace(r#""plugins""#, r#""disableGC":true,"plugins""#), &["main"]);
    fake.delegate.reconcile(&[]).await.unwrap();
    assert_eq!(fake.calls(), "");
}

/// As if the card had been started anew since.
fn reboot(fake: &Fake) {
    let file = fake.path().join("cache/c01:eth0.json");
    let mut entry: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    entry["boot"] = "another".into();
    fs::write(file, entry.to_string()).unwrap();
}

#[tokio::test]
async fn a_network_is_made_anew_after_a_reboot_and_where_it_is_not_as_it_was() {
    let list =
        r#"{"name":"cep","cniVersion":"1.0.0","plugins":[{"type":"main","capabilities":{"ips":true}}]}"#;
    let fake = Fake::new(list, &["main"]);
    let add = r#"n=$(cat "$there/times" 2>/dev/null); say "x$n" >"$there/times"
say '{"cniVersion":"1.0.0","ips":[{"address":"10.0.0.5/24"}],"times":"'"$n"'"}'"#;
    fake.on("main", "ADD", add);
    let made = fake.delegate.add(&attachment(), soon()).await.unwrap();
    let known = [(attachment(), made.clone())];
    fake.calls();
    fake.delegate.reconcile(&known).await.unwrap();
    assert_eq!(fake.order(), ["main CHECK"]);

    reboot(&fake);
    fake.delegate.reconcile(&known).await.unwrap();
    let calls = fake.calls();
    assert!(calls.starts_with("main DEL") && calls.contains("\nmain ADD"), "{calls}");
    assert!(calls.contains(r#""runtimeConfig":{"ips":["10.0.0.5/32"]}"#), "{calls}");
    fake.delegate.reconcile(&known).await.unwrap();
    // What the plugin answered last is what it is told.
    assert!(fake.calls().contains(r#""times":"x""#));

    fake.on("main", "CHECK", r#"say '{"code":101,"msg":"gone"}'; exit 1"#);
    fake.delegate.reconcile(&known).await.unwrap();
    assert_eq!(fake.order(), ["main CHECK", "main DEL", "main ADD"]);

    fake.on("main", "ADD", &MADE.replace("10.0.0.5", "10.0.0.9"));
    let reconciled = fake.delegate.reconcile(&known).await.unwrap();
    let error = format!("{:#}", reconciled.wrong[0]);
    assert!(
        error.contains("c01:eth0: its plugins gave {10.0.0.9, fd00::5} where the pod has {10.0.0.5}"),
        "{error}"
    );
    assert_eq!(fake.order(), ["main CHECK", "main DEL", "main ADD", "main DEL"]);
    fake.delegate.del(&attachment(), Some(&made), soon()).await.unwrap();
    assert_eq!(fake.begun(), 0);
}

#[tokio::test]
async fn checks_that_are_switched_off_are_not_made() {
    let fake = Fake::new(&COLLECTED.replace(r#""plugins""#, r#""disableCheck":true,"plugins""#), &["main"]);
    fake.on("main", "ADD", MADE);
    let made = fake.delegate.add(&attachment(), soon()).await.unwrap();
    fake.calls();
    fake.delegate.check(&attachment(), &made, soon()).await.unwrap();
    assert_eq!(fake.calls(), "");
}
