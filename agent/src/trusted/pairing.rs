//! The calls by which a host gets its certificates.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use dpu_api::v1::pairing_server::Pairing;
use dpu_api::v1::trust_server::Trust as Renewing;
use dpu_api::v1::{FinishRequest, FinishResponse, RenewRequest, RenewResponse, StartRequest, StartResponse};
use dpu_trust::PublicKey;
use dpu_trust::card::Trust;
use dpu_trust::exchange::{Binding, CardStart, Claim, Session, renewal};
use dpu_trust::hosts::{Fingerprint, check_name};
use dpu_trust::window::{Refusal, Window, uptime};
use tonic::{Request, Response, Status};

use super::accept::Caller;
use super::console::Console;

/// How long a session waits for its end.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many sessions wait at once; one more takes the place of the oldest.
const SESSIONS: usize = 4;
/// How often the agent's certificate is looked at.
const HOUR: Duration = Duration::from_hours(1);

/// Where hosts are paired.
pub struct Desk {
    trust: Arc<Trust>,
    window: Window,
    console: Console,
    sessions: Mutex<VecDeque<Pending>>,
    memory: Mutex<Memory>,
}

/// A session that waits for its end.
struct Pending {
    session: Session,
    /// The connection that it is on.
    binding: Binding,
    serial: u64,
    card: CardStart,
    since: Duration,
}

#[derive(Default)]
struct Memory {
    /// The serial of the code that is on the console.
    shown: u64,
    /// When the agent's certificate is looked at again.
    refresh: Duration,
}

/// The calls, as gRPC has them.
#[derive(Clone)]
pub struct Service(pub Arc<Desk>);

impl Desk {
    /// A desk with its code and its console.
    pub(super) fn new(trust: Arc<Trust>, window: Window, console: Console) -> Self {
        Self { trust, window, console, sessions: Mutex::default(), memory: Mutex::default() }
    }

    /// Shows a new code where one is needed, and renews the agent's certificate where it is due.
    pub(super) fn tend(&self, now: Duration) -> Result<()> {
        self.show(now)?;
        let mut memory = lock(&self.memory);
        if now >= memory.refresh {
            self.trust.refresh(dpu_trust::now())?;
            memory.refresh = now + HOUR;
        }
        Ok(())
    }

    fn show(&self, now: Duration) -> Result<()> {
        let is_wanted = self.trust.roster().hosts()?.all().is_empty();
        if let Some(open) = self.window.tend(now, is_wanted)? {
            let mut memory = lock(&self.memory);
            if memory.shown != open.serial {
                memory.shown = open.serial;
                self.console.show(&open.code);
            }
        }
        Ok(())
    }

    fn start(&self, message: &[u8], binding: &Binding, now: Duration) -> Result<StartResponse, Status> {
        let open = match self.window.current(now).map_err(|error| broken(&error))? {
            Ok(open) => open,
            Err(Refusal::Wait(wait)) => return Err(too_many(wait)),
            Err(Refusal::Closed) => {
                return Err(Status::failed_precondition(
                    "the card does not wait for a host: run `dpu-agent pairing open` on it",
                ));
            }
        };
        let started = CardStart::new(&open.code, binding, message);
        let (card, session, message) =
            started.map_err(|error| Status::invalid_argument(format!("{error:#}")))?;
        let mut sessions = lock(&self.sessions);
        sessions.retain(|pending| now < pending.since + PATIENCE);
        if sessions.len() >= SESSIONS {
            sessions.pop_front();
        }
        sessions.push_back(Pending { session, binding: *binding, serial: open.serial, card, since: now });
        Ok(StartResponse { session: session.to_vec(), message })
    }

    fn finish(
        &self,
        request: FinishRequest,
        binding: &Binding,
        now: Duration,
    ) -> Result<FinishResponse, Status> {
        // Whatever becomes of it, the session is over.
        let pending = {
            let mut sessions = lock(&self.sessions);
            let place = sessions.iter().position(|pending| pending.session[..] == request.session[..]);
            place
                .and_then(|place| sessions.remove(place))
                .filter(|pending| pending.binding == *binding && now < pending.since + PATIENCE)
        };
        let pending =
            pending.ok_or_else(|| Status::failed_precondition("there is no such session: start anew"))?;
        check_name(&request.name).map_err(|error| Status::invalid_argument(format!("{error:#}")))?;
        let key = public_key(&request.public_key)?;
        let claim = Claim { name: request.name, key, time: request.time };
        let Ok(card) = pending.card.check(&claim, &request.possession, &request.proof) else {
            let wait = self.window.wrong(pending.serial, now).map_err(|error| broken(&error))?;
            tracing::warn!(
                "a host tried to pair with a wrong code; the next has to wait {} s",
                wait.as_secs()
            );
            self.show(now).map_err(|error| broken(&error))?;
            return Err(Status::permission_denied(format!(
                "the code is not the card's; the next try has to wait {} s",
                wait.as_secs()
            )));
        };
        if !self.window.spend(pending.serial, now).map_err(|error| broken(&error))? {
            return Err(Status::failed_precondition("the code is over: use the one that the card shows now"));
        }
        let signed = self.trust.pair(&claim.name, claim.key, later(claim.time));
        let signed = signed.map_err(|error| broken(&error))?;
        tracing::info!(host = claim.name, "paired");
        let proof = card.prove(&signed.authority, &signed.certificate);
        Ok(FinishResponse { authority: signed.authority, certificate: signed.certificate, proof })
    }

    fn renew(
        &self,
        request: &RenewRequest,
        binding: &Binding,
        has: &Fingerprint,
    ) -> Result<RenewResponse, Status> {
        let key = public_key(&request.public_key)?;
        if !key.signed(&renewal(binding, key, request.time), &request.possession) {
            return Err(Status::invalid_argument("the new key did not sign this connection"));
        }
        let signed = self.trust.renew(has, key, later(request.time)).map_err(|error| broken(&error))?;
        tracing::info!("a host renewed its certificate");
        Ok(RenewResponse { certificate: signed.certificate })
    }
}

#[tonic::async_trait]
impl Pairing for Service {
    async fn start(&self, request: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let (binding, _) = caller(&request)?;
        let message = request.into_inner().message;
        self.run(move |desk| desk.start(&message, &binding, uptime())).await
    }

    async fn finish(&self, request: Request<FinishRequest>) -> Result<Response<FinishResponse>, Status> {
        let (binding, _) = caller(&request)?;
        let request = request.into_inner();
        self.run(move |desk| desk.finish(request, &binding, uptime())).await
    }
}

#[tonic::async_trait]
impl Renewing for Service {
    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<RenewResponse>, Status> {
        let (binding, certificate) = caller(&request)?;
        let certificate = certificate.ok_or_else(|| Status::unauthenticated("without a certificate"))?;
        let request = request.into_inner();
        self.run(move |desk| desk.renew(&request, &binding, &certificate)).await
    }
}

impl Service {
    /// Does what writes to the disk where it holds up no other call.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Desk) -> Result<T, Status> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let desk = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&desk)).await;
        done.map_err(|error| broken(&error.into()))?.map(Response::new)
    }
}

/// Whose connection a call came by.
fn caller<T>(request: &Request<T>) -> Result<(Binding, Option<Fingerprint>), Status> {
    let caller = request.extensions().get::<Caller>();
    let binding = caller.and_then(|caller| Some((caller.binding?, caller.certificate)));
    binding.ok_or_else(|| Status::failed_precondition("pairing needs TLS"))
}

fn public_key(octets: &[u8]) -> Result<PublicKey, Status> {
    let octets = octets.try_into();
    octets.map(PublicKey).map_err(|_| Status::invalid_argument("a public key has 32 octets"))
}

/// The later of both sides' clocks. No clock that is right is beyond 2100-01-01.
fn later(theirs: u64) -> Duration {
    const LATEST: u64 = 4_102_444_800;
    dpu_trust::now().max(Duration::from_secs(theirs.min(LATEST)))
}

fn too_many(wait: Duration) -> Status {
    // Not less than has to be waited.
    let seconds = wait.as_millis().div_ceil(1000);
    Status::resource_exhausted(format!("a wrong code was tried: try again in {seconds} s"))
}

/// What is wrong with the card is for its journal, not for strangers.
fn broken(error: &anyhow::Error) -> Status {
    tracing::error!("pairing: {error:#}");
    Status::internal("the card can't pair: see the agent's journal")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::{IpAddr, Ipv4Addr};

    use dpu_trust::exchange::{Answer, HostStart};
    use dpu_trust::{Code, HostKey};
    use proptest::prelude::*;
    use tempfile::TempDir;
    use tonic::Code as Said;

    use super::*;

    const CODE: &str = "ACDEF-GHJKM";
    const BINDING: Binding = [7; 32];

    /// A desk whose card was given [`CODE`].
    fn desk() -> (TempDir, Desk) {
        let folder = tempfile::tempdir().unwrap();
        let trust = folder.path().join("trust");
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let window = Window::new(&folder.path().join("run"), &trust);
        let trust = Arc::new(Trust::open(&trust, address, dpu_trust::now()).unwrap());
        window.give(&CODE.parse().unwrap(), at(0)).unwrap();
        let console = folder.path().join("console");
        fs::write(&console, "").unwrap();
        (folder, Desk::new(trust, window, Console::new(&console)))
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// The first half of a pairing, and what the host sends for the second.
    fn begin(desk: &Desk, code: &str, now: Duration) -> Result<FinishRequest, Status> {
        let code: Code = code.parse().unwrap();
        let (host, message) = HostStart::new(&code, &BINDING);
        let started = desk.start(&message, &BINDING, now)?;
        let key = HostKey::random().unwrap();
        let claim = Claim { name: "node1".into(), key: key.public().unwrap(), time: u64::MAX };
        let (_, Answer { possession, proof }) =
            host.answer(&started.session, &started.message, &claim, &key).unwrap();
        let public_key = claim.key.0.to_vec();
        let (session, name, time) = (started.session, claim.name, claim.time);
        Ok(FinishRequest { session, name, public_key, time, possession, proof })
    }

    fn pair(desk: &Desk, code: &str, now: Duration) -> Result<FinishResponse, Status> {
        desk.finish(begin(desk, code, now)?, &BINDING, now)
    }

    #[test]
    fn who_guesses_is_slowed_down_and_gets_another_code_to_guess() {
        let (folder, desk) = desk();
        let mut now = at(10);
        for wait in [1, 2, 4, 8, 16] {
            let said = pair(&desk, "ACDEF-GHJKN", now).unwrap_err();
            assert_eq!(said.code(), Said::PermissionDenied, "{said}");
            let said = pair(&desk, CODE, now + Duration::from_millis(1000 * wait - 1)).unwrap_err();
            assert_eq!(said.code(), Said::ResourceExhausted, "{said}");
            assert!(said.message().ends_with("try again in 1 s"), "{said}");
            now += at(wait);
        }
        let said = pair(&desk, CODE, now).unwrap_err();
        assert_eq!(said.code(), Said::PermissionDenied, "the code is worth nothing any more: {said}");
        let shown = fs::read_to_string(folder.path().join("console")).unwrap();
        let code = shown.split("with the code ").nth(1).unwrap().lines().next().unwrap();
        pair(&desk, code, now + at(32)).unwrap();
    }

    #[test]
    fn sessions_that_were_begun_at_once_are_as_many_tries() {
        let (_folder, desk) = desk();
        let begun: Vec<_> = (0..6).map(|_| begin(&desk, "ACDEF-GHJKN", at(0)).unwrap()).collect();
        let said: Vec<_> =
            begun.into_iter().map(|one| desk.finish(one, &BINDING, at(0)).unwrap_err().code()).collect();
        let (gone, wrong) = (Said::FailedPrecondition, Said::PermissionDenied);
        assert_eq!(said, [gone, gone, wrong, wrong, wrong, wrong], "four are kept, and each was a try");
        let said = pair(&desk, CODE, at(1)).unwrap_err();
        assert_eq!(said.message(), "a wrong code was tried: try again in 7 s");
        pair(&desk, CODE, at(8)).unwrap();
    }

    #[test]
    fn a_session_ends_by_itself() {
        let (_folder, desk) = desk();
        let late = begin(&desk, CODE, at(0)).unwrap();
        assert_eq!(desk.finish(late, &BINDING, at(30)).unwrap_err().code(), Said::FailedPrecondition);
        let good = begin(&desk, CODE, at(30)).unwrap();
        desk.finish(good, &BINDING, at(59)).unwrap();
    }

    #[test]
    fn a_host_whose_clock_is_at_the_end_of_time_gets_a_certificate() {
        let (_folder, desk) = desk();
        pair(&desk, CODE, at(0)).unwrap();
        let hosts = desk.trust.roster().hosts().unwrap();
        assert_eq!(dpu_trust::date(Duration::from_secs(hosts.all()[0].certificates[0].ends)), "2101-01-01");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn no_message_makes_it_panic_or_pair(
            start in prop::collection::vec(any::<u8>(), 0..40),
            name: String,
            public_key in prop_oneof![prop::collection::vec(any::<u8>(), 32), prop::collection::vec(any::<u8>(), 0..40)],
            time: u64,
            possession in prop::collection::vec(any::<u8>(), 0..70),
            proof in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let (_folder, desk) = desk();
            let _ = desk.start(&start, &BINDING, at(0));
            let session = begin(&desk, CODE, at(0)).unwrap().session;
            let request = FinishRequest { session, name, public_key, time, possession, proof };
            prop_assert!(desk.finish(request, &BINDING, at(0)).is_err());
            prop_assert!(desk.trust.roster().hosts().unwrap().all().is_empty());
        }
    }
}
