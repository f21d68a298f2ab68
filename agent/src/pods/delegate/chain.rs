//! A list's plugins, called one after the other for one attachment: forward for ADD and CHECK, backward for DEL.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use dpu_cni::{Outcome, Version};
use serde_json::{Map, Value, json};

use super::exec::{Plugins, Start};
use super::list::{List, Plugin, is_name};
use crate::pods::network::{Attachment, End, Refusal};

/// A list for one attachment.
pub struct Chain<'a> {
    plugins: &'a Plugins,
    list: &'a List,
    attachment: &'a Attachment,
    namespace: &'a Path,
    /// Addresses that the network is to have (capability `ips`); any where there are none.
    wanted: &'a [End],
}

impl<'a> Chain<'a> {
    /// The calls for `attachment`, whose VF is in the network namespace at `namespace`.
    ///
    /// # Errors
    /// Where something of the attachment can't be said in CNI's words.
    pub fn new(
        plugins: &'a Plugins,
        list: &'a List,
        attachment: &'a Attachment,
        namespace: &'a Path,
        wanted: &'a [End],
    ) -> Result<Self> {
        let Attachment { container, interface, vf, pod, .. } = attachment;
        if !is_name(container) {
            bail!("`{}` is no container's id", container.escape_debug());
        }
        for name in [interface, &vf.interface] {
            let bad = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
            if name.is_empty() || name == "." || name == ".." || name.len() > 15 || name.contains(bad) {
                bail!("`{}` is no interface's name", name.escape_debug());
            }
        }
        for text in [&pod.namespace, &pod.name, &pod.uid] {
            if text.contains([';', '=', '\0']) {
                bail!("`{}` is no name of a pod", text.escape_debug());
            }
        }
        Ok(Self { plugins, list, attachment, namespace, wanted })
    }

    /// Makes the network, and gives what the last plugin answered.
    ///
    /// # Errors
    /// With what the last plugin answered that succeeded, for [`Chain::del`]: it has to be called.
    pub async fn add(&self, deadline: Instant) -> Result<Value, (Refusal, Option<Value>)> {
        let mut result = None;
        for plugin in &self.list.plugins {
            let made = self.call("ADD", plugin, result.as_ref(), deadline).await;
            match made.and_then(|answer| self.result(plugin, &answer).map_err(Refusal::Never)) {
                Ok(made) => result = Some(made),
                Err(refusal) => return Err((refusal, result)),
            }
        }
        // A list has at least one plugin.
        result.ok_or_else(|| (Refusal::Never(anyhow!("no plugin was called")), None))
    }

    /// Has the plugins compare what is there with `result`.
    pub async fn check(&self, result: &Value, deadline: Instant) -> Result<(), Refusal> {
        for plugin in &self.list.plugins {
            self.call("CHECK", plugin, Some(result), deadline).await?;
        }
        Ok(())
    }

    /// Takes the network away. A plugin that fails does not stop the others, and all errors are told.
    pub async fn del(&self, result: Option<&Value>, deadline: Instant) -> Result<(), Refusal> {
        // DEL has known the result since 0.4.0.
        let result = result.filter(|_| self.list.version >= Version::V0_4_0);
        let mut failed: Option<Refusal> = None;
        for plugin in self.list.plugins.iter().rev() {
            if let Err(refusal) = self.call("DEL", plugin, result, deadline).await {
                failed = Some(match failed {
                    None => refusal,
                    Some(before) => both(before, refusal),
                });
            }
        }
        failed.map_or(Ok(()), Err)
    }

    async fn call(
        &self,
        command: &'static str,
        plugin: &Plugin,
        result: Option<&Value>,
        deadline: Instant,
    ) -> Result<Vec<u8>, Refusal> {
        let input = serde_json::to_vec(&self.input(plugin, result)).context("writing its configuration");
        let input = input.map_err(Refusal::Never)?;
        self.plugins
            .run(&plugin.kind, Start { command, environment: self.environment(), input }, deadline)
            .await
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        let Attachment { container, vf, .. } = self.attachment;
        vec![
            ("CNI_CONTAINERID", container.clone()),
            ("CNI_IFNAME", vf.interface.clone()),
            ("CNI_NETNS", self.namespace.display().to_string()),
            // Plugins refuse their own namespace since CNI's library 1.2, but for those who mean it.
            ("CNI_NETNS_OVERRIDE", "1".to_owned()),
            ("CNI_ARGS", self.arguments()),
        ]
    }

    fn arguments(&self) -> String {
        let Attachment { container, pod, .. } = self.attachment;
        let words = [
            ("IgnoreUnknown", "1"),
            ("K8S_POD_NAMESPACE", &pod.namespace),
            ("K8S_POD_NAME", &pod.name),
            ("K8S_POD_INFRA_CONTAINER_ID", container),
            ("K8S_POD_UID", &pod.uid),
        ];
        let said = words.iter().filter(|(_, value)| !value.is_empty());
        said.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(";")
    }

    fn input(&self, plugin: &Plugin, result: Option<&Value>) -> Map<String, Value> {
        let mut added = Map::new();
        if self.list.plugins.first().is_some_and(|first| std::ptr::eq(first, plugin)) {
            added.insert("MacAddr".into(), self.attachment.mac.clone().into());
            added.insert("VfPCI".into(), self.attachment.vf.address.clone().into());
        }
        if let Some(result) = result {
            added.insert("prevResult".into(), result.clone());
        }
        let runtime = self.runtime(plugin);
        if !runtime.is_empty() {
            added.insert("runtimeConfig".into(), runtime.into());
        }
        self.list.input(plugin, &added)
    }

    /// What the plugin wants to be told by the runtime, of what there is to tell. The pod's hardware address is not
    /// among it: plugins would give it to the interface that they are called for, which is the card's.
    fn runtime(&self, plugin: &Plugin) -> Map<String, Value> {
        let mut runtime = Map::new();
        if !self.wanted.is_empty() && plugin.capabilities.contains("ips") {
            let whole =
                |end: &End| format!("{}/{}", end.address, if end.address.is_ipv4() { 32 } else { 128 });
            runtime.insert("ips".into(), self.wanted.iter().map(whole).collect::<Vec<_>>().into());
        }
        if plugin.capabilities.contains("deviceID") {
            runtime.insert("deviceID".into(), self.attachment.vf.address.clone().into());
        }
        runtime
    }

    /// What a plugin answered to ADD, in the list's version. Fields that we do not know are left as they are.
    fn result(&self, plugin: &Plugin, answer: &[u8]) -> Result<Value> {
        let reading = || format!("reading what the plugin `{}` answered to ADD", plugin.kind);
        let mut json: Map<String, Value> = serde_json::from_slice(answer).with_context(reading)?;
        let outcome: Outcome = serde_json::from_value(Value::Object(json.clone())).with_context(reading)?;
        if outcome.version.is_empty() {
            json.insert("cniVersion".into(), self.list.version.text().into());
        } else if outcome.version != self.list.version.text() {
            return serde_json::to_value(outcome.in_version(self.list.version)).with_context(reading);
        }
        Ok(json.into())
    }
}

/// Calls that are for the whole network.
pub async fn call_all(
    plugins: &Plugins,
    list: &List,
    command: &'static str,
    added: &Map<String, Value>,
    deadline: Instant,
) -> Vec<Refusal> {
    let mut failed = Vec::new();
    for plugin in &list.plugins {
        let input = json!(list.input(plugin, added)).to_string().into_bytes();
        let start = Start { command, environment: Vec::new(), input };
        failed.extend(plugins.run(&plugin.kind, start, deadline).await.err());
    }
    failed
}

/// Two refusals as one: to be tried again where one of them is.
pub fn both(one: Refusal, other: Refusal) -> Refusal {
    let later = matches!(one, Refusal::Later(_)) || matches!(other, Refusal::Later(_));
    let error = anyhow!("{:#}; {:#}", reason(one), reason(other));
    if later { Refusal::Later(error) } else { Refusal::Never(error) }
}

/// Why it was refused.
pub fn reason(refusal: Refusal) -> anyhow::Error {
    match refusal {
        Refusal::Later(error) | Refusal::Never(error) => error,
    }
}
