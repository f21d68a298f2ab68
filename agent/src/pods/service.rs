//! The plugin's calls, over gRPC.
//!
//! | what happened | code | what the plugin does |
//! | --- | --- | --- |
//! | the request makes no sense | `INVALID_ARGUMENT` | fails |
//! | there is no such attachment (CHECK) | `NOT_FOUND` | fails |
//! | it will never succeed | `FAILED_PRECONDITION` | fails |
//! | it may succeed later | `UNAVAILABLE` | tries again until its deadline |
//! | the caller's time was over | `DEADLINE_EXCEEDED` | has given up by then |
//!
//! A caller that goes away does not stop the work for it half-way: what was begun is finished or undone.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dpu_api::cni_action_server::CniAction;
use dpu_api::{
    CniAddRequest, CniAddResponse, CniCheckRequest, CniCheckResponse, CniDelRequest, CniDelResponse,
    CnigcRequest, CnigcResponse, IpDetails,
};
use tonic::{Request, Response, Status};

use super::Pods;
use super::books::{Books, Failure};
use super::network::Made;
use super::request::{self, Add, Check, Del, Key};
use super::state::Store;
use crate::metrics::Metrics;

/// How long a caller waits who does not say so: the Go plugin's deadline.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest that a call may take, whatever its caller says.
const MOST: Duration = Duration::from_mins(2);

/// The service `CNIAction`.
#[derive(Clone)]
pub struct Service {
    pods: Arc<Pods>,
    metrics: Arc<Metrics>,
}

/// Why a call is not answered.
enum Refused {
    /// The request makes no sense.
    Wrong(String),
    /// The card serves no pods.
    Off(String),
    /// The card serves no pods, and has one that it would have to.
    OffWithPods(String),
    /// The call failed.
    Failed(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Refused {
    fn cause(&self) -> &'static str {
        match self {
            Self::Wrong(_) => "invalid",
            Self::Off(_) | Self::OffWithPods(_) => "off",
            Self::Failed(Failure::Unknown(_)) => "unknown",
            Self::Failed(Failure::Later(_)) => "later",
            Self::Failed(Failure::Never(_)) => "never",
            Self::Failed(Failure::Late(_)) => "deadline",
        }
    }

    fn status(self) -> Status {
        match self {
            Self::Wrong(text) => Status::invalid_argument(text),
            Self::Off(reason) => Status::failed_precondition(reason),
            Self::OffWithPods(reason) => Status::unavailable(reason),
            Self::Failed(Failure::Unknown(text)) => Status::not_found(text),
            Self::Failed(Failure::Later(error)) => Status::unavailable(format!("{error:#}")),
            Self::Failed(Failure::Never(error)) => Status::failed_precondition(format!("{error:#}")),
            Self::Failed(Failure::Late(what)) => {
                Status::deadline_exceeded(format!("the time was over: {what}"))
            }
        }
    }
}

impl Service {
    /// The service for these pods.
    pub fn new(pods: Arc<Pods>, metrics: Arc<Metrics>) -> Self {
        Self { pods, metrics }
    }

    /// Does the work for a call, in its time, and counts it. The work goes on where the caller goes away.
    async fn call<Q, T, F>(
        &self,
        command: &'static str,
        request: Request<Q>,
        work: fn(Arc<Pods>, Q, Instant) -> F,
    ) -> Result<Response<T>, Status>
    where
        Q: Send + 'static,
        T: Send + 'static,
        F: Future<Output = Result<T, Refused>> + Send + 'static,
    {
        let start = Instant::now();
        let patience =
            request.metadata().get("grpc-timeout").and_then(|text| request::timeout(text.to_str().ok()?));
        let patience = patience.unwrap_or(PATIENCE).min(MOST);
        // What fails at the end of the time has to be undone, and told, within it.
        let deadline = start + patience * 9 / 10;
        let pods = Arc::clone(&self.pods);
        let metrics = Arc::clone(&self.metrics);
        let working = tokio::spawn(async move {
            let answer = work(pods, request.into_inner(), deadline).await;
            let cause = answer.as_ref().err().map(Refused::cause);
            metrics.called(command, start.elapsed(), cause);
            answer
        });
        let answer = match tokio::time::timeout_at((start + patience).into(), working).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                tracing::error!(command, "the work for a call broke off: {error}");
                return Err(Status::internal("the agent's work for this call broke off: see its log"));
            }
            Err(_) => Err(Failure::Late("the work goes on, and is finished or undone").into()),
        };
        answer.map(Response::new).map_err(|refused| {
            let cause = refused.cause();
            let status = refused.status();
            tracing::warn!(command, cause, took = ?start.elapsed(), "{}", status.message());
            status
        })
    }
}

#[tonic::async_trait]
impl CniAction for Service {
    async fn cmd_add(&self, request: Request<CniAddRequest>) -> Result<Response<CniAddResponse>, Status> {
        self.call("ADD", request, add).await
    }

    async fn cmd_del(&self, request: Request<CniDelRequest>) -> Result<Response<CniDelResponse>, Status> {
        self.call("DEL", request, del).await
    }

    async fn cmd_check(
        &self,
        request: Request<CniCheckRequest>,
    ) -> Result<Response<CniCheckResponse>, Status> {
        self.call("CHECK", request, check).await
    }

    async fn cmd_gc(&self, request: Request<CnigcRequest>) -> Result<Response<CnigcResponse>, Status> {
        self.call("GC", request, gc).await
    }
}

async fn add(pods: Arc<Pods>, request: CniAddRequest, deadline: Instant) -> Result<CniAddResponse, Refused> {
    let vlan = request.vlan.clone();
    let wish = Add::try_from(request).map_err(Refused::Wrong)?;
    let (key, host) = (wish.key.clone(), wish.host);
    let made = on(&pods)?.add(wish, deadline).await?;
    tracing::info!(attachment = %key, %host, addresses = ?super::books::addresses(Some(&made)), "added");
    let mtu = made.mtu;
    let [ip_info, ip6_info] = details(&made);
    Ok(CniAddResponse { ip_info, ip6_info, vlan, status: "success".into(), mtu })
}

async fn del(pods: Arc<Pods>, request: CniDelRequest, deadline: Instant) -> Result<CniDelResponse, Refused> {
    let del = Del::try_from(request).map_err(Refused::Wrong)?;
    let said = format!("{del:?}");
    match &*pods {
        Pods::On(books) => {
            let removed = books.del(del, deadline).await?;
            tracing::info!(removed, "deleted: {said}");
        }
        Pods::Off { reason, store } => must_not_have(store, reason, |key| match &del {
            Del::Of { container, interface } => {
                key.container == *container && interface.as_ref().is_none_or(|name| *name == key.interface)
            }
            Del::Nobody => false,
        })?,
    }
    Ok(CniDelResponse { ip_info: None, status: "success".into() })
}

async fn check(
    pods: Arc<Pods>,
    request: CniCheckRequest,
    deadline: Instant,
) -> Result<CniCheckResponse, Refused> {
    let check = Check::try_from(request).map_err(Refused::Wrong)?;
    let made = on(&pods)?.check(&check, deadline).await?;
    let [ip_info, ip6_info] = details(&made);
    Ok(CniCheckResponse { ip_info: ip_info.or(ip6_info), status: "success".into() })
}

async fn gc(pods: Arc<Pods>, request: CnigcRequest, deadline: Instant) -> Result<CnigcResponse, Refused> {
    let valid: Result<BTreeSet<Key>, String> = request.valid.into_iter().map(Key::try_from).collect();
    let valid = valid.map_err(Refused::Wrong)?;
    let removed = match &*pods {
        Pods::On(books) => books.gc(&valid, deadline).await?,
        Pods::Off { reason, store } => {
            must_not_have(store, reason, |key| !valid.contains(key))?;
            0
        }
    };
    if removed > 0 {
        tracing::warn!(removed, "collected what the host no longer has");
    }
    Ok(CnigcResponse { removed })
}

fn on(pods: &Pods) -> Result<&Books, Refused> {
    match pods {
        Pods::On(books) => Ok(books),
        Pods::Off { reason, .. } => Err(Refused::Off(reason.clone())),
    }
}

/// A card that serves no pods has nothing to take away, unless it served some before.
fn must_not_have(store: &Store, reason: &str, is_meant: impl Fn(&Key) -> bool) -> Result<(), Refused> {
    let loaded = store.look().map_err(Failure::Later)?;
    match loaded.records.iter().map(super::state::Record::key).find(is_meant) {
        Some(key) => Err(Refused::OffWithPods(format!("`{key}` is still there, but {reason}"))),
        None => Ok(()),
    }
}

/// What is told of the addresses of IPv4 and IPv6.
fn details(made: &Made) -> [Option<IpDetails>; 2] {
    [("4", true), ("6", false)].map(|(version, is_ipv4)| {
        let end = made.ends.iter().find(|end| end.address.is_ipv4() == is_ipv4)?;
        let dns = made.dns.iter().filter(|ip| ip.is_ipv4() == is_ipv4).map(ToString::to_string);
        Some(IpDetails {
            version: version.to_owned(),
            address: end.address.to_string(),
            gateway: end.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
            dns: dns.collect::<Vec<_>>().join(","),
        })
    })
}

#[cfg(test)]
mod tests {
    use dpu_api::{CniAttachment, IntfDetails, PodDetails};
    use tonic::Code;

    use super::*;
    use crate::fake;

    fn off() -> (fake::Fake, Service) {
        let mut fake = fake::virt();
        fake.plan.pods = None;
        let (card, metrics) = (Arc::new(fake.card()), Arc::new(Metrics::new()));
        let pods = Arc::new(Pods::start(&card, &metrics));
        (fake, Service::new(pods, metrics))
    }

    fn pod(container: &str) -> PodDetails {
        PodDetails { container_id: container.into(), ..PodDetails::default() }
    }

    #[tokio::test]
    async fn a_card_without_pods_refuses_to_add_and_has_nothing_to_take_away() {
        let (fake, service) = off();
        let add = CniAddRequest {
            pod_info: Some(pod("c1")),
            intf_info: Some(IntfDetails { name: "eth0".into(), ..IntfDetails::default() }),
            mac_addr: "02:00:00:00:00:0a".into(),
            ..CniAddRequest::default()
        };
        let status = service.cmd_add(Request::new(add)).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().starts_with("this card serves no pods"), "{status}");
        let del = || Request::new(CniDelRequest { pod_info: Some(pod("c1")), intf_info: None });
        service.cmd_del(del()).await.unwrap();
        service.cmd_gc(Request::new(CnigcRequest::default())).await.unwrap();

        let record = r#"{"network":"routed","host":{"pf":0,"pfs":1,"vf":0},"since":1,"attachment":{
            "container":"c1","interface":"eth0","pod":{"namespace":"","name":"","uid":""},
            "mac":"02:00:00:00:00:0a","vf":{"address":"0000:01:10.2","interface":"eth2"},"given":[]},"made":null}"#;
        fake.file("/var/lib/dpukit/agent/attachments/c1:eth0", record);
        assert_eq!(service.cmd_del(del()).await.unwrap_err().code(), Code::Unavailable);
        let gc = |valid| Request::new(CnigcRequest { valid });
        assert_eq!(service.cmd_gc(gc(Vec::new())).await.unwrap_err().code(), Code::Unavailable);
        let valid = vec![CniAttachment { container_id: "c1".into(), ifname: "eth0".into() }];
        service.cmd_gc(gc(valid)).await.unwrap();
    }

    #[tokio::test]
    async fn what_makes_no_sense_is_said_and_counted() {
        let (fake, service) = off();
        let status = service.cmd_add(Request::new(CniAddRequest::default())).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "it lacks `podInfo`"));
        let status = service.cmd_check(Request::new(CniCheckRequest::default())).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let valid = vec![CniAttachment { container_id: "../c".into(), ifname: "eth0".into() }];
        let status = service.cmd_gc(Request::new(CnigcRequest { valid })).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        let text = service.metrics.text(&fake.card());
        for command in ["ADD", "CHECK", "GC"] {
            let line = format!("dpu_cni_errors_total{{command=\"{command}\",cause=\"invalid\"}} 1");
            assert!(text.contains(&line), "{text}");
        }
    }
}
