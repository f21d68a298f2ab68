//! What the CNI specification says of the plugin's input and output.

mod invocation;

pub use dpu_cni::{Address, Code, Dns, Interface, Outcome, Report, Route, Version, Versions};
pub use invocation::{Attachment, Command, Invocation, Pod};
