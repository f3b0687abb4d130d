//! What waits to be written to one gateway. Replies and actions gather in one message, in order, while gRPC is busy
//! with an earlier one: it asks for the next message when it can send it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_util::Stream;
use prost::Message;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::pb::{Action, Heartbeat, Reply, WorkerHello, WorkerMessage};
use crate::worker::MAX_BODY;

const MESSAGE_BYTES: usize = 1 << 20; // a message is full here; the item that fills it makes it 2 MiB, and 4 is the limit
const ITEM_BYTES: usize = 256; // what a reply or an action counts beside its content: at most 4096 in a message
const FULL_BYTES: usize = 8 << 20; // nothing more is begun for a gateway that does not read
const HARD_BYTES: usize = 64 << 20; // and so much is not pushed to it
const MAX_ACTION: usize = MAX_BODY + 4096;

#[derive(Default)]
struct Waiting {
    messages: VecDeque<(WorkerMessage, usize)>,
    bytes: usize,
    heartbeat: Option<Heartbeat>,
    finished: bool, // nothing more will come
    closed: bool,   // the link has ended
    writer: Option<Waker>,
}

#[derive(Default)]
pub(crate) struct Outbox {
    waiting: Mutex<Waiting>,
    written: Notify,
}

impl Outbox {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn hello(&self, hello: WorkerHello) {
        self.lock().grow(0).hello = Some(hello);
    }

    /// Does not wake the writer: the replies of a batch leave together, see `flush`.
    pub fn reply(&self, reply: Reply) {
        let mut waiting = self.lock();
        if !waiting.closed {
            waiting.grow(reply.body.len() + reply.message.len()).replies.push(reply);
        }
    }

    /// Fails where the action is too large, where the link has ended, and where that gateway does not read.
    pub fn act(&self, mut action: Action) -> Result<(), Status> {
        let size = action.encoded_len();
        if size > MAX_ACTION {
            let text = format!("an action of {size} bytes; {MAX_ACTION} at most");
            return Err(Status::invalid_argument(text));
        }
        let mut waiting = self.lock();
        if waiting.closed || waiting.bytes > HARD_BYTES {
            return Err(Status::unavailable("the session's gateway is gone, or does not read"));
        }
        let message = waiting.grow(size);
        action.after_replies = message.replies.len() as u32;
        message.actions.push(action);
        waiting.wake();
        Ok(())
    }

    /// Answers a heartbeat, ahead of what waits.
    pub fn beat(&self, heartbeat: Heartbeat) {
        let mut waiting = self.lock();
        waiting.heartbeat = Some(heartbeat);
        waiting.grow(0);
    }

    pub fn draining(&self) {
        let mut waiting = self.lock();
        waiting.grow(0).draining = true;
        waiting.wake();
    }

    pub fn flush(&self) {
        self.lock().wake();
    }

    /// Waits until the gateway has taken enough. Only the link's reader may call it.
    pub async fn room(&self) {
        while self.lock().bytes > FULL_BYTES {
            self.flush();
            self.written.notified().await;
        }
    }

    /// End the stream when everything is written.
    pub fn finish(&self) {
        let mut waiting = self.lock();
        waiting.finished = true;
        waiting.wake();
    }

    fn close(&self) {
        *self.lock() = Waiting { closed: true, finished: true, ..Waiting::default() };
        self.written.notify_one();
    }
}

impl Waiting {
    /// Makes room for an item and returns the message that it belongs in.
    fn grow(&mut self, size: usize) -> &mut WorkerMessage {
        if self.messages.back().is_none_or(|(_, bytes)| *bytes >= MESSAGE_BYTES) {
            self.messages.push_back((WorkerMessage::default(), 0));
        }
        self.bytes += ITEM_BYTES + size;
        let (message, bytes) = self.messages.back_mut().expect("there is one now");
        *bytes += ITEM_BYTES + size;
        message
    }

    fn wake(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}

/// The stream that gRPC writes to the gateway. It is dropped when the link ends, in whatever way.
pub struct Writer {
    outbox: Arc<Outbox>,
    ended: CancellationToken,
}

impl Writer {
    pub(crate) fn new(outbox: Arc<Outbox>, ended: CancellationToken) -> Self {
        Self { outbox, ended }
    }
}

impl Stream for Writer {
    type Item = Result<WorkerMessage, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut waiting = self.outbox.lock();
        if let Some((mut message, size)) = waiting.messages.pop_front() {
            waiting.bytes -= size;
            message.heartbeat = waiting.heartbeat.take();
            self.outbox.written.notify_one();
            return Poll::Ready(Some(Ok(message)));
        }
        if waiting.finished {
            return Poll::Ready(None);
        }
        waiting.writer = Some(context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ended.cancel();
        self.outbox.close();
    }
}
