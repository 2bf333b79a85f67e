//! What a connection does, noted where it happens: requests that begin and end, bytes of answers that wait for the peer.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Frame, SizeHint};

use super::{body::Body, framing::Fault, patience::Seen};

/// The notes of one connection. Why plain loads and stores: everything of a connection runs on its own thread; the atomics
/// are what lets the compiler believe it.
#[derive(Debug, Default)]
pub struct Activity {
    received: AtomicU64,
    written: AtomicU64,
    begun: AtomicU64,
    open: AtomicU64,
    /// Chunks of answers that hyper holds.
    chunks: AtomicU64,
    /// The socket took less than it was given, and has not caught up.
    backlog: AtomicBool,
    http2: AtomicBool,
    /// What is wrong with the head that comes next, as `Fault::code`.
    fault: AtomicU8,
}

fn add(number: &AtomicU64, more: u64) {
    number.store(number.load(Relaxed) + more, Relaxed);
}

fn less_one(number: &AtomicU64) {
    number.store(number.load(Relaxed).saturating_sub(1), Relaxed);
}

impl Activity {
    pub fn seen(&self) -> Seen {
        Seen {
            received: self.received.load(Relaxed),
            written: self.written.load(Relaxed),
            begun: self.begun.load(Relaxed),
            open: self.open.load(Relaxed),
            owed: self.chunks.load(Relaxed) > 0 || self.backlog.load(Relaxed),
            http2: self.http2.load(Relaxed),
        }
    }

    /// Nothing is being answered.
    pub fn is_quiet(&self) -> bool {
        let seen = self.seen();
        seen.open == 0 && !seen.owed
    }

    pub fn received(&self, bytes: usize) {
        add(&self.received, bytes as u64);
    }

    pub fn written(&self, bytes: usize) {
        add(&self.written, bytes as u64);
    }

    pub fn backlog(&self, behind: bool) {
        self.backlog.store(behind, Relaxed);
    }

    pub fn speaks_http2(&self) {
        self.http2.store(true, Relaxed);
    }

    pub fn is_http2(&self) -> bool {
        self.http2.load(Relaxed)
    }

    pub fn open(&self) -> u64 {
        self.open.load(Relaxed)
    }

    pub fn begun(&self) -> u64 {
        self.begun.load(Relaxed)
    }

    pub fn found(&self, fault: Fault) {
        self.fault.store(fault.code(), Relaxed);
    }

    /// A request's head has come: the request counts as open until the result, or the answer made of it, is dropped.
    pub fn begin(self: &Arc<Self>) -> Opened {
        add(&self.begun, 1);
        add(&self.open, 1);
        Opened(self.clone())
    }
}

/// An open request.
pub struct Opened(Arc<Activity>);

impl Opened {
    /// What is wrong with its head, if something is.
    pub fn fault(&self) -> Option<Fault> {
        match self.0.fault.load(Relaxed) {
            0 => None,
            code => Fault::of(code),
        }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        less_one(&self.0.open);
    }
}

/// The body of an answer, with what keeps its request open.
pub struct Tracked {
    pub body: Body,
    pub opened: Opened,
}

impl http_body::Body for Tracked {
    type Data = Chunk;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Chunk>, axum::Error>>> {
        let Tracked { body, opened } = self.get_mut();
        let chunk = |bytes| Chunk::new(bytes, &opened.0);
        Pin::new(body).poll_frame(cx).map_ok(|frame| frame.map_data(chunk))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of an answer. They count as owed until hyper drops them, which it does once they are written: a peer's window
/// that is closed keeps them alive, where no socket tells.
pub struct Chunk {
    bytes: Bytes,
    activity: Arc<Activity>,
}

impl Chunk {
    fn new(bytes: Bytes, activity: &Arc<Activity>) -> Chunk {
        add(&activity.chunks, 1);
        Chunk { bytes, activity: activity.clone() }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        less_one(&self.activity.chunks);
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_request_is_open_and_its_chunks_are_owed_while_they_live() {
        let activity = Arc::new(Activity::default());
        assert!(activity.is_quiet());
        let opened = activity.begin();
        assert_eq!((activity.open(), opened.fault()), (1, None));
        let mut body = Tracked { body: Body::whole("answer"), opened };
        let chunk = body.frame().await.unwrap().unwrap().into_data().ok().unwrap();
        assert_eq!(chunk.chunk(), b"answer");
        drop(body);
        assert_eq!(activity.open(), 0);
        assert!(activity.seen().owed && !activity.is_quiet());
        drop(chunk);
        assert!(activity.is_quiet());
        activity.found(Fault::TwoLengths);
        assert_eq!(activity.begin().fault(), Some(Fault::TwoLengths));
    }
}
