//! The reference worker in Rust. What each command does is said in examples/workers/README.md of Gatecrew.

use std::env;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use gatecrew::{Answer, MAX_BODY, Request, Worker, serve, too_large};
use tonic::Status;

const PUSHED: u32 = 109;
const SAID: u32 = 112;

/// Handlers that this process has begun.
static BEGUN: AtomicU64 = AtomicU64::new(0);

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Err(error) = serve(worker(env::var("SERVICE").unwrap_or("tour".to_owned()))).await {
        eprintln!("{error}");
        std::process::exit(1);
    }
}

fn worker(service: String) -> Worker {
    let mut worker = Worker::new(service);
    let (gateways, incarnation) = (worker.gateways(), worker.incarnation.clone());

    on(&mut worker, 101, |request| Ok(request.body.clone()));
    on(&mut worker, 102, |request| Err(Status::failed_precondition(text(&request.body))));
    on(&mut worker, 103, |_| panic!("as asked"));
    worker.on(104, wait);
    on(&mut worker, 105, count);
    on(&mut worker, 106, move |_| Ok(format!("rust {incarnation} {}", BEGUN.load(Ordering::Relaxed)).into()));
    on(&mut worker, 107, big);
    on(&mut worker, 108, who);
    on(&mut worker, PUSHED, |request| request.session.push(PUSHED, request.body.clone()).and_then(ok));
    on(&mut worker, 110, |request| request.session.join(text(&request.body)).and_then(ok));
    on(&mut worker, 111, |request| request.session.leave(text(&request.body)).and_then(ok));
    on(&mut worker, SAID, move |request| {
        let (group, said) = cut(&request.body, b' ');
        gateways.push_group(text(&group), SAID, said, request.session.id).and_then(ok)
    });
    on(&mut worker, 113, |request| request.session.bind(text(&request.body)).and_then(ok));
    on(&mut worker, 114, |request| {
        let (name, value) = cut(&request.body, b'=');
        request.session.set(text(&name), text(&value)).and_then(ok)
    });
    on(&mut worker, 115, |request| request.session.kick(text(&request.body)).map(|()| Bytes::new()));
    worker
}

/// A handler that does not wait, and is counted.
fn on(worker: &mut Worker, command: u32, handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) {
    worker.on_quick(command, move |request| {
        BEGUN.fetch_add(1, Ordering::Relaxed);
        handler(request)
    });
}

async fn wait(request: Request) -> Answer {
    BEGUN.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(number(&request)?)).await;
    Ok(request.body)
}

fn count(request: &Request) -> Answer {
    let counted = request.session.with_state(|counted: &mut u64| {
        *counted += 1;
        *counted
    });
    Ok(counted.to_string().into())
}

fn big(request: &Request) -> Answer {
    let size = number(request)? as usize;
    if size > MAX_BODY {
        return Err(too_large(size)); // said before so much memory is asked for
    }
    Ok(vec![b'x'; size].into())
}

fn who(request: &Request) -> Answer {
    let client = &request.context;
    let mut answer = format!(
        "session={}\nuser={}\npeer={}\nlistener={}",
        client.session, client.user, client.peer, client.listener
    );
    let mut attributes: Vec<_> = client.attributes.iter().collect();
    attributes.sort();
    for (name, value) in attributes {
        write!(answer, "\n{name}={value}").expect("a String takes everything");
    }
    Ok(answer.into())
}

fn ok(_: ()) -> Answer {
    Ok(Bytes::from_static(b"ok"))
}

fn text(body: &Bytes) -> String {
    String::from_utf8_lossy(body).into_owned()
}

/// What is before and after the first `at`.
fn cut(body: &Bytes, at: u8) -> (Bytes, Bytes) {
    match body.iter().position(|byte| *byte == at) {
        Some(position) => (body.slice(..position), body.slice(position + 1..)),
        None => (body.clone(), Bytes::new()),
    }
}

fn number(request: &Request) -> Result<u64, Status> {
    let digits =
        std::str::from_utf8(&request.body).ok().filter(|body| body.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| Status::invalid_argument("give a decimal number"))
}
