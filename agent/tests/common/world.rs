//! A card with its agent, pods and the world around, of network namespaces and veth pairs: what the built agent
//! needs to do all its work. The test's own namespace is the card's.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use dpu_agent::serve::ask_in;
use dpu_agent::trusted::Way;
use dpu_api::cni_action_client::CniActionClient;
use dpu_api::{CniAddRequest, CniAddResponse, CniDelRequest, IntfDetails, IpDetails, PodDetails};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::common::run;

/// Where the agent answers: the link's address of the plan.
pub const AGENT: &str = "192.168.1.1:8000";

const DEVICES: &str = "sys/bus/pci/devices";

/// The card. VF n + 1 of it is the interface `vfN`, which is wired to the pod that has the host's VF n.
pub struct World {
    folder: tempfile::TempDir,
    agent: Option<Child>,
    /// Whether all VFs and pods are on one wire, as those of QEMU's igb are.
    one_wire: bool,
}

/// Runs a program, whose words are parted by single blanks, and which must end well.
pub fn sh(line: &str) -> String {
    let words: Vec<_> = line.split(' ').collect();
    run(words[0], &words[1..])
}

/// The hardware address of a pod's interface.
pub fn mac(vf: u32) -> String {
    format!("02:00:00:00:01:{vf:02x}")
}

impl World {
    /// A card with so many VFs for pods, whose agent answers.
    pub fn new(vfs: u32, one_wire: bool) -> Self {
        sh("mount -t tmpfs tmpfs /run");
        // It shows the interfaces of the namespace that it was mounted in.
        sh("mount -t sysfs sysfs /sys");
        // Nobody else is on these cables, and what waits to be sure of that can't ask for its neighbours yet.
        fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
        sh("ip link set dev lo up");
        sh("ip address add 192.168.1.1/24 dev lo");
        let mut world = Self { folder: tempfile::tempdir().unwrap(), agent: None, one_wire };
        // Who may ask is tried elsewhere; the test asks as a host that knows no TLS.
        let plan = include_str!("../../plan/examples/virt.toml");
        let plain = plan.replace("agent = { port = 8000,", "agent = { port = 8000, insecure = true,");
        assert_ne!(plan, plain);
        world.file("usr/lib/dpukit/plan.toml", &plain);
        world.settings("subnets = [\"10.244.0.0/24\", \"fd00:10:244::/64\"]");
        world.make_devices(vfs);
        if one_wire {
            sh("ip netns add wire");
            sh("ip -n wire link add wire type bridge");
            sh("ip -n wire link set dev wire up");
        }
        for vf in 0..vfs {
            world.plug(vf);
        }
        make_outside();
        world.start();
        world
    }

    /// Says what the card's own file says of the routed network.
    pub fn settings(&self, routed: &str) {
        self.file("etc/dpukit/pods.toml", &format!("[pods]\nnetwork = {{ routed = {{ {routed} }} }}\n"));
    }

    /// Where a file of the card's is.
    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Makes a file of the card's.
    pub fn file(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The names of files in a folder of the agent's state.
    pub fn state(&self, folder: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.at("var/lib/dpukit/agent").join(folder)) else {
            return Vec::new();
        };
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The addresses that the IPAM plugin keeps.
    pub fn reserved(&self) -> Vec<String> {
        self.state("ipam/pods").into_iter().filter(|name| name.parse::<std::net::IpAddr>().is_ok()).collect()
    }

    fn make_devices(&self, vfs: u32) {
        let pf = "0000:01:00.0";
        self.file(&format!("{DEVICES}/{pf}/vendor"), "0x8086\n");
        self.file(&format!("{DEVICES}/{pf}/sriov_vf_device"), "10ca\n");
        self.file(&format!("{DEVICES}/{pf}/sriov_numvfs"), &format!("{}\n", vfs + 1));
        for number in 0..=vfs {
            let vf = address(number);
            self.file(&format!("{DEVICES}/{vf}/vendor"), "0x8086\n");
            self.file(&format!("{DEVICES}/{vf}/device"), "0x10ca\n");
            symlink(format!("../{vf}"), self.at(&format!("{DEVICES}/{pf}/virtfn{number}"))).unwrap();
        }
    }

    /// Makes the two ends of a VF, as their drivers do.
    pub fn plug(&self, vf: u32) {
        self.show(vf, &format!("vf{vf}"));
        if self.one_wire {
            sh(&format!("ip link add vf{vf} type veth peer name vf{vf} netns wire"));
            sh(&format!("ip link add pod{vf} address {} type veth peer name pod{vf} netns wire", mac(vf)));
            for port in ["vf", "pod"] {
                sh(&format!("ip -n wire link set dev {port}{vf} master wire up"));
            }
        } else {
            sh(&format!("ip link add vf{vf} type veth peer name pod{vf} address {}", mac(vf)));
        }
        sh(&format!("ip link set dev vf{vf} up"));
    }

    /// Renames the card's end of a VF.
    pub fn rename(&self, vf: u32, to: &str) {
        sh(&format!("ip link set dev vf{vf} down"));
        sh(&format!("ip link set dev vf{vf} name {to}"));
        self.show(vf, to);
    }

    /// Lets a device show its interface.
    fn show(&self, vf: u32, interface: &str) {
        let net = self.at(&format!("{DEVICES}/{}/net", address(vf + 1)));
        let _ = fs::remove_dir_all(&net);
        fs::create_dir_all(&net).unwrap();
        symlink(format!("/sys/class/net/{interface}"), net.join(interface)).unwrap();
    }

    /// Starts the agent.
    pub fn start(&mut self) {
        // Another build of it can be put through the same tests.
        let agent = std::env::var_os("DPUKIT_AGENT").unwrap_or(env!("CARGO_BIN_EXE_dpu-agent").into());
        let log = fs::OpenOptions::new().create(true).append(true).open(self.at("log")).unwrap();
        let child = Command::new(agent)
            .arg("serve")
            .env("DPUKIT_ROOT", self.folder.path())
            .env("DPU_AGENT_LOG", "dpu_agent=debug")
            .stderr(log)
            .spawn();
        self.agent = Some(child.unwrap());
    }

    /// Ends the agent at once, as `kill -9` does.
    pub fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// What the agent logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap_or_default()
    }

    /// Waits until the agent says that it connects pods.
    pub async fn is_serving(&self) {
        self.until("the agent serves pods", async || {
            let answer =
                ask_in(&Way::Plain, AGENT.parse().unwrap(), "CNIAction".into(), Duration::from_secs(3)).await;
            answer.is_ok_and(|answer| answer.as_str_name() == "SERVING")
        })
        .await;
    }

    /// Waits until something is so, at most twenty seconds.
    pub async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !is_so().await {
            assert!(Instant::now() < end, "never: {what}\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The plugin's way to the agent.
    pub async fn plugin(&self) -> CniActionClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{AGENT}")).unwrap();
        for _ in 0..500 {
            if let Ok(channel) = endpoint.connect().await {
                return CniActionClient::new(channel);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the agent does not listen\n{}", self.log())
    }

    /// ADD, as the plugin asks for it.
    pub async fn add(&self, container: &str, vf: u32) -> Result<CniAddResponse, Status> {
        let mut request = Request::new(add(container, vf));
        request.set_timeout(Duration::from_secs(10));
        Ok(self.plugin().await.cmd_add(request).await?.into_inner())
    }

    /// DEL, which must succeed.
    pub async fn del(&self, container: &str, vf: u32) {
        let CniAddRequest { pod_info, intf_info, .. } = add(container, vf);
        let answer = self.plugin().await.cmd_del(CniDelRequest { intf_info, pod_info }).await;
        assert!(answer.is_ok(), "{answer:?}\n{}", self.log());
    }

    /// ADD, and what the plugin then does on the host: a namespace with the interface, its addresses and routes.
    pub async fn pod(&self, container: &str, vf: u32) -> CniAddResponse {
        let answer =
            self.add(container, vf).await.unwrap_or_else(|status| panic!("{status}\n{}", self.log()));
        sh(&format!("ip netns add {container}"));
        sh(&format!("ip link set dev pod{vf} netns {container} name eth0"));
        sh(&format!("ip -n {container} link set dev lo up"));
        sh(&format!("ip -n {container} link set dev eth0 up"));
        for (details, bits) in [(&answer.ip_info, 32), (&answer.ip6_info, 128)] {
            let IpDetails { address, gateway, .. } = details.as_ref().unwrap();
            let family = if bits == 32 { "-4" } else { "-6" };
            let flag = if bits == 32 { "" } else { " nodad" };
            let mtu = answer.mtu;
            sh(&format!("ip -n {container} {family} address add {address}/{bits} dev eth0{flag}"));
            sh(&format!("ip -n {container} {family} route add {gateway}/{bits} dev eth0"));
            sh(&format!("ip -n {container} {family} route add default via {gateway} dev eth0 mtu {mtu}"));
        }
        answer
    }

    /// Makes an attachment's file what it is while the network is being made.
    pub fn cut_short(&self, name: &str) {
        let path = self.at("var/lib/dpukit/agent/attachments").join(name);
        let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        record["made"] = serde_json::Value::Null;
        fs::write(path, record.to_string()).unwrap();
    }

    /// Cuts an attachment's file short.
    pub fn damage(&self, name: &str) {
        let path = self.at("var/lib/dpukit/agent/attachments").join(name);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, &text[..text.len() / 2]).unwrap();
    }

    /// What the agent answers to Prometheus.
    pub async fn metrics(&self) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect("127.0.0.1:8001").await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: card\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    /// What the agent's program prints.
    pub fn program(&self, arguments: &[&str]) -> String {
        let mut program = Command::new(env!("CARGO_BIN_EXE_dpu-agent"));
        let output = program.args(arguments).env("DPUKIT_ROOT", self.folder.path()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Fails unless nothing of any pod is left.
    pub fn must_be_clean(&self) {
        assert_eq!(routes(), [""; 0], "{}", self.log());
        assert_eq!(self.state("attachments"), [""; 0]);
        assert_eq!(self.reserved(), [""; 0]);
        let addresses = sh("ip address show");
        assert!(!addresses.contains("169.254.1.1") && !addresses.contains("fe80::1:"), "{addresses}");
        let neighbours = sh("ip neighbour show nud permanent") + &sh("ip -6 neighbour show nud permanent");
        assert!(!neighbours.contains("02:00:00:00:01:"), "{neighbours}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut agent) = self.agent.take() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// A machine beyond the card, which knows the way back.
fn make_outside() {
    sh("ip netns add outside");
    sh("ip -n outside link set dev lo up");
    sh("ip netns exec outside sysctl -q -w net.ipv6.conf.default.accept_dad=0");
    sh("ip link add uplink type veth peer name uplink netns outside");
    for (namespace, last) in [("", 1), ("-n outside ", 2)] {
        sh(&format!("ip {namespace}link set dev uplink up"));
        sh(&format!("ip {namespace}address add 198.51.100.{last}/24 dev uplink"));
        sh(&format!("ip {namespace}address add fd00:51::{last}/64 dev uplink nodad"));
    }
    sh("ip -n outside route add 10.244.0.0/16 via 198.51.100.1");
    sh("ip -n outside route add fd00:10:244::/48 via fd00:51::1");
}

/// Our routes in the kernel.
pub fn routes() -> Vec<String> {
    let text = sh("ip -4 route show proto 177") + &sh("ip -6 route show proto 177");
    text.lines().map(|line| line.trim().to_owned()).collect()
}

/// The address of a VF of the card's.
fn address(number: u32) -> String {
    format!("0000:01:{:02x}.{:x}", 16 + number / 8, number % 8)
}

/// What the plugin sends for an ADD.
pub fn add(container: &str, vf: u32) -> CniAddRequest {
    CniAddRequest {
        pod_info: Some(PodDetails {
            pod_namespace: "default".into(),
            pod_name: format!("pod-{container}"),
            container_id: container.into(),
            pod_uid: String::new(),
        }),
        intf_info: Some(IntfDetails { name: "eth0".into(), vfid: vf, pfid: 0, num_pfs: 1 }),
        mac_addr: mac(vf),
        ..CniAddRequest::default()
    }
}

/// The addresses of an answer.
pub fn addresses(answer: &CniAddResponse) -> [String; 2] {
    [&answer.ip_info, &answer.ip6_info].map(|details| details.as_ref().unwrap().address.clone())
}

/// Whether `from` hears from all these addresses; says from which it does not.
pub fn reaches(from: &str, to: &[String]) -> bool {
    let hears = |to: &&String| {
        let line = format!("netns exec {from} ping -c 1 -W 2 {to}");
        Command::new("ip").args(line.split(' ')).output().unwrap().status.success()
    };
    let lost: Vec<_> = to.iter().filter(|to| !hears(to)).collect();
    if !lost.is_empty() {
        eprintln!("{from} does not hear from {lost:?}");
    }
    lost.is_empty()
}
