//! The simplest worker: one call a packet.

use futures_util::stream::Pending;
use gatecrew::pb::{GatewayMessage, Reply, Request, WorkerMessage, logic_worker_server::LogicWorker};
use tonic::{Response, Status, Streaming};

struct Upper;

#[tonic::async_trait]
impl LogicWorker for Upper {
    async fn handle(&self, request: tonic::Request<Request>) -> Result<Response<Reply>, Status> {
        let Request { id, command, body, .. } = request.into_inner();
        if command != 101 {
            return Err(Status::unimplemented(format!("no command {command}")));
        }
        Ok(Response::new(Reply { id, body: body.to_ascii_uppercase().into(), ..Reply::default() }))
    }

    type LinkStream = Pending<Result<WorkerMessage, Status>>;

    async fn link(
        &self,
        _: tonic::Request<Streaming<GatewayMessage>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        Err(Status::unimplemented("only Handle"))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Err(error) = gatecrew::listen(Upper, async {}).await {
        eprintln!("{error}");
        std::process::exit(1);
    }
}
