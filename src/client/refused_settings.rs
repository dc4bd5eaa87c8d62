//! Settings of a session that replicas have refused: for a while none of those is asked again.

use std::time::{Duration, Instant};

use crate::session::Settings;
use crate::topology::NodeId;

/// What was refused last, and by whom.
#[derive(Debug, Default)]
pub(super) struct RefusedSettings {
    settings: Settings,
    by: Vec<(NodeId, Instant)>,
}

/// A replica that lacks a role soon has it, and one that lacks a time zone most likely never will: asked once a second, the one
/// is not kept from its reads for long, and the other costs them little.
const PAUSE: Duration = Duration::from_secs(1);

impl RefusedSettings {
    /// This node has refused these settings.
    pub(super) fn note(&mut self, settings: &Settings, node: NodeId, now: Instant) {
        if self.settings != *settings {
            *self = Self { settings: settings.clone(), by: Vec::new() };
        }
        self.by.retain(|(refuser, _)| *refuser != node);
        self.by.push((node, now));
    }

    /// Nothing has been refused.
    pub(super) fn are_none(&self) -> bool {
        self.by.is_empty()
    }

    /// This node has refused these settings just now.
    pub(super) fn were_refused_by(&self, node: NodeId, settings: &Settings, now: Instant) -> bool {
        let is_recent = |at: Instant| now.saturating_duration_since(at) < PAUSE;
        self.by.iter().any(|(refuser, at)| *refuser == node && is_recent(*at)) && self.settings == *settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_asked_again_for_other_settings_and_after_a_while() {
        let of = |role: &str| Settings::new([("role".into(), role.into())]);
        let (first, second) = (NodeId(1), NodeId(2));
        let begun = Instant::now();
        let mut refused = RefusedSettings::default();
        assert!(!refused.were_refused_by(first, &Settings::default(), begun));
        refused.note(&of("fresh"), first, begun);
        refused.note(&of("fresh"), second, begun + PAUSE / 2);
        assert!(refused.were_refused_by(first, &of("fresh"), begun + PAUSE / 2));
        assert!(!refused.were_refused_by(first, &of("other"), begun));
        assert!(!refused.were_refused_by(first, &of("fresh"), begun + PAUSE), "it may have the role by now");
        assert!(refused.were_refused_by(second, &of("fresh"), begun + PAUSE));
        refused.note(&of("other"), first, begun + PAUSE);
        assert!(!refused.were_refused_by(second, &of("other"), begun + PAUSE), "it has not been asked for that");
    }
}
