//! HTTP for operators: `/metrics`, `/live`, `/ready`, `/topology`. It reads what others publish and changes nothing.

mod http;
pub mod views;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use arc_swap::ArcSwap;

use crate::metrics::Metrics;
use crate::topology::View;

pub use http::serve;

/// What the endpoints show.
#[derive(Debug)]
pub struct AdminState {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// The published view of each cluster, for `/ready` and `/topology`.
    pub views: Vec<Arc<ArcSwap<View>>>,
    /// Trunkline is stopping: `/ready` says no, so that a load balancer sends nobody new.
    pub draining: AtomicBool,
}

#[cfg(test)]
mod tests;
