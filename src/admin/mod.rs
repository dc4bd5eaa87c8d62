//! For operators: HTTP (`/metrics`, `/live`, `/ready`, `/ready/NAME`, `/topology`), which reads what others publish and
//! changes nothing, and the console.

pub mod console;
mod http;
pub mod views;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use arc_swap::ArcSwap;

use crate::client::{Pause, Server};
use crate::metrics::Metrics;
use crate::topology::View;

pub use http::serve;

/// What the endpoints show.
#[derive(Debug)]
pub struct AdminState {
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// The published view of each cluster, for `/ready` and `/topology`.
    pub views: ArcSwap<Vec<Arc<ArcSwap<View>>>>,
    /// Names and pauses of databases, for `/ready`.
    pub pauses: ArcSwap<Vec<(Arc<str>, Arc<Pause>)>>,
    /// Trunkline is stopping: `/ready` says no, so that a load balancer sends nobody new.
    pub draining: AtomicBool,
    /// How often the configuration was to be read anew.
    pub reloads: AtomicU64,
}

impl AdminState {
    /// Shows what is in force.
    pub fn new(metrics: Arc<Metrics>, server: &Server) -> Self {
        let state = Self {
            metrics,
            views: ArcSwap::default(),
            pauses: ArcSwap::default(),
            draining: false.into(),
            reloads: 0.into(),
        };
        state.show(server);
        state
    }

    /// Shows this from now on.
    pub fn show(&self, server: &Server) {
        self.views.store(Arc::new(server.clusters.iter().map(|cluster| Arc::clone(&cluster.view)).collect()));
        let pauses = server.databases.iter().map(|(name, database)| (Arc::clone(name), Arc::clone(&database.pause)));
        let mut pauses: Vec<_> = pauses.collect();
        pauses.sort_by(|(one, _), (other, _)| one.cmp(other));
        self.pauses.store(Arc::new(pauses));
    }
}

#[cfg(test)]
mod tests;
