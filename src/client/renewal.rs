//! A client follows a configuration that has been read anew: at its next unit, or while it keeps its lease, where that is of the
//! same nodes.

use std::sync::Arc;

use super::conversation::Client;
use super::held_lease::HeldLease;
use super::refused_settings::RefusedSettings;
use super::server::{Database, Server};
use crate::session::{Identity, Settings};

/// What a client came for is no longer in the configuration.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Gone {
    /// Its database.
    #[error("terminating connection: its database has been taken out of the configuration")]
    Database,
    /// Its user.
    #[error("terminating connection: its user has been taken out of the configuration")]
    User,
}

impl Client {
    /// The configuration has been read anew since the client last looked.
    #[inline]
    pub(super) fn is_outdated(&self) -> bool {
        !self.worker.serves_by(&self.server)
    }

    /// With its lease kept, it has found that it may go on by the configuration in force as it goes on.
    pub(super) fn has_looked_at_reload(&self) -> bool {
        self.looked_at.as_ref().is_some_and(|server| self.worker.serves_by(server))
    }

    /// A client that keeps its lease ends, too, where its database or user is gone. Otherwise the configuration in force counts,
    /// unless nodes or databases are others by it, or its server connection would go back at another time: the lease is of the
    /// one before.
    pub(super) fn renew_while_held(&mut self) -> Result<(), Gone> {
        let server = self.worker.server();
        let (database, user) = (self.database_in(&server)?, &self.session.identity.user);
        // A node that Patroni has listed meanwhile has another gate.
        let gate = |held: &HeldLease| server.cluster(&database).gate(held.lease.node()).map(Arc::as_ptr);
        let is_same = server.cluster(&database).has_nodes_of(self.cluster())
            && self.held.as_ref().is_none_or(|held| gate(held) == Some(Arc::as_ptr(held.lease.pool().gate())))
            && database.server_name == self.database.server_name
            && server.mode_of(&database, user) == self.mode;
        self.looked_at = Some(server);
        if is_same { self.renew() } else { Ok(()) }
    }

    /// Its database by this configuration, if it may use it still.
    fn database_in(&self, server: &Server) -> Result<Arc<Database>, Gone> {
        let Identity { user, database, .. } = &self.session.identity;
        let database = server.database(database).ok_or(Gone::Database)?;
        if server.may_have(user, &database) { Ok(database) } else { Err(Gone::User) }
    }

    /// From here on, the configuration in force counts. Not with a lease of other nodes: it belongs to a pool of the one before.
    pub(super) fn renew(&mut self) -> Result<(), Gone> {
        let server = self.worker.server();
        let database = self.database_in(&server)?;
        let user = server.users.get(&self.session.identity.user);
        // What the client has proved itself is good as long as nothing else is configured.
        let password = user.and_then(|user| user.server_password.clone()).or(self.password.take());
        if !server.cluster(&database).has_nodes_of(self.cluster()) {
            // Nodes have other numbers there.
            self.session.freshness.renumbered(server.cluster(&database).has_history_of(self.cluster()));
            self.forget_losses();
            self.refused = RefusedSettings::default();
            self.stays_with = None;
        }
        self.mode = server.mode_of(&database, &self.session.identity.user);
        // By the configuration it has logged in with, it may have had a place.
        server.has_let_in(&database.name);
        self.session.gathered.keep_rules(&self.server.rules);
        (self.server, self.database, self.password) = (server, database, password);
        self.looked_at = None;
        self.session.is_shown_there(Settings::default()); // what is not set may mean something else now
        self.pools.clear();
        Ok(())
    }
}
