//! An agent for tests: it speaks the protocol, keeps its books as the real one must, and misbehaves on
//! request. The namespaces' routes are made beforehand, so that it has nothing to set up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use dpu_api::cni_action_server::{CniAction, CniActionServer};
use dpu_api::{
    CniAddRequest, CniAddResponse, CniCheckRequest, CniCheckResponse, CniDelRequest, CniDelResponse,
    CnigcRequest, CnigcResponse, IntfDetails, IpDetails, PodDetails,
};
use tokio::sync::oneshot;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

/// How the agent behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// It does what it is asked.
    Good,
    /// It takes requests, and never answers.
    Silent,
    /// It does what it is asked, and never says so.
    Mute,
    /// It is too busy for so many requests.
    Busy(u32),
    /// It says no.
    Refusing,
}

/// The agent.
pub struct Agent {
    books: Arc<Mutex<Books>>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

struct Books {
    mood: Mood,
    ipv6: bool,
    /// Attachments, with the number of their VF.
    attachments: BTreeMap<String, u32>,
    /// What was asked.
    asked: Vec<String>,
    /// The last ADD.
    added: Option<CniAddRequest>,
    /// A VF that was given to two attachments at once, if that ever happened.
    shared: Option<u32>,
}

impl Agent {
    /// Starts one that is in a good mood, in plain text.
    pub fn start() -> Self {
        let books = Books {
            mood: Mood::Good,
            ipv6: false,
            attachments: BTreeMap::new(),
            asked: Vec::new(),
            added: None,
            shared: None,
        };
        let mut agent = Self { books: Arc::new(Mutex::new(books)), running: None };
        agent.resume(None);
        agent
    }

    /// Starts to answer again, with its books as they were.
    pub fn resume(&mut self, tls: Option<ServerTlsConfig>) {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let service = CniActionServer::new(Service(Arc::clone(&self.books)));
        let running = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = TcpIncoming::bind("127.0.0.1:8000".parse().unwrap()).unwrap();
                ready.send(()).unwrap();
                let mut server = Server::builder();
                if let Some(tls) = tls {
                    server = server.tls_config(tls).unwrap();
                }
                tokio::select! {
                    ended = server.serve_with_incoming(service, incoming) => ended.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv().unwrap();
        self.running = Some((stop, running));
    }

    /// Is gone.
    pub fn stop(&mut self) {
        let (stop, running) = self.running.take().unwrap();
        let _ = stop.send(());
        running.join().unwrap();
    }

    pub fn set_mood(&self, mood: Mood) {
        self.books().mood = mood;
    }

    /// Gives IPv6 addresses too from now on.
    pub fn with_ipv6(&self) {
        self.books().ipv6 = true;
    }

    /// The attachments that it has, as `container:interface`.
    pub fn attachments(&self) -> Vec<String> {
        self.books().attachments.keys().cloned().collect()
    }

    /// What it was asked since the last time.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.books().asked)
    }

    /// The last ADD.
    pub fn added(&self) -> CniAddRequest {
        self.books().added.clone().unwrap()
    }

    /// A VF that two attachments had at once.
    pub fn shared(&self) -> Option<u32> {
        self.books().shared
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }
}

struct Service(Arc<Mutex<Books>>);

impl Service {
    /// What becomes of a request: `work` is done as far as the mood lets it.
    async fn serve<T>(
        &self,
        what: String,
        work: impl FnOnce(&mut Books) -> T,
    ) -> Result<Response<T>, Status> {
        let mood = {
            let mut books = self.0.lock().unwrap();
            books.asked.push(what);
            let mood = books.mood;
            if let Mood::Busy(times) = mood {
                books.mood = if times > 1 { Mood::Busy(times - 1) } else { Mood::Good };
            }
            mood
        };
        match mood {
            Mood::Good => Ok(Response::new(work(&mut self.0.lock().unwrap()))),
            Mood::Busy(_) => Err(Status::resource_exhausted("too many requests at once")),
            Mood::Refusing => Err(Status::failed_precondition("no endpoint can be made")),
            Mood::Silent | Mood::Mute => {
                if mood == Mood::Mute {
                    work(&mut self.0.lock().unwrap());
                }
                tokio::time::sleep(Duration::from_hours(1)).await;
                Err(Status::unavailable("never"))
            }
        }
    }
}

fn name(pod: Option<&PodDetails>, interface: Option<&IntfDetails>) -> String {
    format!("{}:{}", pod.unwrap().container_id, interface.unwrap().name)
}

#[tonic::async_trait]
impl CniAction for Service {
    async fn cmd_add(&self, request: Request<CniAddRequest>) -> Result<Response<CniAddResponse>, Status> {
        let request = request.into_inner();
        let name = name(request.pod_info.as_ref(), request.intf_info.as_ref());
        self.serve(format!("ADD {name}"), |books| {
            let vf = request.intf_info.as_ref().unwrap().vfid;
            if books.attachments.iter().any(|(other, theirs)| *theirs == vf && *other != name) {
                books.shared = Some(vf);
            }
            books.attachments.insert(name, vf);
            books.added = Some(request);
            let ip = |version: &str, address: String, gateway: &str| IpDetails {
                version: version.to_owned(),
                address,
                gateway: gateway.to_owned(),
                dns: String::new(),
            };
            CniAddResponse {
                ip_info: Some(ip("4", format!("10.1.0.{}", vf + 16), "10.1.0.1")),
                ip6_info: books.ipv6.then(|| ip("6", format!("fd00:1::{:x}", vf + 16), "fd00:1::1")),
                ..CniAddResponse::default()
            }
        })
        .await
    }

    async fn cmd_del(&self, request: Request<CniDelRequest>) -> Result<Response<CniDelResponse>, Status> {
        let request = request.into_inner();
        let name = name(request.pod_info.as_ref(), request.intf_info.as_ref());
        self.serve(format!("DEL {name}"), |books| {
            books.attachments.remove(&name);
            CniDelResponse::default()
        })
        .await
    }

    async fn cmd_check(
        &self,
        request: Request<CniCheckRequest>,
    ) -> Result<Response<CniCheckResponse>, Status> {
        let request = request.into_inner();
        let name = name(request.pod_info.as_ref(), request.intf_info.as_ref());
        self.serve(format!("CHECK {name}"), |_| CniCheckResponse::default()).await
    }

    async fn cmd_gc(&self, request: Request<CnigcRequest>) -> Result<Response<CnigcResponse>, Status> {
        let valid = request.into_inner().valid.into_iter();
        let valid: Vec<_> = valid.map(|valid| format!("{}:{}", valid.container_id, valid.ifname)).collect();
        self.serve(format!("GC {}", valid.join(" ")), |books| {
            let before = books.attachments.len();
            books.attachments.retain(|name, _| valid.contains(name));
            CnigcResponse { removed: u32::try_from(before - books.attachments.len()).unwrap() }
        })
        .await
    }
}
