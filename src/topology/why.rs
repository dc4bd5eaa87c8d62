//! Reasons in words for an operator: why a node is as it is, and what keeps it from taking reads.

use std::fmt::Write as _;

use super::event::{Receiver, ReportedRole, SeenTimeline};
use super::node::{Health, Node};
use super::roles::{Roles, Standing, Support};

/// The primary may be the cause of it.
pub(super) const NOT_STREAMING: &str = "does not stream from the primary";

/// What keeps a node that answers from taking reads while there is a primary.
pub(super) fn obstacle(roles: &Roles, nodes: &[Node], node: &Node) -> Option<&'static str> {
    let Some(ReportedRole::Replica { timeline, receiver, is_replay_paused, .. }) =
        node.report().map(|report| &report.role)
    else {
        return Some("is not a replica");
    };
    let is_followed = roles.is_followed_on(*timeline);
    if !is_followed && matches!(timeline, SeenTimeline::Exact(_)) {
        return Some("follows another timeline than the primary's");
    }
    if matches!(receiver, Receiver::Absent | Receiver::Seen { is_streaming: false, .. }) {
        return Some(NOT_STREAMING);
    }
    if !is_followed {
        return Some(
            "may follow another timeline than the primary's, which the monitor's role may not see without pg_monitor",
        );
    }
    if roles.is_of_rival(nodes, node) {
        return Some("streams from a node that is not known to follow the primary");
    }
    if node.lag.is_near() {
        return None;
    }
    Some(match (node.lag.lag(), is_replay_paused) {
        (None, _) => "is behind by an unknown time",
        (Some(_), true) => "has its replay paused and is too far behind",
        (Some(_), false) => "is, or was just now, too far behind",
    })
}

/// Why a node is as it is.
pub(super) fn why(roles: &Roles, nodes: &[Node], node: &Node) -> String {
    if let Some(failure) = node.failure() {
        return failure.to_string();
    }
    let mut words = match roles.standing(node) {
        Standing::Unknown => "not probed yet".to_owned(),
        Standing::Primary => primary_words(roles),
        Standing::Replica => match (roles.accepted(), obstacle(roles, nodes, node)) {
            (Some(_), None) => "follows the primary".to_owned(),
            (Some(_), Some(words)) => words.to_owned(),
            (None, _) if node.takes_reads => "followed the primary until it was lost".to_owned(),
            (None, _) => "there is no primary to follow".to_owned(),
        },
        Standing::Stale => stale_words(roles, node),
        Standing::Duplicate => {
            let primary = roles.primary_address(nodes);
            format!("is the server that is the primary as {primary}: used by that address alone")
        }
        Standing::Unconfirmed => "claims to be primary and is not accepted as such".to_owned(),
        Standing::Foreign => foreign_words(roles, node),
    };
    if node.health == Health::Returning {
        words.push_str("; answers again after a failure, one more good probe confirms it");
    }
    words
}

fn primary_words(roles: &Roles) -> String {
    let timeline = roles.accepted().map_or(0, |claim| claim.timeline.0);
    let mut words = format!("primary of timeline {timeline}: ");
    let _ = match roles.support() {
        Some(Support::OnlyNode) => write!(words, "the only node"),
        Some(Support::Promotion) => write!(words, "was promoted"),
        Some(Support::Followers(count)) => write!(words, "accepted with {count} streaming from it"),
        Some(Support::Lock) => write!(words, "holds Patroni's lock"),
        Some(Support::Returned) => write!(words, "the same postmaster as before"),
        Some(Support::Unopposed) | None => write!(words, "nothing spoke against it"),
    };
    if roles.is_waking() {
        words.push_str("; gets no writes before every node has been asked, as Trunkline stood still");
    }
    words
}

fn stale_words(roles: &Roles, node: &Node) -> String {
    let claimed = node.last_claim().map_or(0, |claim| claim.timeline.0);
    let highest = roles.highest().map_or(0, |timeline| timeline.0);
    let mut words = format!("claims to be primary of timeline {claimed}, but timeline {highest} has begun: fenced");
    if roles.accepted().is_none() {
        words.push_str("; if that was undone: a restart of Trunkline forgets it");
    }
    words
}

fn foreign_words(roles: &Roles, node: &Node) -> String {
    let theirs = node.system().map_or(0, |system| system.0);
    let ours = roles.system().map_or(0, |system| system.0);
    format!(
        "belongs to database system {theirs}, and this cluster is {ours}: never used; if the whole cluster was made anew: RELOAD, \
         once none of the former has answered for half a minute and at least half of the nodes answer as one other system"
    )
}
