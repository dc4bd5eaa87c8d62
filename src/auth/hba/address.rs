//! Where connections come from, as a rule says it: networks, this machine, names of hosts.

use std::net::IpAddr;

use super::file::{Word, only};
use super::{Findings, Fit, Mistake, Network, Origin, Question, Surroundings};

/// Where a rule's connections come from.
#[derive(Clone, Debug)]
pub(super) enum Addresses {
    All,
    /// This machine's own addresses.
    SameHost(Vec<IpAddr>),
    Networks(Vec<Network>),
    /// The host of this name.
    Host(Box<str>),
    /// Every host whose name ends so: it begins with a dot.
    Domain(Box<str>),
}

impl Addresses {
    /// Takes the address, and its mask if it has one in a word of its own.
    pub(super) fn parse<'w>(
        fields: &mut impl Iterator<Item = &'w Vec<Word>>,
        surroundings: Surroundings<'_>,
    ) -> Result<Self, Mistake> {
        let missing =
            || Mistake::new("the address is missing", "all, a network as in 10.0.0.0/8, or the name of a host");
        let word = only(fields.next().ok_or_else(missing)?, "the address")?;
        let text = word.text.as_str();
        match word.keyword() {
            Some("all") => return Ok(Self::All),
            Some("samehost") => return Ok(Self::SameHost(surroundings.own_addresses.to_vec())),
            Some("samenet") => return Ok(Self::Networks(surroundings.own_networks.to_vec())),
            _ => {}
        }
        let network = |network: Result<Network, String>| {
            let network = network.map_err(|what| Mistake::new(what, "a network as in 10.0.0.0/8 or 2001:db8::/32"))?;
            Ok(Self::Networks(vec![network]))
        };
        if text.contains('/') {
            return network(Network::parse(text));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            let bits = if address.is_ipv4() { 32 } else { 128 };
            let what = || Mistake::new(format!("the address {text} has no mask"), format!("{text}/{bits}"));
            let mask = only(fields.next().ok_or_else(what)?, "the mask")?;
            mask.text.parse::<IpAddr>().map_err(|_| what())?;
            return network(Network::with_mask(text, &mask.text));
        }
        host_name(text)
    }

    pub(super) fn fit(&self, origin: &Origin<'_>, findings: &Findings) -> Fit {
        let Some(address) = origin.address else { return Ok(true) };
        match self {
            Self::All => Ok(true),
            Self::SameHost(own) => {
                let address = address.to_canonical();
                let came_to = origin.own_address.map(|own| own.to_canonical());
                Ok(came_to == Some(address) || own.contains(&address))
            }
            Self::Networks(networks) => Ok(networks.iter().any(|network| network.contains(address))),
            Self::Host(name) => found(findings, |found| found.eq_ignore_ascii_case(name)),
            Self::Domain(end) => found(findings, |found| {
                let start = found.len().checked_sub(end.len());
                start.and_then(|start| found.get(start..)).is_some_and(|last| last.eq_ignore_ascii_case(end))
            }),
        }
    }
}

fn found(findings: &Findings, is_it: impl Fn(&str) -> bool) -> Fit {
    let name = findings.host_name.as_ref().ok_or(Question::HostName)?;
    Ok(name.as_deref().is_some_and(is_it))
}

/// What can only be a mistyped address is no name.
fn host_name(text: &str) -> Result<Addresses, Mistake> {
    let is_of_names = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_number || !text.bytes().all(is_of_names) {
        let what = format!("{text:?} is neither an address nor the name of a host");
        return Err(Mistake::new(
            what,
            "a network as in 10.0.0.0/8, db1.example.com, .example.com, samehost, samenet or all",
        ));
    }
    Ok(if text.starts_with('.') { Addresses::Domain(text.into()) } else { Addresses::Host(text.into()) })
}
