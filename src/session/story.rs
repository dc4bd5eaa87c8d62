//! A session on the primary, told message by message: for tests beside the code.

use bytes::BytesMut;

use super::failure::Circumstances;
use super::reply::Reply;
use super::translate::Message;
use super::{Held, Identity, Known, Loss, Session, SessionId, Settings, Surroundings};
use crate::routing::RuleSet;
use crate::sql::{ParseSettings, classify_bytes};
use crate::wire::{Header, SqlState, frame};

/// A session, and what its server connection has.
pub(super) struct Story {
    pub(super) session: Session,
    pub(super) known: Known,
}

impl Story {
    pub(super) fn begin() -> Self {
        Self::begin_with(&[])
    }

    /// The client has come with these settings.
    pub(super) fn begin_with(settings: &[(&str, &str)]) -> Self {
        let identity = Identity { user: "u".into(), database: "d".into(), address: None };
        let startup = Settings::new(settings.iter().map(|&(name, value)| (name.into(), value.into())));
        Self { session: Session::new(SessionId(1), identity, startup), known: Known::default() }
    }

    /// Sends a message, and answers the tags of what goes to the node for it.
    pub(super) fn send(&mut self, tag: u8, body: &[u8]) -> String {
        assert!(!self.session.must_wait(tag, body), "it should wait");
        self.survey(tag, body);
        tags(&self.translate(tag, body, BytesMut::new()))
    }

    /// Sends a Query behind what makes the server connection forget others' sequences, and answers all that goes to the node.
    pub(super) fn query_with_own_sequences(&mut self, text: &str) -> BytesMut {
        let (body, mut out) = (format!("{text}\0"), BytesMut::new());
        self.survey(b'Q', body.as_bytes());
        self.session.forget_foreign_sequences(&mut self.known, &mut out);
        self.translate(b'Q', body.as_bytes(), out)
    }

    fn translate(&mut self, tag: u8, body: &[u8], mut out: BytesMut) -> BytesMut {
        let length = u32::try_from(body.len() + 4).unwrap();
        let whole = [&[tag][..], &length.to_be_bytes(), body].concat();
        let message = Message { tag, body, whole: &whole, missing: 0 };
        self.session.translate(message, &mut self.known, 500, &mut out).unwrap();
        self.session.gathered.clear();
        out
    }

    /// It is looked at, and not sent.
    pub(super) fn survey(&mut self, tag: u8, body: &[u8]) {
        let mut classify = |text: &[u8]| std::sync::Arc::new(classify_bytes(text, &ParseSettings::default()));
        let rules = RuleSet::default();
        let mut around = Surroundings::plain(&mut classify, &rules, Held::Primary);
        self.session.survey(tag, body.len() + frame::HEADER, body, &mut around).unwrap();
    }

    pub(super) fn parse(&mut self, name: &str, text: &str) -> String {
        self.send(b'P', format!("{name}\0{text}\0\0\0").as_bytes())
    }

    pub(super) fn bind(&mut self, name: &str) -> String {
        self.send(b'B', &bind(name))
    }

    /// What goes to the node before a Bind of this statement may.
    pub(super) fn survey_bind(&mut self, name: &str) -> String {
        self.survey(b'B', &bind(name));
        assert!(self.session.must_verify(&self.known));
        let mut out = BytesMut::new();
        self.session.verify(&mut self.known, 500, &mut out);
        assert!(self.session.is_verifying() && !self.session.must_verify(&self.known));
        tags(&out)
    }

    pub(super) fn execute(&mut self) -> String {
        self.send(b'E', b"\0\0\0\0\0")
    }

    /// What goes to the node before a statement of the batch that asks for a sequence's current value.
    pub(super) fn discard_sequences(&mut self) -> String {
        let mut out = BytesMut::new();
        self.session.gathered.asks_sequence = true;
        self.session.gathered.has_more = true;
        self.session.forget_foreign_sequences(&mut self.known, &mut out);
        self.session.gathered.clear();
        tags(&out)
    }

    /// The same before one that may commit in its middle.
    pub(super) fn discard_sequences_apart(&mut self) -> String {
        self.session.gathered.commits = true;
        self.discard_sequences()
    }

    /// The node has discarded them within a batch: nobody but us is told.
    pub(super) fn hear_discarded(&mut self) {
        for (tag, body) in [(b'3', ""), (b'1', ""), (b'2', ""), (b'C', "DISCARD SEQUENCES\0"), (b'3', "")] {
            assert_eq!(self.hear(tag, body.as_bytes()), Reply::Hide);
        }
    }

    pub(super) fn sync(&mut self) -> String {
        self.send(b'S', b"")
    }

    pub(super) fn open_transaction(&mut self) {
        self.send(b'Q', b"begin\0");
        self.hear(b'C', b"BEGIN\0");
        self.hear(b'Z', b"T");
    }

    /// A Bind of this statement must not be looked at yet.
    pub(super) fn must_wait_to_bind(&self, name: &str) -> bool {
        self.session.must_wait(b'B', &bind(name))
    }

    pub(super) fn hear(&mut self, tag: u8, body: &[u8]) -> Reply {
        self.session.reply(tag, body, &mut self.known).unwrap()
    }

    /// The node answers with these messages, which say no more than their tags. An error is a syntax error.
    pub(super) fn hear_all(&mut self, tags: &str) {
        for tag in tags.bytes() {
            let body: &[u8] = match tag {
                b'Z' => b"I",
                b'E' => b"SERROR\0C42601\0M?\0\0",
                _ => b"",
            };
            self.hear(tag, body);
        }
    }

    /// The node says goodbye behind what has been forwarded, and is lost.
    pub(super) fn lose(&mut self) -> Loss {
        let farewell = Some(SqlState::ADMIN_SHUTDOWN);
        let how = Circumstances { farewell, sent: true, forwarded: true, is_read: false, at_hand: false };
        assert!(!self.session.may_replay(&how));
        self.session.lost(how)
    }

    /// The code that the client is told of the loss of its node, or that it is counted by where the session ends.
    pub(super) fn told_of_loss(&mut self, how: Circumstances) -> Option<SqlState> {
        match self.session.lost(how) {
            Loss::Report(code, _) => Some(code),
            Loss::End(_, cost) => cost,
            loss => panic!("{loss:?}"),
        }
    }
}

fn bind(name: &str) -> Vec<u8> {
    format!("\0{name}\0\0\0\0\0\0\0").into_bytes()
}

fn tags(mut bytes: &[u8]) -> String {
    let mut tags = String::new();
    while let Some(header) = Header::peek(bytes).unwrap() {
        tags.push(header.tag.into());
        bytes = &bytes[header.size..];
    }
    tags
}
