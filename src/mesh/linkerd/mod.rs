//! Linkerd: the options of linkerd2-proxy-init and the rules that follow from them; those of its network validator.

mod flags;
mod options;
mod plan;
pub mod validator;

pub use flags::FLAGS;
pub use options::{Options, Subnet};
pub use plan::plan;
