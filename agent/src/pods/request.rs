//! What the host asks for, read and checked: what comes out of here can name files, interfaces and addresses.
//!
//! Requests of the older peers in Go are taken too: they leave fields out, above all where they try a DEL again.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use dpu_api::{
    CniAddRequest, CniAttachment, CniCheckRequest, CniDelRequest, IntfDetails, IpDetails, PodDetails,
};

use super::network::{End, Pod};
use super::vfs::HostVf;

/// What identifies an attachment: the container and the interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub interface: String,
}

/// An ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Add {
    /// Whose network it is.
    pub key: Key,
    /// The pod, as far as the runtime tells.
    pub pod: Pod,
    /// The pod's hardware address, in lower case.
    pub mac: String,
    /// The VF that the pod has.
    pub host: HostVf,
    /// Addresses that the host made.
    pub given: Vec<End>,
}

/// What a DEL is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Del {
    /// One interface of a container, or all where none is named.
    Of {
        /// The container.
        container: String,
        /// The interface.
        interface: Option<String>,
    },
    /// It does not say which container, and a VF or a pod's name may be another's by now.
    Nobody,
}

/// A CHECK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Which attachment.
    pub key: Key,
    /// The address that the pod has.
    pub address: Option<IpAddr>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.container, self.interface)
    }
}

impl FromStr for Key {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (container, interface) = text.split_once(':').ok_or("there is no `:` in it")?;
        Self::new(container, interface)
    }
}

impl Key {
    /// The key of these names.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(container: &str, interface: &str) -> Result<Self, String> {
        Ok(Self { container: container_id(container)?, interface: interface_name(interface)? })
    }
}

impl TryFrom<CniAddRequest> for Add {
    type Error = String;

    fn try_from(request: CniAddRequest) -> Result<Self, String> {
        let pod = request.pod_info.ok_or("it lacks `podInfo`")?;
        let interface = request.intf_info.ok_or("it lacks `intfInfo`")?;
        if !["", "0"].contains(&request.vlan.as_str()) {
            return Err(format!("`vlan` is `{}`: this card makes no VLANs", short(&request.vlan)));
        }
        let by_host = request.ipam_allocatedby_host.is_some_and(|flag| flag.ipam_allocatedby_host);
        let details = [request.ip_info, request.ip6_info];
        let given = if by_host { ends(details.iter().flatten())? } else { Vec::new() };
        if by_host && given.is_empty() {
            return Err(
                "`ipamAllocatedbyHost` is set, and there is no address in `ipInfo` or `ip6_info`".into()
            );
        }
        Ok(Self {
            key: Key::new(&pod.container_id, &interface.name)?,
            mac: hardware_address(&request.mac_addr)?,
            host: host_vf(&interface)?,
            pod: pod_of(pod)?,
            given,
        })
    }
}

impl TryFrom<CniDelRequest> for Del {
    type Error = String;

    fn try_from(request: CniDelRequest) -> Result<Self, String> {
        let container = request.pod_info.map(|pod| pod.container_id).unwrap_or_default();
        let interface = request.intf_info.map(|interface| interface.name).unwrap_or_default();
        if container.is_empty() {
            return Ok(Self::Nobody);
        }
        let interface = (!interface.is_empty()).then(|| interface_name(&interface)).transpose()?;
        Ok(Self::Of { container: container_id(&container)?, interface })
    }
}

impl TryFrom<CniCheckRequest> for Check {
    type Error = String;

    fn try_from(request: CniCheckRequest) -> Result<Self, String> {
        let pod = request.pod_info.ok_or("it lacks `podInfo`")?;
        let interface = request.intf_info.ok_or("it lacks `intfInfo`")?;
        let address =
            request.ip_info.map(|details| address("ipInfo.address", &details.address)).transpose()?;
        Ok(Self { key: Key::new(&pod.container_id, &interface.name)?, address: address.flatten() })
    }
}

impl TryFrom<CniAttachment> for Key {
    type Error = String;

    fn try_from(attachment: CniAttachment) -> Result<Self, String> {
        Self::new(&attachment.container_id, &attachment.ifname)
    }
}

/// How long the caller waits, of the header `grpc-timeout` (gRPC over HTTP2, "Requests").
pub fn timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_hours(number)),
        "M" => Some(Duration::from_mins(number)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// A container's id as CNI has it (its specification, "Parameters").
fn container_id(text: &str) -> Result<String, String> {
    /// The id is a part of file names.
    const LONGEST: usize = 200;
    let good = |letter: u8| letter.is_ascii_alphanumeric() || b"_.-".contains(&letter);
    let first = text.bytes().next().is_some_and(|letter| letter.is_ascii_alphanumeric());
    if !first || text.len() > LONGEST || !text.bytes().all(good) {
        return Err(format!(
            "`containerId` is `{}`: it is at most {LONGEST} letters, digits, `_`, `.` and `-`, and begins with a \
             letter or digit",
            short(text)
        ));
    }
    Ok(text.to_owned())
}

/// A name that the kernel takes for an interface (`dev_valid_name`), of visible ASCII.
fn interface_name(text: &str) -> Result<String, String> {
    const LONGEST: usize = 15;
    let good = |letter: u8| letter.is_ascii_graphic() && !b"/:".contains(&letter);
    if text.is_empty() || text.len() > LONGEST || [".", ".."].contains(&text) || !text.bytes().all(good) {
        return Err(format!("the interface's name is `{}`, which no interface can have", short(text)));
    }
    Ok(text.to_owned())
}

fn hardware_address(text: &str) -> Result<String, String> {
    let wrong = || {
        format!("`mac_addr` is `{}`: write six octets of one machine, as `02:00:00:00:00:01`", short(text))
    };
    let octet = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
        digits.then(|| u8::from_str_radix(part, 16).ok()).flatten()
    };
    let octets = text.split(':').map(octet).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
    let is_group = octets[0] & 1 == 1;
    if octets.len() != 6 || is_group || octets.iter().all(|octet| *octet == 0) {
        return Err(wrong());
    }
    Ok(text.to_ascii_lowercase())
}

fn host_vf(interface: &IntfDetails) -> Result<HostVf, String> {
    /// More than any machine has slots.
    const MOST_PFS: u32 = 256;
    /// `NumVFs` has 16 bits (PCI Express, SR-IOV).
    const MOST_VFS: u32 = 1 << 16;
    let IntfDetails { vfid: vf, pfid: pf, num_pfs, .. } = *interface;
    // The Go peers may leave it out.
    let pfs = num_pfs.max(1);
    if pfs > MOST_PFS || pf >= pfs {
        return Err(format!("`pfid` is {pf} of `num_pfs` {num_pfs}"));
    }
    if vf >= MOST_VFS {
        return Err(format!("`vfid` is {vf}: no PF has so many VFs"));
    }
    Ok(HostVf { pf, pfs, vf })
}

fn pod_of(pod: PodDetails) -> Result<Pod, String> {
    // Names of Kubernetes are at most 253 letters long.
    let name = |what: &str, text: String| {
        if text.len() > 253 || text.chars().any(char::is_control) {
            return Err(format!("`{what}` is `{}`, no name of Kubernetes", short(&text)));
        }
        Ok(text)
    };
    Ok(Pod {
        namespace: name("pod_namespace", pod.pod_namespace)?,
        name: name("pod_name", pod.pod_name)?,
        uid: name("pod_uid", pod.pod_uid)?,
    })
}

fn ends<'a>(details: impl Iterator<Item = &'a IpDetails>) -> Result<Vec<End>, String> {
    let mut ends: Vec<End> = Vec::new();
    for details in details {
        let Some(address) = address("address", &details.address)? else { continue };
        let gateway = self::address("gateway", &details.gateway)?;
        if gateway.is_some_and(|gateway| gateway.is_ipv4() != address.is_ipv4()) {
            return Err(format!("the address {address} has a gateway of the other family"));
        }
        if ends.iter().any(|end| end.address.is_ipv4() == address.is_ipv4()) {
            return Err(format!("there are two addresses of the family of {address}"));
        }
        ends.push(End { address, gateway });
    }
    Ok(ends)
}

fn address(what: &str, text: &str) -> Result<Option<IpAddr>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = || format!("`{what}` is `{}`, no address of one machine", short(text));
    let ip: IpAddr = text.parse().map_err(|_| wrong())?;
    let is_broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || is_broadcast {
        return Err(wrong());
    }
    Ok(Some(ip))
}

/// The beginning of a text, fit for a log.
fn short(text: &str) -> String {
    let escaped: String = text.escape_debug().take(64).collect();
    if text.chars().count() > 64 { escaped + "…" } else { escaped }
}

#[cfg(test)]
mod tests {
    use dpu_api::IpaMallocatedbyHost;
    use proptest::prelude::*;

    use super::*;

    /// What the Go plugin sends.
    fn add() -> CniAddRequest {
        CniAddRequest {
            pod_info: Some(PodDetails {
                pod_namespace: "default".into(),
                pod_name: "p".into(),
                container_id: "c01".into(),
                pod_uid: String::new(),
            }),
            intf_info: Some(IntfDetails { name: "eth0".into(), vfid: 3, pfid: 0, num_pfs: 1 }),
            mac_addr: "02:00:00:00:00:0a".into(),
            ..CniAddRequest::default()
        }
    }

    fn refused(change: impl FnOnce(&mut CniAddRequest)) -> String {
        let mut request = add();
        change(&mut request);
        Add::try_from(request).unwrap_err()
    }

    #[test]
    fn an_add_of_a_go_peer_is_read() {
        let read = Add::try_from(add()).unwrap();
        assert_eq!(read.key.to_string(), "c01:eth0");
        assert_eq!(read.host, HostVf { pf: 0, pfs: 1, vf: 3 });
        let mut without_number = add();
        without_number.intf_info.as_mut().unwrap().num_pfs = 0;
        without_number.mac_addr = "02:00:00:00:00:0A".into();
        assert_eq!(Add::try_from(without_number), Ok(read));
    }

    #[test]
    fn addresses_of_the_host_count_only_where_it_says_so() {
        let ip = |version: &str, address: &str, gateway: &str| {
            Some(IpDetails {
                version: version.into(),
                address: address.into(),
                gateway: gateway.into(),
                dns: String::new(),
            })
        };
        let mut request = add();
        request.ip_info = ip("4", "10.1.0.5", "10.1.0.1");
        request.ip6_info = ip("6", "fd00::5", "");
        assert_eq!(Add::try_from(request.clone()).unwrap().given, []);
        request.ipam_allocatedby_host = Some(IpaMallocatedbyHost { ipam_allocatedby_host: true });
        let given = Add::try_from(request.clone()).unwrap().given;
        assert_eq!(given[0].gateway, Some("10.1.0.1".parse().unwrap()));
        assert_eq!(given[1], End { address: "fd00::5".parse().unwrap(), gateway: None });
        for (address, gateway, says) in [
            ("10.1.0.5/24", "", "no address of one machine"),
            ("127.0.0.1", "", "no address of one machine"),
            ("224.0.0.1", "", "no address of one machine"),
            ("10.1.0.5", "fe80::1", "a gateway of the other family"),
            ("fd00::6", "", "two addresses of the family"),
        ] {
            request.ip_info = ip("4", address, gateway);
            let error = Add::try_from(request.clone()).unwrap_err();
            assert!(error.contains(says), "{address}: {error}");
        }
        request.ip_info = None;
        request.ip6_info = None;
        assert!(Add::try_from(request).unwrap_err().contains("there is no address"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(refused(|add| add.pod_info = None), "it lacks `podInfo`");
        assert_eq!(refused(|add| add.intf_info = None), "it lacks `intfInfo`");
        assert!(refused(|add| add.vlan = "7".into()).contains("this card makes no VLANs"));
        for id in ["", "../c", ".c", "a/b", "a:b", "a b", "ä", &"a".repeat(201)] {
            let error = refused(|add| add.pod_info.as_mut().unwrap().container_id = id.into());
            assert!(error.starts_with("`containerId` is"), "{error}");
        }
        for name in ["", ".", "..", "a/b", "a:b", "a b", "sixteen-letters-", "é"] {
            let error = refused(|add| add.intf_info.as_mut().unwrap().name = name.into());
            assert!(error.contains("which no interface can have"), "{error}");
        }
        for mac in
            ["", "02:00", "02:00:00:00:00:0", "01:00:00:00:00:00", "00:00:00:00:00:00", "02-00-00-00-00-0a"]
        {
            assert!(refused(|add| add.mac_addr = mac.into()).starts_with("`mac_addr` is"), "{mac}");
        }
        for (vfid, pfid, num_pfs) in [(1 << 16, 0, 1), (0, 1, 1), (0, 1, 0), (0, 0, 257)] {
            let error =
                refused(|add| add.intf_info = Some(IntfDetails { name: "eth0".into(), vfid, pfid, num_pfs }));
            assert!(error.contains("vfid") || error.contains("pfid"), "{error}");
        }
        assert!(refused(|add| add.pod_info.as_mut().unwrap().pod_name = "a\n".into()).contains("`a\\n`"));
    }

    #[test]
    fn a_del_may_lack_almost_everything() {
        let del = |container: &str, interface: &str| {
            let pod = PodDetails { container_id: container.into(), ..PodDetails::default() };
            let interface = IntfDetails { name: interface.into(), ..IntfDetails::default() };
            Del::try_from(CniDelRequest { pod_info: Some(pod), intf_info: Some(interface) })
        };
        let of = |container: &str, interface: Option<&str>| {
            Ok(Del::Of { container: container.into(), interface: interface.map(Into::into) })
        };
        assert_eq!(del("c01", "eth0"), of("c01", Some("eth0")));
        assert_eq!(del("c01", ""), of("c01", None));
        assert_eq!(del("", "eth0"), Ok(Del::Nobody));
        assert_eq!(Del::try_from(CniDelRequest::default()), Ok(Del::Nobody));
        let pod = PodDetails { container_id: "c01".into(), ..PodDetails::default() };
        let only_container = CniDelRequest { pod_info: Some(pod), intf_info: None };
        assert_eq!(Del::try_from(only_container), of("c01", None));
        assert!(del("../c", "").is_err());
    }

    #[test]
    fn a_timeout_is_read_as_grpc_writes_it() {
        for (text, wanted) in [
            ("5S", Some(Duration::from_secs(5))),
            ("4999999u", Some(Duration::from_micros(4_999_999))),
            ("99999999H", Some(Duration::from_hours(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("123456789S", None),
            ("S", None),
            ("", None),
            ("-1S", None),
            ("5s", None),
            ("5é", None),
        ] {
            assert_eq!(timeout(text), wanted, "{text}");
        }
    }

    fn text() -> impl Strategy<Value = String> {
        prop_oneof!["\\PC{0,20}", "[a-z0-9:./-]{0,20}", Just("c01".to_owned()), Just("eth0".to_owned())]
    }

    proptest! {
        #[test]
        fn no_request_panics_and_what_is_taken_is_safe(
            texts in prop::collection::vec(text(), 12),
            numbers: (u32, u32, u32),
            by_host: bool,
        ) {
            let details = |at: usize| Some(IpDetails {
                version: texts[at].clone(),
                address: texts[at + 1].clone(),
                gateway: texts[at + 2].clone(),
                dns: texts[at + 3].clone(),
            });
            let pod = PodDetails {
                pod_namespace: texts[0].clone(),
                pod_name: texts[1].clone(),
                container_id: texts[2].clone(),
                pod_uid: texts[3].clone(),
            };
            let (vfid, pfid, num_pfs) = numbers;
            let interface = IntfDetails { name: texts[4].clone(), vfid, pfid, num_pfs };
            let request = CniAddRequest {
                pod_info: Some(pod.clone()),
                intf_info: Some(interface.clone()),
                mac_addr: texts[5].clone(),
                ipam_allocatedby_host: Some(IpaMallocatedbyHost { ipam_allocatedby_host: by_host }),
                ip_info: details(6),
                ip6_info: details(8),
                ..CniAddRequest::default()
            };
            if let Ok(add) = Add::try_from(request) {
                let name = add.key.to_string();
                prop_assert!(!name.contains('/') && !name.starts_with('.') && name.len() < 230);
                prop_assert_eq!(name.parse(), Ok(add.key));
            }
            let _ = Del::try_from(CniDelRequest { pod_info: Some(pod.clone()), intf_info: Some(interface.clone()) });
            let check =
                CniCheckRequest { pod_info: Some(pod), intf_info: Some(interface), ip_info: details(7) };
            let _ = Check::try_from(check);
            let _ = timeout(&texts[11]);
        }
    }
}
