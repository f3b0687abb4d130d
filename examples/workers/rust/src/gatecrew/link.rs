//! The stream of one gateway: one task reads and runs the quick handlers, and each session with a handler that waits has
//! one for as long as it is busy.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use crate::clock::Clock;
use crate::outbox::{Outbox, Writer};
use crate::pb::{self, GatewayMessage, Heartbeat, Kind, Reply, SessionContext};
use crate::session::{Lane, Request, Session};
use crate::worker::{Answer, Handler, MAX_BODY, MAX_IN_FLIGHT, Worker, too_large};

const LEASE: Duration = Duration::from_secs(2); // a gateway speaks every second; after such a silence we stood still
const DOUBT: Duration = Duration::from_millis(200); // for a cancellation to overtake what came before it
const MAX_MESSAGE: usize = 1024; // characters of an error that the client is shown

pub(crate) struct Link {
    worker: Arc<Worker>,
    outbox: Arc<Outbox>,
    ended: CancellationToken,
    open: Mutex<Open>,
    idle: Notify, // told when nothing is open
}

/// Requests in lanes, until they are answered; and when the gateway last spoke.
struct Open {
    arrivals: BTreeMap<u64, Instant>,
    by_id: HashMap<u64, (Arc<Session>, CancellationToken)>,
    next: u64,
    heard: Instant,
}

/// A request on its way to its handler.
pub(crate) struct Task {
    request: Request,
    kind: i32,
    arrived: Instant,                        // when it could have been read
    remaining: Duration,                     // zero: no deadline
    waits: Option<(u64, CancellationToken)>, // of those in lanes: the number in `Open`, and whether anybody waits
}

/// What the link knows of a session: of its reader only.
type Sessions = HashMap<u64, (Arc<Session>, Arc<SessionContext>)>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub fn start(worker: Arc<Worker>, messages: Streaming<GatewayMessage>) -> Writer {
        let outbox = Arc::new(Outbox::default());
        let ended = CancellationToken::new();
        worker.joined(&outbox);
        let open = Open { arrivals: BTreeMap::new(), by_id: HashMap::new(), next: 0, heard: Instant::now() };
        let link = Arc::new(Link {
            worker,
            outbox: outbox.clone(),
            ended: ended.clone(),
            open: Mutex::new(open),
            idle: Notify::new(),
        });
        tokio::spawn(async move {
            link.ended.run_until_cancelled(link.read(messages)).await;
            link.outbox.finish();
            // Until the last byte is out, or the stream is gone, the link counts: a drain waits for it.
            link.ended.cancelled().await;
            link.worker.left(&link.outbox);
        });
        Writer::new(outbox, ended)
    }

    async fn read(self: &Arc<Self>, mut messages: Streaming<GatewayMessage>) {
        let mut sessions = Sessions::new();
        let mut clock = Clock::default();
        while let Ok(Some(message)) = messages.message().await {
            if self.stood_still(Instant::now()) {
                tokio::time::sleep(DOUBT).await;
            }
            let now = Instant::now();
            lock(&self.open).heard = now;
            let arrived = now.checked_sub(clock.unread(message.sent_ms)).unwrap_or(now);
            self.take(message, arrived, &mut sessions).await;
            self.outbox.flush();
        }
        // Half closed: it asks nothing more, and still wants its answers. Or broken, and then we are cancelled here.
        loop {
            let idle = self.idle.notified();
            if lock(&self.open).arrivals.is_empty() {
                return;
            }
            idle.await;
        }
    }

    fn stood_still(&self, now: Instant) -> bool {
        now.duration_since(lock(&self.open).heard) > LEASE
    }

    async fn take(self: &Arc<Self>, message: GatewayMessage, arrived: Instant, sessions: &mut Sessions) {
        if let Some(heartbeat) = message.heartbeat {
            self.outbox.beat(self.heartbeat(heartbeat.number, Instant::now()));
        }
        for context in message.sessions {
            let id = context.session;
            let context = Arc::new(context);
            match sessions.get_mut(&id) {
                Some((_, known)) => *known = context,
                None => drop(sessions.insert(id, (Arc::new(Session::new(id, self.outbox.clone())), context))),
            }
        }
        for request in message.requests {
            self.outbox.room().await;
            self.admit(request, arrived, sessions);
        }
        for id in message.forgotten_sessions {
            sessions.remove(&id);
        }
        for id in message.cancelled_requests {
            self.cancel(id);
        }
    }

    /// Runs a request's handler at once, or puts it in its session's lane, or refuses it.
    fn admit(self: &Arc<Self>, wire: pb::Request, arrived: Instant, sessions: &mut Sessions) {
        let id = wire.id;
        if wire.kind > Kind::Notify as i32 {
            // An event that we did not ask for, or a kind of a later version.
            return self.outbox.reply(Reply { id, ..Reply::default() });
        }
        let Some(handler) = self.worker.handlers.get(&wire.command) else {
            return self.fail(id, &Status::unimplemented(format!("no handler for command {}", wire.command)));
        };
        if self.worker.is_draining() {
            return self.give_back(id, "the worker is draining");
        }
        if lock(&self.open).arrivals.len() >= MAX_IN_FLIGHT {
            return self.give_back(id, "the worker has too much in flight");
        }
        let (session, context) = sessions.entry(wire.session).or_insert_with(|| {
            let context = SessionContext { session: wire.session, ..SessionContext::default() };
            (Arc::new(Session::new(wire.session, self.outbox.clone())), Arc::new(context))
        });
        let mut task = Task {
            request: Request {
                session: session.clone(),
                context: context.clone(),
                command: wire.command,
                body: wire.body,
                attempt: wire.attempt,
                id,
            },
            kind: wire.kind,
            arrived,
            remaining: Duration::from_millis(wire.remaining_ms.into()),
            waits: None,
        };
        let mut lane = lock(&session.lane);
        if let (Handler::Quick(handler), false) = (handler, lane.busy) {
            drop(lane);
            if self.may_begin(&task) {
                self.answer(
                    &task,
                    catch_unwind(AssertUnwindSafe(|| handler(&task.request))).unwrap_or_else(|_| crashed()),
                );
            }
            return;
        }
        task.waits = Some(lock(&self.open).add(arrived, id, session));
        self.queue(&mut lane, task);
    }

    fn queue(self: &Arc<Self>, lane: &mut Lane, task: Task) {
        if lane.busy {
            lane.waiting.push_back(task);
        } else {
            lane.busy = true;
            let link = self.clone();
            let session = task.request.session.clone();
            tokio::spawn(async move {
                if link.ended.run_until_cancelled(link.run_lane(task)).await.is_none() {
                    // What waits holds the session that holds it: nothing else would free them.
                    lock(&session.lane).waiting.clear();
                }
            });
        }
    }

    /// Runs a session's requests, one after the other, until none is left.
    async fn run_lane(&self, first: Task) {
        let mut next = Some(first);
        while let Some(task) = next {
            if self.may_begin(&task) {
                let request = task.request.clone();
                let answer = match &self.worker.handlers[&request.command] {
                    Handler::Quick(handler) => {
                        catch_unwind(AssertUnwindSafe(|| handler(&request))).unwrap_or_else(|_| crashed())
                    }
                    Handler::Slow(handler) => {
                        let handled = async { handler(request).await };
                        let handled = AssertUnwindSafe(handled).catch_unwind();
                        let (_, cancelled) = task.waits.as_ref().expect("it is in a lane");
                        match cancelled.run_until_cancelled(handled).await {
                            Some(answer) => answer.unwrap_or_else(|_| crashed()),
                            None => Err(nobody_waits()),
                        }
                    }
                };
                self.answer(&task, answer);
            }
            self.done(&task);
            self.outbox.flush();
            let mut lane = lock(&task.request.session.lane);
            next = lane.waiting.pop_front();
            lane.busy = next.is_some();
        }
    }

    fn done(&self, task: &Task) {
        let mut open = lock(&self.open);
        if let Some((number, _)) = &task.waits {
            open.arrivals.remove(number);
            open.by_id.remove(&task.request.id);
        }
        if open.arrivals.is_empty() {
            self.idle.notify_one();
        }
    }

    /// Ends what nobody waits for any more: its handler is dropped where it waits.
    fn cancel(&self, id: u64) {
        let Some((session, cancelled)) = lock(&self.open).by_id.get(&id).cloned() else {
            return; // answered before it came to that
        };
        cancelled.cancel();
        let mut lane = lock(&session.lane);
        if let Some(at) = lane.waiting.iter().position(|task| task.request.id == id) {
            let task = lane.waiting.remove(at).expect("it is there");
            self.fail(id, &nobody_waits());
            self.done(&task);
        }
    }

    /// Whether anybody still waits for the answer; tells the gateway if not.
    fn may_begin(&self, task: &Task) -> bool {
        let now = Instant::now();
        let id = task.request.id;
        if self.stood_still(now) {
            self.give_back(id, "the worker stood still");
        } else if task.waits.as_ref().is_some_and(|(_, cancelled)| cancelled.is_cancelled()) {
            self.fail(id, &nobody_waits());
        } else if !task.remaining.is_zero() && now.duration_since(task.arrived) > task.remaining {
            self.fail(id, &Status::deadline_exceeded("the deadline passed before the handler started"));
        } else {
            return true;
        }
        false
    }

    fn answer(&self, task: &Task, answer: Answer) {
        let id = task.request.id;
        let answer = if task.kind == Kind::Notify as i32 { Ok(Bytes::new()) } else { answer };
        match answer {
            Ok(body) if body.len() > MAX_BODY => self.fail(id, &too_large(body.len())),
            Ok(body) => self.outbox.reply(Reply { id, body, ..Reply::default() }),
            Err(status) => self.fail(id, &status),
        }
    }

    fn fail(&self, id: u64, status: &Status) {
        let message = status.message().chars().take(MAX_MESSAGE).collect();
        self.outbox.reply(Reply { id, status: status.code() as u32, message, ..Reply::default() });
    }

    /// Lets the gateway take the request to another worker.
    fn give_back(&self, id: u64, reason: &str) {
        let (status, message) = (Code::Unavailable as u32, reason.to_owned());
        self.outbox.reply(Reply { id, status, message, not_started: true, ..Reply::default() });
    }

    fn heartbeat(&self, number: u64, now: Instant) -> Heartbeat {
        let open = lock(&self.open);
        let oldest = open.arrivals.first_key_value().map_or(now, |(_, arrived)| *arrived);
        let oldest_ms = now.duration_since(oldest).as_millis() as u32;
        Heartbeat { number, in_flight: open.arrivals.len() as u32, oldest_ms }
    }
}

impl Open {
    fn add(&mut self, arrived: Instant, id: u64, session: &Arc<Session>) -> (u64, CancellationToken) {
        let cancelled = CancellationToken::new();
        self.next += 1;
        self.arrivals.insert(self.next, arrived);
        self.by_id.insert(id, (session.clone(), cancelled.clone()));
        (self.next, cancelled)
    }
}

/// The deadline has passed, or the client has gone.
fn nobody_waits() -> Status {
    Status::cancelled("nobody waits for the answer any more")
}

/// A handler has panicked; what it said is in the log, and no business of the client's.
fn crashed() -> Answer {
    Err(Status::internal("internal error"))
}
