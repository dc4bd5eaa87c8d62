//! The way to the console: a client that asks for its database has proved who it is, and goes on there.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use super::card::Card;
use super::farewell::Farewell;
use super::server::Server;
use crate::net::Stream;

/// The database under whose name the console answers.
pub const NAME: &str = crate::config::CONSOLE;

/// Answers a client of the console until it leaves or is ended. Why it ends is left to be said on what is left of it.
pub type Console = Box<dyn Fn(Visitor) -> Pin<Box<dyn Future<Output = (Farewell, Stream)>>> + Send + Sync>;

/// A client of the console.
pub struct Visitor {
    /// Its connection; it has not been told that its login succeeded.
    pub stream: Stream,
    /// What has been read of it and not been answered.
    pub unread: Box<[u8]>,
    /// Where it is; None: not over IP.
    pub address: Option<SocketAddr>,
    /// Who it is.
    pub user: Arc<str>,
    /// What others see of it, and end it by.
    pub card: Rc<Card>,
}

/// What a user may do at the console.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Look.
    Look,
    /// Look and change.
    Change,
}

impl Server {
    /// What a user may do at the console; None: nothing, or there can be no such user.
    pub fn console_right(&self, user: &str) -> Option<Right> {
        let is_one = |users: &[Arc<str>]| users.iter().any(|one| **one == *user);
        let may_be = self.users.contains_key(user) || self.clusters.iter().any(|cluster| cluster.auth_query.is_some());
        match (is_one(&self.console_users), is_one(&self.stats_users)) {
            (true, _) if may_be => Some(Right::Change),
            (false, true) if may_be => Some(Right::Look),
            _ => None,
        }
    }
}
