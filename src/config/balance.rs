//! `[cluster.balance]` and `[[cluster.node]]`: how the nodes of a cluster share reads, and what is to be known of them.

use std::sync::Arc;
use std::time::Duration;

use crate::balancing::{Balance, Seat, Strategy};

use super::cluster::node_named;
use super::document::{Distinct, Item, Table, nearest};
use super::name;

/// What `[[cluster.node]]` says of each of a cluster's nodes, in their order.
pub(super) struct Seats(Vec<Described>);

#[derive(Default)]
struct Described {
    weight: Option<u16>,
    zone: Option<Arc<str>>,
    tags: Vec<Arc<str>>,
}

/// A node of weight 1000 beside one of weight 1 gets all but a thousandth of the reads; more is another word for 0.
const MOST_WEIGHT: usize = 1000;

impl Seats {
    /// What is said of the nodes; of most of them nothing is.
    pub(super) fn read(cluster: &Table<'_>, nodes: &[Arc<str>]) -> Self {
        let mut seats: Vec<Described> = nodes.iter().map(|_| Described::default()).collect();
        let mut distinct = Distinct::new();
        for table in cluster.tables("node") {
            let address = table.require("address", "which of the cluster's nodes it is");
            let place = address.and_then(|item| node_named(&item, nodes, &mut distinct));
            let described = Described::read(&table);
            table.finish();
            if let Some(seat) = place.and_then(|place| seats.get_mut(usize::from(place))) {
                *seat = described;
            }
        }
        Self(seats)
    }

    /// How the cluster's nodes share reads.
    pub(super) fn balance(&self, cluster: &Table<'_>) -> Balance {
        const LONGEST: Duration = Duration::from_secs(3600);
        let table = cluster.section("balance");
        let zone = table.get("zone").and_then(|item| self.known("zone", &item));
        let seat =
            |node: &Described| Seat { weight: node.weight.unwrap_or(1), is_near: zone.is_none() || node.zone == zone };
        let balance = Balance {
            strategy: table.choice("strategy", &Strategy::NAMES, Strategy::LeastLeases),
            slow_start: table.duration("slow_start", Duration::from_secs(10), Duration::ZERO..=LONGEST),
            sticky: table.flag("sticky", false),
            seats: self.0.iter().map(seat).collect(),
        };
        table.finish();
        balance
    }

    /// The groups that tags and zones make: `tag:NAME` and `zone:NAME`.
    pub(super) fn groups(&self) -> Vec<(Arc<str>, Vec<u16>)> {
        let mut groups = Vec::new();
        for what in ["tag", "zone"] {
            for word in self.words(what) {
                groups.push((format!("{what}:{word}").into(), self.with(what, word)));
            }
        }
        groups
    }

    /// The nodes with the tag or in the zone that is named; a problem if there is none.
    pub(super) fn members(&self, what: &'static str, item: &Item<'_>) -> Vec<u16> {
        self.known(what, item).map(|word| self.with(what, &word)).unwrap_or_default()
    }

    fn known(&self, what: &'static str, item: &Item<'_>) -> Option<Arc<str>> {
        let text = item.text()?;
        let words = self.words(what);
        let found = words.iter().find(|word| ***word == *text);
        if found.is_none() {
            item.dangling(format!("no [[cluster.node]] has the {what} {text:?}"), nearest(text, &words));
        }
        found.map(|word| (*word).into())
    }

    fn words(&self, what: &str) -> Vec<&str> {
        let mut words: Vec<&str> = self.0.iter().flat_map(|node| node.words(what)).collect();
        words.sort_unstable();
        words.dedup();
        words
    }

    fn with(&self, what: &str, word: &str) -> Vec<u16> {
        let nodes = self.0.iter().enumerate().filter(|(_, node)| node.words(what).contains(&word));
        nodes.filter_map(|(place, _)| u16::try_from(place).ok()).collect()
    }
}

impl Described {
    fn read(table: &Table<'_>) -> Self {
        let weight = table.count("weight", 1, 0..=MOST_WEIGHT);
        Self {
            weight: u16::try_from(weight).ok(),
            zone: table.get("zone").and_then(|item| name::label(&item)),
            tags: read_tags(table),
        }
    }

    fn words(&self, what: &str) -> Vec<&str> {
        let words = if what == "zone" { self.zone.as_slice() } else { &self.tags };
        words.iter().map(|word| &**word).collect()
    }
}

fn read_tags(table: &Table<'_>) -> Vec<Arc<str>> {
    let items = table.get("tags").map(|item| item.list("tags")).unwrap_or_default();
    let mut distinct = Distinct::new();
    items.iter().filter_map(|item| name::label(item).filter(|tag| distinct.admit(tag, item))).collect()
}
