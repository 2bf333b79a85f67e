//! Counts what one request costs the server in allocations and in bytes copied into them, on each protocol, and holds
//! the counts. Counts, not times: they are the same on any machine.

use std::{
    alloc::{GlobalAlloc, Layout},
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use onnxd::{app::Server, config::Config};

/// The server's own allocator, counting while it is told to.
struct Counting;

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

fn count(bytes: usize) {
    if COUNTING.load(Ordering::Relaxed) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// SAFETY: every call goes to mimalloc unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as the caller promises.
        unsafe { mimalloc::MiMalloc.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { mimalloc::MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as the caller promises.
        unsafe { mimalloc::MiMalloc.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Requests counted; what happens once in a while (a buffer that grows) disappears in the mean.
const COUNTED: u64 = 2000;
const FEATURES: usize = 13;

/// A client of one connection that allocates nothing while it asks.
trait Client {
    /// Sends one request and reads its answer to the end.
    fn ask(&mut self);
}

/// The mean allocations and bytes of one request.
fn measure(client: &mut dyn Client) -> (f64, f64) {
    for _ in 0..500 {
        client.ask();
    }
    ALLOCATIONS.store(0, Ordering::SeqCst);
    BYTES.store(0, Ordering::SeqCst);
    COUNTING.store(true, Ordering::SeqCst);
    for _ in 0..COUNTED {
        client.ask();
    }
    COUNTING.store(false, Ordering::SeqCst);
    let mean = |n: &AtomicU64| n.load(Ordering::SeqCst) as f64 / COUNTED as f64;
    (mean(&ALLOCATIONS), mean(&BYTES))
}

/// HTTP/1.1 with one request over and over.
struct Http {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

impl Http {
    fn new(address: &str, headers: &str, body: &[u8]) -> Http {
        let head = format!(
            "POST /v2/models/wine/infer HTTP/1.1\r\nhost: test\r\n{headers}content-length: {}\r\n\r\n",
            body.len()
        );
        let request = [head.as_bytes(), body].concat();
        Http { stream: connect(address), request, buffer: vec![0; 1 << 16] }
    }
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("nodelay");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("timeout");
    stream
}

impl Client for Http {
    fn ask(&mut self) {
        self.stream.write_all(&self.request).expect("sent");
        let mut read = 0;
        loop {
            let got = self.stream.read(&mut self.buffer[read..]).expect("an answer");
            assert!(got > 0, "the server hung up");
            read += got;
            let answer = &self.buffer[..read];
            let Some(end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(answer));
            let head = std::str::from_utf8(&answer[..end]).expect("ASCII");
            let length = head.split("\r\ncontent-length: ").nth(1).expect("content-length");
            let digits = length.split("\r\n").next().expect("a value");
            if read == end + 4 + digits.parse::<usize>().expect("digits") {
                return;
            }
        }
    }
}

/// gRPC over HTTP/2 frames written by hand.
struct Grpc {
    stream: TcpStream,
    request: Vec<u8>,
    /// Where the stream's number stands in the two frames of the request.
    ids: [usize; 2],
    next_id: u32,
    buffer: Vec<u8>,
}

impl Grpc {
    fn new(address: &str, message: &[u8]) -> Grpc {
        let mut stream = connect(address);
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut hello, 4, 0, 0, &[]);
        // Room for every answer of the test, so that no window has to be given back.
        frame(&mut hello, 8, 0, 0, &(1u32 << 30).to_be_bytes());
        stream.write_all(&hello).expect("sent");

        let mut headers = vec![0x83, 0x86]; // :method POST, :scheme http
        for (name, value) in [
            (":path", "/inference.GRPCInferenceService/ModelInfer"),
            (":authority", "test"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            headers.extend([0x00, name.len() as u8]);
            headers.extend(name.as_bytes());
            headers.push(value.len() as u8);
            headers.extend(value.as_bytes());
        }
        let mut data = vec![0];
        data.extend((message.len() as u32).to_be_bytes());
        data.extend(message);
        let mut request = Vec::new();
        frame(&mut request, 1, 4, 0, &headers);
        let second = request.len() + 5;
        frame(&mut request, 0, 1, 0, &data);
        Grpc { stream, request, ids: [5, second], next_id: 1, buffer: vec![0; 1 << 16] }
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, id: u32, payload: &[u8]) {
    out.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend([kind, flags]);
    out.extend(id.to_be_bytes());
    out.extend(payload);
}

impl Client for Grpc {
    fn ask(&mut self) {
        for at in self.ids {
            self.request[at..at + 4].copy_from_slice(&self.next_id.to_be_bytes());
        }
        self.stream.write_all(&self.request).expect("sent");
        let (mut read, mut at) = (0, 0);
        loop {
            let got = self.stream.read(&mut self.buffer[read..]).expect("an answer");
            assert!(got > 0, "the server hung up");
            read += got;
            while read - at >= 9 {
                let b = &self.buffer[at..];
                let length = u32::from_be_bytes([0, b[0], b[1], b[2]]) as usize;
                let (kind, flags) = (b[3], b[4]);
                let id = u32::from_be_bytes([b[5], b[6], b[7], b[8]]);
                if read - at < 9 + length {
                    break;
                }
                assert!(kind != 7 && kind != 3, "GOAWAY or RST_STREAM");
                at += 9 + length;
                if kind == 1 && id == self.next_id && flags & 1 == 1 {
                    self.next_id += 2;
                    return;
                }
            }
        }
    }
}

/// Cargo's target directory, wherever it is; scripts/fetch-onnxruntime.sh puts the library there.
fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target directory")
}

fn features() -> Vec<f32> {
    (0..FEATURES).map(|i| i as f32 * 0.25).collect()
}

/// A ModelInferRequest for one row, by hand: model_name = 1, inputs = 5 {name, datatype, shape}, raw_input_contents = 7.
fn message(raw: &[u8]) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| [&[number << 3 | 2, bytes.len() as u8], bytes].concat();
    let shape = field(3, &[1, FEATURES as u8]);
    let input = [field(1, b"features"), field(2, b"FP32"), shape].concat();
    [field(1, b"wine"), field(5, &input), field(7, raw)].concat()
}

#[test]
fn allocations_per_request_are_held() {
    // SAFETY: the only test of this binary; no other thread reads the environment yet.
    unsafe { onnxd::runtime::ort::disable_telemetry() };
    let root = env!("CARGO_MANIFEST_DIR");
    let loopback = || "127.0.0.1:0".parse().expect("an address");
    let config = Config {
        models: format!("{root}/models").into(),
        load: "wine".parse().expect("a name"),
        onnxruntime_lib: target().join("onnxruntime/lib/libonnxruntime.so"),
        http: loopback(),
        grpc: loopback(),
        operator: loopback(),
        ..Config::default()
    };
    let server = Server::start(&config).expect("the server starts");
    assert!(server.wait_loaded(Duration::from_secs(120)), "the model did not load");

    let raw: Vec<u8> = features().iter().flat_map(|x| x.to_le_bytes()).collect();
    let json = format!(
        r#"{{"inputs":[{{"name":"features","shape":[1,{FEATURES}],"datatype":"FP32","data":{:?}}}]}}"#,
        features()
    );
    let head = format!(
        r#"{{"inputs":[{{"name":"features","shape":[1,{FEATURES}],"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}],"parameters":{{"binary_data_output":true}}}}"#,
        raw.len()
    );
    let binary = [head.as_bytes(), &raw].concat();
    let length = format!("inference-header-content-length: {}\r\n", head.len());
    let [http, grpc, _] = &server.addresses;
    let mut clients: [(&str, f64, Box<dyn Client>); 3] = [
        ("HTTP JSON", 12.5, Box::new(Http::new(http, "", json.as_bytes()))),
        ("HTTP binary", 16.5, Box::new(Http::new(http, &length, &binary))),
        ("gRPC", 15.5, Box::new(Grpc::new(grpc, &message(&raw)))),
    ];
    let mut over = Vec::new();
    for (protocol, bound, client) in &mut clients {
        let (allocations, bytes) = measure(client.as_mut());
        println!("{protocol}: {allocations:.2} allocations of {bytes:.0} bytes a request");
        if allocations > *bound {
            over.push(format!("{protocol}: {allocations:.2} allocations, at most {bound}"));
        }
    }
    assert!(over.is_empty(), "{}", over.join("; "));
}
