//! A service: its handlers, and the links to the gateways that it serves.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::{Response, Status, Streaming};

use crate::link::Link;
use crate::outbox::{Outbox, Writer};
use crate::pb::logic_worker_server::LogicWorker;
use crate::pb::{Action, GatewayMessage, Push, Reply, WorkerHello, action, push};
use crate::session::Request;

/// What fits in a packet: bytes of a reply or a push.
pub const MAX_BODY: usize = (1 << 20) - 8;

pub(crate) const MAX_IN_FLIGHT: usize = 1024; // requests of one link

/// What a handler makes of a request. A status reaches the client as it is.
pub type Answer = Result<Bytes, Status>;

type Later = Pin<Box<dyn Future<Output = Answer> + Send>>;

pub(crate) enum Handler {
    Quick(Box<dyn Fn(&Request) -> Answer + Send + Sync>),
    Slow(Box<dyn Fn(Request) -> Later + Send + Sync>),
}

/// A worker, to be passed to `serve` once its handlers are set.
pub struct Worker {
    pub incarnation: String, // random, one process life
    pub(crate) handlers: HashMap<u32, Handler>,
    service: String,
    draining: AtomicBool,
    gateways: Gateways,
}

/// The gateways that are linked now; handlers keep a clone.
#[derive(Clone, Default)]
pub struct Gateways(Arc<Mutex<HashMap<usize, Arc<Outbox>>>>);

impl Gateways {
    /// Sends a packet to the members of a group, whichever gateway they are at, but not to the session `except`
    /// (0: to all).
    pub fn push_group(&self, group: String, command: u32, body: Bytes, except: u64) -> Result<(), Status> {
        if body.len() > MAX_BODY {
            return Err(too_large(body.len()));
        }
        let target = Some(push::Target::Group(group));
        let push = Push { target, command, body, except_session: except, ..Push::default() };
        for outbox in self.outboxes() {
            let action = Some(action::Action::Push(push.clone()));
            // A gateway that is gone is no failure.
            match outbox.act(Action { action, ..Action::default() }) {
                Err(status) if status.code() == tonic::Code::InvalidArgument => return Err(status),
                _ => {}
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Arc<Outbox>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn outboxes(&self) -> Vec<Arc<Outbox>> {
        self.lock().values().cloned().collect()
    }
}

impl Worker {
    /// A worker without handlers, of the service as it is registered.
    pub fn new(service: String) -> Self {
        Self {
            incarnation: incarnation(),
            handlers: HashMap::new(),
            service,
            draining: AtomicBool::new(false),
            gateways: Gateways::default(),
        }
    }

    /// Serves a command with a handler that never waits. It runs where the gateway's requests are read, which is the
    /// fastest way.
    pub fn on_quick(&mut self, command: u32, handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
        self.handlers.insert(command, Handler::Quick(Box::new(handler)));
    }

    /// Serves a command with a handler that may wait; only its own session waits for it. It is dropped where it waits
    /// when nobody waits for the answer any more: the deadline has passed, or the client or the link has gone.
    pub fn on<F: Future<Output = Answer> + Send + 'static>(
        &mut self,
        command: u32,
        handler: impl Fn(Request) -> F + Send + Sync + 'static,
    ) {
        let handler = move |request| -> Later { Box::pin(handler(request)) };
        self.handlers.insert(command, Handler::Slow(Box::new(handler)));
    }

    /// The gateways that are linked, for handlers that push to more than their own session.
    pub fn gateways(&self) -> Gateways {
        self.gateways.clone()
    }

    /// Gives back what still comes, on every link. A gateway closes its side when nothing is open any more; this
    /// returns when all links have ended.
    pub async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        for outbox in self.gateways.outboxes() {
            outbox.draining();
        }
        while !self.gateways.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn joined(&self, outbox: &Arc<Outbox>) {
        outbox.hello(self.hello());
        if self.is_draining() {
            outbox.draining(); // to a gateway that comes late
        }
        self.gateways.lock().insert(Arc::as_ptr(outbox) as usize, outbox.clone());
    }

    pub(crate) fn left(&self, outbox: &Arc<Outbox>) {
        self.gateways.lock().remove(&(Arc::as_ptr(outbox) as usize));
    }

    fn hello(&self) -> WorkerHello {
        let mut commands: Vec<u32> = self.handlers.keys().copied().collect();
        commands.sort_unstable();
        WorkerHello {
            service: self.service.clone(),
            incarnation: self.incarnation.clone(),
            no_commands: commands.is_empty(),
            commands,
            max_in_flight: MAX_IN_FLIGHT as u32, // and no concurrency: futures wait without a thread
            ..WorkerHello::default()
        }
    }
}

/// What the client hears of a reply that fits in no packet.
pub fn too_large(bytes: usize) -> Status {
    Status::internal(format!("a reply of {bytes} bytes; {MAX_BODY} at most"))
}

/// Different in every process: `RandomState` takes its keys from the operating system.
fn incarnation() -> String {
    use std::hash::{BuildHasher, RandomState};
    format!("{:016x}", RandomState::new().hash_one((std::process::id(), Instant::now())))
}

/// What gRPC calls: one `Link` for each gateway.
pub(crate) struct Service(pub Arc<Worker>);

#[tonic::async_trait]
impl LogicWorker for Service {
    type LinkStream = Writer;

    async fn link(
        &self,
        request: tonic::Request<Streaming<GatewayMessage>>,
    ) -> Result<Response<Writer>, Status> {
        Ok(Response::new(Link::start(self.0.clone(), request.into_inner())))
    }

    async fn handle(&self, _: tonic::Request<crate::pb::Request>) -> Result<Response<Reply>, Status> {
        Err(Status::unimplemented("this worker serves Link"))
    }
}
