//! A gRPC call with a stream both ways: messages sent and read one by one, on a connection of its own.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Request};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use onnxd::api::proto::ModelStreamInferResponse;
use prost::Message;
use tokio::{net::TcpStream, sync::mpsc};

use super::grpc::runtime;

/// How the server ended a stream.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    pub code: i32,
    pub message: String,
}

/// Messages that may wait to be sent: more than any test has.
const WAITING: usize = 1 << 14;

/// An open call. Dropped, it leaves: its connection ends.
pub struct Stream {
    requests: Option<mpsc::Sender<Bytes>>,
    answers: Incoming,
    read: BytesMut,
    head: HeaderMap,
}

/// What is to be sent, as a body.
struct Requests(mpsc::Receiver<Bytes>);

impl http_body::Body for Requests {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
    }
}

impl Stream {
    /// Opens a call of ModelStreamInfer.
    pub fn infer(address: &str, headers: &[(&str, &str)]) -> Stream {
        Stream::open(address, "/inference.GRPCInferenceService/ModelStreamInfer", headers, b"")
    }

    /// `first`: what goes out with the head, for methods that answer nothing before they are asked.
    pub fn open(
        address: &str,
        path: &str,
        headers: &[(&str, &str)],
        first: &'static [u8],
    ) -> Stream {
        let mut request = Request::post(format!("http://test{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (requests, receiver) = mpsc::channel(WAITING);
        if !first.is_empty() {
            requests.try_send(Bytes::from_static(first)).expect("nobody has closed it");
        }
        let request = request.body(Requests(receiver)).expect("a request");
        let address = address.to_owned();
        let (parts, answers) = runtime().block_on(async move {
            let io = TcpStream::connect(address).await.expect("the server listens");
            io.set_nodelay(true).expect("nodelay");
            // The smallest window that HTTP/2 begins with: a client that does not read is soon not sent to.
            let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(65_535)
                .handshake(TokioIo::new(io))
                .await
                .expect("HTTP/2");
            tokio::spawn(connection);
            let answer = sender.send_request(request).await.expect("a head");
            assert_eq!(answer.status(), 200, "every gRPC answer is a 200");
            answer.into_parts()
        });
        Stream { requests: Some(requests), answers, read: BytesMut::new(), head: parts.headers }
    }

    pub fn send(&self, message: &impl Message) {
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
        self.send_bytes(Bytes::from([&[0][..], &length, &message].concat()));
    }

    /// Bytes of the call as they are: frames, or parts of one.
    pub fn send_bytes(&self, bytes: impl Into<Bytes>) {
        let requests = self.requests.as_ref().expect("not finished");
        // A server that has ended the stream takes nothing further.
        if let Err(mpsc::error::TrySendError::Full(_)) = requests.try_send(bytes.into()) {
            panic!("more than {WAITING} messages wait to be sent");
        }
    }

    /// Says that nothing further will be sent.
    pub fn finish(&mut self) {
        self.requests = None;
    }

    /// The next message, or how the stream ended.
    pub fn message(&mut self) -> Result<Bytes, Ended> {
        // Made inside of the runtime, whose clock it needs.
        let patient = async { tokio::time::timeout(Duration::from_secs(60), self.next()).await };
        runtime().block_on(patient).expect("an answer in time")
    }

    async fn next(&mut self) -> Result<Bytes, Ended> {
        loop {
            if let Some(length) = self.read.get(1..5) {
                let length = u32::from_be_bytes(length.try_into().expect("four")) as usize;
                if self.read.len() >= 5 + length {
                    self.read.advance(5);
                    return Ok(self.read.split_to(length).freeze());
                }
            }
            match self.answers.frame().await.map(|frame| frame.expect("a stream")) {
                Some(frame) if frame.is_data() => {
                    self.read.extend_from_slice(&frame.into_data().expect("data"));
                }
                Some(trailers) => return Err(ended(&trailers.into_trailers().expect("trailers"))),
                None => return Err(ended(&self.head)),
            }
        }
    }

    /// The next message of ModelStreamInfer.
    pub fn answer(&mut self) -> Result<ModelStreamInferResponse, Ended> {
        self.message().map(|bytes| ModelStreamInferResponse::decode(bytes).expect("it decodes"))
    }
}

fn ended(headers: &HeaderMap) -> Ended {
    let text = |name: &str| headers.get(name).map_or("", |v| v.to_str().expect("ASCII"));
    let code = text("grpc-status").parse().expect("a status");
    Ended { code, message: text("grpc-message").to_owned() }
}
