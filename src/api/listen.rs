//! Listeners and network threads: one single-threaded event loop a thread, connections dealt out among them.

use std::{
    io,
    net::TcpStream,
    os::{fd::AsRawFd, unix::net::UnixStream},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    io::unix::AsyncFd,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
};

use super::{
    address::{Bound, Listener},
    answer::Answer,
    connection::{self, ListenOptions, Socket},
    peer::Peer,
    stream::Plain,
    tls::Tls,
};
use crate::{
    batcher::turn,
    shutdown::{self, Phase},
    telemetry::registry::{self, registry},
};

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// A connection on its way to its thread.
struct Accepted {
    stream: Stream,
    peer: Peer,
    tls: Option<Arc<Tls>>,
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

    /// One task a connection.
    fn serve(&self, accepted: Accepted, open: &mpsc::Sender<()>) {
        let Accepted { stream, peer, tls, permit, counted } = accepted;
        let (fd, plain) = match stream {
            Stream::Tcp(stream) => {
                set_up(&stream);
                (stream.as_raw_fd(), tokio::net::TcpStream::from_std(stream).map(Plain::Tcp))
            }
            Stream::Unix(stream) => {
                (stream.as_raw_fd(), tokio::net::UnixStream::from_std(stream).map(Plain::Unix))
            }
        };
        let plain = match plain {
            Ok(plain) => plain,
            Err(error) => return tracing::warn!(%error, "a connection could not be served"),
        };
        // Let go when the connection ends.
        let held = (permit, counted, open.clone());
        let (service, options, shutdown) =
            (self.service.clone(), self.options, self.shutdown.clone());
        tokio::spawn(async move {
            connection::serve(Socket { plain, fd, peer, tls }, service, options, shutdown).await;
            drop(held);
        });
    }
}

fn set_up(stream: &TcpStream) {
    // Why: answers are small and written whole; waiting for more to send only adds latency.
    let _ = stream.set_nodelay(true);
    // A peer whose machine is gone is found by the system, while a request waits for a long run too.
    let probes = socket2::TcpKeepalive::new().with_time(PROBE).with_interval(PROBE / 3);
    let _ = socket2::SockRef::from(stream).set_tcp_keepalive(&probes.with_retries(3));
}

/// How long a connection may be silent before the system asks whether its peer's machine is there.
const PROBE: Duration = Duration::from_secs(30);

/// A group that can be waited for: the receiver hears `None` once every clone of the sender is gone.
fn group() -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
    mpsc::channel(1)
}

/// How often a listener that cannot accept says so.
const WARN_EVERY: Duration = Duration::from_secs(10);

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
    let mut warned: Option<Instant> = None;
    loop {
        let draining = shutdown.phase() >= Phase::Draining;
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        match take(&listener.socket) {
            Ok((stream, peer)) => {
                let counted = registry().connection(listener.role);
                let tls = listener.tls.clone();
                if deal.send(Accepted { stream, peer, tls, permit, counted }).await.is_err() {
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
                if warned.is_none_or(|at| at.elapsed() >= WARN_EVERY) {
                    tracing::warn!(%error, "connections cannot be accepted: trying again");
                    warned = Some(Instant::now());
                }
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
            Ok((Stream::Unix(stream), Peer::at(None)))
        }
    }
}
