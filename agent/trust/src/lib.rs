//! How a host and a card come to know each other, and prove it ever after. Both sides are made of this.
//!
//! # The card is its own authority
//!
//! At its first start the agent makes an authority (a CA) and signs its own certificate with it
//! ([`card::Trust`]). A host that is paired gets a certificate of that authority. No other card's, no
//! public authority's, no self-made certificate is worth anything, and nothing has to be kept in step
//! between cards. Private keys are made where they are used and never sent.
//!
//! There is one port, always TLS 1.3. A connection without a certificate may ask for health and pair, and
//! nothing else; one with a certificate that is foreign, over or revoked ends in the handshake. The list
//! of paired hosts names every certificate that is good, by its hash, and is looked at for each request:
//! there is no list of revoked certificates that could be missing or too old.
//!
//! # Pairing
//!
//! A [`Code`] is shown by the card, or was given to it at build or boot. SPAKE2 makes of it a key that only
//! two who have the code share ([`exchange`]):
//!
//! | call | host to card | card to host |
//! | --- | --- | --- |
//! | `Start` | SPAKE2 message A | session, SPAKE2 message B |
//! | `Finish` | name, public key, clock, signature, proof | the authority, the host's certificate, proof |
//!
//! Each proof is an HMAC under a key of its own over *everything* that was said before, and over the TLS
//! connection's exported secret (RFC 9266). That secret depends on the server's certificate and on all of
//! the handshake: one in the middle has two connections with two secrets, so that the proofs do not fit,
//! whatever it passes on or swaps. This binds more than the server certificate's hash would.
//!
//! - Who listens or sits in the middle gets nothing to try codes on: each try costs a session, which the
//!   card counts. The host proves first, so that the card gives no proof to one without the code.
//! - Fresh scalars make each session's keys new; a session is good for one `Finish` on its own connection,
//!   for half a minute; of all, four are kept. A recorded pairing can't be replayed.
//! - Tries are limited by [`window::Window`].
//!
//! The host does not send a request of PKCS #10 but its public key and a signature by it (which is all that
//! the request would tell): so the card parses no ASN.1 of strangers before it knows them.
//!
//! SPAKE2 is the crate `spake2`, version 0.4, of the `RustCrypto` organization: pure Rust, kept together with
//! its other PAKEs, and the one that Magic Wormhole in Rust uses. It has had no audit, and does not confirm
//! keys as RFC 9382 does: the proofs above do. Crates that follow that RFC are younger and less used.
//!
//! # Time
//!
//! A card may have no clock that runs while it is off: it starts at the time that systemd-timesyncd kept,
//! or at systemd's own build date. So certificates are good from 1970 on: a clock that is behind refuses
//! nobody. A host tells its time when it pairs or renews, and the later of both clocks counts for the ends of
//! what is signed then, so that a card that never hears the time does not hand out what is over already. A card
//! whose clock is behind notices late that a host's certificate is over; what is *revoked* needs no clock.
//!
//! | certificate | good for | made anew |
//! | --- | --- | --- |
//! | the authority | for ever | only by hand |
//! | the agent's | [`card::SERVER_LIFE`] | by the agent, when half of it is over |
//! | a host's | [`card::HOST_LIFE`] | by the host (`Renew`), when it likes |

pub mod code;
pub mod exchange;
pub mod keep;
pub mod key;

pub mod authority;
pub mod card;
pub mod hosts;
pub mod tls;
pub mod window;

pub mod client;

pub use code::Code;
pub use key::{HostKey, PublicKey};

use std::time::{Duration, SystemTime};

/// The name in every agent's certificate, beside the link's address.
pub const SERVER_NAME: &str = "card.dpukit";

/// The system's clock, since 1970-01-01 UTC.
pub fn now() -> Duration {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default()
}

/// The day of a time since 1970-01-01 UTC, as `2030-12-31`.
pub fn date(time: Duration) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .map_or_else(|_| "after all days".to_owned(), |moment| moment.date().to_string())
}
