//! The worker threads: each with a runtime of its own, so that a client's task, its lease and their sockets never
//! change cores. New clients go to the worker that has the fewest.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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

/// What workers have answered in time.
struct Answers<T> {
    told: Vec<T>,
    /// The numbers of those that have not; one that is gone is none of them.
    silent: Vec<usize>,
}

/// How many clients were ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "not every worker may have answered"]
pub struct Killed {
    /// By the workers that have answered.
    pub clients: usize,
    /// Workers that have not: each ends its clients as soon as it turns again.
    pub silent: usize,
}

/// A worker answers in its next turn, which is a matter of milliseconds: one that has not by then hangs, and what it is asked
/// for is not to hang with it.
const PATIENCE: Duration = Duration::from_secs(2);

/// Workers that have gone are looked for this often: none ever should.
const LOOK: Duration = Duration::from_secs(1);

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

    /// Hands a client to the worker that has the fewest, of those that are there.
    pub fn dispatch(&self, client: Unwatched) {
        let there = self.crews.iter().filter(|crew| !crew.is_gone());
        let Some(crew) = there.min_by_key(|crew| crew.clients.now()) else { return };
        // With a worker that goes in this moment, so does the client.
        let _ = crew.orders.send(Order::Serve(client, crew.clients.one_more()));
    }

    /// Returns once no worker is there any more: nobody can be served. Cancel-safe.
    pub async fn all_gone(&self) {
        while !self.crews.iter().all(Crew::is_gone) {
            timers::sleep(LOOK).await;
        }
    }

    /// Clients now.
    pub fn clients(&self) -> usize {
        self.crews.iter().map(|crew| crew.clients.now()).sum()
    }

    /// Clients now, without those at the console.
    pub fn served(&self) -> usize {
        self.crews.iter().map(|crew| crew.clients.served()).sum()
    }

    /// Every client is served by this from its next unit on. Returns when every worker knows, but for one that hangs: it
    /// learns it first of all when it turns again.
    pub async fn renew(&self, server: &Arc<Server>) {
        let renewed = self.ask(PATIENCE, |done| Order::Renew(Arc::clone(server), done)).await;
        for worker in renewed.silent {
            tracing::warn!(worker, "a worker hangs: it goes on by the old configuration until it turns again");
        }
    }

    /// What each worker tells of itself; one that hangs tells nothing.
    pub async fn report(&self) -> Vec<Report> {
        self.ask(PATIENCE, Order::Report).await.told
    }

    /// The same if none hangs.
    pub async fn whole_report(&self) -> Option<Vec<Report>> {
        let reports = self.ask(PATIENCE, Order::Report).await;
        reports.silent.is_empty().then_some(reports.told)
    }

    /// Ends these clients, whatever they do. Answers how many there were.
    pub async fn kill(&self, whom: &Whom) -> Killed {
        let killed = self.ask(PATIENCE, |done| Order::Kill(whom.clone(), done)).await;
        Killed { clients: killed.told.into_iter().sum(), silent: killed.silent.len() }
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

    /// The answers of all workers, of which each has so long; one that is gone gives none. An order that is not answered in
    /// time counts all the same when its worker comes to it.
    async fn ask<T>(&self, longest: Duration, order: impl Fn(oneshot::Sender<T>) -> Order) -> Answers<T> {
        let deadline = tokio::time::Instant::now() + longest;
        let mut answers = Vec::with_capacity(self.crews.len());
        for crew in &self.crews {
            let (sender, answer) = oneshot::channel();
            let _ = crew.orders.send(order(sender));
            answers.push(answer);
        }
        let (mut told, mut silent) = (Vec::with_capacity(answers.len()), Vec::new());
        for (worker, answer) in answers.into_iter().enumerate() {
            // Dropping it loses nothing but the answer.
            match timers::timeout_at(deadline, answer).await {
                Ok(answer) => told.extend(answer.ok()),
                Err(_) => silent.push(worker),
            }
        }
        Answers { told, silent }
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
    /// Its thread has ended, which hears nothing any more.
    fn is_gone(&self) -> bool {
        self.orders.is_closed()
    }

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
            let _ending = Ending(Rc::clone(&worker));
            runtime.block_on(obey(receiver, &worker, &sessions, &beats));
        };
        let thread = std::thread::Builder::new().name(format!("worker-{number}")).stack_size(STACK).spawn(work)?;
        is_built.recv().map_err(std::io::Error::other)??;
        Ok(Self { orders, clients, pulse, thread: Some(thread) })
    }
}

async fn obey(mut orders: UnboundedReceiver<Order>, worker: &Rc<Worker>, sessions: &AtomicU64, pulse: &Pulse) {
    tokio::task::spawn_local(parked::attend(Rc::clone(worker)));
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
                let (server, worker) = (worker.server(), Rc::clone(worker));
                tokio::task::spawn_local(serve(Stream::Plain(client), server, worker, id, counted));
            }
        }
    }
}

/// Held by a worker's thread as long as it lives.
struct Ending(Rc<Worker>);

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let worker = self.0.number;
            tracing::error!(
                worker,
                "a worker thread has ended by a fault of ours, and its clients with it: the others go on, if there are any; \
                 what is wrong stands above"
            );
        }
        // They have no task that would end with the thread.
        self.0.places.dismiss_parked();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(50);

    /// A worker as seen from outside, and its orders.
    fn crew(number: usize, metrics: &Metrics) -> (Crew, UnboundedReceiver<Order>) {
        let (orders, receiver) = unbounded_channel();
        (Crew { orders, clients: Count::default(), pulse: metrics.pulse(number), thread: None }, receiver)
    }

    #[tokio::test]
    async fn a_worker_that_is_gone_draws_no_clients_though_it_has_the_fewest() {
        let metrics = Metrics::new(2, &[]);
        let ((gone, orders_of_gone), (well, mut orders)) = (crew(0, &metrics), crew(1, &metrics));
        drop(orders_of_gone);
        let fleet = Fleet { crews: vec![gone, well] };
        let mut clients = Vec::new();
        for count in 1..=3 {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
            fleet.dispatch(theirs.into());
            assert_eq!(fleet.clients(), count);
            clients.push((ours, orders.try_recv().expect("it is served")));
        }
        assert!(timers::timeout(MOMENT, fleet.all_gone()).await.is_err(), "one is there");
        drop(orders);
        timers::timeout(2 * LOOK, fleet.all_gone()).await.expect("nobody is left");
        fleet.dispatch(std::os::unix::net::UnixStream::pair().unwrap().0.into());
        clients.clear();
        assert_eq!(fleet.clients(), 0);
    }

    async fn end_two_whenever_asked(mut orders: UnboundedReceiver<Order>) {
        while let Some(order) = orders.recv().await {
            if let Order::Kill(_, done) = order {
                done.send(2).unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_worker_that_hangs_holds_up_nobody_who_asks_all_and_hears_it_later() {
        let metrics = Metrics::new(3, &[]);
        let ((hung, mut unheard), (gone, orders_of_gone), (well, orders)) =
            (crew(0, &metrics), crew(1, &metrics), crew(2, &metrics));
        drop(orders_of_gone);
        tokio::spawn(end_two_whenever_asked(orders));
        let fleet = Fleet { crews: vec![hung, gone, well] };
        let kill = |done| Order::Kill(Whom::Everybody, done);
        let answers = timers::timeout(20 * MOMENT, fleet.ask(MOMENT, kill)).await.expect("nobody is held up");
        assert_eq!((answers.told, answers.silent), (vec![2], vec![0]));
        assert!(matches!(unheard.try_recv(), Ok(Order::Kill(Whom::Everybody, _))));
    }
}
