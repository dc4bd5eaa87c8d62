//! Whether whoever has given a command still wants it: it is cancelled as any statement is, and is none of one who has left or is
//! sent away.

use std::time::Duration;

use crate::backend::cancel::Issued;
use crate::client::card::Card;
use crate::net::{Socket, timers};

/// The wish of a client of the console that its command be done.
#[derive(Clone, Copy)]
pub(super) struct Wish<'v> {
    /// What cancels it.
    pub(super) key: &'v Issued,
    /// The client's.
    pub(super) socket: &'v Socket,
    /// It is ended by this.
    pub(super) card: &'v Card,
}

/// Why a command is wanted no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withdrawn {
    /// A CancelRequest has come.
    Cancelled,
    /// The client has closed its connection.
    Left,
    /// The client is sent away.
    Ended,
}

/// A command that waits looks this often whether its client is still there: it is one system call.
const LOOK: Duration = Duration::from_millis(100);

impl Wish<'_> {
    /// Returns when the command is wanted no more. Cancel-safe: it changes nothing.
    pub(super) async fn is_withdrawn(self) -> Withdrawn {
        tokio::select! {
            // Dropping any loses nothing: a cancel counts only while somebody waits for one, and an end stays.
            _ = self.card.until_ended() => Withdrawn::Ended,
            () = self.key.cancelled() => Withdrawn::Cancelled,
            () = self.has_left() => Withdrawn::Left,
        }
    }

    async fn has_left(self) {
        while !self.socket.has_ended() {
            timers::sleep(LOOK).await;
        }
    }
}
