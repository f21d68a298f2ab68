//! The books, with a network that records, fails and dawdles on request.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::*;
use crate::fake::{self, Fake};
use crate::pods::network::{End, Pod};
use crate::pods::vfs::HostVf;
use crate::setup::{self, phase};

const ATTACHMENTS: &str = "/var/lib/dpukit/agent/attachments";

/// A network that exists in these books only.
#[derive(Default)]
struct Recorder {
    said: Mutex<Vec<String>>,
    /// What fails, as `add`, `del`, `check` or `reconcile`; with `restore`, one pod can't be put right.
    failing: Mutex<BTreeSet<&'static str>>,
    /// How long an ADD takes.
    pause: Mutex<Duration>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
}

impl Recorder {
    fn say(&self, what: &'static str, text: &str) -> Result<(), Refusal> {
        lock(&self.said).push(format!("{what} {text}").trim().to_owned());
        if lock(&self.failing).contains(what) { Err(Refusal::Never(anyhow!("{what} fails"))) } else { Ok(()) }
    }

    fn said(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.said))
    }

    fn fail(&self, what: &[&'static str]) {
        *lock(&self.failing) = what.iter().copied().collect();
    }
}

#[tonic::async_trait]
impl Network for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    async fn add(&self, attachment: &Attachment, _: Instant) -> Result<Made, Refusal> {
        let many = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(many, Ordering::SeqCst);
        let pause = *lock(&self.pause);
        tokio::time::sleep(pause).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        self.say("add", &format!("{} on {}", attachment.container, attachment.vf.interface))?;
        let end = End { address: IpAddr::from([10, 0, 0, 1]), gateway: None };
        Ok(Made { ends: vec![end], kept: Value::Bool(true), ..Made::default() })
    }

    async fn del(&self, attachment: &Attachment, made: Option<&Made>, _: Instant) -> Result<(), Refusal> {
        let made = if made.is_some() { "" } else { " half made" };
        self.say("del", &format!("{} on {}{made}", attachment.container, attachment.vf.interface))
    }

    async fn check(&self, attachment: &Attachment, _: &Made, _: Instant) -> Result<(), Refusal> {
        self.say("check", &attachment.container)
    }

    async fn reconcile(&self, known: &[(Attachment, Made)]) -> anyhow::Result<Reconciled> {
        let known: Vec<_> =
            known.iter().map(|(known, _)| format!("{}={}", known.container, known.vf.interface)).collect();
        self.say("reconcile", &known.join(" ")).map_err(|_| anyhow!("reconcile fails"))?;
        let is_lost = lock(&self.failing).contains("restore");
        Ok(Reconciled { freed: 0, wrong: is_lost.then(|| anyhow!("one is lost")).into_iter().collect() })
    }

    async fn ready(&self) -> anyhow::Result<()> {
        Ok(())
    }
}

struct Desk {
    fake: Fake,
    network: Arc<Recorder>,
}

impl Desk {
    fn new() -> Self {
        let fake = fake::virt();
        setup::run(&fake.card(), phase("sriov").unwrap());
        Self { fake, network: Arc::default() }
    }

    /// The books as an agent has them that has just been started.
    fn open(&self) -> Books {
        let (card, metrics) = (Arc::new(self.fake.card()), Arc::default());
        let vf = card.plan.link.id;
        Books::open(card, vf, Arc::clone(&self.network) as Arc<dyn Network>, metrics).unwrap()
    }

    async fn open_and_compare(&self) -> Books {
        let books = self.open();
        books.compare().await.unwrap();
        self.network.said();
        books
    }

    fn files(&self) -> Vec<String> {
        self.fake.card().tree.names(ATTACHMENTS).unwrap()
    }
}

fn wish(container: &str, vf: u32) -> Add {
    Add {
        key: Key::new(container, "eth0").unwrap(),
        pod: Pod::default(),
        mac: "02:00:00:00:00:0a".into(),
        host: HostVf { pf: 0, pfs: 1, vf },
        given: Vec::new(),
    }
}

fn del(container: &str) -> Del {
    Del::Of { container: container.into(), interface: Some("eth0".into()) }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[tokio::test]
async fn nothing_is_added_before_all_is_known() {
    let desk = Desk::new();
    let books = desk.open();
    assert!(matches!(books.add(wish("c1", 0), soon()).await, Err(Failure::Later(_))));
    assert!(books.ready().await.is_err());
    desk.network.fail(&["reconcile"]);
    assert!(books.compare().await.is_err());
    assert!(matches!(books.add(wish("c1", 0), soon()).await, Err(Failure::Later(_))));
    desk.network.fail(&[]);
    books.compare().await.unwrap();
    books.ready().await.unwrap();
    books.add(wish("c1", 0), soon()).await.unwrap();
    assert_eq!(books.usage().unwrap(), (1, 6));
}

#[tokio::test]
async fn an_add_that_fails_leaves_no_note() {
    let desk = Desk::new();
    let books = desk.open_and_compare().await;
    desk.network.fail(&["add"]);
    assert!(matches!(books.add(wish("c1", 0), soon()).await, Err(Failure::Never(_))));
    assert_eq!(desk.files(), [""; 0]);
    assert_eq!(books.usage().unwrap().0, 0);
}

#[tokio::test]
async fn the_same_words_get_the_same_answer_and_others_a_new_network() {
    let desk = Desk::new();
    let books = desk.open_and_compare().await;
    let made = books.add(wish("c1", 0), soon()).await.unwrap();
    assert_eq!(books.add(wish("c1", 0), soon()).await.unwrap(), made);
    assert_eq!(desk.network.said(), ["add c1 on eth2", "check c1"]);
    books.add(wish("c1", 1), soon()).await.unwrap();
    assert_eq!(desk.network.said(), ["del c1 on eth2", "add c1 on eth3"]);
    desk.network.fail(&["check"]);
    books.add(wish("c1", 1), soon()).await.unwrap();
    assert_eq!(desk.network.said(), ["check c1", "del c1 on eth3", "add c1 on eth3"]);
}

#[tokio::test]
async fn a_disk_that_refuses_ends_an_add_before_the_network_is_asked() {
    let desk = Desk::new();
    let books = desk.open_and_compare().await;
    desk.fake.folder(&format!("{ATTACHMENTS}/c1:eth0/in-the-way"));
    assert!(matches!(books.add(wish("c1", 0), soon()).await, Err(Failure::Later(_))));
    assert_eq!(desk.network.said(), [""; 0]);
    assert_eq!(books.usage().unwrap().0, 0);
}

#[tokio::test]
async fn what_was_cut_short_is_ended_at_the_next_start() {
    let desk = Desk::new();
    let books = desk.open_and_compare().await;
    books.add(wish("c1", 0), soon()).await.unwrap();
    books.add(wish("c2", 1), soon()).await.unwrap();
    books.add(wish("c3", 2), soon()).await.unwrap();
    let mut record = books.record(&Key::new("c2", "eth0").unwrap()).unwrap();
    record.made = None;
    books.store.save(&record, true).unwrap();
    let mut record = books.record(&Key::new("c3", "eth0").unwrap()).unwrap();
    record.leaving = true;
    books.store.save(&record, true).unwrap();
    drop(books);
    desk.network.said();

    let books = desk.open();
    desk.network.fail(&["del"]);
    books.compare().await.unwrap();
    assert_eq!(desk.network.said(), ["del c2 on eth3 half made", "del c3 on eth4", "reconcile c1=eth2"]);
    assert_eq!(desk.files().len(), 3, "what can't be ended is not forgotten");
    books.add(wish("c4", 3), soon()).await.unwrap();
    desk.network.fail(&[]);
    desk.network.said();
    books.compare().await.unwrap();
    assert_eq!(
        desk.network.said(),
        ["del c2 on eth3 half made", "del c3 on eth4", "reconcile c1=eth2 c4=eth5"]
    );
    books.compare().await.unwrap();
    assert_eq!(desk.network.said(), [""; 0], "once is enough");
    assert_eq!(desk.files(), ["c1:eth0", "c4:eth0"]);
}

#[tokio::test]
async fn one_pod_that_is_lost_keeps_no_other_waiting() {
    let desk = Desk::new();
    desk.network.fail(&["restore"]);
    let books = desk.open_and_compare().await;
    books.ready().await.unwrap();
    books.add(wish("c1", 0), soon()).await.unwrap();
    books.del(del("c1"), soon()).await.unwrap();
    desk.network.said();
    books.compare().await.unwrap();
    assert_eq!(desk.network.said(), [""; 0], "it is not tried without a pause");
}

#[tokio::test]
async fn what_calls_change_themselves_is_nothing_to_compare() {
    let desk = Desk::new();
    let books = desk.open_and_compare().await;
    books.add(wish("c1", 0), soon()).await.unwrap();
    books.add(wish("c2", 1), soon()).await.unwrap();
    books.compare().await.unwrap();
    books.del(del("c1"), soon()).await.unwrap();
    books.compare().await.unwrap();
    assert_eq!(desk.network.said(), ["add c1 on eth2", "add c2 on eth3", "del c1 on eth2"]);
    // What others change is.
    desk.fake.rename("0000:01:10.4", "eth3", "eth9");
    books.compare().await.unwrap();
    assert_eq!(desk.network.said(), ["reconcile c2=eth9"]);
}

#[tokio::test]
async fn a_vf_that_changed_is_looked_up_anew() {
    let desk = Desk::new();
    let books = desk.open_and_compare().await;
    books.add(wish("c1", 0), soon()).await.unwrap();
    books.add(wish("c2", 1), soon()).await.unwrap();
    books.compare().await.unwrap();
    desk.network.said();
    // One VF gets the name that the other had, and the other has none at all.
    desk.fake.remove("/sys/bus/pci/devices/0000:01:10.2/net");
    desk.fake.rename("0000:01:10.4", "eth3", "eth2");
    books.compare().await.unwrap();
    assert_eq!(desk.network.said(), ["reconcile c1= c2=eth2"]);
    books.del(del("c1"), soon()).await.unwrap();
    books.del(del("c2"), soon()).await.unwrap();
    assert_eq!(desk.network.said(), ["del c1 on", "del c2 on eth2"]);
}

#[tokio::test]
async fn a_del_that_fails_is_kept_and_done_by_the_next() {
    let desk = Desk::new();
    let books = desk.open_and_compare().await;
    books.add(wish("c1", 0), soon()).await.unwrap();
    desk.network.fail(&["del"]);
    assert!(books.del(del("c1"), soon()).await.is_err());
    let check = Check { key: Key::new("c1", "eth0").unwrap(), address: None };
    assert!(matches!(books.check(&check, soon()).await, Err(Failure::Unknown(_))));
    desk.network.fail(&[]);
    assert_eq!(books.del(del("c1"), soon()).await.unwrap(), 1);
    assert_eq!(books.del(del("c1"), soon()).await.unwrap(), 0);
    assert_eq!(desk.files(), [""; 0]);
}

#[tokio::test]
async fn a_stale_attachment_gives_way_and_an_old_request_does_not_take_the_vf() {
    let desk = Desk::new();
    let books = desk.open_and_compare().await;
    books.add(wish("old", 0), soon()).await.unwrap();
    books.add(wish("new", 0), soon()).await.unwrap();
    assert_eq!(desk.network.said(), ["add old on eth2", "del old on eth2", "add new on eth2"]);
    books.del(del("old"), soon()).await.unwrap();
    assert_eq!(desk.network.said(), [""; 0], "a late DEL touches nothing");
    assert!(matches!(books.add(wish("old", 0), soon()).await, Err(Failure::Never(_))));
    assert_eq!(desk.files(), ["new:eth0"]);
    // On a VF that nobody has, it is a new beginning.
    books.add(wish("old", 1), soon()).await.unwrap();
}

#[tokio::test]
async fn calls_for_one_pod_wait_for_each_other_and_others_do_not() {
    let desk = Desk::new();
    let books = Arc::new(desk.open_and_compare().await);
    *lock(&desk.network.pause) = Duration::from_millis(100);
    let ask = |container: &'static str, vf| {
        let books = Arc::clone(&books);
        tokio::spawn(async move { books.add(wish(container, vf), soon()).await.map(drop) })
    };
    let start = Instant::now();
    for task in [ask("c1", 0), ask("c2", 1), ask("c3", 2), ask("c4", 3)] {
        task.await.unwrap().unwrap();
    }
    assert_eq!(desk.network.most_under_way.load(Ordering::SeqCst), 4, "{:?}", start.elapsed());
    desk.network.most_under_way.store(0, Ordering::SeqCst);
    for task in [ask("c5", 4), ask("c5", 4), ask("c6", 4)] {
        task.await.unwrap().unwrap();
    }
    assert_eq!(desk.network.most_under_way.load(Ordering::SeqCst), 1);
    assert!(!desk.files().contains(&"c5:eth0".to_owned()));
}

#[tokio::test]
async fn a_call_waits_for_another_until_its_deadline_only() {
    let desk = Desk::new();
    let books = Arc::new(desk.open_and_compare().await);
    *lock(&desk.network.pause) = Duration::from_millis(400);
    let first = tokio::spawn({
        let books = Arc::clone(&books);
        async move { books.add(wish("c1", 0), soon()).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let late = Instant::now() + Duration::from_millis(50);
    assert!(matches!(books.del(del("c1"), late).await, Err(Failure::Late(_))));
    let late = Instant::now() + Duration::from_millis(50);
    assert!(matches!(books.add(wish("c2", 0), late).await, Err(Failure::Late(_))));
    first.await.unwrap().unwrap();
    assert_eq!(desk.files(), ["c1:eth0"]);
}

#[tokio::test]
async fn gc_takes_what_is_not_listed_and_one_that_fails_does_not_hold_up_the_others() {
    let desk = Desk::new();
    let books = desk.open_and_compare().await;
    for (container, vf) in [("c1", 0), ("c2", 1), ("c3", 2)] {
        books.add(wish(container, vf), soon()).await.unwrap();
    }
    let valid = BTreeSet::from([Key::new("c2", "eth0").unwrap()]);
    desk.network.said();
    desk.network.fail(&["del"]);
    assert!(books.gc(&valid, soon()).await.is_err());
    assert_eq!(desk.network.said(), ["del c1 on eth2", "del c3 on eth4"]);
    desk.network.fail(&[]);
    assert_eq!(books.gc(&valid, soon()).await.unwrap(), 2);
    assert_eq!(desk.files(), ["c2:eth0"]);
}

#[tokio::test]
async fn attachments_of_another_network_are_kept_and_go_with_their_del() {
    let desk = Desk::new();
    let books = desk.open_and_compare().await;
    books.add(wish("c1", 0), soon()).await.unwrap();
    let mut record = books.record(&Key::new("c1", "eth0").unwrap()).unwrap();
    record.network = "former".into();
    books.store.save(&record, true).unwrap();
    let books = desk.open();
    books.compare().await.unwrap();
    assert_eq!(desk.network.said(), ["add c1 on eth2", "reconcile"]);
    books.del(del("c1"), soon()).await.unwrap();
    assert_eq!((desk.network.said(), desk.files()), (Vec::new(), Vec::new()));
}

#[test]
fn what_is_gone_is_remembered_for_a_while_and_not_without_end() {
    let mut recent = Recent::default();
    let key = |number: usize| Key::new(&format!("c{number}"), "eth0").unwrap();
    for number in 0..=Recent::MOST {
        recent.note(key(number));
    }
    assert!(recent.has(&key(Recent::MOST)) && !recent.has(&key(0)));
    assert_eq!(recent.gone.len(), Recent::MOST);
    recent.gone.clear();
    recent.gone.push_back((Instant::now().checked_sub(Recent::MEMORY).unwrap(), key(1)));
    assert!(!recent.has(&key(1)));
}
