//! What each route takes: one table over every path, verb and port of both protocols. What it does not list takes `admin`.

use serde::{Deserialize, Serialize};

/// What a caller may be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Ask models for answers.
    Infer,
    /// Read statistics, the repository's index and settings.
    Read,
    /// Load and unload models, change settings. Includes `read`.
    Operate,
    /// Everything, `/admin` included.
    Admin,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Infer, Role::Read, Role::Operate, Role::Admin];

    pub const fn name(self) -> &'static str {
        match self {
            Role::Infer => "infer",
            Role::Read => "read",
            Role::Operate => "operate",
            Role::Admin => "admin",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The role and those that it includes.
    const fn includes(self) -> u8 {
        match self {
            Role::Infer | Role::Read => self.bit(),
            Role::Operate => self.bit() | Role::Read.bit(),
            Role::Admin => u8::MAX,
        }
    }
}

/// The roles of one caller, with those that they include.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    pub fn of(roles: &[Role]) -> Roles {
        Roles(roles.iter().fold(0, |all, role| all | role.includes()))
    }

    pub fn has(self, role: Role) -> bool {
        self.0 & role.bit() != 0
    }
}

/// What a route takes of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Anyone: what probes and scrapers ask.
    Open,
    /// Any caller that is known.
    Known,
    /// A caller with this role.
    Role(Role),
}

impl Access {
    /// Whether it changes the server for everybody: what a page in somebody's browser must not reach.
    pub fn changes(self) -> bool {
        matches!(self, Access::Role(Role::Operate | Role::Admin))
    }
}

/// Which kind of port a request came in by; both data ports answer the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Data,
    Operator,
}

/// One row of the table.
pub struct Route {
    /// `None`: both kinds.
    port: Option<Port>,
    /// As the routers have it: `{name}` is one segment, `{*name}` the rest.
    pub path: &'static str,
    /// GET and HEAD.
    pub get: Access,
    /// Every other verb, POST for one.
    pub post: Access,
}

const OPEN: Access = Access::Open;
const KNOWN: Access = Access::Known;
const INFER: Access = Access::Role(Role::Infer);
const READ: Access = Access::Role(Role::Read);
const OPERATE: Access = Access::Role(Role::Operate);
/// What is not listed, and verbs that no route has.
const ADMIN: Access = Access::Role(Role::Admin);

const fn route(path: &'static str, get: Access, post: Access) -> Route {
    Route { port: None, path, get, post }
}

const fn on(port: Port, path: &'static str, get: Access, post: Access) -> Route {
    Route { port: Some(port), path, get, post }
}

/// A method of a gRPC service: only ever POST.
const fn rpc(path: &'static str, post: Access) -> Route {
    Route { port: Some(Port::Data), path, get: ADMIN, post }
}

/// The table. The first row that fits counts; what is asked most stands first.
pub const ROUTES: &[Route] = &[
    rpc("/inference.GRPCInferenceService/ModelInfer", INFER),
    on(Port::Data, "/v2/models/{model}/infer", INFER, INFER),
    on(Port::Data, "/v2/models/{model}/versions/{version}/infer", INFER, INFER),
    rpc("/inference.GRPCInferenceService/ModelStreamInfer", INFER),
    on(Port::Data, "/v2/models/{model}/generate", INFER, INFER),
    on(Port::Data, "/v2/models/{model}/versions/{version}/generate", INFER, INFER),
    on(Port::Data, "/v2/models/{model}/generate_stream", INFER, INFER),
    on(Port::Data, "/v2/models/{model}/versions/{version}/generate_stream", INFER, INFER),
    // TensorFlow Serving's and KServe's v1.
    on(Port::Data, "/v1/models/{model}:predict", ADMIN, INFER),
    on(Port::Data, "/v1/models/{model}/versions/{version}:predict", ADMIN, INFER),
    on(Port::Data, "/v1/models/{model}/labels/{label}:predict", ADMIN, INFER),
    on(Port::Data, "/v1/models/{model}:classify", ADMIN, INFER),
    on(Port::Data, "/v1/models/{model}/versions/{version}:classify", ADMIN, INFER),
    on(Port::Data, "/v1/models/{model}/labels/{label}:classify", ADMIN, INFER),
    on(Port::Data, "/v1/models/{model}:regress", ADMIN, INFER),
    on(Port::Data, "/v1/models/{model}/versions/{version}:regress", ADMIN, INFER),
    on(Port::Data, "/v1/models/{model}/labels/{label}:regress", ADMIN, INFER),
    on(Port::Data, "/v1/models/{model}:explain", ADMIN, INFER),
    // Probes and scrapers.
    route("/v2/health/live", OPEN, ADMIN),
    route("/v2/health/ready", OPEN, ADMIN),
    on(Port::Data, "/v2/models/{model}/ready", OPEN, ADMIN),
    on(Port::Data, "/v2/models/{model}/versions/{version}/ready", OPEN, ADMIN),
    on(Port::Operator, "/metrics", OPEN, ADMIN),
    rpc("/inference.GRPCInferenceService/ServerLive", OPEN),
    rpc("/inference.GRPCInferenceService/ServerReady", OPEN),
    rpc("/inference.GRPCInferenceService/ModelReady", OPEN),
    rpc("/grpc.health.v1.Health/Check", OPEN),
    rpc("/grpc.health.v1.Health/Watch", OPEN),
    rpc("/grpc.health.v1.Health/List", OPEN),
    // What any client needs to know before it asks.
    route("/", KNOWN, ADMIN),
    on(Port::Data, "/v2", KNOWN, ADMIN),
    route("/openapi.json", KNOWN, ADMIN),
    route("/docs", KNOWN, ADMIN),
    route("/docs/", KNOWN, ADMIN),
    route("/docs/{*file}", KNOWN, ADMIN),
    on(Port::Data, "/v1/models", KNOWN, ADMIN),
    // It tells why versions fail, which is not for strangers: probes have `/v2/models/{model}/ready`.
    on(Port::Data, "/v1/models/{model}", KNOWN, ADMIN),
    on(Port::Data, "/v1/models/{model}/versions/{version}", KNOWN, ADMIN),
    on(Port::Data, "/v1/models/{model}/labels/{label}", KNOWN, ADMIN),
    on(Port::Data, "/v1/models/{model}/metadata", KNOWN, ADMIN),
    on(Port::Data, "/v1/models/{model}/versions/{version}/metadata", KNOWN, ADMIN),
    on(Port::Data, "/v1/models/{model}/labels/{label}/metadata", KNOWN, ADMIN),
    on(Port::Data, "/v2/models/stats", READ, ADMIN),
    on(Port::Data, "/v2/models/{model}", KNOWN, ADMIN),
    on(Port::Data, "/v2/models/{model}/versions/{version}", KNOWN, ADMIN),
    on(Port::Data, "/v2/models/{model}/config", KNOWN, ADMIN),
    on(Port::Data, "/v2/models/{model}/versions/{version}/config", KNOWN, ADMIN),
    rpc("/inference.GRPCInferenceService/ServerMetadata", KNOWN),
    rpc("/inference.GRPCInferenceService/ModelMetadata", KNOWN),
    rpc("/inference.GRPCInferenceService/ModelConfig", KNOWN),
    rpc("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", KNOWN),
    rpc("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", KNOWN),
    // What was counted, and what is there. The index is asked for by POST.
    on(Port::Data, "/v2/models/{model}/stats", READ, ADMIN),
    on(Port::Data, "/v2/models/{model}/versions/{version}/stats", READ, ADMIN),
    rpc("/inference.GRPCInferenceService/ModelStatistics", READ),
    route("/v2/repository/index", READ, READ),
    route("/v2/repository/{repository}/index", READ, READ),
    rpc("/inference.GRPCInferenceService/RepositoryIndex", READ),
    // What changes the server for everybody.
    route("/v2/repository/models/{model}/load", OPERATE, OPERATE),
    route("/v2/repository/models/{model}/unload", OPERATE, OPERATE),
    route("/v2/repository/{repository}/models/{model}/load", OPERATE, OPERATE),
    route("/v2/repository/{repository}/models/{model}/unload", OPERATE, OPERATE),
    rpc("/inference.GRPCInferenceService/RepositoryModelLoad", OPERATE),
    rpc("/inference.GRPCInferenceService/RepositoryModelUnload", OPERATE),
    on(Port::Data, "/v2/trace/setting", READ, OPERATE),
    on(Port::Data, "/v2/models/{model}/trace/setting", READ, OPERATE),
    on(Port::Data, "/v2/logging", READ, OPERATE),
    // One method reads and writes, by what its message holds.
    rpc("/inference.GRPCInferenceService/TraceSetting", OPERATE),
    rpc("/inference.GRPCInferenceService/LogSettings", OPERATE),
    // A client's own tensors: those who infer register them, and forget them when they start and end.
    on(Port::Data, "/v2/systemsharedmemory/status", INFER, ADMIN),
    on(Port::Data, "/v2/systemsharedmemory/unregister", ADMIN, INFER),
    on(Port::Data, "/v2/systemsharedmemory/region/{region}/status", INFER, ADMIN),
    on(Port::Data, "/v2/systemsharedmemory/region/{region}/register", ADMIN, INFER),
    on(Port::Data, "/v2/systemsharedmemory/region/{region}/unregister", ADMIN, INFER),
    on(Port::Data, "/v2/cudasharedmemory/status", INFER, ADMIN),
    on(Port::Data, "/v2/cudasharedmemory/unregister", ADMIN, INFER),
    on(Port::Data, "/v2/cudasharedmemory/region/{region}/status", INFER, ADMIN),
    on(Port::Data, "/v2/cudasharedmemory/region/{region}/register", ADMIN, INFER),
    on(Port::Data, "/v2/cudasharedmemory/region/{region}/unregister", ADMIN, INFER),
    rpc("/inference.GRPCInferenceService/SystemSharedMemoryStatus", INFER),
    rpc("/inference.GRPCInferenceService/SystemSharedMemoryRegister", INFER),
    rpc("/inference.GRPCInferenceService/SystemSharedMemoryUnregister", INFER),
    rpc("/inference.GRPCInferenceService/CudaSharedMemoryStatus", INFER),
    rpc("/inference.GRPCInferenceService/CudaSharedMemoryRegister", INFER),
    rpc("/inference.GRPCInferenceService/CudaSharedMemoryUnregister", INFER),
    // What brings labels need not be able to do more.
    on(Port::Operator, "/admin/v1/models/{model}/labels", ADMIN, OPERATE),
    on(Port::Operator, "/admin/{*rest}", ADMIN, ADMIN),
];

/// What a request asks for, as far as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    pub access: Access,
    /// The path's segment that names a model, still percent-encoded.
    pub model: Option<&'a str>,
    /// Whether a row lists the path.
    pub listed: bool,
}

/// Looks a request up. The path is compared as it was sent, like the routers compare it: what is spelled otherwise (an
/// escape, a doubled or trailing slash, capitals) is no path of theirs, and not listed here.
pub fn asked<'a>(port: Port, method: &str, path: &'a str) -> Asked<'a> {
    for route in ROUTES.iter().filter(|route| route.port.is_none_or(|own| own == port)) {
        if let Some(model) = matches(route.path, path) {
            let access = if matches!(method, "GET" | "HEAD") { route.get } else { route.post };
            return Asked { access, model, listed: true };
        }
    }
    Asked { access: ADMIN, model: None, listed: false }
}

/// Whether the path is one of this pattern's; then the segment at `{model}`, if the pattern has one.
fn matches<'a>(pattern: &str, path: &'a str) -> Option<Option<&'a str>> {
    let (mut pattern, mut path) = (pattern, path);
    let mut model = None;
    loop {
        let open = pattern.find('{').unwrap_or(pattern.len());
        path = path.strip_prefix(&pattern[..open])?;
        pattern = &pattern[open..];
        if pattern.is_empty() {
            return path.is_empty().then_some(model);
        }
        if pattern.starts_with("{*") {
            return (!path.is_empty()).then_some(model);
        }
        let after = &pattern[pattern.find('}')? + 1..];
        let mut segment = &path[..path.find('/').unwrap_or(path.len())];
        if after.starts_with(':') {
            // A call: the colon that ends the name is the last one.
            segment = segment.rsplit_once(':')?.0;
        }
        if segment.is_empty() {
            return None;
        }
        if pattern.starts_with("{model}") {
            model = Some(segment);
        }
        path = &path[segment.len()..];
        pattern = after;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn access(method: &str, path: &str) -> Access {
        asked(Port::Data, method, path).access
    }

    #[test]
    fn roles_include_what_is_below_them() {
        let has = |role: Role| Role::ALL.map(|other| Roles::of(&[role]).has(other));
        assert_eq!(has(Role::Infer), [true, false, false, false]);
        assert_eq!(has(Role::Read), [false, true, false, false]);
        assert_eq!(has(Role::Operate), [false, true, true, false]);
        assert_eq!(has(Role::Admin), [true; 4]);
        let both = Roles::of(&[Role::Infer, Role::Read]);
        assert!(both.has(Role::Infer) && both.has(Role::Read) && !both.has(Role::Operate));
        assert!(!Roles::default().has(Role::Infer));
    }

    #[test]
    fn the_path_says_what_it_takes() {
        assert_eq!(access("POST", "/v2/models/iris/infer"), INFER);
        assert_eq!(access("GET", "/v2/models/iris/ready"), OPEN);
        assert_eq!(access("HEAD", "/v2/models/iris/versions/3/ready"), OPEN);
        assert_eq!(access("POST", "/v2/models/iris/ready"), ADMIN);
        assert_eq!(access("GET", "/v2/models/stats"), READ);
        assert_eq!(access("GET", "/v2/models/iris"), KNOWN);
        assert_eq!(access("GET", "/v2/trace/setting"), READ);
        assert_eq!(access("POST", "/v2/trace/setting"), OPERATE);
        assert_eq!(access("POST", "/grpc.health.v1.Health/Check"), OPEN);
        assert_eq!(access("GET", "/grpc.health.v1.Health/Check"), ADMIN);
        assert_eq!(access("POST", "/v1/models/iris:predict"), INFER);
        assert_eq!(access("POST", "/v1/models/iris/labels/a:classify"), INFER);
        assert_eq!(access("GET", "/v1/models/iris"), KNOWN);
        assert_eq!(access("POST", "/v1/models/iris"), ADMIN);
        assert_eq!(access("POST", "/v1/models/iris:drop"), ADMIN);
        assert_eq!(access("POST", "/v1/models/:predict"), ADMIN);
        let v1 = super::asked(Port::Data, "POST", "/v1/models/a:b:predict");
        assert_eq!((v1.model, v1.listed), (Some("a:b"), true));
        let asked = asked(Port::Data, "POST", "/v2/models/a%2Fb/versions/1/infer");
        assert_eq!((asked.model, asked.listed), (Some("a%2Fb"), true));
    }

    /// docs/security.md has one row for each of ours.
    #[test]
    fn the_document_says_the_same() {
        let name = |access| match access {
            Access::Open => "open",
            Access::Known => "any caller",
            Access::Role(role) => role.name(),
        };
        let row = |route: &Route| {
            let on = match route.port {
                Some(Port::Operator) => ", operator's port",
                _ => "",
            };
            // A verb that the path does not have.
            let cell = |access| match name(access) {
                "admin" if !route.path.starts_with("/admin") => "-",
                name => name,
            };
            format!("| `{}`{on} | {} | {} |", route.path, cell(route.get), cell(route.post))
        };
        let expected: Vec<String> = ROUTES.iter().map(row).collect();
        let document = include_str!("../../../docs/security.md");
        let rows: Vec<&str> = document.lines().filter(|line| line.starts_with("| `/")).collect();
        assert!(
            rows == expected,
            "the rows of docs/security.md should be:\n{}",
            expected.join("\n")
        );
    }

    #[test]
    fn each_kind_of_port_has_its_own() {
        let on = |port, path| asked(port, "GET", path);
        assert_eq!(on(Port::Operator, "/metrics").access, OPEN);
        assert!(!on(Port::Data, "/metrics").listed);
        assert_eq!(on(Port::Operator, "/admin/v1/models").access, ADMIN);
        assert!(!on(Port::Data, "/admin/v1/models").listed);
        assert!(!on(Port::Operator, "/v2/models/iris/ready").listed);
    }

    /// Whatever is not spelled exactly as a router spells it takes the most.
    #[test]
    fn other_spellings_are_not_listed() {
        for path in [
            "",
            "*",
            "/v2/",
            "//v2/health/live",
            "/v2//health/live",
            "/v2/health/live/",
            "/v2/health/Live",
            "/V2/health/live",
            "/v2/health/%6cive",
            "/v2/./health/live",
            "/v2/health/../health/live",
            "/v2/models//ready",
            "/v2/models/iris/versions//ready",
            "/v2/models/iris/x/ready",
            "/v2/health/live;x=1",
            "/v2\\health\\live",
            "/inference.GRPCInferenceService/serverlive",
            "/inference.GRPCInferenceService//ServerLive",
            "/grpc.health.v1.Health/",
            "/metrics",
        ] {
            let asked = asked(Port::Data, "GET", path);
            assert_eq!((asked.access, asked.listed), (ADMIN, false), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in ".{0,40}", method in "[A-Z]{1,7}") {
            for port in [Port::Data, Port::Operator] {
                asked(port, &method, &path);
            }
        }

        /// A segment never reaches beyond its slash.
        #[test]
        fn only_probes_are_open(middle in "[a-z/%.]{0,24}") {
            let path = format!("/v2/models/{middle}");
            if access("GET", &path) == OPEN {
                let segments: Vec<&str> = middle.split('/').collect();
                prop_assert!(
                    matches!(&segments[..], [m, "ready"] if !m.is_empty())
                        || matches!(&segments[..], [m, "versions", v, "ready"]
                            if !m.is_empty() && !v.is_empty()),
                    "{}", path
                );
            }
        }
    }
}
