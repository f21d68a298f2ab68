//! What the agent counts, for Prometheus, in plain HTTP.
//!
//! | metric | what it is |
//! | --- | --- |
//! | `dpu_cni_duration_seconds{command}` | how long calls of the host's plugin took, those that failed too |
//! | `dpu_cni_errors_total{command,cause}` | calls that failed |
//! | `dpu_leaks_freed_total` | networks, routes and addresses that were nobody's |
//! | `dpu_state_damaged_files_total` | files of the agent's state that could not be read |
//! | `dpu_vfs{state}` | VFs that are `used` by pods, and `free` |
//! | `dpu_huge_pages{size,state}` | huge pages that are `free`, and that are `reserved` in all |
//! | `dpu_cpt_instruction_requests_total` | what the crypto engine was asked; absent without one |
//! | `dpu_peer_certificate_expiry_timestamp_seconds{peer}` | when the last certificate of a paired host ends, in seconds since 1970 |

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header, http};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::Card;

/// Where the crypto driver counts (Marvell's kernel, `drivers/crypto/marvell/octeontx2`).
const CPT: &str = "/sys/kernel/debug/cn10k/cpt/cpt_pc";
const POOLS: &str = "/sys/kernel/mm/hugepages";

type Labels<const N: usize> = [(&'static str, String); N];

/// The agent's metrics.
pub struct Metrics {
    registry: Registry,
    duration: Family<Labels<1>, Histogram>,
    errors: Family<Labels<2>, Counter>,
    leaks: Counter,
    damaged: Counter,
    vfs: Family<Labels<1>, Gauge>,
    pages: Family<Labels<2>, Gauge>,
    cpt: Family<Labels<0>, Counter<u64, AtomicU64>>,
    expiry: Family<Labels<1>, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("dpu");
        let duration = Family::<Labels<1>, Histogram>::new_with_constructor(buckets);
        let (errors, vfs, pages, cpt, expiry) =
            (Family::default(), Family::default(), Family::default(), Family::default(), Family::default());
        let (leaks, damaged) = (Counter::default(), Counter::default());
        registry.register(
            "cni_duration_seconds",
            "How long calls of the host's plugin took",
            duration.clone(),
        );
        registry.register("cni_errors", "Calls of the host's plugin that failed", Family::clone(&errors));
        registry.register("leaks_freed", "Networks, routes and addresses that were nobody's", leaks.clone());
        registry.register(
            "state_damaged_files",
            "Files of the agent's state that could not be read",
            damaged.clone(),
        );
        registry.register("vfs", "VFs for pods", Family::clone(&vfs));
        registry.register("huge_pages", "Huge pages", Family::clone(&pages));
        registry.register(
            "cpt_instruction_requests",
            "What the crypto engine was asked",
            Family::clone(&cpt),
        );
        registry.register(
            "peer_certificate_expiry_timestamp_seconds",
            "When a peer's certificate ends, since 1970",
            Family::clone(&expiry),
        );
        Self { registry, duration, errors, leaks, damaged, vfs, pages, cpt, expiry }
    }

    /// A call of the host's plugin has ended; `cause` is why it failed, if it did.
    pub fn called(&self, command: &str, took: Duration, cause: Option<&str>) {
        self.duration.get_or_create(&[("command", command.to_owned())]).observe(took.as_secs_f64());
        if let Some(cause) = cause {
            let labels = [("command", command.to_owned()), ("cause", cause.to_owned())];
            self.errors.get_or_create(&labels).inc();
        }
    }

    /// So many leaks were freed.
    pub fn leaks(&self, freed: u32) {
        self.leaks.inc_by(freed.into());
    }

    /// So many files of the state were damaged.
    pub fn damaged(&self, files: usize) {
        self.damaged.inc_by(u64::try_from(files).unwrap_or(u64::MAX));
    }

    /// How many VFs pods have, and how many others could have; none where that can't be told.
    pub fn set_vfs(&self, usage: Option<(usize, usize)>) {
        let Some((used, all)) = usage else { return self.vfs.clear() };
        for (state, number) in [("used", used), ("free", all.saturating_sub(used))] {
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            self.vfs.get_or_create(&[("state", state.to_owned())]).set(number);
        }
    }

    /// When the certificates of those who are paired end, in seconds since 1970, by their names.
    pub fn set_peers(&self, ends: impl IntoIterator<Item = (String, u64)>) {
        // One that is known no longer has no sample.
        self.expiry.clear();
        for (peer, end) in ends {
            self.expiry.get_or_create(&[("peer", peer)]).set(i64::try_from(end).unwrap_or(i64::MAX));
        }
    }

    /// All metrics as text, with what the system counts itself as it is now.
    pub fn text(&self, card: &Card) -> String {
        self.pages.clear();
        if let Err(error) = self.look_at_pages(card) {
            tracing::debug!("counting huge pages: {error:#}");
        }
        match cpt_requests(card) {
            Some(requests) => {
                self.cpt.get_or_create(&[]).inner().store(requests, Ordering::Relaxed);
            }
            None => self.cpt.clear(),
        }
        let mut text = String::new();
        if encode(&mut text, &self.registry).is_err() {
            // Writing into a string does not fail.
            tracing::error!("the metrics could not be written");
        }
        text
    }

    fn look_at_pages(&self, card: &Card) -> Result<()> {
        for pool in card.tree.names(POOLS)? {
            let size = pool.trim_start_matches("hugepages-");
            for (state, file) in [("reserved", "nr_hugepages"), ("free", "free_hugepages")] {
                let path = format!("{POOLS}/{pool}/{file}");
                if card.tree.exists(&path) {
                    let number = i64::try_from(card.tree.number(&path)?).unwrap_or(i64::MAX);
                    let labels = [("size", size.to_owned()), ("state", state.to_owned())];
                    self.pages.get_or_create(&labels).set(number);
                }
            }
        }
        Ok(())
    }
}

/// From 1 ms to 8 s: the host waits 5 s.
fn buckets() -> Histogram {
    Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
}

/// The line `CPT instruction requests N`; none where there is no engine, or no debugfs.
fn cpt_requests(card: &Card) -> Option<u64> {
    let text = card.tree.read_if(CPT).ok()??;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("CPT instruction requests"))?;
    line.trim_start_matches([':', ' ', '\t']).trim().parse().ok()
}

/// What is answered to who asks for metrics.
pub type Answer = Arc<dyn Fn() -> String + Send + Sync>;

/// Answers for ever who asks for `/metrics`.
pub async fn serve(listener: TcpListener, answer: Answer) {
    /// More than one Prometheus and a person.
    const MOST: usize = 8;
    const LONGEST: Duration = Duration::from_secs(10);
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!("taking a connection for metrics: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answer = Arc::clone(&answer);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = Arc::clone(&answer);
                async move { respond(&request, &*answer) }
            });
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).keep_alive(false);
            let serving = server.serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = tokio::time::timeout(LONGEST, serving).await {
                tracing::debug!("answering for metrics: {error}");
            }
            drop(place);
        });
    }
}

fn respond(
    request: &Request<Incoming>,
    answer: &(dyn Fn() -> String + Send + Sync),
) -> Result<Response<Full<Bytes>>, http::Error> {
    const TEXT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            Response::builder().header(header::CONTENT_TYPE, TEXT).body(Full::from(answer()))
        }
        _ => Response::builder()
            .status(StatusCode::NOT_FOUND)
            .body(Full::from("the metrics are at /metrics\n")),
    }
}

/// Listens for those who ask for metrics.
pub async fn listen(card: &Card) -> Result<TcpListener> {
    let address = card.plan.agent.metrics;
    TcpListener::bind(address).await.with_context(|| format!("listening on `{address}` for metrics"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::fake;

    #[test]
    fn all_metrics_are_told() {
        let fake = fake::virt();
        fake.file("/sys/kernel/mm/hugepages/hugepages-32768kB/nr_hugepages", "8");
        fake.file("/sys/kernel/mm/hugepages/hugepages-32768kB/free_hugepages", "5");
        fake.remove("/sys/kernel/mm/hugepages/hugepages-2048kB");
        fake.file(CPT, "CPT active requests 0\nCPT instruction requests    1234\nCPT waits 7\n");
        let metrics = Metrics::new();
        metrics.called("ADD", Duration::from_millis(3), None);
        metrics.called("ADD", Duration::from_secs(9), Some("deadline"));
        metrics.leaks(2);
        metrics.set_vfs(Some((1, 3)));
        metrics.set_peers([("host".to_owned(), 1_800_000_000)]);
        let text = metrics.text(&fake.card());
        // The order of labels differs from run to run, and so does nothing else.
        let mut samples: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        samples.retain(|line| !line.contains("_bucket{") || line.contains("0.005"));
        samples.sort_unstable();
        insta::assert_snapshot!(samples.join("\n"), @r#"
        dpu_cni_duration_seconds_bucket{le="0.005",command="ADD"} 1
        dpu_cni_duration_seconds_count{command="ADD"} 2
        dpu_cni_duration_seconds_sum{command="ADD"} 9.003
        dpu_cni_errors_total{command="ADD",cause="deadline"} 1
        dpu_cpt_instruction_requests_total 1234
        dpu_huge_pages{size="32768kB",state="free"} 5
        dpu_huge_pages{size="32768kB",state="reserved"} 8
        dpu_leaks_freed_total 2
        dpu_peer_certificate_expiry_timestamp_seconds{peer="host"} 1800000000
        dpu_state_damaged_files_total 0
        dpu_vfs{state="free"} 2
        dpu_vfs{state="used"} 1
        "#);
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn what_the_card_lacks_has_no_sample() {
        let fake = fake::virt();
        let metrics = Metrics::new();
        metrics.set_vfs(None);
        metrics.set_peers([("host".to_owned(), 1)]);
        metrics.set_peers([]);
        let text = metrics.text(&fake.card());
        for name in ["dpu_cpt_instruction_requests_total", "dpu_vfs{", "expiry_timestamp_seconds{"] {
            assert!(!text.contains(name), "{text}");
        }
        fake.file(CPT, "CPT instruction requests many");
        assert!(!metrics.text(&fake.card()).contains("dpu_cpt_instruction_requests_total"));
    }

    async fn ask(address: std::net::SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).await;
        text
    }

    #[tokio::test]
    async fn they_are_answered_in_http_and_nothing_else_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::new(|| "dpu_vfs 1\n# EOF\n".to_owned())));
        let text = ask(address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with("dpu_vfs 1\n# EOF\n"), "{text}");
        assert!(ask(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(!ask(address, "\0\0nonsense\r\n\r\n").await.contains("dpu_vfs"));
    }
}
