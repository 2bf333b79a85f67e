//! A connection's bytes: TCP or a Unix socket, plain or through TLS, and the notes that are taken of them.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::server::TlsStream;

use super::{
    activity::Activity,
    framing::{Fault, Framing},
};

/// Why enums: one compiled HTTP server for all of them, for a branch that the processor predicts.
pub enum Plain {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub enum Stream {
    Plain(Plain),
    /// Boxed: its buffers are nothing that a plain connection carries around.
    Tls(Box<TlsStream<Plain>>),
}

macro_rules! delegate {
    ($type:ty, $($variant:path),+) => {
        impl AsyncRead for $type {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() { $($variant(inner) => Pin::new(inner).poll_read(cx, buffer)),+ }
            }
        }

        impl AsyncWrite for $type {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() { $($variant(inner) => Pin::new(inner).poll_write(cx, bytes)),+ }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                slices: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($variant(inner) => Pin::new(inner).poll_write_vectored(cx, slices)),+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self { $($variant(inner) => inner.is_write_vectored()),+ }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $($variant(inner) => Pin::new(inner).poll_flush(cx)),+ }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() { $($variant(inner) => Pin::new(inner).poll_shutdown(cx)),+ }
            }
        }
    };
}

delegate!(Plain, Plain::Tcp, Plain::Unix);
delegate!(Stream, Stream::Plain, Stream::Tls);

const HEAD_END: &[u8] = b"\r\n\r\n";
const LINE_END: &[u8] = b" HTTP/1.1\r\n\r\n";

/// A stream that notes what passes.
pub struct Watched {
    stream: Stream,
    activity: Arc<Activity>,
    framing: Framing,
    /// Requests that had begun when `framing` was started.
    begun: u64,
    fresh: bool,
    max_header_bytes: usize,
    overlong: Overlong,
}

/// A head with too many bytes is ended here, so that it is answered, and nothing more is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Overlong {
    No,
    Found,
    Ended,
}

impl Watched {
    pub fn new(stream: Stream, activity: Arc<Activity>, max_header_bytes: usize) -> Watched {
        let framing = Framing::new(max_header_bytes);
        let (begun, fresh, overlong) = (0, true, Overlong::No);
        Watched { stream, activity, framing, begun, fresh, max_header_bytes, overlong }
    }

    fn note_read(&mut self, bytes: &[u8]) {
        let activity = &*self.activity;
        activity.received(bytes.len());
        if std::mem::take(&mut self.fresh) && bytes.starts_with(b"PRI * HTTP/2.0") {
            activity.speaks_http2();
        }
        // While a request is open, what comes is its body.
        if activity.is_http2() || activity.open() > 0 {
            return;
        }
        if self.begun != activity.begun() {
            self.begun = activity.begun();
            self.framing = Framing::new(self.max_header_bytes);
        }
        if let Some(fault) = self.framing.look(bytes) {
            activity.found(fault);
            if fault == Fault::TooLarge {
                self.overlong = Overlong::Found;
            }
        }
    }

    fn note_write(&self, wrote: &Poll<io::Result<usize>>) {
        match wrote {
            Poll::Ready(Ok(bytes)) => self.activity.written(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.activity.backlog(true),
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.overlong != Overlong::No {
            let ended = this.overlong == Overlong::Ended || this.activity.open() > 0;
            let rest = if this.framing.in_request_line() { LINE_END } else { HEAD_END };
            if ended || buffer.remaining() < rest.len() {
                // The answer that is on its way ends the connection.
                return Poll::Pending;
            }
            buffer.put_slice(rest);
            this.overlong = Overlong::Ended;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        this.note_read(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.note_write(&wrote);
        wrote
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.note_write(&wrote);
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has written all it has: then nothing is behind, unless TLS still holds some of it.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.activity.backlog(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
