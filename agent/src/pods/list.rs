//! `dpu-agent pods`: the attachments, for people and for programs.

use std::fmt::Write as _;
use std::net::IpAddr;

use anyhow::Result;
use serde::Serialize;

use super::books::addresses;
use super::state::{Record, Store};
use crate::Card;

/// The attachments of a card, as the disk has them.
#[derive(Debug, Serialize)]
pub struct List {
    /// The attachments, the oldest first.
    pub attachments: Vec<Line>,
    /// Files that cannot be read, with the reason.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub damaged: Vec<(String, String)>,
}

/// One attachment.
#[derive(Debug, Serialize)]
pub struct Line {
    /// How far it is: `made`, `making` or `leaving`.
    pub state: &'static str,
    /// The container's id.
    pub container: String,
    /// The interface's name in the pod.
    pub interface: String,
    /// The pod, as `namespace/name`.
    pub pod: String,
    /// The host's VF, as `PF.VF`.
    pub host_vf: String,
    /// The card's VF.
    pub vf: String,
    /// Its interface when it was last looked at.
    pub vf_interface: String,
    /// The pod's hardware address.
    pub mac: String,
    /// The pod's addresses.
    pub addresses: Vec<IpAddr>,
    /// The kind of network.
    pub network: String,
    /// When it was asked for: milliseconds since 1970.
    pub since: u64,
}

/// Reads the attachments; nothing is changed.
pub fn list(card: &Card) -> Result<List> {
    let loaded = Store::of(&card.tree).look()?;
    Ok(List { attachments: loaded.records.into_iter().map(Line::of).collect(), damaged: loaded.damaged })
}

impl Line {
    fn of(record: Record) -> Self {
        let state = match (record.leaving, &record.made) {
            (true, _) => "leaving",
            (false, None) => "making",
            (false, Some(_)) => "made",
        };
        let addresses = addresses(record.made.as_ref());
        let attachment = record.attachment;
        Self {
            state,
            container: attachment.container,
            interface: attachment.interface,
            pod: format!("{}/{}", attachment.pod.namespace, attachment.pod.name),
            host_vf: format!("{}.{}", record.host.pf, record.host.vf),
            vf: attachment.vf.address,
            vf_interface: attachment.vf.interface,
            mac: attachment.mac,
            addresses,
            network: record.network,
            since: record.since,
        }
    }
}

impl List {
    /// The table that a person reads.
    pub fn text(&self) -> String {
        let mut rows =
            vec![["STATE", "POD", "CONTAINER", "INTERFACE", "HOST VF", "VF", "ADDRESSES"].map(str::to_owned)];
        rows.extend(self.attachments.iter().map(|line| {
            let addresses: Vec<_> = line.addresses.iter().map(ToString::to_string).collect();
            [
                line.state.to_owned(),
                line.pod.clone(),
                // As the tools of containers shorten it.
                line.container.chars().take(13).collect(),
                line.interface.clone(),
                line.host_vf.clone(),
                format!("{} {}", line.vf, line.vf_interface).trim_end().to_owned(),
                addresses.join(" "),
            ]
        }));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<_> = (0..7).map(width).collect();
        let mut text = String::new();
        for row in &rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            // A string takes all that is written to it.
            let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
        }
        for (name, reason) in &self.damaged {
            let _ = writeln!(text, "damaged: `{name}`: {reason}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn attachments_are_listed_for_people() {
        let fake = fake::virt();
        assert_eq!(list(&fake.card()).unwrap().attachments.len(), 0);
        let record = |container: &str, since: u32, made: &str| {
            let text = format!(
                r#"{{"network":"routed","host":{{"pf":0,"pfs":1,"vf":3}},"since":{since},"attachment":{{
                "container":"{container}","interface":"eth0","pod":{{"namespace":"default","name":"web","uid":""}},
                "mac":"02:00:00:00:00:0a","vf":{{"address":"0000:01:11.0","interface":"eth4"}},"given":[]}},
                "made":{made}}}"#
            );
            fake.file(&format!("/var/lib/dpukit/agent/attachments/{container}:eth0"), &text);
        };
        let made = r#"{"ends":[{"address":"10.244.0.2","gateway":null},{"address":"fd00::2","gateway":null}],
            "dns":[],"mtu":1450,"kept":null}"#;
        record("0123456789abcdef", 1, made);
        record("c2", 2, "null");
        fake.file("/var/lib/dpukit/agent/attachments/c3:eth0", "{");
        insta::assert_snapshot!(list(&fake.card()).unwrap().text(), @r"
        STATE   POD          CONTAINER      INTERFACE  HOST VF  VF                 ADDRESSES
        made    default/web  0123456789abc  eth0       0.3      0000:01:11.0 eth4  10.244.0.2 fd00::2
        making  default/web  c2             eth0       0.3      0000:01:11.0 eth4
        damaged: `c3:eth0`: it is no record: EOF while parsing an object at line 1 column 1
        ");
    }
}
