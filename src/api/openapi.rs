//! The OpenAPI document of a port's HTTP routes, collected where they are routed, and the page to try them.

use std::sync::Arc;

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Path,
    http::{HeaderName, HeaderValue, Response, header},
    response::{IntoResponse, Redirect},
    routing::get,
};
use utoipa::{
    PartialSchema,
    openapi::{
        Components, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, PathItem, Paths, RefOr,
        Required,
        path::{Operation, Parameter, ParameterBuilder, ParameterIn},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};
use utoipa_swagger_ui::Config;

use super::{
    auth::roles::{Access, Port, asked},
    errors::Failure,
    schema::{ErrorBody, errors},
    state::Api,
};
use crate::types::error::{Code, Error};

/// A router whose documented routes are in its document as well.
pub type Routes = OpenApiRouter<Arc<Api>>;

/// A model, and one of its versions.
pub const MODEL: &str = "/v2/models/{model}";
pub const VERSION: &str = "/v2/models/{model}/versions/{version}";

/// Adds what is asked of a model's current version, and the same of a version that is named.
pub fn of_model(routes: Routes, (schemas, paths, methods): UtoipaMethodRouter<Arc<Api>>) -> Routes {
    let mut versioned = Paths::new();
    for (path, item) in &paths.paths {
        let mut item = item.clone();
        operations(&mut item).for_each(name_version);
        versioned.paths.insert(path.replacen(MODEL, VERSION, 1), item);
    }
    routes.routes((schemas.clone(), paths, methods.clone())).routes((schemas, versioned, methods))
}

/// Every operation has an identifier of its own: generated clients name their methods by it.
fn name_version(operation: &mut Operation) {
    if let Some(id) = &mut operation.operation_id {
        id.push_str("_of_version");
    }
    if let Some(summary) = &mut operation.summary {
        summary.push_str(" (of a version)");
    }
}

/// Splits a port's routes into the router, which serves the document and its page too, and nothing else.
pub fn with_document(routes: Routes, port: Port) -> Router<Arc<Api>> {
    let (router, document) = routes.split_for_parts();
    // A document that cannot be written would be a bug of this build: its test reads it.
    let json = serde_json::to_vec(&complete(document, port)).unwrap_or_default();
    let json = Bytes::from(json);
    let document = get(async move || ([(header::CONTENT_TYPE, "application/json")], json.clone()));
    let config = Arc::new(page_config());
    let index = config.clone();
    router
        .route("/openapi.json", document)
        // The page's own links are relative to its folder.
        .route("/docs", get(async || Redirect::permanent("docs/")))
        .route("/docs/", get(async move || page_file("index.html", index)))
        .route("/docs/{*file}", get(async move |Path(file): Path<String>| page_file(&file, config)))
}

/// What no annotation says: the title, the errors' schema, the parameters that a path's template names, and what the gate
/// takes of the caller.
fn complete(collected: OpenApi, port: Port) -> OpenApi {
    let title = match port {
        Port::Data => "onnxd",
        Port::Operator => "onnxd, the operator's port",
    };
    let info = InfoBuilder::new()
        .title(title)
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "The Open Inference Protocol v2 over HTTP, with those of Triton's extensions that are here.",
        ))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
        .build();
    let mut document = OpenApiBuilder::new()
        .info(info)
        .paths(collected.paths)
        .components(collected.components)
        .build();
    for (path, item) in &mut document.paths.paths {
        let parameters: Vec<RefOr<Parameter>> =
            template(path).map(|name| RefOr::T(path_parameter(name))).collect();
        item.parameters = (!parameters.is_empty()).then_some(parameters);
        describe_answers(item);
        for (method, operation) in [("GET", &mut item.get), ("POST", &mut item.post)] {
            if let Some(operation) = operation {
                guard(operation, asked(port, method, path).access);
            }
        }
    }
    let components = document.components.get_or_insert_with(Components::new);
    components.schemas.insert("ErrorBody".into(), ErrorBody::schema());
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("A caller's key, once callers are configured"));
    components.add_security_scheme(KEY, SecurityScheme::Http(key.build()));
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.post].into_iter().flatten()
}

/// An answer that its annotation does not describe is what the operation is there for.
fn describe_answers(item: &mut PathItem) {
    for operation in operations(item) {
        let summary = operation.summary.clone().unwrap_or_default();
        for response in operation.responses.responses.values_mut() {
            if let RefOr::T(response) = response
                && response.description.is_empty()
            {
                response.description.clone_from(&summary);
            }
        }
    }
}

/// The name of the way to authenticate.
const KEY: &str = "key";

/// Says what a route takes of its caller, and what it answers to others; by default, no callers are configured.
fn guard(operation: &mut Operation, access: Access) {
    let takes = match access {
        Access::Open => return,
        Access::Known => "Once callers are configured: for any of them.".to_owned(),
        Access::Role(role) => {
            format!("Once callers are configured: for those with the role `{}`.", role.name())
        }
    };
    operation.description = Some(takes);
    let none = SecurityRequirement::default();
    operation.security = Some(vec![none, SecurityRequirement::new(KEY, [""; 0])]);
    let refused = errors(&[Code::Unauthenticated, Code::PermissionDenied, Code::Overloaded]);
    operation.responses.responses.extend(refused);
}

/// The names in braces of a path's template.
fn template(path: &str) -> impl Iterator<Item = &str> {
    path.split('{').skip(1).filter_map(|rest| Some(rest.split_once('}')?.0))
}

fn path_parameter(name: &str) -> Parameter {
    let (description, example) = match name {
        "model" => ("The model's name in the repository", "wine"),
        "version" => ("A version's number", "1"),
        _ => ("", ""),
    };
    ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(description))
        .schema(Some(String::schema()))
        .example(Some(example.into()))
        .build()
}

fn page_config() -> Config<'static> {
    Config::new(["../openapi.json"])
        .try_it_out_enabled(true)
        .display_request_duration(true)
        .default_models_expand_depth(0)
        // Swagger UI would have its validator, elsewhere, look at the document.
        .validator_url("none")
}

/// What the page may do: run its own files, and call this server. The browser holds it to that, whatever the files say.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn page_file(file: &str, config: Arc<Config<'static>>) -> Result<Response<Body>, Failure> {
    let found = utoipa_swagger_ui::serve(file, config)
        .map_err(|error| Error::internal(format!("the page's file cannot be made: {error}")))?
        .ok_or_else(|| Error::new(Code::UnknownRoute, "the page of this API has no such file"))?;
    let headers = [
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    ];
    let mut response = (headers, found.bytes.into_owned()).into_response();
    let mut set = |name: HeaderName, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    };
    set(header::CONTENT_TYPE, &found.content_type);
    if found.gzpipped {
        set(header::CONTENT_ENCODING, "gzip");
    }
    Ok(response)
}

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;
