//! Answers gRPC health (`grpc.health.v1.Health`) on the link to the host.
//!
//! The service `""` stands for the card as a whole, `dpukit.setup.<phase>` for one phase of the
//! set-up. The card serves while all phases are good, which is looked at again and again.

mod pods;
mod routes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use sd_notify::NotifyState;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::Stream;
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Answer;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::server::HealthReporter;
use tower::Layer as _;

use crate::Card;
use crate::metrics::{self, Metrics};
use crate::pods::Pods;
use crate::setup::{self, PHASES};
use crate::trusted::{Door, Way};

/// How the server behaves in time.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long to wait for the link's address to be there.
    pub address: Duration,
    /// How often to look at the phases.
    pub look: Duration,
    /// How long an answer may take.
    pub answer: Duration,
    /// How long calls that are under way may take once the server is to stop.
    pub farewell: Duration,
}

impl Pace {
    /// The pace on a card.
    pub const CARD: Self = Self {
        address: Duration::from_mins(1),
        look: Duration::from_secs(10),
        answer: Duration::from_secs(3),
        farewell: Duration::from_secs(5),
    };
}

/// What is served.
#[derive(Clone)]
pub struct Served {
    /// The card.
    pub card: Arc<Card>,
    /// Its pods.
    pub pods: Arc<Pods>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Served {
    /// Starts what the card's plan asks for; needs a runtime.
    pub fn start(card: Arc<Card>) -> Self {
        let metrics = Arc::new(Metrics::new());
        let pods = Arc::new(Pods::start(&card, &metrics));
        Self { card, pods, metrics }
    }

    /// All metrics as text, as they are now.
    pub fn metrics_text(&self, door: &Door) -> String {
        self.metrics.set_vfs(self.pods.usage());
        let peers = door.peers().unwrap_or_else(|error| {
            tracing::error!("no host can be known: {error:#}");
            Vec::new()
        });
        self.metrics.set_peers(peers);
        self.metrics.text(&self.card)
    }

    /// Answers for ever who asks for metrics. Where it can't, the card serves all the same.
    async fn tell_metrics(&self, door: &Door) {
        match metrics::listen(&self.card).await {
            Ok(listener) => {
                let (served, door) = (self.clone(), door.clone());
                tokio::spawn(metrics::serve(listener, Arc::new(move || served.metrics_text(&door))));
            }
            Err(error) => tracing::error!("no metrics: {error:#}"),
        }
    }
}

/// Serves on the plan's address until it is told to stop by SIGTERM or SIGINT.
pub fn run(card: Card) -> Result<()> {
    let address = address(&card);
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        let served = Served::start(Arc::new(card));
        // Before the link is waited for: what is wrong with the keys is told at once.
        let door = Door::open(&served.card)?;
        served.tell_metrics(&door).await;
        let incoming = door.incoming(listen(address, Pace::CARD.address).await?);
        serve(served, door, address, incoming, Pace::CARD, stop).await
    })
}

/// Where the plan wants the agent to answer.
pub fn address(card: &Card) -> SocketAddr {
    SocketAddr::new(card.plan.link.address.address(), card.plan.agent.port.get())
}

/// What the agent at `address` says of a service, `""` for the card as a whole: `Ok(true)` where it serves.
///
/// # Errors
/// Where nobody answers in [`Pace::CARD`]'s time, or the answer makes no sense.
pub fn ask(way: &Way, address: SocketAddr, service: &str) -> Result<bool> {
    let answer = runtime()?.block_on(ask_in(way, address, service.to_owned(), Pace::CARD.answer))?;
    Ok(answer == Answer::Serving)
}

/// Tells systemd in a line how it goes; nothing where systemd does not listen.
pub fn tell_systemd(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

/// Tells systemd that the service is ready.
pub fn tell_ready() {
    notify(&[NotifyState::Ready]);
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting the runtime")
}

/// Becomes true with the first signal to stop.
fn stop_signal() -> Result<watch::Receiver<bool>> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("stopping on SIGTERM"),
            _ = interrupt.recv() => tracing::info!("stopping on SIGINT"),
        }
        let _ = stop.send(true);
    });
    Ok(stopped)
}

/// Listens on the address itself, so that nothing else of the card answers; waits for it to be
/// there, since the link may come late.
pub async fn listen(address: SocketAddr, patience: Duration) -> Result<TcpListener> {
    const PAUSE: Duration = Duration::from_millis(200);
    let end = Instant::now() + patience;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return Ok(listener),
            Err(error) if error.kind() != std::io::ErrorKind::AddrNotAvailable => {
                return Err(error).with_context(|| format!("listening on `{address}`"));
            }
            Err(error) if Instant::now() >= end => {
                return Err(error).with_context(|| {
                    format!("listening on `{address}`: no interface got the address in {patience:?}, see `dpu-agent doctor`")
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Serves those who connect, and whom the door lets through, until `stop` becomes true. `address` is where the
/// agent finds itself.
pub async fn serve<C, E>(
    served: Served,
    door: Door,
    address: SocketAddr,
    incoming: impl Stream<Item = Result<C, E>>,
    pace: Pace,
    stop: watch::Receiver<bool>,
) -> Result<()>
where
    C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (reporter, health) = tonic_health::server::health_reporter();
    // Until the first look the card does not serve; the crate's own default is that it does.
    for service in ["", pods::SERVICE] {
        reporter.set_service_status(service, ServingStatus::NotServing).await;
    }
    let routes = routes::routes(&served, &door, health)?;
    let way = Way::of(&served.card)?;
    let looked = Arc::new(Looked::new());
    let look = tokio::spawn(keep_looking(served.card, reporter.clone(), Arc::clone(&looked), pace.look));
    let look_at_pods = tokio::spawn(pods::keep_looking(served.pods, reporter, pace.look));
    let watchdog = tokio::spawn(keep_alive(way, address, looked, pace));
    let tend = tokio::spawn(door.clone().tend());

    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .serve_with_incoming_shutdown(door.gate().layer(routes), incoming, told(stop.clone()));
    tracing::info!(%address, "answering");
    notify(&[NotifyState::Ready]);
    let ended = tokio::select! {
        ended = server => ended.context("serving"),
        // Calls that watch the card's health never end by themselves.
        () = async { told(stop).await; tokio::time::sleep(pace.farewell).await } => {
            tracing::info!("leaving calls that did not end in {:?}", pace.farewell);
            Ok(())
        }
    };
    notify(&[NotifyState::Stopping]);
    for task in [look, look_at_pods, watchdog, tend] {
        task.abort();
    }
    ended
}

async fn told(mut stop: watch::Receiver<bool>) {
    // Where the sender is gone, nobody will ever say more: to stop is the safe way out.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// When the phases were last looked at.
struct Looked {
    start: Instant,
    /// Milliseconds from `start` to the end of the last look.
    last: AtomicU64,
}

impl Looked {
    fn new() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0) }
    }

    fn now(&self) {
        let since = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(since, Ordering::Relaxed);
    }

    fn age(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

async fn keep_looking(card: Arc<Card>, reporter: HealthReporter, looked: Arc<Looked>, pause: Duration) {
    let mut before = None;
    loop {
        let card = Arc::clone(&card);
        match tokio::task::spawn_blocking(move || bad_phases(&card)).await {
            Ok(bad) => {
                publish(&reporter, &bad).await;
                if before.as_ref() != Some(&bad) {
                    tell(&bad);
                    before = Some(bad);
                }
                looked.now();
            }
            // The watchdog sees that no look comes to its end.
            Err(error) => tracing::error!("looking at the phases: {error}"),
        }
        tokio::time::sleep(pause).await;
    }
}

/// The phases that are not as they should be, with the reason.
fn bad_phases(card: &Card) -> Vec<(&'static str, String)> {
    let looked = PHASES.iter().map(|phase| (phase.name, setup::check(card, phase)));
    let bad = looked.filter(|(_, report)| !report.is_good());
    bad.map(|(name, report)| {
        (name, report.wrong.into_iter().chain(report.unknown).collect::<Vec<_>>().join("; "))
    })
    .collect()
}

async fn publish(reporter: &HealthReporter, bad: &[(&str, String)]) {
    let status = |good| if good { ServingStatus::Serving } else { ServingStatus::NotServing };
    for phase in PHASES {
        let good = bad.iter().all(|(name, _)| *name != phase.name);
        reporter.set_service_status(format!("dpukit.setup.{}", phase.name), status(good)).await;
    }
    reporter.set_service_status("", status(bad.is_empty())).await;
}

fn tell(bad: &[(&str, String)]) {
    for (name, reason) in bad {
        tracing::warn!(phase = name, "not as it should be: {reason}");
    }
    let names: Vec<_> = bad.iter().map(|(name, _)| *name).collect();
    tell_systemd(&match names.as_slice() {
        [] => "serving".to_owned(),
        names => format!("not serving: {}", names.join(", ")),
    });
}

/// Tells systemd's watchdog that all is well, for as long as it is: the server answers a real call,
/// and the phases are being looked at. Where systemd has no watchdog there is nothing to do.
async fn keep_alive(way: Way, address: SocketAddr, looked: Arc<Looked>, pace: Pace) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    loop {
        match is_alive(&way, address, &looked, pace).await {
            Ok(()) => notify(&[NotifyState::Watchdog]),
            Err(error) => tracing::error!("the agent's check of itself failed: {error:#}"),
        }
        tokio::time::sleep(limit / 3).await;
    }
}

async fn is_alive(way: &Way, address: SocketAddr, looked: &Looked, pace: Pace) -> Result<()> {
    let most = pace.look * 3 + pace.answer;
    if looked.age() > most {
        bail!("the phases were last looked at {:?} ago, {most:?} is the most", looked.age());
    }
    ask_in(way, address, String::new(), pace.answer).await.map(drop)
}

/// Asks for the health of one service.
pub async fn ask_in(way: &Way, address: SocketAddr, service: String, patience: Duration) -> Result<Answer> {
    let asking = async {
        let answer =
            HealthClient::new(way.channel(address).await?).check(HealthCheckRequest { service }).await?;
        let status = answer.into_inner().status;
        Answer::try_from(status).map_err(|_| anyhow!("the answer {status} is no health status"))
    };
    tokio::time::timeout(patience, asking)
        .await
        .map_err(|_| anyhow!("no answer in {patience:?}"))
        .flatten()
        .with_context(|| format!("asking `{address}` for its health"))
}

/// Nothing depends on systemd's hearing it, so a failure is only logged.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!("telling systemd: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{self, Fake};
    use tokio::task::JoinHandle;

    const QUICK: Pace = Pace {
        address: Duration::from_millis(300),
        look: Duration::from_millis(20),
        answer: Duration::from_secs(3),
        farewell: Duration::from_millis(200),
    };

    /// A server, once it answers.
    async fn start(fake: &Fake) -> (At, watch::Sender<bool>, JoinHandle<Result<()>>) {
        let listener = listen("127.0.0.1:0".parse().unwrap(), QUICK.address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let served = Served::start(Arc::new(fake.card()));
        let door = Door::open(&served.card).unwrap();
        let way = Way::of(&served.card).unwrap();
        let incoming = door.incoming(listener);
        let server = tokio::spawn(serve(served, door, address, incoming, QUICK, stopped));
        (At { way, address }, stop, server)
    }

    /// Where a server is.
    struct At {
        way: Way,
        address: SocketAddr,
    }

    impl At {
        async fn ask(&self, service: &str) -> Result<Answer> {
            ask_in(&self.way, self.address, service.to_owned(), QUICK.answer).await
        }
    }

    async fn becomes(at: &At, service: &str, wanted: Answer) {
        let mut last = None;
        for _ in 0..100 {
            last = Some(at.ask(service).await);
            if matches!(last, Some(Ok(answer)) if answer == wanted) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("`{service}` never became {wanted:?}: {last:?}");
    }

    #[tokio::test]
    async fn the_card_serves_while_all_phases_are_good() {
        let fake = fake::virt();
        let (at, stop, server) = start(&fake).await;
        becomes(&at, "", Answer::NotServing).await;
        becomes(&at, "dpukit.setup.swap", Answer::Serving).await;
        becomes(&at, "dpukit.setup.vfio", Answer::NotServing).await;
        for phase in PHASES {
            setup::run(&fake.card(), phase);
        }
        becomes(&at, "", Answer::Serving).await;
        fake.bind("0000:00:03.0", None);
        becomes(&at, "", Answer::NotServing).await;
        becomes(&at, "dpukit.setup.vfio", Answer::NotServing).await;
        becomes(&at, "dpukit.setup.link", Answer::Serving).await;
        stop.send(true).unwrap();
        server.await.unwrap().unwrap();
        assert!(at.ask("").await.is_err());
    }

    #[tokio::test]
    async fn an_unknown_service_is_an_error_and_no_answer() {
        let (at, _stop, _server) = start(&fake::virt()).await;
        let error = format!("{:#}", at.ask("nobody").await.unwrap_err());
        assert!(error.contains("asking `127.0.0.1:"), "{error}");
    }

    #[tokio::test]
    async fn a_call_without_end_does_not_hold_up_the_stop() {
        let (at, stop, server) = start(&fake::virt()).await;
        let channel = at.way.channel(at.address).await.unwrap();
        let request = HealthCheckRequest { service: String::new() };
        let mut watch = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
        assert!(watch.message().await.unwrap().is_some());
        stop.send(true).unwrap();
        tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn an_address_that_never_comes_is_given_up_with_a_reason() {
        // 192.0.2.0/24 is set aside for documentation (RFC 5737): no machine has it.
        let address = "192.0.2.1:8000".parse().unwrap();
        let error = format!("{:#}", listen(address, QUICK.address).await.unwrap_err());
        assert!(
            error.starts_with("listening on `192.0.2.1:8000`: no interface got the address in 300ms"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_taken_port_fails_at_once() {
        let first = listen("127.0.0.1:0".parse().unwrap(), QUICK.address).await.unwrap();
        let start = Instant::now();
        let error = listen(first.local_addr().unwrap(), Duration::from_secs(30)).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(10));
        assert!(format!("{error:#}").contains("in use"), "{error:#}");
    }

    #[tokio::test]
    async fn the_agent_is_not_alive_where_nobody_looks_or_answers() {
        let (at, stop, server) = start(&fake::virt()).await;
        let looked = Looked::new();
        assert!(is_alive(&at.way, at.address, &looked, QUICK).await.is_ok());
        let impatient = Pace { look: Duration::ZERO, answer: Duration::from_millis(1), ..QUICK };
        tokio::time::sleep(Duration::from_millis(50)).await;
        let error = is_alive(&at.way, at.address, &looked, impatient).await.unwrap_err().to_string();
        assert!(error.starts_with("the phases were last looked at"), "{error}");
        stop.send(true).unwrap();
        server.await.unwrap().unwrap();
        assert!(is_alive(&at.way, at.address, &looked, QUICK).await.is_err());
    }
}
