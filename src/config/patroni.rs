//! `cluster.patroni`: where Patroni's REST API is.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::PatroniUrl;
use super::address;
use super::document::{Item, Table};
use crate::auth::Secret;

/// The list, if it is written.
pub(super) fn read(table: &Table<'_>) -> Option<Vec<PatroniUrl>> {
    let list = table.get("patroni")?;
    let items = list.secret_list("URLs");
    if items.is_empty() && list.is_list() {
        list.problem("the list is empty: one member of Patroni is needed to find the others", None);
    }
    Some(items.iter().filter_map(url).collect())
}

fn url(item: &Item<'_>) -> Option<PatroniUrl> {
    const EXPECTED: &str = "the URL of Patroni's REST API as in \"http://db1.example.net:8008\"";
    // It may hold a password.
    let text = item.secret_text()?;
    let Some(rest) = text.strip_prefix("http://") else {
        let hint = text.starts_with("https://").then(|| "TLS to Patroni is not there yet".to_owned());
        item.problem(format!("expected {EXPECTED}"), hint);
        return None;
    };
    let (login, rest) = match rest.rsplit_once('@') {
        Some((login, rest)) => (Some(login), rest),
        None => (None, rest),
    };
    let Some(address) = address::parse(rest.trim_end_matches('/')) else {
        item.problem(format!("expected {EXPECTED}"), None);
        return None;
    };
    if login.is_some_and(|login| !login.contains(':')) {
        item.problem("a name in front of the address needs a password: \"http://name:password@host:port\"", None);
        return None;
    }
    let login = login.map(|login| Secret::new(STANDARD.encode(login)));
    Some(PatroniUrl { address: Arc::clone(&address), login })
}
