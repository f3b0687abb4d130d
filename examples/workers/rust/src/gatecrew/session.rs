//! A client, as one link knows it, and what its handlers are given.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tonic::Status;

use crate::outbox::Outbox;
use crate::pb::{Action, Bind, Join, Kick, Leave, Push, SessionContext, SetAttributes, action, kick, push};
use crate::worker::{MAX_BODY, too_large};

/// A packet for a handler to answer.
#[derive(Clone)]
pub struct Request {
    pub session: Arc<Session>,
    pub context: Arc<SessionContext>, // who the client is
    pub command: u32,
    pub body: Bytes,
    pub attempt: u32, // 0 the first time; above that an earlier one may have run
    pub id: u64,      // with the session's id the idempotency key: the same over all attempts
}

/// Its requests run one after the other. Everything that is done to it goes out before the reply of the request that
/// is being handled.
pub struct Session {
    pub id: u64,
    pub(crate) lane: Mutex<Lane>,
    outbox: Arc<Outbox>,
    state: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Default)]
pub(crate) struct Lane {
    pub busy: bool,
    pub waiting: VecDeque<crate::link::Task>,
}

impl Session {
    pub(crate) fn new(id: u64, outbox: Arc<Outbox>) -> Self {
        Self { id, lane: Mutex::default(), outbox, state: Mutex::new(None) }
    }

    /// Something of yours that goes with the session. Another type than the last time begins anew.
    pub fn with_state<T: Default + Send + 'static, R>(&self, use_it: impl FnOnce(&mut T) -> R) -> R {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.as_ref().is_some_and(|state| state.is::<T>()) {
            *state = Some(Box::new(T::default()));
        }
        use_it(state.as_mut().and_then(|state| state.downcast_mut()).expect("it is of that type now"))
    }

    /// Sends a packet to the client.
    pub fn push(&self, command: u32, body: Bytes) -> Result<(), Status> {
        if body.len() > MAX_BODY {
            return Err(too_large(body.len()));
        }
        let target = Some(push::Target::Session(self.id));
        self.act(action::Action::Push(Push { target, command, body, ..Push::default() }))
    }

    /// Makes it a member of a group.
    pub fn join(&self, group: String) -> Result<(), Status> {
        self.act(action::Action::Join(Join { session: self.id, group }))
    }

    /// Undoes `join`.
    pub fn leave(&self, group: String) -> Result<(), Status> {
        self.act(action::Action::Leave(Leave { session: self.id, group }))
    }

    /// Says which user it is.
    pub fn bind(&self, user: String) -> Result<(), Status> {
        self.act(action::Action::Bind(Bind { session: self.id, user }))
    }

    /// Sets an attribute; an empty value removes it.
    pub fn set(&self, name: String, value: String) -> Result<(), Status> {
        let attributes = HashMap::from([(name, value)]);
        self.act(action::Action::SetAttributes(SetAttributes { session: self.id, attributes }))
    }

    /// Closes it, once its client has been told the reason.
    pub fn kick(&self, reason: String) -> Result<(), Status> {
        let target = Some(kick::Target::Session(self.id));
        self.act(action::Action::Kick(Kick { target, reason, ..Kick::default() }))
    }

    fn act(&self, action: action::Action) -> Result<(), Status> {
        self.outbox.act(Action { action: Some(action), ..Action::default() })
    }
}
