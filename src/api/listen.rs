//! Listeners and network threads: one single-threaded event loop a thread, connections dealt out among them.

use std::{
    convert::Infallible,
    fmt, io,
    net::{TcpListener, TcpStream, ToSocketAddrs},
    os::{
        fd::{AsRawFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    pin::pin,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use http::{HeaderValue, Request, Response, Version, header};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, unix::AsyncFd},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};
use tower::ServiceExt;

use super::{
    body::Body,
    fast::{self, Front, Lane},
    operator::Peer,
};
use crate::{
    batcher::turn,
    shutdown::{self, Phase},
    telemetry::{
        clock::now,
        registry::{self, registry},
    },
};

/// Where a listener listens: `HOST:PORT`, `unix:PATH` or `off`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Tcp(String),
    Unix(PathBuf),
    Off,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Address, String> {
        if text == "off" {
            return Ok(Address::Off);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err("unix: needs a path after it".into()),
                path => Ok(Address::Unix(path.into())),
            };
        }
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Address::Tcp(text.to_owned()))
            }
            _ => Err(format!("'{text}' is none of HOST:PORT, unix:PATH and off")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Off => f.write_str("off"),
        }
    }
}

/// A bound listener.
pub struct Listener {
    socket: Bound,
    /// Which of the server's three it is, for the metrics.
    role: registry::Listener,
}

enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Binds; `None` for `off`. The error names the address.
    pub fn bind(address: &Address, role: registry::Listener) -> Result<Option<Listener>, String> {
        let bound = match address {
            Address::Off => return Ok(None),
            Address::Tcp(address) => bind_tcp(address).map(Bound::Tcp),
            Address::Unix(path) => bind_unix(path).map(|l| Bound::Unix(l, path.clone())),
        };
        bound
            .map(|socket| Some(Listener { socket, role }))
            .map_err(|error| format!("cannot listen on {address}: {error}"))
    }

    /// The address actually bound (port 0 resolved).
    pub fn address(&self) -> String {
        match &self.socket {
            Bound::Tcp(listener) => {
                listener.local_addr().map_or_else(|_| "?".into(), |a| a.to_string())
            }
            Bound::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }
}

fn bind_tcp(address: &str) -> io::Result<TcpListener> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for address in address.to_socket_addrs()? {
        let socket = socket2::Socket::new(
            socket2::Domain::for_address(address),
            socket2::Type::STREAM,
            None,
        )?;
        // Why: a restart must not wait for the old connections' TIME_WAIT. It does not share a port that is taken.
        socket.set_reuse_address(true)?;
        let bound = socket.bind(&address.into()).and_then(|()| socket.listen(1024));
        match bound.and_then(|()| socket.set_nonblocking(true)) {
            Ok(()) => return Ok(socket.into()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn bind_unix(path: &PathBuf) -> io::Result<UnixListener> {
    // A socket that nobody answers on is a leftover of a killed process; one that answers is taken.
    if path.exists() && UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

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

/// Who answers on a set of listeners; one clone a request.
pub trait Answer: Clone + Send + Sync + 'static {
    /// Whether its threads run models: they take turns (`batcher::turn`).
    const RUNS_MODELS: bool;

    /// Called when the head has arrived; the future waits for the rest.
    fn answer(
        self,
        request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static;
}

/// The data ports: the fast lane, and the routers behind it.
impl Answer for Arc<Front> {
    const RUNS_MODELS: bool = true;

    fn answer(
        self,
        request: Request<Incoming>,
        _peer: Peer,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static {
        let received = now();
        fast::answer(self, Lane::of(request), received)
    }
}

/// The operator's port.
impl Answer for axum::Router {
    const RUNS_MODELS: bool = false;

    fn answer(
        self,
        mut request: Request<Incoming>,
        peer: Peer,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static {
        request.extensions_mut().insert(peer);
        let routed = self.oneshot(request.map(axum::body::Body::new));
        async { Ok(routed.await?.map(Body::Routed)) }
    }
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection on its way to its thread.
struct Accepted {
    stream: Stream,
    peer: Peer,
    permit: OwnedSemaphorePermit,
    counted: registry::OpenConnection,
}

/// The running network threads.
pub struct Network {
    threads: Vec<thread::JoinHandle<()>>,
}

impl Network {
    /// Starts `count` network threads; the first accepts on `listeners` and deals connections out in turn.
    pub fn start<A: Answer>(
        count: usize,
        listeners: Vec<Listener>,
        service: A,
        options: ListenOptions,
        shutdown: shutdown::Listener,
    ) -> io::Result<Network> {
        let mut inboxes = Vec::new();
        let mut threads = Vec::new();
        let turn = |slot| A::RUNS_MODELS.then_some(slot);
        for slot in 1..count {
            let (sender, receiver) = mpsc::channel(256);
            inboxes.push(sender);
            let home = Home { service: service.clone(), options, shutdown: shutdown.clone() };
            threads.push(spawn(turn(slot), move || home.receive(receiver))?);
        }
        let home = Home { service, options, shutdown };
        threads.push(spawn(turn(0), move || home.accept(listeners, inboxes))?);
        Ok(Network { threads })
    }

    /// Waits until every connection has ended; the shutdown's phases bound the wait.
    pub fn join(self) {
        for thread in self.threads {
            let _ = thread.join();
        }
    }
}

/// A thread with an event loop. `turn`: its place among the threads that run models, `None` for one that runs none.
fn spawn<F>(
    turn: Option<usize>,
    main: impl FnOnce() -> F + Send + 'static,
) -> io::Result<thread::JoinHandle<()>>
where
    F: Future<Output = ()>,
{
    let name = turn.map_or("onnxd-operator".into(), |slot| format!("onnxd-net-{slot}"));
    thread::Builder::new().name(name).spawn(move || {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all();
        if let Some(slot) = turn {
            turn::install(slot);
            runtime.on_thread_park(turn::flush);
        }
        match runtime.build() {
            Ok(runtime) => runtime.block_on(main()),
            Err(error) => tracing::error!(%error, "a network thread has no event loop"),
        }
    })
}

/// What a network thread needs to serve its connections.
struct Home<A> {
    service: A,
    options: ListenOptions,
    shutdown: shutdown::Listener,
}

impl<A: Answer> Home<A> {
    async fn receive(self, mut inbox: mpsc::Receiver<Accepted>) {
        let (open, ended) = group();
        while let Some(accepted) = inbox.recv().await {
            self.serve(accepted, &open);
        }
        drop(open);
        self.finish(ended).await;
    }

    async fn accept(self, listeners: Vec<Listener>, inboxes: Vec<mpsc::Sender<Accepted>>) {
        let (open, ended) = group();
        let permits = Arc::new(Semaphore::new(self.options.max_connections));
        let (sender, mut inbox) = mpsc::channel(256);
        let mut acceptors = Vec::new();
        for listener in listeners {
            let shutdown = self.shutdown.clone();
            acceptors.push(tokio::spawn(accept(
                listener,
                permits.clone(),
                sender.clone(),
                shutdown,
            )));
        }
        drop(sender);
        let mut turn = 0;
        while let Some(accepted) = inbox.recv().await {
            turn = (turn + 1) % (inboxes.len() + 1);
            match inboxes.get(turn.wrapping_sub(1)) {
                None => self.serve(accepted, &open),
                Some(inbox) => drop(inbox.send(accepted).await),
            }
        }
        drop(inboxes);
        drop(open);
        self.finish(ended).await;
    }

    /// Waits for this thread's connections to end; at the cut, the event loop ends with what is still open.
    async fn finish(&self, mut ended: mpsc::Receiver<()>) {
        let mut shutdown = self.shutdown.clone();
        tokio::select! {
            _ = ended.recv() => {}
            () = shutdown.reached(Phase::Cut) => {}
        }
    }

    fn serve(&self, accepted: Accepted, open: &mpsc::Sender<()>) {
        let held = (accepted.permit, accepted.counted, open.clone());
        let (service, peer) = (self.service.clone(), accepted.peer);
        let served = match accepted.stream {
            Stream::Tcp(stream) => {
                let fd = stream.as_raw_fd();
                // Why: answers are small and written whole; waiting for more to send only adds latency.
                let _ = stream.set_nodelay(true);
                tokio::net::TcpStream::from_std(stream).map(|io| {
                    self.spawn(Socket { io, fd, peer }, service, held);
                })
            }
            Stream::Unix(stream) => {
                let fd = stream.as_raw_fd();
                tokio::net::UnixStream::from_std(stream).map(|io| {
                    self.spawn(Socket { io, fd, peer }, service, held);
                })
            }
        };
        if let Err(error) = served {
            tracing::warn!(%error, "a connection could not be served");
        }
    }

    /// One task a connection; `held` is let go when it ends.
    fn spawn<I, H>(&self, socket: Socket<I>, service: A, held: H)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        H: Send + 'static,
    {
        let (options, shutdown) = (self.options, self.shutdown.clone());
        tokio::spawn(async move {
            connection(socket, service, options, shutdown).await;
            drop(held);
        });
    }
}

/// A connection's socket.
struct Socket<I> {
    io: I,
    fd: RawFd,
    peer: Peer,
}

/// A group that can be waited for: the receiver hears `None` once every clone of the sender is gone.
fn group() -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
    mpsc::channel(1)
}

/// Accepts until the drain, then empties the system's queue and closes the listener.
async fn accept(
    listener: Listener,
    permits: Arc<Semaphore>,
    deal: mpsc::Sender<Accepted>,
    mut shutdown: shutdown::Listener,
) {
    let fd = match &listener.socket {
        Bound::Tcp(l) => l.as_raw_fd(),
        Bound::Unix(l, _) => l.as_raw_fd(),
    };
    // SAFETY: the descriptor is the listener's own, which outlives the registration: `socket` is declared after it and
    // dropped before it.
    let socket = unsafe { AsyncFd::register(fd) };
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, "a listener cannot be watched"),
    };
    loop {
        let draining = shutdown.phase() >= Phase::Draining;
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match take(&listener.socket) {
            Ok((stream, peer)) => {
                let counted = registry().connection(listener.role);
                if deal.send(Accepted { stream, peer, permit, counted }).await.is_err() {
                    return;
                }
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                drop(permit);
                if draining {
                    break;
                }
            }
            Err(error) => {
                drop(permit);
                tracing::warn!(%error, "a connection could not be accepted");
                // Too many open files, mostly: it passes when a connection ends, which nothing announces.
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        }
        tokio::select! {
            ready = socket.readable() => {
                if let Ok(mut ready) = ready {
                    ready.clear_ready();
                }
                // Cleared before the next try: what arrives after it makes the socket ready again.
            }
            () = shutdown.reached(Phase::Draining) => {}
        }
    }
    if let Bound::Unix(_, path) = &listener.socket {
        let _ = std::fs::remove_file(path);
    }
}

fn take(listener: &Bound) -> io::Result<(Stream, Peer)> {
    match listener {
        Bound::Tcp(listener) => {
            let (stream, address) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((Stream::Tcp(stream), Peer::at(Some(address.ip()))))
        }
        Bound::Unix(listener, _) => {
            let (stream, _) = listener.accept()?;
            stream.set_nonblocking(true)?;
            Ok((Stream::Unix(stream), Peer::Local))
        }
    }
}

/// How long a connection stays open for one more request once the drain has begun. HTTP/1.1 has no way to close an idle
/// connection that is safe from a request on its way; clients at work send theirs within this, idle ones do not.
const LAST_REQUEST: Duration = Duration::from_millis(200);

/// Serves one connection, HTTP/1.1 or HTTP/2 as it speaks, until it ends or the drain ends it.
async fn connection<I, A: Answer>(
    socket: Socket<I>,
    service: A,
    options: ListenOptions,
    mut shutdown: shutdown::Listener,
) where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Socket { io, fd, peer } = socket;
    let _counted = turn::Connection::open();
    let last = Arc::new(AtomicBool::new(false));
    let closing = last.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        let open = turn::Open::request();
        let closes = closing.load(Ordering::Relaxed) && request.version() <= Version::HTTP_11;
        let answer = service.clone().answer(request, peer);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_host_port_or_unix_or_off() {
        let parse = |text: &str| text.parse::<Address>().map(|a| a.to_string());
        assert_eq!(parse("127.0.0.1:0"), Ok("127.0.0.1:0".into()));
        assert_eq!(parse("[::1]:8000"), Ok("[::1]:8000".into()));
        assert_eq!(parse("unix:/run/onnxd.sock"), Ok("unix:/run/onnxd.sock".into()));
        assert_eq!(parse("off"), Ok("off".into()));
        for bad in ["", "8000", ":8000", "host:", "host:99999", "unix:"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
