//! One connection: TLS where its port has it, HTTP/1.1 or HTTP/2 as the peer speaks, its limits, its part in the drain.

use std::{
    convert::Infallible,
    fmt,
    os::fd::RawFd,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use pin_project_lite::pin_project;

use super::{
    activity::{Activity, Opened, Tracked},
    answer::Answer,
    body::Body,
    errors,
    framing::Fault,
    patience::{Limits, Patience},
    peer::Peer,
    seldom::Seldom,
    stream::{Plain, Stream, Watched},
    tls::Tls,
};
use crate::{
    batcher::turn,
    shutdown::{self, Phase},
    telemetry::{
        clock::now,
        registry::{Cut, registry},
    },
    types::error::Error,
};

/// What a person can set about connections.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Connections of all listeners together; further ones wait in the system's queue.
    pub max_connections: usize,
    /// HTTP/2 streams of one connection at once.
    pub max_streams: u32,
    /// Bytes of a request's head.
    pub max_header_bytes: usize,
    /// How long a peer may take.
    pub limits: Limits,
    /// How often an HTTP/2 peer that says nothing is asked whether it lives.
    pub ping: Option<Duration>,
    /// How long connections may take to finish once the drain has begun.
    pub drain_timeout: Duration,
}

/// A connection as it was accepted.
pub struct Socket {
    pub plain: Plain,
    pub fd: RawFd,
    pub peer: Peer,
    /// Its port speaks TLS.
    pub tls: Option<Arc<Tls>>,
}

/// How long a connection stays open for one more request once the drain has begun. HTTP/1.1 has no way to close an idle
/// connection that is safe from a request on its way; clients at work send theirs within this, idle ones do not.
pub const LAST_REQUEST: Duration = Duration::from_millis(200);

/// How long a peer that is owed nothing may leave a goodbye unanswered (of HTTP/2, a ping comes before the last word).
const GOODBYE: Duration = Duration::from_millis(1000);

/// Serves one connection until it ends, is too slow, or the drain ends it.
pub async fn serve<A: Answer>(
    socket: Socket,
    service: A,
    options: ListenOptions,
    mut shutdown: shutdown::Listener,
) {
    let Socket { plain, fd, mut peer, tls } = socket;
    let stream = match tls {
        None => Stream::Plain(plain),
        // Boxed: a plain connection's task has no room for handshakes.
        Some(tls) => match Box::pin(handshake(&tls, plain, &mut peer, &mut shutdown)).await {
            Some(stream) => stream,
            None => return,
        },
    };
    let _counted = turn::Connection::open();
    let (peer, activity) = (Arc::new(peer), Arc::new(Activity::default()));
    let last = Arc::new(AtomicBool::new(false));
    let (closing, noted) = (last.clone(), activity.clone());
    let service = service_fn(move |request: Request<Incoming>| {
        let one = request.version() <= Version::HTTP_11;
        let (open, opened) = (turn::Open::request(), noted.begin());
        let fault = if one { opened.fault() } else { None };
        let closes = one && closing.load(Ordering::Relaxed) || fault.is_some();
        let answer = service.clone().answer(request, &peer);
        Answering { answer, fault, closes, held: Some((open, opened)) }
    });
    let builder = builder(options);
    let io = TokioIo::new(Watched::new(stream, activity.clone(), options.max_header_bytes));
    let mut served = pin!(builder.serve_connection(io, service));
    let mut interruption = pin!(Seldom::new(async {
        tokio::select! {
            () = shutdown.reached(Phase::Draining) => None,
            cut = watch(&activity, options.limits) => Some(cut),
        }
    }));
    let cut = tokio::select! {
        biased;
        ended = served.as_mut() => return log_end(ended),
        cut = interruption.as_mut() => cut,
    };
    if cut.is_none() {
        // Closed under a client that is about to send, its request would be lost: the next answer, if one is asked for
        // soon, says that it is the last.
        last.store(true, Ordering::Relaxed);
        if let Ok(ended) = tokio::time::timeout(LAST_REQUEST, served.as_mut()).await {
            return log_end(ended);
        }
    } else if cut != Some(Cut::Idle) {
        return;
    }
    // What a client has sent before it could hear of the end is read first. Bounded: a peer that goes on sending keeps
    // nobody here.
    for _ in 0..1000 {
        if !waiting(fd) {
            break;
        }
        tokio::select! {
            biased;
            ended = served.as_mut() => return log_end(ended),
            () = tokio::task::yield_now() => {}
        }
    }
    served.as_mut().graceful_shutdown();
    tokio::select! {
        ended = served => log_end(ended),
        () = silence(&activity) => {}
        () = tokio::time::sleep(options.drain_timeout) => {
            tracing::warn!("a connection did not end within the drain's time: it is cut");
        }
    }
}

pin_project! {
    /// A request that is being answered. Why by hand: an async block would keep room for `answer` twice.
    struct Answering<F> {
        #[pin]
        answer: F,
        fault: Option<Fault>,
        closes: bool,
        held: Option<(turn::Open, Opened)>,
    }
}

impl<F: Future<Output = Result<Response<Body>, Infallible>>> Future for Answering<F> {
    type Output = Result<Response<Tracked>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut answer = match *this.fault {
            None => ready!(this.answer.poll(cx))?,
            Some(fault) => refusal(fault),
        };
        if *this.closes {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let (_open, opened) = this.held.take().expect("a future is not polled once it is ready");
        Poll::Ready(Ok(answer.map(|body| Tracked { body, opened })))
    }
}

/// TLS's handshake; `None` where it failed. A stop does not wait long for it.
async fn handshake(
    tls: &Tls,
    plain: Plain,
    peer: &mut Peer,
    shutdown: &mut shutdown::Listener,
) -> Option<Stream> {
    let stopping = async {
        shutdown.reached(Phase::Draining).await;
        tokio::time::sleep(GOODBYE).await;
    };
    let shaken = tokio::select! {
        shaken = tls.accept(plain) => shaken,
        () = stopping => return None,
    };
    match shaken {
        Ok((stream, identity)) => {
            peer.identity = identity;
            Some(Stream::Tls(Box::new(stream)))
        }
        Err(error) => {
            registry().cut(Cut::Handshake);
            tracing::debug!(ip = ?peer.ip, %error, "a TLS handshake failed");
            None
        }
    }
}

/// Ends when the peer has used up its time.
async fn watch(activity: &Activity, limits: Limits) -> Cut {
    let mut patience = Patience::new(limits, now());
    loop {
        tokio::time::sleep(limits.period()).await;
        if let Some(cut) = patience.look(activity.seen(), now()) {
            registry().cut(cut);
            tracing::debug!(cause = cut.label(), "a connection is ended");
            return cut;
        }
    }
}

/// Ends when nothing was being answered for `GOODBYE`.
async fn silence(activity: &Activity) {
    const LOOKS: u32 = 10;
    let mut quiet = 0;
    while quiet < LOOKS {
        tokio::time::sleep(GOODBYE / LOOKS).await;
        quiet = if activity.is_quiet() { quiet + 1 } else { 0 };
    }
}

fn refusal(fault: Fault) -> Response<Body> {
    let mut answer = errors::http_response(&Error::invalid(fault.message())).map(Body::Routed);
    if fault == Fault::TooLarge {
        *answer.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    }
    answer
}

fn log_end<E: fmt::Debug>(ended: Result<(), E>) {
    if let Err(error) = ended {
        tracing::debug!(?error, "a connection ended early");
    }
}

/// Whether bytes that were not read yet wait in the socket.
fn waiting(fd: RawFd) -> bool {
    let mut byte = 0u8;
    // SAFETY: reads at most one byte into a local without taking it from the socket; `fd` is the connection's own
    // socket, which lives in the caller's future.
    let got =
        unsafe { libc::recv(fd, (&raw mut byte).cast(), 1, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    got > 0
}

fn builder(options: ListenOptions) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // Why off: a client that closed its side has left, and its work is dropped.
        .half_close(false)
        // `watch` has the head's time limit, without a timer for every request.
        .header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        // Windows that hold a tensor of an image, so that a request does not wait for round trips.
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(256 << 10)
        .max_concurrent_streams(options.max_streams)
        .max_header_list_size(u32::try_from(options.max_header_bytes).unwrap_or(u32::MAX))
        // Streams that were reset before they were looked at (rapid reset), and streams that the peer's own errors make
        // us reset (MadeYouReset): beyond it the connection ends.
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(256)
        .keep_alive_interval(options.ping)
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
