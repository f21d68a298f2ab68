//! What is measured, in which order. Ours and the reference's alternate, so that a machine that gets slower or
//! faster meanwhile does so for both. Pods' namespaces stay to the end: the kernel cleans up behind one that goes
//! in its own time, and makes whoever changes an interface then wait.

use std::fs;
use std::os::fd::AsFd as _;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use dpukit_host::namespace::Namespace;
use dpukit_host::netlink::{Change, Netlink};
use dpukit_proofs::stage::{Shape, Stage, make_pod};
use dpukit_proofs::{driver, programs};
use serde_json::json;

use crate::measure::{children_cpu, peak, process_cpu, resident};
use crate::reference::Reference;
use crate::table::{self, Row, percentile};

const VFS: usize = 64;
const AT_ONCE: usize = 32;
/// What a table's line before it has of the kernel's.
const MOVE: &str = "  of it: the kernel moves VFs in";

/// Measures everything, and prints it.
pub fn run(runs: usize) {
    let mut stage = Stage::of(Shape {
        pfs: 1,
        vfs: u32::try_from(VFS).unwrap(),
        bridged: false,
        ipv6: false,
        secure: true,
    });
    stage.config["logLevel"] = json!("info");
    let books = tempfile::tempdir().unwrap();
    let bench = Bench { stage, reference: Reference::new(books.path()) };
    let idle = resident(bench.stage.agent.id());

    let version = bench.version(runs);
    let (add, del) = bench.one_by_one(runs);
    let (moved, _) = bench.moves(1, runs);
    let (thirty_two, sixty_four) = (runs.div_ceil(AT_ONCE).max(4), runs.div_ceil(VFS).max(5));
    let (at_once, _) = bench.at_once(AT_ONCE, thirty_two);
    let (moved_at_once, _) = bench.moves(AT_ONCE, thirty_two);
    let (_, all) = bench.at_once(VFS, sixty_four);
    let (_, all_moved) = bench.moves(VFS, sixty_four);
    let rows = [
        ("VERSION", version),
        ("ADD, one after the other", add),
        (MOVE, moved),
        ("DEL, one after the other", del),
        ("ADD, 32 at once, each", at_once),
        (MOVE, moved_at_once),
        ("64 ADDs at once, until the last", all),
        (MOVE, all_moved),
    ];
    println!("{}", table::text(&rows));
    println!("what is ours of the medians, without the kernel's move:");
    for pair in rows.windows(2).filter(|pair| pair[1].0 == MOVE) {
        println!("{}", without_the_move(&pair[0], &pair[1].1));
    }
    bench.sizes(idle);
    bench.processor_time(runs);
    let strays = driver::strays(&bench.stage.vfs);
    assert!(strays.is_empty(), "{strays:?}");
}

/// What is left without the kernel's part. To move an interface between namespaces, the kernel waits until no
/// processor looks at its old place any more (`rcu_barrier` in `__dev_change_net_namespace`), and lets nobody else
/// change an interface meanwhile: every plugin that hands over a VF waits for it, and `ptp`, which makes its
/// interface where it is to be, does not.
fn without_the_move((name, whole): &(&str, Row), moved: &Row) -> String {
    let rest = percentile(&whole.ours, 50) - percentile(&moved.ours, 50);
    let ratio = rest / percentile(&whole.reference, 50);
    format!("  {name}: {rest:.2} ms, {ratio:.2} x of ptp")
}

struct Bench {
    stage: Stage,
    reference: Reference,
}

impl Bench {
    /// Makes a call of ours, which must succeed; how long it took.
    fn call(&self, command: &'static str, pod: &str) -> Duration {
        let answer = self.stage.call(command, pod, &json!({}));
        assert!(answer.success, "{answer:?}\n{}", self.stage.logs());
        answer.took
    }

    fn version(&self, runs: usize) -> Row {
        let mut row = Row::default();
        for _ in 0..runs {
            row.ours(self.call("VERSION", ""));
            let start = Instant::now();
            self.reference.call("VERSION", "");
            row.reference(start.elapsed());
        }
        row
    }

    fn one_by_one(&self, runs: usize) -> (Row, Row) {
        let (mut add, mut del) = (Row::default(), Row::default());
        for run in 0..runs {
            let pod = format!("p{run}");
            make_pod(&pod);
            add.ours(self.call("ADD", &pod));
            let start = Instant::now();
            self.reference.call("ADD", &pod);
            add.reference(start.elapsed());
            del.ours(self.call("DEL", &pod));
            let start = Instant::now();
            self.reference.call("DEL", &pod);
            del.reference(start.elapsed());
        }
        (add, del)
    }

    /// What the kernel takes to move so many interfaces at once into pods' namespaces, each and until the last,
    /// where nothing else is asked of it.
    fn moves(&self, many: usize, rounds: usize) -> (Row, Row) {
        let (mut each, mut all) = (Row::default(), Row::default());
        let host = Namespace::own().unwrap();
        let pods: Vec<_> = (0..many).map(|pod| format!("v{many}p{pod}")).collect();
        for pod in &pods {
            make_pod(pod);
        }
        let places = pods.iter().zip(&self.stage.vfs).map(|(pod, vf)| {
            let pod = Namespace::open(format!("/run/netns/{pod}").as_ref()).unwrap();
            (vf.name(), pod)
        });
        let places: Vec<_> = places.collect();
        for round in 0..rounds {
            let barrier = Barrier::new(many + 1);
            let (took, last) = thread::scope(|scope| {
                let barrier = &barrier;
                let moving = places.iter().map(|(vf, pod)| {
                    scope.spawn(move || {
                        let mut here = Netlink::here().unwrap();
                        let index = here.link(vf).unwrap().expect("the VF is there").index;
                        barrier.wait();
                        move_to(&mut here, index, vf, pod)
                    })
                });
                let moving: Vec<_> = moving.collect();
                // The kernel waits by the beat of its clock: one move after the other would always begin on it.
                thread::sleep(Duration::from_micros(round as u64 * 1370 % 8000));
                barrier.wait();
                let start = Instant::now();
                let took: Vec<_> = moving.into_iter().map(|one| one.join().unwrap()).collect();
                (took, start.elapsed())
            });
            for took in took {
                each.ours(took);
            }
            all.ours(last);
            for (vf, pod) in &places {
                let mut there = Netlink::inside(pod).unwrap();
                let index = there.link(vf).unwrap().expect("the VF is there").index;
                move_to(&mut there, index, vf, &host);
            }
        }
        (each, all)
    }

    /// Each of so many ADDs at once, and all of them until the last.
    fn at_once(&self, many: usize, rounds: usize) -> (Row, Row) {
        let (mut each, mut all) = (Row::default(), Row::default());
        for round in 0..rounds {
            let pods: Vec<_> = (0..many).map(|pod| format!("m{many}r{round}p{pod}")).collect();
            for pod in &pods {
                make_pod(pod);
            }
            let start = Instant::now();
            let answers = at_once(&pods, |pod| self.call("ADD", pod));
            all.ours(start.elapsed());
            for took in answers {
                each.ours(took);
            }
            let start = Instant::now();
            let answers = at_once(&pods, |pod| {
                let start = Instant::now();
                self.reference.call("ADD", pod);
                start.elapsed()
            });
            all.reference(start.elapsed());
            for took in answers {
                each.reference(took);
            }
            for pod in &pods {
                self.call("DEL", pod);
                self.reference.call("DEL", pod);
            }
        }
        (each, all)
    }

    /// Sizes and memory.
    fn sizes(&self, idle: u64) {
        let plugin = programs::plugin();
        println!("plugin, size of the file: {}", mebibytes(fs::metadata(&plugin).unwrap().len()));
        make_pod("peak");
        let call = self.stage.prepare("ADD", "peak", &json!({}));
        let input = self.stage.host.at("/input");
        fs::write(&input, call.config.to_string()).unwrap();
        let environment = call.environment();
        let peak = peak(&plugin, &input, &environment);
        self.call("DEL", "peak");
        println!("plugin, peak memory of an ADD: {}", mebibytes(peak));
        println!("agent, memory while idle: {}", mebibytes(idle));
    }

    /// What pods cost in processor time.
    fn processor_time(&self, runs: usize) {
        let pods: Vec<_> = (0..runs).map(|run| format!("c{run}")).collect();
        let (mut plugin, agent) = (0.0, process_cpu(self.stage.agent.id()));
        for pod in &pods {
            make_pod(pod);
            let before = children_cpu();
            self.call("ADD", pod);
            self.call("DEL", pod);
            plugin += children_cpu() - before;
        }
        #[allow(clippy::cast_precision_loss, reason = "some hundreds")]
        let thousands = runs as f64 / 1000.0;
        let agent = (process_cpu(self.stage.agent.id()) - agent) / thousands;
        let plugin = plugin / thousands;
        println!("processor time of 1,000 pairs of ADD and DEL: agent {agent:.1} s, plugin {plugin:.1} s");
        println!("agent, memory after all that: {}", mebibytes(resident(self.stage.agent.id())));
    }
}

/// Moves an interface; how long it took.
fn move_to(netlink: &mut Netlink, index: u32, name: &str, namespace: &Namespace) -> Duration {
    let change = Change { namespace: Some(namespace.as_fd()), name: Some(name), ..Change::default() };
    let start = Instant::now();
    netlink.change(index, &change).unwrap();
    start.elapsed()
}

/// Does something for all at once; what came out.
fn at_once<T: Send>(pods: &[String], work: impl Fn(&str) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(pods.len());
    thread::scope(|scope| {
        let (barrier, work) = (&barrier, &work);
        let all = pods.iter().map(|pod| {
            scope.spawn(move || {
                barrier.wait();
                work(pod)
            })
        });
        let all: Vec<_> = all.collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

fn mebibytes(octets: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "no file or process here is so large")]
    let mebibytes = octets as f64 / f64::from(1 << 20);
    format!("{mebibytes:.2} MiB")
}
