//! A registry as it is asked: its address, and a token where it wants one.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use docker_credential::DockerCredential;
use http_auth::ChallengeParser;
use serde::Deserialize;
use ureq::Agent;
use ureq::http::Response;

/// The largest manifest that registries have to take (distribution specification, "Pushing Manifests").
const LIMIT: u64 = 4 << 20;

/// A repository of a registry.
#[derive(Debug)]
pub struct Place {
    pub host: String,
    /// `https://host/v2/name`
    pub base: String,
    repository: String,
}

/// What a token service answers: the older name or the newer (distribution, auth/token.md).
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// What a registry says it wants.
#[derive(Debug, PartialEq, Eq)]
enum Wants {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

impl Place {
    pub fn new(host: &str, repository: &str) -> Self {
        // Docker's registry has another name than its images.
        let server = if host == "docker.io" { "registry-1.docker.io" } else { host };
        let name = host.split(':').next().unwrap_or(host);
        let scheme = if ["localhost", "127.0.0.1"].contains(&name) { "http" } else { "https" };
        let base = format!("{scheme}://{server}/v2/{repository}");
        Self { host: host.to_owned(), base, repository: repository.to_owned() }
    }

    /// A small document.
    pub fn get(&self, path: &str, accept: &str, patience: Duration) -> Result<Vec<u8>> {
        let agent = agent(patience);
        let address = format!("{}/{path}", self.base);
        let ask = |token: Option<&str>| {
            let mut request = agent.get(&address).header("Accept", accept);
            if let Some(token) = token {
                request = request.header("Authorization", token);
            }
            request.call()
        };
        let mut answer = ask(None)?;
        if answer.status() == 401 {
            let token = self.token(&agent, &answer)?;
            answer = ask(token.as_deref())?;
        }
        match answer.status().as_u16() {
            200 => {}
            401 | 403 => bail!("it does not let this user at `{}`", self.repository),
            404 => bail!("it has no `{}`", path.trim_start_matches("manifests/")),
            code => bail!("it answered {code}"),
        }
        Ok(answer.body_mut().with_config().limit(LIMIT).read_to_vec()?)
    }

    /// The `Authorization` that downloads need; none where the registry asks for none.
    pub fn authorization(&self, patience: Duration) -> Result<Option<String>> {
        let agent = agent(patience);
        let root = self.base.strip_suffix(&self.repository).unwrap_or(&self.base);
        let answer = agent.get(root).call()?;
        if answer.status() == 401 { self.token(&agent, &answer) } else { Ok(None) }
    }

    fn token<B>(&self, agent: &Agent, answer: &Response<B>) -> Result<Option<String>> {
        let mut headers = answer.headers().get_all("WWW-Authenticate").iter();
        let wants = headers.find_map(|header| wants(header.to_str().ok()?));
        let wants = wants.context("it wants a login of a kind that is not known here")?;
        let credential = credential(&self.host);
        let basic = match &credential {
            Some(DockerCredential::UsernamePassword(user, password)) => {
                Some(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
            }
            _ => None,
        };
        let Wants::Bearer { realm, service } = wants else {
            return Ok(basic);
        };
        let scope = format!("repository:{}:pull", self.repository);
        let service = service.unwrap_or_default();
        let mut answer = if let Some(DockerCredential::IdentityToken(token)) = &credential {
            // A token that stands for a login is exchanged (distribution, auth/oauth.md).
            agent.post(&realm).send_form([
                ("grant_type", "refresh_token"),
                ("client_id", "dpukit"),
                ("service", &service),
                ("scope", &scope),
                ("refresh_token", token),
            ])?
        } else {
            let mut request = agent.get(&realm).query("service", &service).query("scope", &scope);
            if let Some(basic) = &basic {
                request = request.header("Authorization", basic);
            }
            request.call()?
        };
        if answer.status() != 200 {
            let who = if credential.is_some() { "the login that is kept" } else { "no login" };
            bail!("`{realm}` gives no token for {who}: it answered {}", answer.status().as_u16());
        }
        let bytes = answer.body_mut().with_config().limit(LIMIT).read_to_vec()?;
        let token: Token = serde_json::from_slice(&bytes).map_err(|_| anyhow!("`{realm}` gave no token"))?;
        let token = token.token.or(token.access_token).with_context(|| format!("`{realm}` gave no token"))?;
        Ok(Some(format!("Bearer {token}")))
    }
}

fn agent(patience: Duration) -> Agent {
    Agent::config_builder()
        .timeout_resolve(Some(patience))
        .timeout_connect(Some(patience))
        .timeout_recv_response(Some(patience))
        .timeout_recv_body(Some(patience))
        .max_redirects(5)
        .http_status_as_error(false)
        .user_agent(concat!("dpukit/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// What the user gave podman or skopeo, else docker.
fn credential(host: &str) -> Option<DockerCredential> {
    let server = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
    docker_credential::get_podman_credential(host).or_else(|_| docker_credential::get_credential(server)).ok()
}

/// The first way of a `WWW-Authenticate` that is known here (RFC 9110, 11.6.1; RFC 6750, 3).
fn wants(header: &str) -> Option<Wants> {
    for challenge in ChallengeParser::new(header) {
        let challenge = challenge.ok()?;
        let parameter = |name: &str| {
            let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.to_unescaped())
        };
        if challenge.scheme.eq_ignore_ascii_case("bearer") {
            let realm = parameter("realm").filter(|realm| is_safe(realm))?;
            return Some(Wants::Bearer { realm, service: parameter("service") });
        }
        if challenge.scheme.eq_ignore_ascii_case("basic") {
            return Some(Wants::Basic);
        }
    }
    None
}

/// Passwords go to no token service in the clear, but for one on this machine.
fn is_safe(realm: &str) -> bool {
    let is_local = ["http://localhost", "http://127.0.0.1"]
        .iter()
        .any(|local| realm.strip_prefix(local).is_some_and(|rest| rest.starts_with([':', '/'])));
    realm.starts_with("https://") || is_local
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_registrys_wish_is_understood() {
        let bearer =
            |realm: &str| Wants::Bearer { realm: realm.into(), service: Some("registry.example.org".into()) };
        let header = r#"Bearer realm="https://auth.example.org/token",service="registry.example.org""#;
        assert_eq!(wants(header), Some(bearer("https://auth.example.org/token")));
        assert_eq!(wants(r#"Negotiate, Basic realm="x""#), Some(Wants::Basic));
        assert_eq!(wants(r#"Bearer realm="http://auth.example.org/token""#), None, "in the clear");
        assert_eq!(wants(""), None);
    }

    proptest! {
        #[test]
        fn no_header_makes_the_parser_panic(header in ".*") {
            wants(&header);
        }
    }
}
