//! Texts that take long to parse: threads beside the worker's parse them, while the worker serves its other clients.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::conversation::Client;
use super::farewell::Farewell;
use super::gathering::violation;
use super::worker::{Buffers, Worker};
use crate::session::Dialect;
use crate::sql::{ParseSettings, Statement, classify_bytes};
use crate::wire::frontend::{self, Parse};

/// Bytes of a text that the worker does not parse itself: of a list of numbers, the parser reads about two of them in a
/// microsecond.
pub(super) const LONG: usize = 8 * 1024;

/// PostgreSQL's parser recurses: this is what its own server has, and more than its depth limit needs.
pub(super) const STACK: usize = 16 * 1024 * 1024;

/// Bytes of a text that other long ones do not stand behind.
const GIANT: usize = 256 * 1024;

/// Two threads that parse one text after the other: one is for giants. Each is there once it is needed.
#[derive(Debug, Default)]
pub(super) struct Parser {
    long: Option<Sender<Text>>,
    giant: Option<Sender<Text>>,
}

/// A text to be parsed.
struct Text {
    bytes: Arc<[u8]>,
    settings: ParseSettings,
    told: oneshot::Sender<Parsed>,
}

/// What a text is, and how long it took to find out.
#[derive(Debug)]
struct Parsed {
    statement: Arc<Statement>,
    took: Duration,
}

/// A client's text that the thread parses, or has parsed: until the client's message is looked at.
#[derive(Debug)]
pub(super) struct Apart {
    text: Arc<[u8]>,
    settings: ParseSettings,
    progress: Progress,
}

/// How far the thread is with a text.
#[derive(Debug)]
enum Progress {
    Awaited(oneshot::Receiver<Parsed>),
    Known(Arc<Statement>),
}

impl Parser {
    fn parse(&mut self, text: &[u8], settings: ParseSettings) -> io::Result<Apart> {
        let queue = if text.len() < GIANT { &mut self.long } else { &mut self.giant };
        let texts = match queue {
            Some(texts) => texts,
            None => queue.insert(start()?),
        };
        let (told, awaited) = oneshot::channel();
        let bytes: Arc<[u8]> = text.into();
        // A thread that is gone drops it, and the client finds that nobody will tell it.
        let _ = texts.send(Text { bytes: Arc::clone(&bytes), settings, told });
        Ok(Apart { text: bytes, settings, progress: Progress::Awaited(awaited) })
    }
}

/// It ends when the worker does.
fn start() -> io::Result<Sender<Text>> {
    let (texts, received) = channel::<Text>();
    let work = move || {
        for Text { bytes, settings, told } in received {
            // The client has left.
            if told.is_closed() {
                continue;
            }
            let begun = Instant::now();
            let statement = Arc::new(classify_bytes(&bytes, &settings));
            drop(told.send(Parsed { statement, took: begun.elapsed() }));
        }
    };
    thread::Builder::new().name("parser".to_owned()).stack_size(STACK).spawn(work)?;
    Ok(texts)
}

impl Apart {
    fn is_of(&self, text: &[u8], settings: &ParseSettings) -> bool {
        *self.text == *text && self.settings == *settings
    }
}

/// What this text is: as the thread has told, or as the worker knows or finds out.
#[inline]
pub(super) fn classify(
    apart: &mut Option<Box<Apart>>,
    text: &[u8],
    dialect: Dialect,
    worker: &Worker,
) -> Arc<Statement> {
    let told = if apart.is_some() { told_of(apart, text, &worker.parse_settings(dialect)) } else { None };
    told.unwrap_or_else(|| worker.classify(text, dialect))
}

#[cold]
fn told_of(apart: &mut Option<Box<Apart>>, text: &[u8], settings: &ParseSettings) -> Option<Arc<Statement>> {
    match apart.take_if(|apart| apart.is_of(text, settings))?.progress {
        Progress::Known(statement) => Some(statement),
        Progress::Awaited(_) => None,
    }
}

impl Client {
    /// The message has a long text that nobody has parsed yet: it is being parsed now, and the message must wait. See
    /// [`Client::poll_parsed`].
    pub(super) fn must_parse_apart(&mut self, tag: u8, body: &[u8]) -> Result<bool, Farewell> {
        let text = match tag {
            frontend::QUERY => frontend::query_text(body).map_err(|_| violation(tag))?,
            frontend::PARSE => Parse::read(body).map_err(|_| violation(tag))?.text,
            _ => return Ok(false),
        };
        let settings = self.worker.parse_settings(self.session.dialect());
        if !(LONG..=settings.max_bytes).contains(&text.len()) {
            return Ok(false);
        }
        if self.apart.as_ref().is_some_and(|apart| apart.is_of(text, &settings)) {
            return Ok(self.is_parsing());
        }
        if self.worker.knows(text, &settings) {
            return Ok(false);
        }
        // Where there is no thread to be had, the worker parses it.
        self.apart = self.worker.parser().parse(text, settings).ok().map(Box::new);
        Ok(self.apart.is_some())
    }

    /// A message waits for its text to be parsed.
    #[inline]
    pub(super) fn is_parsing(&self) -> bool {
        self.apart.as_ref().is_some_and(|apart| matches!(apart.progress, Progress::Awaited(_)))
    }

    /// Ready when no message waits for its text to be parsed.
    #[inline]
    pub(super) fn poll_parsed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_parsing() {
            return Poll::Ready(());
        }
        self.poll_parsing(cx)
    }

    #[cold]
    fn poll_parsing(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(apart) = &mut self.apart else { return Poll::Ready(()) };
        let Progress::Awaited(awaited) = &mut apart.progress else { return Poll::Ready(()) };
        let parsed = ready!(Pin::new(awaited).poll(cx));
        apart.progress = Progress::Known(match parsed {
            Ok(Parsed { statement, took }) => {
                self.worker.has_parsed(&apart.text, &apart.settings, &statement, took);
                statement
            }
            Err(_) => Arc::new(classify_bytes(&apart.text, &apart.settings)),
        });
        Poll::Ready(())
    }

    /// [`Client::survey`], and waits for what must be parsed apart.
    pub(super) async fn survey_whole(&mut self, buffers: &mut Buffers) -> Result<(), Farewell> {
        loop {
            self.survey(buffers)?;
            if !self.is_parsing() {
                return Ok(());
            }
            // Cancel-safe: what is told stays with the client.
            std::future::poll_fn(|cx| self.poll_parsed(cx)).await;
        }
    }
}
