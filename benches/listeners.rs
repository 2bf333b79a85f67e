//! The floor of a server like this one: the same listeners and event loops, answering every infer request with bytes
//! recorded before, without decoding, model or metrics. Started by benches/peers/compare.py:
//! `cargo bench --bench listeners -- --http ADDR --grpc ADDR --answers DIR`, where DIR holds `grpc`, `json` and `bin`.

use std::{collections::HashMap, convert::Infallible, fs, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use onnxd::{
    api::{
        address::Listener,
        answer::Answer,
        body::{Body, Chunks},
        connection::ListenOptions,
        listen::Network,
        patience::Limits,
        peer::Peer,
    },
    shutdown::{self, Phase},
    telemetry::registry,
};

const HOUR: Duration = Duration::from_secs(3600);
const HEADER_LENGTH: &str = "inference-header-content-length";

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The recorded answers.
#[derive(Clone)]
struct Recorded(Arc<Answers>);

struct Answers {
    grpc: Bytes,
    json: Bytes,
    binary: Bytes,
    /// Bytes of JSON at the head of the binary answer.
    json_length: usize,
}

impl Answers {
    fn read(directory: &Path) -> Answers {
        let file = |name: &str| {
            let path = directory.join(name);
            Bytes::from(fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
        };
        let length = file("bin.length");
        let digits = std::str::from_utf8(&length).expect("digits");
        Answers {
            grpc: file("grpc"),
            json: file("json"),
            binary: file("bin"),
            json_length: digits.trim().parse().expect("a number"),
        }
    }
}

impl Answer for Recorded {
    const RUNS_MODELS: bool = true;

    fn answer(
        self,
        request: Request<Incoming>,
        _peer: &Arc<Peer>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + Send + use<> {
        self.recorded(request)
    }
}

impl Recorded {
    async fn recorded(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let is = |name: &str| request.headers().contains_key(name);
        let kind = request.headers().get(header::CONTENT_TYPE);
        let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        let binary = is(HEADER_LENGTH);
        let mut body = request.into_body();
        while let Some(frame) = body.frame().await {
            drop(frame);
        }
        let answers = &self.0;
        let (bytes, kind) = match (grpc, binary) {
            (true, _) => (&answers.grpc, "application/grpc"),
            (_, true) => (&answers.binary, "application/octet-stream"),
            _ => (&answers.json, "application/json"),
        };
        let trailers = grpc.then(|| {
            let mut trailers = HeaderMap::with_capacity(1);
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            trailers
        });
        let chunks = Chunks::from_iter([bytes.clone()]);
        let mut response = Response::new(Body::chunks(chunks, trailers));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        if binary {
            response.headers_mut().insert(HEADER_LENGTH, answers.json_length.into());
        }
        Ok(response)
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options: HashMap<&str, &str> =
        arguments.windows(2).map(|w| (w[0].as_str(), w[1].as_str())).collect();
    let Some(directory) = options.get("--answers") else {
        // What `cargo bench` without arguments does to every bench.
        return eprintln!("listeners: nothing to do without --answers DIR");
    };
    let listen = |flag: &str, role| {
        let address = options[flag].parse().expect("an address");
        Listener::bind(&address, role).expect("a free address").expect("not off")
    };
    let listeners = vec![
        listen("--http", registry::Listener::Http),
        listen("--grpc", registry::Listener::Grpc),
    ];
    let (announcer, shutdown) = shutdown::channel();
    let limits = ListenOptions {
        max_connections: 8192,
        max_streams: 1024,
        max_header_bytes: 32 << 10,
        limits: Limits { head: HOUR, idle: HOUR, write: HOUR },
        ping: None,
        drain_timeout: Duration::from_secs(1),
    };
    let answers = Recorded(Arc::new(Answers::read(Path::new(directory))));
    let network = Network::start(1, listeners, answers, limits, shutdown).expect("threads");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("an event loop");
    let _entered = runtime.enter();
    runtime.block_on(shutdown::asked().expect("signals can be received"));
    announcer.announce(Phase::Cut);
    network.join();
}
