//! Who is primary and who can serve: probe results in, views out. Pure; [`crate::monitor`] does the probing.

pub mod lsn;
pub mod view;

pub use lsn::{Lsn, Timeline};
pub use view::{NodeId, NodeState, NodeView, Role, Sample, View};
