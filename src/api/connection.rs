//! One connection: HTTP/1.1 or HTTP/2 as the peer speaks, its limits, and its part in the drain.

use std::{
    fmt,
    os::fd::RawFd,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{HeaderValue, Request, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{answer::Answer, peer::Peer};
use crate::{
    batcher::turn,
    shutdown::{self, Phase},
};

/// What a person can set about connections.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Connections of all listeners together; further ones wait in the system's queue.
    pub max_connections: usize,
    /// HTTP/2 streams of one connection at once.
    pub max_streams: u32,
    /// How long connections may take to finish once the drain has begun.
    pub drain_timeout: Duration,
}

/// A connection's socket.
pub struct Socket<I> {
    pub io: I,
    pub fd: RawFd,
    pub peer: Peer,
}

/// How long a connection stays open for one more request once the drain has begun. HTTP/1.1 has no way to close an idle
/// connection that is safe from a request on its way; clients at work send theirs within this, idle ones do not.
const LAST_REQUEST: Duration = Duration::from_millis(200);

/// Serves one connection, HTTP/1.1 or HTTP/2 as it speaks, until it ends or the drain ends it.
pub async fn serve<I, A: Answer>(
    socket: Socket<I>,
    service: A,
    options: ListenOptions,
    mut shutdown: shutdown::Listener,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Socket { io, fd, peer } = socket;
    let peer = Arc::new(peer);
    let _counted = turn::Connection::open();
    let last = Arc::new(AtomicBool::new(false));
    let closing = last.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let open = turn::Open::request();
        let closes = closing.load(Ordering::Relaxed) && request.version() <= Version::HTTP_11;
        let answer = service.clone().answer(request, &peer);
        async move {
            let mut answer = answer.await;
            drop(open);
            if let (true, Ok(answer)) = (closes, &mut answer) {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            answer
        }
    });
    let builder = builder(options);
    let mut served = pin!(builder.serve_connection(TokioIo::new(io), service));
    let mut draining = pin!(shutdown.reached(Phase::Draining));
    tokio::select! {
        biased;
        ended = served.as_mut() => return log_end(ended),
        () = draining.as_mut() => {}
    }
    // Closed under a client that is about to send, its request would be lost: the next answer, if one is asked for soon,
    // says that it is the last.
    last.store(true, Ordering::Relaxed);
    if let Ok(ended) = tokio::time::timeout(LAST_REQUEST, served.as_mut()).await {
        return log_end(ended);
    }
    // What a client has sent before it could hear of the drain is read first. Bounded: a peer that goes on sending
    // keeps nobody here.
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
    match tokio::time::timeout(options.drain_timeout, served).await {
        Ok(ended) => log_end(ended),
        Err(_) => tracing::warn!("a connection did not end within the drain's time: it is cut"),
    }
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
    // Why pipeline_flush off and half_close off: a client that closed its side has left, and its work is dropped.
    builder.http1().timer(TokioTimer::new()).half_close(false).header_read_timeout(None);
    builder
        .http2()
        .timer(TokioTimer::new())
        // Windows that hold a tensor of an image, so that a request does not wait for round trips.
        .initial_stream_window_size(2 << 20)
        .initial_connection_window_size(16 << 20)
        .max_frame_size(256 << 10)
        .max_concurrent_streams(options.max_streams)
        .max_header_list_size(16 << 10);
    builder
}
