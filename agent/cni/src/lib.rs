//! What the CNI specification says of versions, results and errors: the host's plugin answers with these,
//! and the card's agent reads them from the plugins that it runs.

pub mod address;

mod code;
mod result;
mod version;

pub use code::{Code, Report};
pub use result::{Address, Dns, Interface, Outcome, Route};
pub use version::{Version, Versions};
