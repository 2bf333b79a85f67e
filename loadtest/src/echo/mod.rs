//! A server whose latencies are known: it answers every infer request with its inputs, after a time of a stated distribution.

pub mod answers;
pub mod latency;
pub mod line;
mod service;
mod timer;

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use latency::Distribution;
use line::Line;
use service::Echo;
use tokio::{net::TcpListener, sync::oneshot};

/// What the server does with each request.
#[derive(Clone, Debug)]
pub struct Options {
    /// HTTP/1.1 and HTTP/2, both APIs.
    pub address: SocketAddr,
    /// How long the service of a request takes.
    pub latency: Distribution,
    /// Requests that are served at once; further ones wait in the order in which they came. None: any number.
    pub servers: Option<usize>,
    /// Requests that may wait; one more is refused (429, RESOURCE_EXHAUSTED). None: any number.
    pub queue: Option<usize>,
    /// Share of requests that fail (500, INTERNAL), 0 to 1.
    pub failures: f64,
    /// Every so often nothing is answered for so long.
    pub stall: Option<(Duration, Duration)>,
    /// Decides times and failures.
    pub seed: u64,
    /// The number that answers say they are from.
    pub version: String,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            latency: Distribution::Constant(Duration::ZERO),
            servers: None,
            queue: None,
            failures: 0.0,
            stall: None,
            seed: 1,
            version: "1".to_owned(),
        }
    }
}

/// A running server; it ends when this is dropped.
#[derive(Debug)]
pub struct Handle {
    pub address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Handle {
    /// Waits until the server's thread ends by itself, which it does not.
    pub fn wait(mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts a server.
///
/// # Errors
/// In words: the address cannot be listened on, a thread cannot be started.
pub fn serve(options: Options) -> Result<Handle, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|e| format!("the event loop cannot be started: {e}"))?;
    let address = options.address;
    let taken = |e| format!("{address} cannot be listened on: {e}");
    let listener = runtime.block_on(TcpListener::bind(address)).map_err(taken)?;
    let address = listener.local_addr().map_err(taken)?;
    let line = Line::new(options.servers, options.queue, options.stall);
    let timer = timer::Timer::start()?;
    let echo = Arc::new(Echo::new(options, line, timer));
    let (stop, stopped) = oneshot::channel();
    let body = move || runtime.block_on(service::accept(listener, echo, stopped));
    let thread = thread::Builder::new().name("echo".to_owned()).spawn(body);
    let thread = thread.map_err(|e| format!("a thread cannot be started: {e}"))?;
    Ok(Handle { address, stop: Some(stop), thread: Some(thread) })
}

#[cfg(test)]
mod tests;
