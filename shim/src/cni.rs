//! What the CNI specification says of the plugin's input and output.

mod code;
mod invocation;
mod result;
mod version;

pub use code::{Code, Report};
pub use invocation::{Attachment, Command, Invocation, Pod};
pub use result::{Address, Dns, Interface, Outcome, Route};
pub use version::{Version, Versions};
