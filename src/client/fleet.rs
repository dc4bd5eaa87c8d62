//! The worker threads: each with a runtime of its own, so that a client's task, its lease and their sockets never
//! change cores. New clients go to the worker that has the fewest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::runtime::LocalOptions;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::parked;
use super::parser::STACK;
use super::places::{Count, Counted};
use super::server::Server;
use super::visit::serve;
use super::worker::{Report, Whom, Worker};
use crate::metrics::{Metrics, Pulse};
use crate::net::{Stream, Unwatched, outbox, timers};
use crate::session::SessionId;

/// The worker threads.
pub struct Fleet {
    crews: Vec<Crew>,
}

struct Crew {
    orders: UnboundedSender<Order>,
    clients: Count,
    pulse: Arc<Pulse>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    /// Serve this client.
    Serve(Unwatched, Counted),
    /// Serve by this configuration from now on, and say so.
    Renew(Arc<Server>, oneshot::Sender<()>),
    /// Tell of yourself.
    Report(oneshot::Sender<Report>),
    /// End these clients, and say how many there were.
    Kill(Whom, oneshot::Sender<usize>),
    /// Forget recent decisions.
    ForgetShapes,
    /// See whose time is over, and give a sign of life.
    HeedLimits,
    /// Take no new clients.
    Close,
    /// Take no new clients, and ask every client to leave as soon as it is idle.
    Drain,
}

impl Fleet {
    /// Starts this many worker threads, with an outbox each, if they shall have one.
    pub fn start(workers: usize, has_outbox: bool, server: &Arc<Server>, metrics: &Metrics) -> std::io::Result<Self> {
        let sessions = Arc::new(AtomicU64::new(1));
        let timekeeper = timers::Timekeeper::start()?;
        let start =
            |number| Crew::start(number, &timekeeper, has_outbox, Arc::clone(server), Arc::clone(&sessions), metrics);
        Ok(Self { crews: (0..workers).map(start).collect::<Result<_, _>>()? })
    }

    /// Hands a client to the worker that has the fewest.
    pub fn dispatch(&self, client: Unwatched) {
        let Some(crew) = self.crews.iter().min_by_key(|crew| crew.clients.now()) else { return };
        // With a worker that is gone, so is the client.
        let _ = crew.orders.send(Order::Serve(client, crew.clients.one_more()));
    }

    /// Clients now.
    pub fn clients(&self) -> usize {
        self.crews.iter().map(|crew| crew.clients.now()).sum()
    }

    /// Clients now, without those at the console.
    pub fn served(&self) -> usize {
        self.crews.iter().map(|crew| crew.clients.served()).sum()
    }

    /// Every client is served by this from its next unit on. Returns when every worker knows.
    pub async fn renew(&self, server: &Arc<Server>) {
        self.ask(|done| Order::Renew(Arc::clone(server), done)).await;
    }

    /// What each worker tells of itself.
    pub async fn report(&self) -> Vec<Report> {
        self.ask(Order::Report).await
    }

    /// Ends these clients, whatever they do. Answers how many there were.
    pub async fn kill(&self, whom: &Whom) -> usize {
        self.ask(|done| Order::Kill(whom.clone(), done)).await.into_iter().sum()
    }

    /// Forgets recent decisions.
    pub fn forget_shapes(&self) {
        for crew in &self.crews {
            // A worker that is gone remembers nothing.
            let _ = crew.orders.send(Order::ForgetShapes);
        }
    }

    /// Ends the clients that have been idle for too long, cancels reads that take too long, and shows what workers count by
    /// themselves, that they turn at all among it. To be called once a second.
    pub fn heed_limits(&self, now: Instant) {
        for crew in self.crews.iter().filter(|crew| crew.pulse.ask(now)) {
            // A worker that is gone has no clients, and owes its sign of life for ever.
            let _ = crew.orders.send(Order::HeedLimits);
        }
    }

    /// The answers of all workers; one that is gone gives none.
    async fn ask<T>(&self, order: impl Fn(oneshot::Sender<T>) -> Order) -> Vec<T> {
        let mut answers = Vec::with_capacity(self.crews.len());
        for crew in &self.crews {
            let (sender, answer) = oneshot::channel();
            let _ = crew.orders.send(order(sender));
            answers.push(answer);
        }
        let mut told = Vec::with_capacity(answers.len());
        for answer in answers {
            told.extend(answer.await.ok());
        }
        told
    }

    /// From now on no new client is served but at the console.
    pub fn close(&self) {
        for crew in &self.crews {
            // A worker that is gone takes nobody.
            let _ = crew.orders.send(Order::Close);
        }
    }

    /// The same, and asks every client to leave as soon as it is idle.
    pub fn drain(&self) {
        for crew in &self.crews {
            // A worker that is gone has nobody to ask.
            let _ = crew.orders.send(Order::Drain);
        }
    }

    /// Ends the worker threads, and with them every client that is still there.
    pub fn stop(self) {
        for mut crew in self.crews {
            drop(crew.orders);
            if let Some(thread) = crew.thread.take() {
                // Its panic has been reported where it happened.
                let _ = thread.join();
            }
        }
    }
}

impl Crew {
    fn start(
        number: usize,
        timekeeper: &timers::Timekeeper,
        has_outbox: bool,
        server: Arc<Server>,
        sessions: Arc<AtomicU64>,
        metrics: &Metrics,
    ) -> std::io::Result<Self> {
        let (orders, receiver) = unbounded_channel();
        let clients = Count::default();
        let (pulse, beats) = (metrics.pulse(number), metrics.pulse(number));
        let (metrics, count) = (metrics.worker(number), clients.clone());
        let (built, is_built) = std::sync::mpsc::sync_channel(1);
        let timekeeper = timekeeper.clone();
        let work = move || {
            timekeeper.serve_this_thread();
            // It cannot change threads: so it is built where it runs.
            let mut builder = tokio::runtime::Builder::new_current_thread();
            builder.enable_io().on_thread_park(outbox::end_turn);
            let runtime = builder.build_local(LocalOptions::default());
            let (runtime, outcome) = match runtime {
                Ok(runtime) => (Some(runtime), Ok(())),
                Err(error) => (None, Err(error)),
            };
            // Whoever started this thread waits for it.
            let _ = built.send(outcome);
            let Some(runtime) = runtime else { return };
            if has_outbox && let Err(error) = outbox::open() {
                tracing::info!(%error, "io_uring cannot be used: each answer is sent by itself, which costs more");
            }
            let worker = Worker::new(number, metrics, server, count);
            runtime.block_on(obey(receiver, &worker, &sessions, &beats));
        };
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).stack_size(STACK).spawn(work)?;
        is_built.recv().map_err(std::io::Error::other)??;
        Ok(Self { orders, clients, pulse, thread: Some(thread) })
    }
}

async fn obey(mut orders: UnboundedReceiver<Order>, worker: &std::rc::Rc<Worker>, sessions: &AtomicU64, pulse: &Pulse) {
    tokio::task::spawn_local(parked::attend(std::rc::Rc::clone(worker)));
    // Cancel-safe: an order that is not received stays in the channel.
    while let Some(order) = orders.recv().await {
        match order {
            Order::Close => worker.close(),
            Order::Drain => worker.drain(),
            // Whoever has asked may have gone.
            Order::Renew(server, done) => {
                worker.renew(server);
                let _ = done.send(());
            }
            Order::Report(told) => drop(told.send(worker.report())),
            Order::Kill(whom, done) => drop(done.send(worker.kill(&whom))),
            Order::ForgetShapes => worker.shapes.borrow_mut().clear(),
            Order::HeedLimits => {
                worker.heed_limits();
                pulse.answer();
            }
            Order::Serve(client, counted) => {
                let Ok(client) = client.watched() else { continue };
                let id = SessionId(sessions.fetch_add(1, Ordering::Relaxed));
                let (server, worker) = (worker.server(), std::rc::Rc::clone(worker));
                tokio::task::spawn_local(serve(Stream::Plain(client), server, worker, id, counted));
            }
        }
    }
    worker.places.dismiss_parked();
}
