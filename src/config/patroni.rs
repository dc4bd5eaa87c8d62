//! `cluster.patroni` and `cluster.patroni_tls`: where Patroni's REST API is, and TLS on the way there.

use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ClientConfig;

use super::document::{Item, Table};
use super::{PatroniUrl, address, tls};
use crate::auth::{NotAfter, Secret, percent};

/// What a cluster's table says of Patroni.
pub(super) struct Patroni {
    /// The list, if it is written.
    pub(super) urls: Option<Vec<PatroniUrl>>,
    /// Whom to trust where a URL begins with `https://`.
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// When what is shown there ends.
    pub(super) certificate_ends: Option<NotAfter>,
}

pub(super) fn read(table: &Table<'_>, folder: &Path) -> Patroni {
    let to_patroni = tls::to_patroni(table, folder);
    let list = table.get("patroni");
    let items = list.as_ref().map(|list| list.secret_list("URLs")).unwrap_or_default();
    if let Some(list) = list.as_ref().filter(|list| items.is_empty() && list.is_list()) {
        list.problem("the list is empty: one member of Patroni is needed to find the others", None);
    }
    let read: Vec<(&Item<'_>, PatroniUrl)> = items.iter().filter_map(|item| Some((item, url(item)?))).collect();
    let mut over_tls = read.iter().filter(|(_, url)| url.is_https).map(|(item, _)| item).peekable();
    match (over_tls.peek(), table.get("patroni_tls")) {
        (None, Some(section)) if read.len() == items.len() && to_patroni.tls.is_some() => {
            section.dangling(
                "no URL of `patroni` begins with https://",
                Some("only such ones are asked over TLS".to_owned()),
            );
        }
        (Some(_), _) if to_patroni.tls.is_none() && !to_patroni.is_wrong => {
            let hint = "write a file of PEM as `ca` into [cluster.patroni_tls], or mode = \"require\" to trust anybody";
            over_tls.for_each(|item| item.problem("nothing says whom to trust there", Some(hint.to_owned())));
        }
        _ => {}
    }
    Patroni {
        urls: list.map(|_| read.into_iter().map(|(_, url)| url).collect()),
        tls: to_patroni.tls,
        certificate_ends: to_patroni.certificate_ends,
    }
}

fn url(item: &Item<'_>) -> Option<PatroniUrl> {
    const EXPECTED: &str = "the URL of Patroni's REST API as in \"http://db1.example.net:8008\"";
    // It may hold a password.
    let text = item.secret_text()?;
    let schemes = [("http://", false), ("https://", true)];
    let found = schemes.into_iter().find_map(|(scheme, is_https)| Some((text.strip_prefix(scheme)?, is_https)));
    let Some((rest, is_https)) = found else {
        item.problem(format!("expected {EXPECTED}"), None);
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
    let login = login.map(|login| basic(login).map_err(|what| item.problem(what, None))).transpose().ok()?;
    Some(PatroniUrl { address: Arc::clone(&address), is_https, login })
}

/// A name and a password in a URL, as HTTP's Basic authentication has them; or what is wrong with them, without a word of
/// theirs.
fn basic(login: &str) -> Result<Secret, &'static str> {
    const PASSWORD: &str = "a name in front of the address needs a password: \"http://name:password@host:port\"";
    const ENCODING: &str = "the login in front of the address is not encoded right: behind a % stand two hexadecimal digits, \
                            and % itself is %25";
    let (name, password) = login.split_once(':').ok_or(PASSWORD)?;
    let (name, password) = percent::decoded(name).zip(percent::decoded(password)).ok_or(ENCODING)?;
    Ok(Secret::new(STANDARD.encode(format!("{name}:{password}"))))
}
