//! What the log says of clients: who has logged in, who leaves, and who is turned away, with what it is told.

use std::sync::Arc;

use tracing::info;

use super::card::{Card, ClientReport};
use super::farewell::Farewell;
use super::server::Server;
use crate::wire::SqlState;
use crate::wire::error_response::ErrorFields;

/// It has logged in; said where `log.connections` asks for it.
pub(super) fn has_logged_in(card: &Card, server: &Server) {
    if server.logs_connections {
        let (id, client, user, database) = whose(card);
        info!(id, client, user = &*user, database = &*database, "a client has logged in");
    }
}

/// It leaves, is cut off, or is turned away. Who had not logged in is not said to have left.
pub(super) fn ends(card: &Card, server: &Server, farewell: &Farewell) {
    match farewell {
        Farewell::Told { code, message, .. } => turned_away(card, *code, message),
        Farewell::Quoted { code, fields } => {
            turned_away(card, *code, &String::from_utf8_lossy(ErrorFields::read(fields).message));
        }
        Farewell::Left | Farewell::Lost(_) if server.logs_connections && card.has_logged_in() => {
            let (id, client, user, database) = whose(card);
            info!(id, client, user = &*user, database = &*database, why = %farewell, "a client has left");
        }
        Farewell::Torn | Farewell::EndedByNode if server.logs_connections => {
            let (id, client, user, database) = whose(card);
            info!(id, client, user = &*user, database = &*database, why = %farewell, "a client was cut off");
        }
        _ => {}
    }
}

fn turned_away(card: &Card, code: SqlState, told: &str) {
    let (id, client, user, database) = whose(card);
    let (user, database, code) = (&*user, &*database, code.as_str());
    info!(id, client, user, database, code, told, "a client was turned away");
}

/// Its number, address, user and database; empty what is not known, as the address of one that comes by a socket of this
/// machine. Texts of a client are logged as strings, never by their Display: so a newline in one begins no line of the log.
fn whose(card: &Card) -> (u64, String, Arc<str>, Arc<str>) {
    let ClientReport { id, peer, identity, .. } = card.report();
    let address = peer.map(|peer| peer.to_string()).unwrap_or_default();
    let (user, database) = identity.map(|identity| (identity.user, identity.database)).unwrap_or_default();
    (id.0, address, user, database)
}
