//! Every route, verb, protocol, port and caller against the gate, over the real routers.

use std::{collections::BTreeSet, convert::Infallible};

use bytes::Bytes;
use http::{Method, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tower::ServiceExt;

use super::*;
use crate::{
    api::{
        answer::Operator,
        auth::{
            keys::{KeyHash, KeyHashes},
            options::{AuthOptions, CallerOptions},
            roles::{ROUTES, Role, Roles},
        },
        body::BodyLimits,
        fast::Front,
        fixture, http as routes, operator,
        state::Api,
    },
    serving::engine::{Engine, EngineOptions},
    shutdown,
};

const LIMITS: BodyLimits =
    BodyLimits { max_bytes: 1 << 16, timeout: std::time::Duration::from_secs(30) };

/// The key of the caller that has exactly this role.
fn key(role: Role) -> String {
    format!("key-of-{}", role.name())
}

const CERTIFICATE: &str = "spiffe://house/reader";

/// A caller for each role, one more by certificate, and one for a few models.
fn callers() -> Vec<CallerOptions> {
    let with = |name: &str, key: &str| CallerOptions {
        name: name.into(),
        keys: KeyHashes(vec![KeyHash::of(key.as_bytes())]),
        ..CallerOptions::default()
    };
    let mut all: Vec<CallerOptions> = Role::ALL
        .map(|role| CallerOptions { roles: vec![role], ..with(role.name(), &key(role)) })
        .into();
    all.push(CallerOptions {
        certificates: vec![CERTIFICATE.into()],
        roles: vec![Role::Read],
        ..with("reader", "key-of-reader")
    });
    all.push(CallerOptions { models: vec!["digits".into()], ..with("narrow", "key-of-narrow") });
    all
}

fn auth(callers: Vec<CallerOptions>) -> Arc<Auth> {
    Auth::open(&AuthOptions { callers, ..AuthOptions::default() }).unwrap()
}

fn router(port: Port) -> axum::Router {
    match port {
        Port::Data => {
            // As good as stopped, so that what would be told of changes for ever has an end.
            let (announcer, shutdown) = shutdown::channel();
            announcer.announce(shutdown::Phase::Draining);
            routes::router(Arc::new(Api { shutdown, ..fixture::api() }))
        }
        Port::Operator => operator::router(&fixture::api(), Arc::new(String::new)),
    }
}

fn front(auth: &Arc<Auth>) -> Arc<Front> {
    let options = EngineOptions {
        request_memory_bytes: 1 << 20,
        max_deadline: None,
        max_requests: 100,
        shared_memory: Default::default(),
        max_request_bytes: 1 << 20,
    };
    Arc::new(Front {
        engine: Arc::new(Engine::new(fixture::api().table, &options)),
        router: router(Port::Data),
        limits: LIMITS,
        gate: Gate::new(auth.clone(), Port::Data),
        shutdown: fixture::serving(),
    })
}

/// A request as a test describes it.
#[derive(Clone, Debug)]
struct Ask {
    method: Method,
    uri: String,
    headers: Vec<(&'static str, String)>,
}

impl Ask {
    fn new(method: &str, path: &str) -> Ask {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Ask { method, uri: path.into(), headers: Vec::new() }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Ask {
        self.headers.push((name, value.into()));
        self
    }

    fn bearer(self, key: &str) -> Ask {
        self.with("authorization", format!("Bearer {key}"))
    }

    fn grpc(self) -> Ask {
        self.with("content-type", "application/grpc")
    }

    fn request(&self, version: Version) -> Request<Full<Bytes>> {
        let mut uri: Uri = self.uri.parse().unwrap();
        if version == Version::HTTP_2 && uri.authority().is_none() {
            uri = format!("http://localhost{}", self.uri).parse().unwrap();
        }
        let mut request = Request::builder().method(self.method.clone()).uri(uri).version(version);
        if version < Version::HTTP_2 {
            request = request.header("host", "localhost");
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        // An empty message of gRPC, which is no JSON.
        request.body(Full::from(&b"\0\0\0\0\0"[..])).unwrap()
    }
}

/// What came back: the HTTP status and gRPC's, and the challenge.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    status: StatusCode,
    grpc: Option<String>,
    challenge: Option<String>,
    message: String,
}

impl Got {
    /// How the gate refused, if it did.
    fn refused(&self) -> Option<Code> {
        match (self.status.as_u16(), self.grpc.as_deref()) {
            (401, _) | (200, Some("16")) => Some(Code::Unauthenticated),
            (403, _) | (200, Some("7")) => Some(Code::PermissionDenied),
            _ => None,
        }
    }
}

/// A client at a port of its own, which speaks one version of HTTP.
enum Client {
    One(hyper::client::conn::http1::SendRequest<Full<Bytes>>),
    Two(hyper::client::conn::http2::SendRequest<Full<Bytes>>),
}

impl Client {
    async fn of<B: Behind>(behind: B, version: Version, peer: Peer) -> Client {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (gated, peer) = (Gated(behind), Arc::new(peer));
        let service =
            service_fn(move |request: Request<Incoming>| gated.clone().answer(request, &peer));
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let _ = builder.serve_connection(TokioIo::new(server), service).await;
        });
        if version == Version::HTTP_2 {
            let io = TokioIo::new(client);
            let (sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
            tokio::spawn(connection);
            return Client::Two(sender);
        }
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
        tokio::spawn(connection);
        Client::One(sender)
    }

    async fn ask(&mut self, ask: &Ask) -> Got {
        let response = match self {
            Client::One(sender) => {
                sender.ready().await.unwrap();
                sender.send_request(ask.request(Version::HTTP_11)).await.unwrap()
            }
            Client::Two(sender) => sender.send_request(ask.request(Version::HTTP_2)).await.unwrap(),
        };
        got(response).await
    }
}

async fn got<B>(response: Response<B>) -> Got
where
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap();
    let mut headers = parts.headers;
    headers.extend(body.trailers().cloned().unwrap_or_default());
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    Got {
        status: parts.status,
        grpc: text("grpc-status"),
        challenge: text("www-authenticate"),
        message: text("grpc-message")
            .unwrap_or_else(|| String::from_utf8_lossy(&body.to_bytes()).into_owned()),
    }
}

/// The routes as the routers themselves have them: what they would answer, the gate must know.
fn routes_of(port: Port) -> BTreeSet<String> {
    let debug = format!("{:?}", router(port));
    let strings = debug.split('"').skip(1).step_by(2);
    let mut paths: BTreeSet<String> =
        strings.filter(|text| text.starts_with('/')).map(str::to_owned).collect();
    assert!(paths.contains("/v2/health/live"), "routers are printed otherwise now: {debug}");
    // axum keeps its own for what is unknown.
    paths.retain(|path| !path.starts_with("/{*__private"));
    for path in paths.clone() {
        if let Some(service) = path.strip_suffix("{*method}") {
            paths.remove(&path);
            paths.extend(methods_of(service));
        }
    }
    paths
}

/// The methods of a gRPC service: ours as generated from the contract, others as their specifications say.
fn methods_of(service: &str) -> Vec<String> {
    let named = |names: &[&str]| names.iter().map(|name| format!("{service}{name}")).collect();
    match service {
        "/inference.GRPCInferenceService/" => {
            let source = include_str!("generated/inference.rs");
            let strings = source.split('"').filter(|text| text.starts_with(service));
            let methods: BTreeSet<String> = strings.map(str::to_owned).collect();
            assert!(methods.len() >= 20, "the generated code looks otherwise now: {methods:?}");
            methods.into_iter().collect()
        }
        "/grpc.health.v1.Health/" => named(&["Check", "Watch", "List"]),
        "/grpc.reflection.v1.ServerReflection/" | "/grpc.reflection.v1alpha.ServerReflection/" => {
            named(&["ServerReflectionInfo"])
        }
        other => panic!("which methods does {other} have? name them here and in auth/roles.rs"),
    }
}

/// The path with a name where the pattern has a place for one.
fn filled(pattern: &str) -> String {
    let segments = pattern.split('/').map(|segment| match segment {
        "{model}" => "digits",
        "{version}" => "1",
        segment if segment.starts_with('{') => "x",
        segment => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

const VERBS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"];
const PORTS: [Port; 2] = [Port::Data, Port::Operator];

#[test]
fn no_route_is_forgotten() {
    let mut forgotten = Vec::new();
    for port in PORTS {
        for path in routes_of(port) {
            if !roles::asked(port, "GET", &filled(&path)).listed {
                forgotten.push(format!("{port:?} {path}"));
            }
        }
    }
    assert!(forgotten.is_empty(), "no row in auth/roles.rs: {forgotten:#?}");
}

/// Written down a second time, since it is what a stranger gets.
fn open_to_anyone(port: Port, method: &str, path: &str) -> bool {
    let probe = match port {
        Port::Data => [
            "/v2/health/live",
            "/v2/health/ready",
            "/v2/models/digits/ready",
            "/v2/models/digits/versions/1/ready",
        ]
        .contains(&path),
        Port::Operator => ["/v2/health/live", "/v2/health/ready", "/metrics"].contains(&path),
    };
    let rpc = port == Port::Data
        && [
            "/inference.GRPCInferenceService/ServerLive",
            "/inference.GRPCInferenceService/ServerReady",
            "/inference.GRPCInferenceService/ModelReady",
            "/grpc.health.v1.Health/Check",
            "/grpc.health.v1.Health/Watch",
            "/grpc.health.v1.Health/List",
        ]
        .contains(&path);
    (probe && matches!(method, "GET" | "HEAD")) || (rpc && method != "GET" && method != "HEAD")
}

/// Who asks in the matrix.
#[derive(Clone, Copy, Debug)]
enum By {
    Nobody,
    Wrong,
    Key(Role),
    Certificate,
}

impl By {
    fn all() -> Vec<By> {
        let keys = Role::ALL.map(By::Key);
        [By::Nobody, By::Wrong, By::Certificate].into_iter().chain(keys).collect()
    }

    fn sign(self, ask: Ask) -> Ask {
        match self {
            By::Nobody | By::Certificate => ask,
            By::Wrong => ask.bearer("key-of-nobody"),
            By::Key(role) => ask.bearer(&key(role)),
        }
    }

    fn peer(self) -> Peer {
        let identity = matches!(self, By::Certificate).then(|| CERTIFICATE.into());
        Peer { identity, ..Peer::at(Some([10, 0, 0, 9].into())) }
    }

    /// What the table says of this caller.
    fn expected(self, port: Port, method: &str, path: &str) -> Option<Code> {
        let access = roles::asked(port, method, path).access;
        let roles = match self {
            By::Nobody | By::Wrong if open_to_anyone(port, method, path) => return None,
            By::Nobody | By::Wrong => return Some(Code::Unauthenticated),
            By::Key(role) => Roles::of(&[role]),
            By::Certificate => Roles::of(&[Role::Read]),
        };
        match access {
            Access::Role(role) if !roles.has(role) => Some(Code::PermissionDenied),
            _ => None,
        }
    }
}

/// One caller over one connection: every route, every verb, as HTTP and as gRPC.
async fn matrix(port: Port, version: Version, by: By, auth: &Arc<Auth>) -> usize {
    let mut client = match port {
        Port::Data => Client::of(front(auth), version, by.peer()).await,
        Port::Operator => {
            let gate = Arc::new(Gate::new(auth.clone(), port));
            Client::of(Operator { router: router(port), gate, limits: LIMITS }, version, by.peer())
                .await
        }
    };
    let mut asked = 0;
    for path in routes_of(port).iter().map(|path| filled(path)) {
        for method in VERBS {
            for grpc in [false, true] {
                let mut ask = by.sign(Ask::new(method, &path));
                if grpc {
                    ask = ask.grpc();
                }
                let got = client.ask(&ask).await;
                let expected = by.expected(port, method, &path);
                // Load and unload over a data port are refused by the route itself, where the gate lets them through.
                let by_route =
                    port == Port::Data && (path.contains("load") || path.contains("Load"));
                if !(by_route && expected.is_none()) {
                    assert_eq!(
                        got.refused(),
                        expected,
                        "{port:?} {version:?} {by:?} {ask:?}: {got:?}"
                    );
                }
                if grpc && expected.is_some() {
                    assert_eq!(got.status, 200, "gRPC is told by gRPC's status: {ask:?}");
                }
                asked += 1;
            }
        }
    }
    asked
}

#[tokio::test]
async fn every_route_verb_protocol_port_and_caller() {
    let auth = auth(callers());
    let mut asked = 0;
    for port in PORTS {
        for version in [Version::HTTP_11, Version::HTTP_2] {
            for by in By::all() {
                asked += matrix(port, version, by, &auth).await;
            }
        }
    }
    assert!(asked > 10_000, "only {asked} requests were made");
}

/// What a router might take for another path than the gate does: whoever is not known gets none of it.
#[tokio::test]
async fn other_spellings_are_no_way_around() {
    let auth = auth(callers());
    for port in PORTS {
        let mut one = match port {
            Port::Data => Client::of(front(&auth), Version::HTTP_11, By::Nobody.peer()).await,
            Port::Operator => {
                let gate = Arc::new(Gate::new(auth.clone(), port));
                let operator = Operator { router: router(port), gate, limits: LIMITS };
                Client::of(operator, Version::HTTP_11, By::Nobody.peer()).await
            }
        };
        for path in routes_of(port).iter().map(|path| filled(path)) {
            let escaped: String =
                path.chars().map(|c| if c == 'e' { "%65".into() } else { c.to_string() }).collect();
            let spellings = [
                (format!("{path}/"), false),
                (format!("/{path}"), false),
                (path.replace('/', "//"), false),
                (path.to_uppercase(), false),
                (escaped, false),
                (format!("{path}%2f"), false),
                (format!("{path}%00"), false),
                (format!("/x/..{path}"), false),
                (format!("/.{path}"), false),
                // The same path all the same.
                (format!("http://elsewhere.example{path}"), true),
                (format!("{path}?x=/v2/health/live"), true),
            ];
            for (uri, same) in spellings {
                for method in ["GET", "POST"] {
                    for kind in ["application/json", "application/grpc", "application/grpc-web"] {
                        let ask = Ask::new(method, &uri).with("content-type", kind);
                        let got = one.ask(&ask).await;
                        // An escape within the name of a model is its name.
                        let named = path.ends_with("/ready")
                            && path.contains("/models/")
                            && uri.contains("%65")
                            && uri.ends_with("ready");
                        let open = (same && open_to_anyone(port, method, &path)) || named;
                        let expected = (!open).then_some(Code::Unauthenticated);
                        assert_eq!(got.refused(), expected, "{ask:?}: {got:?}");
                    }
                }
            }
        }
    }
}

/// Asks a data port with callers, over HTTP/1.1, from elsewhere.
async fn ask(ask: Ask) -> Got {
    let auth = auth(callers());
    Client::of(front(&auth), Version::HTTP_11, By::Nobody.peer()).await.ask(&ask).await
}

#[tokio::test]
async fn a_refusal_says_what_to_do() {
    let infer = || Ask::new("POST", "/v2/models/digits/infer");
    let none = ask(infer()).await;
    assert_eq!((none.status.as_u16(), none.challenge.as_deref()), (401, Some("Bearer")));
    assert!(none.message.contains("authorization: Bearer KEY"), "{}", none.message);
    // Unknown, malformed, twice: the same answer.
    let wrong = ask(infer().bearer("nope")).await;
    let good = key(Role::Admin);
    for other in [
        infer().with("authorization", good.clone()),
        infer().with("authorization", format!("Basic {good}")),
        infer().with("authorization", ""),
        infer().bearer(&good[1..]),
        infer().bearer(&good).bearer(&good),
        infer().bearer(&"x".repeat(5000)),
    ] {
        assert_eq!(ask(other.clone()).await, wrong, "{other:?}");
    }
    let denied = ask(infer().bearer(&key(Role::Read))).await;
    assert_eq!((denied.status.as_u16(), denied.challenge), (403, None));
    assert!(denied.message.contains("role 'infer'") && denied.message.contains("caller 'read'"));
    let grpc = ask(Ask::new("POST", "/inference.GRPCInferenceService/ModelInfer").grpc()).await;
    assert_eq!((grpc.status.as_u16(), grpc.grpc.as_deref()), (200, Some("16")));
}

#[tokio::test]
async fn a_caller_keeps_to_its_models() {
    let narrow = |method, path: &str| Ask::new(method, path).bearer("key-of-narrow");
    for (method, path) in [
        ("POST", "/v2/models/empty/infer"),
        ("GET", "/v2/models/empty"),
        ("GET", "/v2/models/%65mpty/config"),
    ] {
        let got = ask(narrow(method, path)).await;
        assert_eq!(got.status, 403, "{path}: {got:?}");
        assert!(got.message.contains("may not use model 'empty'"), "{}", got.message);
    }
    for path in ["/v2/models/digits", "/v2/models/%64igits/config", "/v2"] {
        assert_eq!(ask(narrow("GET", path)).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_quota_refuses_and_says_when() {
    let limited = CallerOptions {
        name: "limited".into(),
        keys: KeyHashes(vec![KeyHash::of(b"k")]),
        requests_per_second: 0.001,
        burst: 2,
        ..CallerOptions::default()
    };
    let auth = auth(vec![limited]);
    let mut client = Client::of(front(&auth), Version::HTTP_2, By::Nobody.peer()).await;
    let metadata = Ask::new("GET", "/v2").bearer("k");
    assert_eq!(client.ask(&metadata).await.status, 200);
    assert_eq!(client.ask(&metadata).await.status, 200);
    let got = client.ask(&metadata).await;
    assert_eq!(got.status, 429);
    assert!(got.message.contains("caller 'limited' is above its rate"), "{}", got.message);
    let rpc = Ask::new("POST", "/inference.GRPCInferenceService/ModelInfer").grpc().bearer("k");
    assert_eq!(client.ask(&rpc).await.grpc.as_deref(), Some("8"));
    // Probes are nobody's quota.
    assert_eq!(client.ask(&Ask::new("GET", "/v2/health/live").bearer("k")).await.status, 200);
}

/// Nobody but this machine, and no page in a browser, reaches what changes the server while no callers are configured.
#[tokio::test]
async fn without_callers_the_operators_port_is_local_and_no_pages() {
    let gate = Arc::new(Gate::new(Auth::off(), Port::Operator));
    let operator =
        || Operator { router: router(Port::Operator), gate: gate.clone(), limits: LIMITS };
    let local = || Peer::at(Some([127, 0, 0, 1].into()));
    let mut here = Client::of(operator(), Version::HTTP_11, local()).await;
    let mut there = Client::of(operator(), Version::HTTP_11, By::Nobody.peer()).await;
    let models = Ask::new("GET", "/admin/v1/models");
    assert_eq!(here.ask(&models).await.status, 200);
    assert_eq!(there.ask(&models).await.status, 403);
    assert_eq!(there.ask(&Ask::new("GET", "/metrics")).await.status, 200);
    let load = Ask::new("POST", "/v2/repository/models/digits/load");
    assert_eq!(there.ask(&load).await.status, 403);
    let page = load.clone().with("origin", "http://evil.example");
    assert_eq!(here.ask(&page).await.status, 403);
    assert_ne!(here.ask(&load.clone().with("origin", "http://localhost")).await.status, 403);
    let mut two = Client::of(operator(), Version::HTTP_2, local()).await;
    let rebound = Ask::new("GET", "http://evil.example/admin/v1/models");
    assert_eq!(two.ask(&rebound).await.status, 403);
    let mut data = Client::of(front(&Auth::off()), Version::HTTP_11, local()).await;
    let got = data.ask(&page).await;
    assert!(got.message.contains("another origin"), "{got:?}");
    assert_ne!(
        data.ask(&Ask::new("GET", "/v2").with("origin", "http://evil.example")).await.status,
        403
    );
}

/// With callers, what passes is answered as without a gate.
#[tokio::test]
async fn what_passes_is_the_routers_answer() {
    let auth = auth(callers());
    let mut client = Client::of(front(&auth), Version::HTTP_11, By::Nobody.peer()).await;
    for path in ["/v2", "/v2/models/digits", "/v2/models/stats", "/nope", "/v2/models/nope"] {
        let ask = Ask::new("GET", path).bearer(&key(Role::Admin));
        let request = ask.request(Version::HTTP_11).map(axum::body::Body::new);
        let alone: Result<_, Infallible> = router(Port::Data).oneshot(request).await;
        assert_eq!(client.ask(&ask).await, got(alone.unwrap()).await, "{path}");
    }
}

#[test]
fn the_table_has_no_row_twice() {
    let mut seen = BTreeSet::new();
    for route in ROUTES {
        assert!(seen.insert(route.path), "{} is there twice", route.path);
    }
}
