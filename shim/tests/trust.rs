//! Host and agent know each other by certificates, and nobody else gets between them.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{World, inside, make_pod};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// Signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for a name, and its key.
    fn sign(&self, name: &str, last_year: i32) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(last_year, 12, 31);
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }

    /// How an agent serves with a certificate of ours, to hosts that `hosts` signed.
    fn server(&self, name: &str, last_year: i32, hosts: &Self) -> ServerTlsConfig {
        let (certificate, key) = self.sign(name, last_year);
        let identity = Identity::from_pem(certificate, key);
        ServerTlsConfig::new().identity(identity).client_ca_root(Certificate::from_pem(hosts.0.pem()))
    }
}

/// A host's files, as the configuration names them.
struct Files(PathBuf);

impl Files {
    fn new(folder: &Path, agents: &Authority, hosts: &Authority) -> Self {
        fs::create_dir_all(folder).unwrap();
        let (certificate, key) = hosts.sign("host", 2099);
        fs::write(folder.join("ca.pem"), agents.0.pem()).unwrap();
        fs::write(folder.join("host.pem"), certificate).unwrap();
        fs::write(folder.join("host.key"), key).unwrap();
        Self(folder.to_owned())
    }

    fn config(&self, name: Option<&str>) -> Value {
        let path = |name: &str| self.0.join(name).display().to_string();
        let mut tls = json!({"ca": path("ca.pem"), "certificate": path("host.pem"), "key": path("host.key")});
        if let Some(name) = name {
            tls["name"] = name.into();
        }
        json!({"insecure": false, "tls": tls})
    }
}

#[test]
#[ignore = "needs root, for network namespaces"]
fn only_the_paired_agent_and_the_paired_host_talk_to_each_other() {
    if !inside("only_the_paired_agent_and_the_paired_host_talk_to_each_other") {
        return;
    }
    let (ours, foreign) = (Authority::new(), Authority::new());
    let mut world = World::new(1);
    let paired = Files::new(&world.fake.at("/etc/paired"), &ours, &ours);
    let stranger = Files::new(&world.fake.at("/etc/stranger"), &ours, &foreign);
    let broken = Files::new(&world.fake.at("/etc/broken"), &ours, &ours);
    fs::write(broken.0.join("host.key"), "no key").unwrap();
    make_pod("c1");

    let mut told = Vec::new();
    let mut refused = |world: &World, what: &str, config: &Value| {
        let answer = world.call("ADD", "c1", config);
        assert!(answer.took < Duration::from_secs(1), "{what}: {answer:?}");
        let (code, details) = answer.error();
        // What follows is the time of day.
        let details = details.split(": verification time").next().unwrap_or_default();
        told.push(format!("{what}: {code}, {details}"));
        assert_eq!(world.agent.asked(), [""; 0], "{what}");
        world.must_be_clean();
    };
    refused(&world, "an agent in plain text", &paired.config(None));
    for (what, server) in [
        ("an agent of another authority", foreign.server("127.0.0.1", 2099, &ours)),
        ("an agent of another name", ours.server("127.0.0.2", 2099, &ours)),
        ("an agent whose certificate is over", ours.server("127.0.0.1", 2021, &ours)),
    ] {
        world.agent.stop();
        world.agent.resume(Some(server));
        refused(&world, what, &paired.config(None));
    }
    world.agent.stop();
    world.agent.resume(Some(ours.server("127.0.0.1", 2099, &ours)));
    refused(&world, "a host of another authority", &stranger.config(None));
    refused(&world, "a host without a key", &broken.config(None));
    let folder = world.fake.root().display().to_string();
    insta::assert_snapshot!(told.join("\n").replace(&folder, ""), @r#"
    an agent in plain text: 103, asking the agent at 127.0.0.1:8000 for cmdAdd: received corrupt message of type InvalidContentType
    an agent of another authority: 103, asking the agent at 127.0.0.1:8000 for cmdAdd: invalid peer certificate: BadSignature
    an agent of another name: 103, asking the agent at 127.0.0.1:8000 for cmdAdd: invalid peer certificate: certificate not valid for name "127.0.0.1"; certificate is only valid for IpAddress(127.0.0.2)
    an agent whose certificate is over: 103, asking the agent at 127.0.0.1:8000 for cmdAdd: invalid peer certificate: certificate expired
    a host of another authority: 103, asking the agent at 127.0.0.1:8000 for cmdAdd: received fatal alert: DecryptError
    a host without a key: 7, asking the agent at 127.0.0.1:8000 for cmdAdd: there is no private key in `/etc/broken/host.key`: no items found
    "#);

    let (code, details) = world.call("ADD", "c1", &json!({"deadlineSeconds": 1})).error();
    assert_eq!(code, 11, "a host in plain text: {details}");
    assert!(world.call("DEL", "c1", &paired.config(None)).success);
    assert_eq!(world.agent.asked(), ["DEL c1:eth0"]);

    world.call("ADD", "c1", &paired.config(None)).result();
    assert_eq!(world.agent.asked(), ["ADD c1:eth0"]);
    let status = world.call("STATUS", "", &paired.config(None));
    assert!(status.success, "{status:?}");
    assert!(world.call("DEL", "c1", &paired.config(None)).success);
    world.must_be_clean();

    world.agent.stop();
    world.agent.resume(Some(ours.server("card.dpukit", 2099, &ours)));
    world.call("ADD", "c1", &paired.config(Some("card.dpukit"))).result();
    // The claim names the files, so that the configuration is not needed.
    assert!(common::Answer::of(world.start_with("DEL", "c1", "")).success);
    world.must_be_clean();
}
