//! A worker's life: listen at HOST and PORT, serve until SIGTERM or SIGINT, drain.

use std::env;
use std::error::Error;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tonic::transport::server::{Router, Server, TcpIncoming};
use tonic_health::ServingStatus;

use crate::pb::logic_worker_server::{LogicWorker, LogicWorkerServer};
use crate::worker::{Service, Worker};

const MAX_MESSAGE: usize = 4 << 20;
const DRAIN_WITHIN: Duration = Duration::from_secs(9);
const LAST_CALLS_WITHIN: Duration = Duration::from_secs(1); // for those who watch our health, say

/// Serves the worker until it is told to stop.
pub async fn serve(worker: Worker) -> Result<(), Box<dyn Error>> {
    let worker = Arc::new(worker);
    listen(Service(worker.clone()), async move { worker.drain().await }).await
}

/// Serves any implementation of the contract; `drain` is awaited between the signal and the end.
pub async fn listen<T: LogicWorker>(
    service: T,
    drain: impl Future<Output = ()>,
) -> Result<(), Box<dyn Error>> {
    log_few_panics();
    let host = env::var("HOST").unwrap_or("127.0.0.1".to_owned());
    let port: u16 = env::var("PORT").unwrap_or("7101".to_owned()).parse().map_err(|_| "PORT is no port")?;
    let listener = TcpListener::bind((host.as_str(), port))
        .await
        .map_err(|error| format!("cannot listen on {host}:{port}: {error}"))?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));

    let (health, health_service) = tonic_health::server::health_reporter();
    let name = "gatecrew.v1.LogicWorker";
    health.set_service_status(name, ServingStatus::Serving).await;
    let service = LogicWorkerServer::new(service)
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let router: Router = Server::builder()
        // A frozen gateway is found by our pings. Those of gateways are always answered.
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .initial_stream_window_size(MAX_MESSAGE as u32)
        .initial_connection_window_size(2 * MAX_MESSAGE as u32)
        .add_service(health_service)
        .add_service(service);

    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    println!("listening on {host}:{port}");
    let stopping = CancellationToken::new();
    let stop = async {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        for each in ["", name] {
            health.set_service_status(each, ServingStatus::NotServing).await;
        }
        _ = tokio::time::timeout(DRAIN_WITHIN, drain).await;
        stopping.cancel();
    };
    let overdue = async {
        stopping.cancelled().await;
        tokio::time::sleep(LAST_CALLS_WITHIN).await;
    };
    tokio::select! {
        served = router.serve_with_incoming_shutdown(incoming, stop) => served?,
        () = overdue => {}
    }
    Ok(())
}

/// One panic a second is told: a client must not be able to fill the log.
fn log_few_panics() {
    let told: Mutex<Option<Instant>> = Mutex::new(None);
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let Ok(mut told) = told.lock() else { return };
        if told.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
            *told = Some(Instant::now());
            tell(panic);
        }
    }));
}
