//! ModelStreamInfer: the body of the answer is the stream. Written to, it reads requests; polled no more, it reads none.
//!
//! Why no task of its own: hyper asks a body for more only while its client takes what there is, so that a client that does not
//! read is not read from, and drops the body of a client that has left, which drops its work.

use std::{
    collections::VecDeque,
    future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};

use super::{
    body::Chunks,
    coded,
    connection::LAST_REQUEST,
    encoding,
    fast::{Front, count_refused},
    gate::Pass,
    heads::Heads,
    messages::{Frames, Message},
    status,
};
use crate::{
    batcher::{run, turn},
    serving::caller::Caller,
    shutdown::{self, Phase},
    telemetry::clock::now,
    types::{
        error::{Code, Error},
        request::RouteHeads,
        time::Tick,
    },
    wire::{self, flate::Coding},
};

/// Requests of one stream under way at once: what fills a batch of the default size. Further ones stay unread.
const UNDER_WAY: usize = 64;

/// What the head of the call says.
#[derive(Clone, Debug)]
pub struct Call {
    /// From `grpc-timeout`: when the stream as a whole is to be over.
    pub timeout: Option<Duration>,
    /// Triton's `triton_grpc_error: true`: the first error ends the stream with its status.
    pub strict: bool,
    /// Of messages that are flagged as compressed; answers go as they are.
    pub sent: Coding,
    pub routes: RouteHeads,
}

impl Call {
    /// # Errors
    /// `InvalidArgument` for a timeout that is none, `UnsupportedEncoding` for an encoding that is unknown.
    pub fn of(heads: &Heads<'_>, routes: RouteHeads) -> Result<Call, Error> {
        let timeout =
            heads.grpc_timeout.map(|value| super::grpc::timeout(value.as_bytes())).transpose()?;
        let strict = heads.all.get("triton_grpc_error").is_some_and(|value| value == "true");
        Ok(Call { timeout, strict, sent: encoding::of_call(heads)?.sent, routes })
    }
}

/// One stream: requests on their way to answers, in the order in which they came.
pub struct Stream {
    front: Arc<Front>,
    about: About,
    /// `None`: nothing further is read.
    body: Option<Incoming>,
    /// What has arrived and was not cut into messages yet.
    data: Bytes,
    frames: Frames,
    /// Runs while a message has begun and its rest is waited for.
    patience: Option<Pin<Box<Sleep>>>,
    under_way: VecDeque<UnderWay>,
    /// What is being written.
    answer: smallvec::IntoIter<[Bytes; 4]>,
    /// Why the stream ends before its client says so.
    end: Pin<Box<dyn Future<Output = End> + Send>>,
    /// How it ends, once what is under way is answered.
    ending: Option<Result<(), Error>>,
    ended: bool,
}

/// What every request of the stream is answered by.
#[derive(Clone)]
struct About {
    strict: bool,
    sent: Coding,
    deadline: Option<Tick>,
    caller: Option<Arc<Caller>>,
    routes: RouteHeads,
}

/// A request: its answer's chunks, or, where errors end the stream, the error.
enum UnderWay {
    Waiting(Pin<Box<dyn Future<Output = Result<Chunks, Error>> + Send>>),
    Done(Result<Chunks, Error>),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Late,
    Stopping,
}

impl Stream {
    /// `caller`: who asks, where callers are configured.
    pub fn new(
        front: Arc<Front>,
        body: Incoming,
        call: &Call,
        caller: Option<Arc<Caller>>,
        received: Tick,
    ) -> Stream {
        let deadline = call.timeout.map(|timeout| received.after(timeout));
        let routes = call.routes.clone();
        Stream {
            about: About { strict: call.strict, sent: call.sent, deadline, caller, routes },
            body: Some(body),
            data: Bytes::new(),
            frames: Frames::new(front.limits.max_bytes),
            patience: None,
            under_way: VecDeque::new(),
            answer: Chunks::new().into_iter(),
            end: Box::pin(end(deadline, front.shutdown.clone())),
            ending: None,
            ended: false,
            front,
        }
    }

    pub fn is_end_stream(&self) -> bool {
        self.ended
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        loop {
            if let Some(chunk) = self.answer.next() {
                return Poll::Ready(Some(Frame::data(chunk)));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            self.look_for_the_end(cx);
            self.read(cx);
            match self.under_way.front_mut().map(|first| first.poll(cx)) {
                Some(Poll::Pending) => return Poll::Pending,
                Some(Poll::Ready(answer)) => {
                    self.under_way.pop_front();
                    match answer {
                        Ok(chunks) => self.answer = chunks.into_iter(),
                        Err(error) => self.give_up(error),
                    }
                }
                None => match self.ending.take() {
                    None => return Poll::Pending,
                    Some(ending) => {
                        self.ended = true;
                        return Poll::Ready(Some(Frame::trailers(trailers(ending))));
                    }
                },
            }
        }
    }

    /// Ends the stream with this, whatever is under way.
    fn give_up(&mut self, error: Error) {
        self.under_way.clear();
        self.close(Err(error));
    }

    /// Reads no further; ends once what is under way is answered.
    fn close(&mut self, ending: Result<(), Error>) {
        (self.body, self.patience) = (None, None);
        self.ending = Some(ending);
    }

    fn look_for_the_end(&mut self, cx: &mut Context<'_>) {
        let Poll::Ready(end) = self.end.as_mut().poll(cx) else { return };
        self.end = Box::pin(future::pending());
        match end {
            End::Late => self.give_up(run::expired()),
            End::Stopping if self.ending.is_none() => {
                let why = "the server stops: send what is left to another, or to this one later";
                self.close(Err(Error::new(Code::Unavailable, why)));
            }
            End::Stopping => {}
        }
    }

    /// Takes requests in while there is room for them and they are here.
    fn read(&mut self, cx: &mut Context<'_>) {
        while self.ending.is_none() && self.under_way.len() < UNDER_WAY {
            match self.frames.next(&mut self.data, &self.front.engine.budget) {
                Ok(Some(message)) => {
                    self.patience = None;
                    self.begin(message, cx);
                    continue;
                }
                Ok(None) => {}
                Err(error) => return self.close(Err(error).inspect_err(count_refused)),
            }
            let Some(body) = &mut self.body else { return };
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => self.data = frame.into_data().unwrap_or_default(),
                Poll::Ready(Some(Err(_))) => {
                    return self.give_up(Error::new(Code::Cancelled, "the stream was cut off"));
                }
                Poll::Ready(None) if self.frames.begun() => {
                    let cut = "the stream ends in the middle of a message";
                    return self.close(Err(Error::invalid(cut)));
                }
                Poll::Ready(None) => return self.close(Ok(())),
                Poll::Pending => return self.wait(cx),
            }
        }
        // Not the client's time: the next message waits for us.
        self.patience = None;
    }

    /// A client has as long for a message, from its first byte, as for a body.
    fn wait(&mut self, cx: &mut Context<'_>) {
        if !self.frames.begun() {
            return;
        }
        let limit = self.front.limits.timeout;
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(limit)));
        if patience.as_mut().poll(cx).is_ready() {
            let late = format!("a message did not arrive within {} s", limit.as_secs_f32());
            self.close(Err(Error::new(Code::DeadlineExceeded, late)));
        }
    }

    /// Polled once here, so that the request is in its queue before the next is read.
    fn begin(&mut self, message: Message, cx: &mut Context<'_>) {
        let mut answer = Box::pin(answer(self.front.clone(), message, self.about.clone()));
        self.under_way.push_back(match answer.as_mut().poll(cx) {
            Poll::Ready(done) => UnderWay::Done(done),
            Poll::Pending => UnderWay::Waiting(answer),
        });
    }
}

impl UnderWay {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Chunks, Error>> {
        match self {
            UnderWay::Waiting(answer) => answer.as_mut().poll(cx),
            UnderWay::Done(done) => Poll::Ready(std::mem::replace(done, Ok(Chunks::new()))),
        }
    }
}

/// Resolves when the stream is to end by itself.
async fn end(deadline: Option<Tick>, mut shutdown: shutdown::Listener) -> End {
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.instant().into()).await,
            None => future::pending().await,
        }
    };
    let stopping = async {
        shutdown.reached(Phase::Draining).await;
        // As every connection: what a client sent before it could hear of the stop is still read.
        sleep(LAST_REQUEST).await;
    };
    tokio::select! {
        () = late => End::Late,
        () = stopping => End::Stopping,
    }
}

/// Answers one request of a stream.
async fn answer(front: Arc<Front>, message: Message, about: About) -> Result<Chunks, Error> {
    let About { strict, sent, deadline, caller, routes } = about;
    let _open = turn::Open::request();
    let Message { packed, bytes, mut charge } = message;
    let mut asked = wire::stream::Asked::default();
    let answer = async {
        let mut message;
        let received = now();
        let left = deadline.map(|deadline| deadline.since(received));
        let mut pass = {
            let bytes = match bytes {
                Ok(bytes) if packed => {
                    let max = front.limits.max_bytes;
                    coded::unpack(&bytes, sent, max, &mut charge).await
                }
                other => other,
            };
            message = bytes.inspect_err(count_refused)?;
            asked = wire::stream::asked(&message);
            Pass::enter(caller.as_ref()).inspect_err(count_refused)?
        };
        let infer = async {
            let pending = {
                let request = wire::grpc::decode_request(&std::mem::take(&mut message));
                let mut request = request.inspect_err(count_refused)?;
                request.heads = routes;
                front.engine.begin(request, received, left, caller.as_deref())?
            };
            let response = pending.answer().await?;
            wire::stream::encode_response(&response, &mut BytesMut::new())
        };
        let done = infer.await;
        pass.ended(done.as_ref().err().map(|error| error.code));
        done
    };
    match answer.await {
        Err(error) if !strict => wire::stream::encode_error(&error, &asked),
        done => done,
    }
}

fn trailers(ending: Result<(), Error>) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(3);
    match ending {
        Ok(()) => drop(trailers.insert("grpc-status", HeaderValue::from_static("0"))),
        Err(error) => status::write(&error, &mut trailers),
    }
    trailers
}
