//! A stand-in for Cilium: its API as far as it is called, with books of endpoints and addresses, written from the
//! same facts as what it tests (see the module's page), and no more than that.
//!
//! It checks what it is sent, and answers what a script says: every status, and none at all.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::words::{Change, Endpoint, EndpointStatus, Identifiers, Networking};

pub struct StandIn {
    folder: tempfile::TempDir,
    books: Arc<Mutex<Books>>,
}

/// What goes wrong with one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is not done, and this is the status; 206 is done.
    Status(u16),
    /// It is not done, and the connection ends.
    Deaf,
    /// It is done, and the connection ends.
    Lost,
    /// It is done, and answered with nonsense.
    Garbage,
    /// It is done, and answered with more than anybody wants to read.
    Huge,
    /// It is not done, and there is no end.
    Silent,
    /// It is done, and there is no end.
    Slow,
}

/// An address that was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Given {
    pub owner: String,
    /// The timer that would take it back.
    pub expiry: Option<String>,
}

#[derive(Default)]
pub struct Books {
    pub endpoints: BTreeMap<i64, Change>,
    pub addresses: BTreeMap<IpAddr, Given>,
    /// What goes wrong, call by call; after the last nothing does.
    pub script: VecDeque<Option<Fault>>,
    /// What goes wrong with calls of a name, each time.
    pub always: BTreeMap<&'static str, Fault>,
    /// What goes wrong with calls of a name, the next time.
    pub once: BTreeMap<&'static str, Fault>,
    /// The calls, by name.
    pub calls: Vec<String>,
    /// The bodies of `PUT`.
    pub put: Vec<Value>,
    /// What was sent and makes no sense.
    pub wrong: Vec<String>,
    /// Whether pods get no IPv6.
    pub ipv4_only: bool,
    pub state: Option<&'static str>,
    pub health: Option<&'static str>,
    pub mode: Option<&'static str>,
    given: u8,
    last: i64,
}

type Reply = (u16, Value);

impl StandIn {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("cilium.sock")).unwrap();
        let books = Arc::new(Mutex::new(Books::default()));
        let served = Arc::clone(&books);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let books = Arc::clone(&served);
                let service = service_fn(move |request| serve(Arc::clone(&books), request));
                // Connections that are ended on purpose end with an error.
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { folder, books }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("cilium.sock")
    }

    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap()
    }

    /// The calls since the last time.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.books().calls)
    }

    /// No endpoint, no address, and no call that made no sense.
    #[track_caller]
    pub fn assert_empty(&self, after: &str) {
        let books = self.books();
        assert_eq!(books.wrong, Vec::<String>::new(), "{after}");
        assert!(books.endpoints.is_empty(), "{after}: {:?}\n{:?}", books.endpoints, books.calls);
        assert!(books.addresses.is_empty(), "{after}: {:?}\n{:?}", books.addresses, books.calls);
    }
}

async fn serve(
    books: Arc<Mutex<Books>>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let (fault, reply) = {
        let mut books = books.lock().unwrap();
        let call = Heard::of(&head, &body, &mut books.wrong);
        books.calls.push(call.name.to_owned());
        let next = books.script.pop_front().flatten();
        let once = books.once.remove(call.name);
        let fault = next.or(once).or_else(|| books.always.get(call.name).copied());
        let done = !matches!(fault, Some(Fault::Deaf | Fault::Silent))
            && !matches!(fault, Some(Fault::Status(status)) if status != 206);
        (fault, if done { Some(books.answer(&call)) } else { None })
    };
    let (status, text) = match reply {
        Some((status, body)) => (status, if body.is_null() { String::new() } else { body.to_string() }),
        None => (500, String::new()),
    };
    let (status, text) = match fault {
        None => (status, text),
        Some(Fault::Status(206)) => (206, "2".into()),
        Some(Fault::Status(status)) => (status, r#""as the script says""#.into()),
        Some(Fault::Garbage) => (status, "<html>".into()),
        Some(Fault::Huge) => (status, " ".repeat(40 << 20)),
        Some(Fault::Deaf | Fault::Lost) => return Err(std::io::Error::other("as the script says")),
        Some(Fault::Silent | Fault::Slow) => match std::future::pending::<Infallible>().await {},
    };
    Ok(Response::builder().status(status).body(Full::from(text)).unwrap())
}

/// A call as it was heard.
struct Heard {
    /// As in the description of the API.
    name: &'static str,
    /// The part of the path that names something.
    what: String,
    query: BTreeMap<String, String>,
    expiration: bool,
    brief: bool,
    body: Value,
}

impl Heard {
    fn of(head: &hyper::http::request::Parts, body: &[u8], wrong: &mut Vec<String>) -> Self {
        let decoded = |text: &str| percent_decode_str(text).decode_utf8().unwrap().into_owned();
        let path = head.uri.path();
        let parts: Vec<_> = path.split('/').skip(1).collect();
        let name = match (head.method.as_str(), parts.as_slice()) {
            ("GET", ["v1", "config"]) => "GET /config",
            ("GET", ["v1", "healthz"]) => "GET /healthz",
            ("POST", ["v1", "ipam"]) => "POST /ipam",
            ("POST", ["v1", "ipam", _]) => "POST /ipam/{ip}",
            ("DELETE", ["v1", "ipam", _]) => "DELETE /ipam/{ip}",
            ("GET", ["v1", "endpoint"]) => "GET /endpoint",
            ("PUT", ["v1", "endpoint", _]) => "PUT /endpoint/{id}",
            ("GET", ["v1", "endpoint", _]) => "GET /endpoint/{id}",
            ("DELETE", ["v1", "endpoint", _]) => "DELETE /endpoint/{id}",
            ("GET", ["v1", "endpoint", _, "healthz"]) => "GET /endpoint/{id}/healthz",
            _ => {
                wrong.push(format!("{} {path} is no call", head.method));
                "?"
            }
        };
        let pairs = head.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        let is = |header: &str| head.headers.get(header).is_some_and(|value| value == "true");
        let body =
            if body.is_empty() { Value::Null } else { serde_json::from_slice(body).unwrap_or_default() };
        if !body.is_null() && head.headers.get("content-type").is_none_or(|kind| kind != "application/json") {
            wrong.push(format!("{name} has a body that is not said to be JSON"));
        }
        Self {
            name,
            what: parts.get(2).map(|part| decoded(part)).unwrap_or_default(),
            query: pairs.map(|(key, value)| (key.to_owned(), decoded(value))).collect(),
            expiration: is("expiration"),
            brief: is("brief"),
            body,
        }
    }
}

impl Books {
    fn answer(&mut self, call: &Heard) -> Reply {
        match call.name {
            "GET /config" => (200, self.configuration()),
            "GET /healthz" => (200, self.status(call.brief)),
            "POST /ipam" => self.allocate(call),
            "POST /ipam/{ip}" => self.claim(call),
            "DELETE /ipam/{ip}" => match call.what.parse().map(|ip| self.addresses.remove(&ip)) {
                Ok(Some(_)) => (200, Value::Null),
                Ok(None) => (404, Value::Null),
                Err(_) => (400, json!("no address")),
            },
            "PUT /endpoint/{id}" => self.create(call),
            "GET /endpoint" if self.endpoints.is_empty() => (404, Value::Null),
            "GET /endpoint" => (200, self.endpoints.keys().map(|id| self.endpoint(*id)).collect()),
            "GET /endpoint/{id}" => self.with(call, |books, id| (200, books.endpoint(id))),
            "GET /endpoint/{id}/healthz" => self.with(call, |books, _| {
                (200, json!({ "overallHealth": books.health.unwrap_or("OK"), "connected": true }))
            }),
            "DELETE /endpoint/{id}" => self.with(call, |books, id| {
                let change = books.endpoints.remove(&id).unwrap();
                if !change.datapath_configuration.external_ipam {
                    for address in addresses(&change) {
                        books.addresses.remove(&address);
                    }
                }
                (200, Value::Null)
            }),
            _ => (404, Value::Null),
        }
    }

    fn with(&mut self, call: &Heard, act: impl FnOnce(&mut Self, i64) -> Reply) -> Reply {
        let Some((kind, rest)) = call.what.split_once(':') else { return (400, json!("no prefix")) };
        let is = |id: i64, change: &Change| match kind {
            "cilium-local" => id.to_string() == rest,
            "cni-attachment-id" => {
                format!("{}:{}", change.container_id, change.container_interface_name) == rest
            }
            "ipv4" | "ipv6" => addresses(change).iter().any(|address| address.to_string() == rest),
            _ => false,
        };
        match self.endpoints.iter().find(|(id, change)| is(**id, change)).map(|(id, _)| *id) {
            Some(id) => act(self, id),
            None => (404, Value::Null),
        }
    }

    fn configuration(&self) -> Value {
        json!({ "spec": {}, "status": {
            "addressing": {
                "ipv4": { "enabled": true, "ip": "10.0.0.1", "alloc-range": "10.0.0.0/24" },
                "ipv6": { "enabled": !self.ipv4_only, "ip": "fd00::1" },
            },
            "deviceMTU": 1500, "routeMTU": 1450, "datapathMode": "veth",
            "ipam-mode": self.mode.unwrap_or("cluster-pool"),
        } })
    }

    fn status(&self, brief: bool) -> Value {
        let cilium = json!({ "state": self.state.unwrap_or("Ok"), "msg": "1.17.0 (stand-in)" });
        if brief {
            return json!({ "cilium": cilium });
        }
        let allocations: BTreeMap<_, _> =
            self.addresses.iter().map(|(address, given)| (address.to_string(), &given.owner)).collect();
        json!({ "cilium": cilium, "ipam": { "allocations": allocations, "status": "" } })
    }

    fn allocate(&mut self, call: &Heard) -> Reply {
        let owner = call.query.get("owner").cloned().unwrap_or_default();
        if owner.is_empty() || !call.expiration {
            self.wrong.push("POST /ipam lacks its owner, or its expiration".into());
        }
        self.given += 1;
        let number = self.given;
        let mut answer = json!({ "address": {}, "host-addressing": {} });
        for (family, address) in
            [("ipv4", format!("10.0.0.{}", number + 1)), ("ipv6", format!("fd00::{number:x}"))]
        {
            if family == "ipv6" && self.ipv4_only {
                continue;
            }
            let uuid = format!("uuid-{family}-{number}");
            answer["address"][family] = address.as_str().into();
            answer["address"][format!("{family}-pool-name")] = "default".into();
            answer[family] = json!({ "ip": address, "expiration-uuid": uuid });
            let given = Given { owner: owner.clone(), expiry: Some(uuid) };
            self.addresses.insert(address.parse().unwrap(), given);
        }
        (201, answer)
    }

    fn claim(&mut self, call: &Heard) -> Reply {
        let Ok(address) = call.what.parse() else { return (400, json!("no address")) };
        if self.addresses.contains_key(&address) {
            return (500, json!("address is already allocated"));
        }
        let owner = call.query.get("owner").cloned().unwrap_or_default();
        self.addresses.insert(address, Given { owner, expiry: None });
        (200, Value::Null)
    }

    fn create(&mut self, call: &Heard) -> Reply {
        self.put.push(call.body.clone());
        let Ok(change) = serde_json::from_value::<Change>(call.body.clone()) else {
            self.wrong.push(format!("PUT of {}", call.body));
            return (400, json!("no endpoint"));
        };
        let good = call.what == "cilium-local:0"
            && change.state == "waiting-for-identity"
            && change.sync_build_endpoint
            && change.interface_index > 0
            && !change.host_mac.is_empty();
        if !good {
            self.wrong.push(format!("PUT of {}", call.body));
        }
        let id = |change: &Change| format!("{}:{}", change.container_id, change.container_interface_name);
        if self.endpoints.values().any(|other| id(other) == id(&change)) {
            return (400, json!(format!("endpoint for CNI attachment ID {} already exists", id(&change))));
        }
        for address in addresses(&change) {
            if self.endpoints.values().any(|other| addresses(other).contains(&address)) {
                return (400, json!(format!("IP ipv4:{address} is already in use")));
            }
        }
        let pair = &change.addressing;
        for (address, uuid) in
            [(&pair.ipv4, &pair.ipv4_expiration_uuid), (&pair.ipv6, &pair.ipv6_expiration_uuid)]
        {
            if uuid.is_empty() {
                continue;
            }
            let given = self.addresses.get_mut(&address.parse().unwrap());
            match given.filter(|given| given.expiry.as_ref() == Some(uuid)) {
                Some(given) => given.expiry = None,
                // The endpoint goes; the addresses are left to who brought them.
                None => return (500, json!("no expiration timer")),
            }
        }
        self.last += 1;
        self.endpoints.insert(self.last, change);
        (201, Value::Null)
    }

    fn endpoint(&self, id: i64) -> Value {
        let change = &self.endpoints[&id];
        let status = EndpointStatus {
            external_identifiers: Some(Identifiers {
                cni_attachment_id: format!("{}:{}", change.container_id, change.container_interface_name),
                container_id: change.container_id.clone(),
                k8s_namespace: change.k8s_namespace.clone(),
                k8s_pod_name: change.k8s_pod_name.clone(),
            }),
            networking: Some(Networking {
                addressing: Some(vec![change.addressing.clone()]),
                interface_name: change.interface_name.clone(),
                interface_index: change.interface_index,
                mac: change.mac.clone(),
            }),
            state: "ready".into(),
        };
        serde_json::to_value(Endpoint { id, status: Some(status) }).unwrap()
    }
}

pub fn addresses(change: &Change) -> Vec<IpAddr> {
    let pair = &change.addressing;
    [&pair.ipv4, &pair.ipv6].into_iter().filter_map(|text| text.parse().ok()).collect()
}
