//! A session in little room, for as long as its client has nothing to say.

use std::sync::Arc;
use std::time::Instant;

use super::known::UnnamedId;
use super::pins::Pins;
use super::prepared::{Prepared, Settled};
use super::reported::ReportedAtLogin;
use super::transaction::Transaction;
use super::{CatalogEffects, Flow, Identity, PutBack, Session, SessionId, Settings};
use crate::routing::Freshness;
use crate::routing::freshness::Rested;

/// A session of which nothing is under way.
#[derive(Debug)]
pub enum Folded {
    /// What most sessions come to when they are idle.
    Small(Small),
    /// One that has more to remember.
    Whole(Box<Session>),
}

/// What is left of a session where everything that belongs to something under way is as it was at its beginning, and what
/// could be two things is one. Who it is, somebody else knows.
#[derive(Debug)]
pub struct Small {
    settings: Settings,
    startup: Settings,
    freshness: Rested,
    names: Settled,
    unnamed: Option<Arc<Prepared>>,
    unnamed_count: u64,
    reported: Option<ReportedAtLogin>,
    process_id: u32,
    drew_on: u32,
    forgotten_draws: u32,
    transaction: Transaction,
    catalog: CatalogEffects,
    pins: Pins,
    keeps_lease: bool,
    executes_by_sql: bool,
}

impl Session {
    /// The session in as little room as it takes. Call [`Freshness::settle`] before; see [`Freshness::rest`] for the origin.
    pub fn fold(self, origin: Instant) -> Folded {
        if !self.is_small() {
            return Folded::Whole(Box::new(self));
        }
        // Every field is named, so that of a new one it must be said what becomes of it.
        let Self {
            id: _,
            identity: _,
            settings,
            process_id,
            startup,
            freshness,
            gathered: _,
            names,
            unnamed,
            settled_unnamed: _,
            unshown_unnamed: _,
            unshown_sql: _,
            refused_writer: _,
            refused_mirror: _,
            unnamed_count,
            doubts: _,
            undescribed: _,
            sql_prepared: _,
            executes_by_sql,
            portals: _,
            drew_on,
            forgotten_draws,
            // Taken when it was sent.
            preparing: _,
            owed: _,
            transaction,
            has_read: _,
            acts_as_another: _,
            settled_writes: _,
            makes_temporary_first: _,
            pins,
            // Who is pinned is not folded.
            told_pins: _,
            touched: _,
            touched_for_good: _,
            remains: _,
            keeps_lease,
            put_back: _,
            role_is_reset: _,
            flow: _,
            reported,
            shown_wishes: _,
            shown_there: _,
            wished_locally: _,
            // These follow from the settings.
            wishes: _,
            reading: _,
            dialect: _,
            defaults: _,
            catalog,
            // Found anew, if there are rules.
            standing: _,
            at_begin: _,
        } = self;
        Folded::Small(Small {
            settings,
            startup,
            freshness: freshness.rest(origin),
            names: names.into_settled(),
            unnamed: unnamed.map(|(prepared, _)| prepared),
            unnamed_count,
            reported: reported.if_unchanged().cloned(),
            process_id,
            drew_on,
            forgotten_draws,
            transaction,
            catalog,
            pins,
            keeps_lease,
            executes_by_sql,
        })
    }

    /// Of what belongs to something under way, all is as it was at the beginning, and what is usually twice the same is.
    fn is_small(&self) -> bool {
        let last_unnamed = UnnamedId(self.id, self.unnamed_count);
        let is_last = |unnamed: &Option<(Arc<Prepared>, UnnamedId)>| match unnamed {
            Some((_, id)) => *id == last_unnamed,
            None => true,
        };
        self.is_idle()
            && self.flow == Flow::default()
            && self.gathered.size == 0
            && self.names.are_settled()
            && is_last(&self.unnamed)
            && self.unnamed.is_some() == self.settled_unnamed.is_some()
            && is_last(&self.settled_unnamed)
            && self.unshown_unnamed.is_none()
            && self.unshown_sql.is_empty()
            && self.doubts.are_none()
            && self.undescribed.is_none()
            && self.sql_prepared.is_empty()
            && self.portals.is_empty()
            && self.touched.is_empty()
            && !self.remains.are_any()
            && self.put_back == PutBack::Nobody
            && self.shown_wishes.is_empty()
            && self.wished_locally.is_empty()
            && self.at_begin.is_none()
            && self.reported.if_unchanged().is_some()
    }
}

impl Folded {
    /// The session of this client again, by the same origin.
    pub fn unfold(self, id: SessionId, identity: Identity, origin: Instant) -> Session {
        let small = match self {
            Self::Small(small) => small,
            Self::Whole(session) => return *session,
        };
        let unnamed = small.unnamed.map(|prepared| (prepared, UnnamedId(id, small.unnamed_count)));
        let mut session = Session {
            freshness: Freshness::rested(small.freshness, origin),
            names: small.names.into(),
            settled_unnamed: unnamed.clone(),
            unnamed,
            unnamed_count: small.unnamed_count,
            process_id: small.process_id,
            drew_on: small.drew_on,
            forgotten_draws: small.forgotten_draws,
            transaction: small.transaction,
            catalog: small.catalog,
            pins: small.pins,
            keeps_lease: small.keeps_lease,
            executes_by_sql: small.executes_by_sql,
            settings: small.settings,
            ..Session::new(id, identity, small.startup)
        };
        session.told(small.reported.unwrap_or_default());
        session
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::story::Story;

    /// Folds it; answers what it has become.
    fn folded(story: &mut Story) -> Folded {
        let nobody = Story::begin().session;
        std::mem::replace(&mut story.session, nobody).fold(Instant::now())
    }

    fn unfolded(folded: Folded) -> Session {
        let Session { id, identity, .. } = Story::begin().session;
        folded.unfold(id, identity, Instant::now())
    }

    #[test]
    fn an_idle_session_is_small_and_comes_back_as_it_was() {
        let mut story = Story::begin();
        story
            .session
            .told(vec![("DateStyle".into(), "ISO".into()), ("client_encoding".into(), "LATIN1".into())].into());
        story.parse("", "select 1");
        story.parse("named", "select 2");
        story.sync();
        assert!(!story.session.is_small(), "replies are owed");
        story.hear_all("11nZ");
        story.session.shown();
        let small = folded(&mut story);
        assert!(matches!(small, Folded::Small(_)), "{small:?}");
        let before = format!("{small:?}");
        story.session = unfolded(small);
        assert!(!story.session.dialect().encoding_is_utf8);
        let again = folded(&mut story);
        assert_eq!(format!("{again:?}"), before);
        story.session = unfolded(again);
        assert_eq!(story.bind(""), "B", "the server connection has it still");
        story.parse("", "select 3");
        story.sync();
        story.hear_all("21Z");
        assert_eq!(story.bind(""), "B");
    }

    #[test]
    fn what_is_not_small_comes_back_as_it_was_too() {
        let mut story = Story::begin();
        story.session.told(vec![("DateStyle".into(), "ISO, MDY".into())].into());
        assert!(story.session.is_news("DateStyle", "German"));
        let before = format!("{:?}", story.session);
        let whole = folded(&mut story);
        assert!(matches!(whole, Folded::Whole(_)));
        assert_eq!(format!("{:?}", unfolded(whole)), before);
    }
}
