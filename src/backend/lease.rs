//! A server connection while a session holds it: returned clean, or closed, never forgotten.

use std::sync::Arc;
use std::time::Instant;

use super::connection::Connection;
use super::pool::Pool;
use crate::session::Known;
use crate::topology::NodeId;

/// A server connection while a session holds it. Dropping it closes the connection.
pub struct Lease {
    /// Boxed: a connection is lent and given back for every statement, and is large.
    connection: Option<Box<Connection>>,
    pool: Arc<Pool>,
}

impl Lease {
    pub(super) fn new(connection: Box<Connection>, pool: Arc<Pool>) -> Self {
        pool.gate().leased();
        connection.pass.about().is_lent();
        Self { connection: Some(connection), pool }
    }

    /// The connection.
    pub fn connection(&mut self) -> &mut Connection {
        self.connection.as_mut().expect("only giving it back takes it")
    }

    /// What the connection has, as far as it is known.
    pub fn known(&self) -> &Known {
        &self.connection.as_ref().expect("only giving it back takes it").known
    }

    /// The node.
    pub fn node(&self) -> NodeId {
        self.pool.node()
    }

    /// The pool it came from.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// It goes back, clean: nothing owed, no transaction, no state but what [`crate::session::Known`] tells.
    pub fn give_back(mut self, now: Instant) {
        if let Some(connection) = self.connection.take() {
            self.pool.gate().returned();
            connection.pass.about().is_back(connection.known.count_statements());
            self.pool.put(connection, now);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.connection.take().is_some() {
            self.pool.gate().returned();
        }
    }
}
