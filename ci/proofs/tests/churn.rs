//! Pods come and go by the thousand, on a bad day: programs are killed, replies are lost, namespaces end early,
//! DELs come twice and late. Nothing may leak, and no VF or address may ever be two pods'.
//!
//! `DPUKIT_SEED` repeats a run's choices, `DPUKIT_CHURN` says how many pods there are.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use dpukit_proofs::agent::Agent;
use dpukit_proofs::call::{Answer, Running, address};
use dpukit_proofs::inside::inside;
use dpukit_proofs::proxy::{Fate, Proxy};
use dpukit_proofs::run::{show, try_run};
use dpukit_proofs::seed::{chances, rounds, seed};
use dpukit_proofs::stage::{Stage, WORLD, end_pod, make_pod, wait_until_or};
use dpukit_proofs::traffic::ping;
use rand::Rng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

const VFS: u32 = 64;
const AT_ONCE: u32 = 32;

/// What a pod that has its network has.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    pod: String,
    mac: String,
    addresses: Vec<String>,
}

/// What is known of the run.
struct Churn {
    stage: Stage,
    bad_line: Proxy,
    seed: u64,
    rounds: u64,
    next: AtomicU64,
    over: AtomicBool,
    /// By the VF's number.
    held: Mutex<BTreeMap<u32, Holder>>,
    /// Pods whose DEL is to come once more, much later.
    late: Mutex<Vec<String>>,
    wrong: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<String, u64>>,
}

impl Churn {
    fn held(&self) -> MutexGuard<'_, BTreeMap<u32, Holder>> {
        self.held.lock().unwrap()
    }

    fn count(&self, what: impl Into<String>) {
        *self.counts.lock().unwrap().entry(what.into()).or_default() += 1;
    }

    fn is_wrong(&self, pod: &str, what: impl Display) {
        let about = |log: String| {
            let lines: Vec<_> = log.lines().filter(|line| line.contains(pod)).map(str::to_owned).collect();
            lines.join("\n")
        };
        let plugin = about(self.stage.host.read("/var/log/dpukit/offload-cni.log"));
        let agent = about(self.stage.agent.log());
        self.wrong.lock().unwrap().push(format!("{pod}: {what}\n{plugin}\n{agent}"));
    }

    /// Notes that a pod has its network now: no other may have any of it.
    fn hold(&self, pod: &str, result: &Value) -> u32 {
        let vf = self.stage.vf_of(result).number;
        let mac = result["interfaces"][0]["mac"].as_str().unwrap().to_owned();
        let addresses: Vec<_> =
            [false, true].into_iter().filter_map(|is_ipv6| address(result, is_ipv6)).collect();
        if addresses.len() != 2 {
            self.is_wrong(pod, format!("a result without addresses of both families: {result}"));
        }
        let mut held = self.held();
        let holder = Holder { pod: pod.to_owned(), mac, addresses };
        let shares =
            |other: &&Holder| other.addresses.iter().any(|address| holder.addresses.contains(address));
        let other = held.get(&vf).or_else(|| held.values().find(shares)).cloned();
        if let Some(other) = other {
            self.is_wrong(pod, format!("{holder:?} has what {other:?} has"));
        }
        held.insert(vf, holder);
        vf
    }

    /// From here on the pod's network may be anybody's.
    fn let_go(&self, vf: u32) {
        self.held().remove(&vf);
    }

    /// One pod's life.
    fn live(&self, number: u64) {
        let mut chances = chances(self.seed, number);
        let pod = format!("r{number}");
        make_pod(&pod);
        let vf = self.add(&pod, &mut chances);
        if let Some(vf) = vf {
            thread::sleep(Duration::from_millis(chances.gen_range(0..80)));
            if chances.gen_bool(0.2)
                && let Err(error) =
                    ping(&pod, WORLD[usize::from(chances.gen_bool(0.5))], Duration::from_secs(10))
            {
                self.is_wrong(&pod, format!("it does not reach the world: {error}"));
            }
            self.let_go(vf);
        }
        let ends_early = chances.gen_bool(0.15);
        if ends_early {
            self.count("namespace ended early");
            end_pod(&pod);
        }
        self.del(&pod, &mut chances);
        if chances.gen_bool(0.2) {
            self.count("DEL twice");
            self.del(&pod, &mut chances);
        }
        if !ends_early {
            if let Some(link) = show(&pod, "link").into_iter().find(|link| link["ifname"] == "eth0") {
                self.is_wrong(&pod, format!("DEL left the interface: {link}"));
            }
            end_pod(&pod);
        }
        if chances.gen_bool(0.1) {
            self.late.lock().unwrap().push(pod);
        }
        if chances.gen_bool(0.1) {
            let late = self.late.lock().unwrap().pop();
            if let Some(late) = late {
                self.count("DEL late");
                self.del(&late, &mut chances);
            }
        }
    }

    /// The VF that a pod got.
    fn add(&self, pod: &str, chances: &mut StdRng) -> Option<u32> {
        let call = self.stage.prepare("ADD", pod, &self.change(chances));
        let answer = make_or_kill(call.start(), chances);
        let Some(answer) = answer else {
            self.count("ADD killed");
            return None;
        };
        self.must_be_in_time(pod, &answer);
        if answer.success {
            self.count("ADD");
            return Some(self.hold(pod, &answer.result()));
        }
        let (code, details) = answer.error();
        self.count(format!("ADD failed with {code}"));
        // Nothing but what may be well later goes wrong here.
        if code != 11 {
            self.is_wrong(pod, format!("ADD failed with {code}: {details}"));
        }
        None
    }

    /// A DEL that is made until it succeeds, as a runtime does.
    fn del(&self, pod: &str, chances: &mut StdRng) {
        for _ in 0..10 {
            let call = self.stage.prepare("DEL", pod, &self.change(chances));
            match make_or_kill(call.start(), chances) {
                None => self.count("DEL killed"),
                Some(answer) => {
                    self.must_be_in_time(pod, &answer);
                    if answer.success {
                        self.count("DEL");
                        return;
                    }
                    self.count(format!("DEL failed: {}", answer.text));
                }
            }
        }
        self.is_wrong(pod, "ten DELs did not succeed");
    }

    fn must_be_in_time(&self, pod: &str, answer: &Answer) {
        // The deadline, and what a busy machine adds to a process.
        if answer.took > Duration::from_secs(10) {
            self.is_wrong(pod, format!("a call took too long: {answer:?}"));
        }
    }

    /// Some calls go over a bad line.
    fn change(&self, chances: &mut StdRng) -> Value {
        if !chances.gen_bool(0.2) {
            return json!({});
        }
        // The card is known by its address, which the line has not.
        let mut tls = self.stage.config["tls"].clone();
        tls["name"] = json!(Agent::address().ip().to_string());
        json!({"agent": self.bad_line.address.to_string(), "tls": tls})
    }

    /// Kills the agent again and again.
    fn kill_agents(&self) {
        let mut chances = chances(self.seed, u64::MAX);
        while !self.over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(chances.gen_range(500..4000)));
            self.stage.agent.kill();
            self.count("agent killed");
            thread::sleep(Duration::from_millis(chances.gen_range(0..300)));
            self.stage.agent.start();
        }
    }

    /// Looks whether pods that have a network really have it, and whether nobody else has.
    fn observe(&self) {
        let mut chances = chances(self.seed, u64::MAX - 1);
        while !self.over.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
            let held: Vec<_> = self.held().clone().into_iter().collect();
            if held.is_empty() {
                continue;
            }
            let (vf, holder) = &held[chances.gen_range(0..held.len())];
            let shown =
                try_run(&format!("ip -n {} -json address show dev eth0", holder.pod)).unwrap_or_default();
            let has = |text: &String| shown.contains(&format!("\"{text}\""));
            let is_whole = has(&holder.mac) && holder.addresses.iter().all(has);
            let is_still_held = self.held().get(vf) == Some(holder);
            self.count("looked at");
            if is_still_held && !is_whole {
                self.is_wrong(&holder.pod, format!("it should have {holder:?}, and has {shown}"));
            }
        }
    }
}

/// Some calls are killed before they end.
fn make_or_kill(call: Running, chances: &mut StdRng) -> Option<Answer> {
    if chances.gen_bool(0.15) {
        call.kill_after(Duration::from_micros(chances.gen_range(500..60_000)))
    } else {
        Some(call.answer())
    }
}

/// What a bad line does to a connection: it may break in the handshake, before the answer, or in it.
fn fate(chances: &mut StdRng) -> Fate {
    /// More than an agent says in a connection for one call.
    const ALL: usize = 3000;
    match chances.gen_range(0..10) {
        0..4 => Fate::Good,
        4 => Fate::Refused,
        5..8 => Fate::Cut(chances.gen_range(0..ALL)),
        _ => Fate::Lost(chances.gen_range(0..ALL)),
    }
}

#[test]
#[ignore = "needs root, for network namespaces, and the built programs; takes some minutes"]
fn nothing_leaks_and_nothing_is_shared_on_a_bad_day() {
    if !inside("nothing_leaks_and_nothing_is_shared_on_a_bad_day") {
        return;
    }
    let seed = seed();
    let mut line = chances(seed, u64::MAX - 2);
    let churn = Churn {
        stage: Stage::new(1, VFS),
        bad_line: Proxy::start(Agent::address(), move |_| fate(&mut line)),
        seed,
        rounds: rounds("DPUKIT_CHURN", 2000),
        next: AtomicU64::new(0),
        over: AtomicBool::new(false),
        held: Mutex::default(),
        late: Mutex::default(),
        wrong: Mutex::default(),
        counts: Mutex::default(),
    };
    let start = Instant::now();
    thread::scope(|scope| {
        let helpers = [scope.spawn(|| churn.kill_agents()), scope.spawn(|| churn.observe())];
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = churn.next.fetch_add(1, Ordering::Relaxed);
                        if number >= churn.rounds || !churn.wrong.lock().unwrap().is_empty() {
                            return;
                        }
                        churn.live(number);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = workers.into_iter().map(thread::ScopedJoinHandle::join).collect();
        churn.over.store(true, Ordering::Relaxed);
        for helper in helpers {
            helper.join().unwrap();
        }
        assert!(ended.iter().all(Result::is_ok), "a worker failed\n{}", churn.stage.logs());
    });
    println!("proof: {} pods in {:.0?}, {} at once", churn.rounds, start.elapsed(), AT_ONCE);
    println!("proof: {:?}, {} lines spoilt", churn.counts.lock().unwrap(), churn.bad_line.spoilt());
    let wrong = churn.wrong.lock().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    settle(&churn);
    churn.stage.must_be_clean();
}

/// What a node does in the end: late DELs come, STATUS is asked, and GC with no attachment that is valid.
fn settle(churn: &Churn) {
    let stage = &churn.stage;
    for late in std::mem::take(&mut *churn.late.lock().unwrap()) {
        stage.call("DEL", &late, &json!({})).result_is_empty();
    }
    wait_until_or("all that was left is settled", Duration::from_mins(1), || {
        let status = stage.call("STATUS", "", &json!({}));
        let left = stage.files("tombstones");
        if status.success && left.is_empty() {
            return Ok(());
        }
        Err(format!("{status:?}, tombstones {left:?}\n{}", stage.logs()))
    });
    assert_eq!(stage.files("claims"), [""; 0], "every pod had its DEL\n{}", stage.logs());
    let gc = stage.call("GC", "", &json!({"cni.dev/valid-attachments": null}));
    assert!(gc.success, "{gc:?}");
}
