//! A worker's side of the contract: links to gateways, sessions and their order, batches, drain.
//!
//! It can be taken over as it is; what a worker does is in its handlers. Everything runs on one thread, so that a
//! handler that blocks shows in the heartbeat: give what takes long to `tokio::task::spawn_blocking`.

mod clock;
mod link;
mod outbox;
mod serve;
mod session;
mod worker;

/// The contract, generated from `protos`.
pub mod pb {
    tonic::include_proto!("gatecrew.v1");
}

pub use serve::{listen, serve};
pub use session::{Request, Session};
pub use worker::{Answer, Gateways, MAX_BODY, Worker, too_large};
