//! Traces: W3C trace context of callers, and a span a request by OTLP, where a collector is configured.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderValue};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, TextMapPropagator},
    trace::{
        Span, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer, TracerProvider,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData},
};
use serde::{Deserialize, Serialize};

use super::{registry::registry, stats::Spans};
use crate::types::trace::TraceIds;

/// `tracing:` of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TraceOptions {
    /// The collector that takes spans by OTLP over gRPC, as in `http://127.0.0.1:4317`. Empty (default): no spans.
    pub otlp_endpoint: String,
    /// Share of the requests that get a span, from 0 to 1, where the caller has not decided: a `traceparent` header is
    /// followed. Default: 0.01, since at thousands of requests a second every hundredth tells as much.
    pub sample_ratio: f64,
    /// What spans say the service is. Default: `onnxd`.
    pub service_name: String,
}

impl Default for TraceOptions {
    fn default() -> Self {
        TraceOptions {
            otlp_endpoint: String::new(),
            sample_ratio: 0.01,
            service_name: "onnxd".into(),
        }
    }
}

impl TraceOptions {
    /// The share of requests that get a span; `None`: none does.
    pub fn share(&self) -> Option<f64> {
        (!self.otlp_endpoint.is_empty()).then_some(self.sample_ratio)
    }

    /// # Errors
    /// What is wrong, if anything.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return Err(format!("sample_ratio: expected 0 to 1, got {}", self.sample_ratio));
        }
        let endpoint = &self.otlp_endpoint;
        let plain = endpoint.strip_prefix("http://").is_some_and(|host| !host.is_empty());
        if !plain && !endpoint.is_empty() {
            return Err(format!(
                "otlp_endpoint: expected http://HOST:PORT of a collector (a local one: TLS to it is not there), got '{}'",
                endpoint.escape_debug()
            ));
        }
        Ok(())
    }
}

/// How long one export may take.
const EXPORT: Duration = Duration::from_secs(5);
/// How long the end of the process waits for the last spans.
const FINISH: Duration = Duration::from_secs(1);

/// Makes spans and has them sent. What does not fit the exporter's bounded queue is dropped; no request waits.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// `None` where no collector is configured. To be called within an event loop, which then carries the exporter's
    /// connection.
    ///
    /// # Errors
    /// The endpoint cannot be used.
    pub fn start(options: &TraceOptions) -> Result<Option<Traces>, String> {
        if options.otlp_endpoint.is_empty() {
            return Ok(None);
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(&options.otlp_endpoint)
            .with_timeout(EXPORT)
            .build()
            .map_err(|error| format!("tracing.otlp_endpoint: {error}"))?;
        let by_ratio = Sampler::TraceIdRatioBased(options.sample_ratio);
        let resource = Resource::builder()
            .with_service_name(options.service_name.clone())
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(Counted(exporter))
            .with_sampler(Sampler::ParentBased(Box::new(by_ratio)))
            .with_resource(resource)
            .build();
        let tracer = provider.tracer("onnxd");
        Ok(Some(Traces { provider, tracer }))
    }

    /// Begins the span of a request that arrived with `parent`; `None` where it is not sampled.
    pub fn begin(&self, parent: &Parent, name: String) -> Option<RequestSpan> {
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Server);
        let span = self.tracer.build_with_context(builder, &parent.0);
        let context = parent.0.with_span(span);
        context.span().is_recording().then_some(RequestSpan { context, began: SystemTime::now() })
    }

    /// Ends a span: what is known goes into its attributes, and where the time went into spans below it.
    pub fn end(&self, span: &RequestSpan, spans: &Spans, outcome: Outcome) {
        let own = span.context.span();
        let parts = [
            ("queue", spans.queue),
            ("compute_input", spans.input),
            ("compute_infer", spans.infer),
            ("compute_output", spans.output),
        ];
        // What is left of the total came before them: reading and decoding.
        let before = spans.total.saturating_sub(parts.iter().map(|(_, took)| *took).sum());
        let mut at = span.began + before;
        for (name, took) in parts {
            if !took.is_zero() {
                let builder = SpanBuilder::from_name(name).with_start_time(at);
                let mut inner = self.tracer.build_with_context(builder, &span.context);
                at += took;
                inner.end_with_timestamp(at);
            }
        }
        for attribute in outcome.attributes {
            own.set_attribute(attribute);
        }
        if let Some(error) = outcome.error {
            own.set_status(Status::error(error));
        }
        own.end();
    }

    /// Sends what is left, for a second at most. Not on the event loop that carries the exporter's connection.
    pub fn finish(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FINISH) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}

/// How a request ended, for its span.
#[derive(Debug, Default)]
pub struct Outcome {
    pub attributes: Vec<KeyValue>,
    /// What the server is to blame for.
    pub error: Option<&'static str>,
}

impl Outcome {
    /// One more attribute.
    pub fn attribute(&mut self, key: &'static str, value: impl Into<opentelemetry::Value>) {
        self.attributes.push(KeyValue::new(key, value));
    }
}

/// A sampled request's span.
#[derive(Debug)]
pub struct RequestSpan {
    context: Context,
    began: SystemTime,
}

impl RequestSpan {
    /// The value of `traceresponse`, by which a caller finds the span.
    pub fn response(&self) -> Option<HeaderValue> {
        let span = self.context.span();
        let context = span.span_context();
        let (trace, id) = (context.trace_id(), context.span_id());
        let flags = context.trace_flags().to_u8();
        HeaderValue::try_from(format!("00-{trace}-{id}-{flags:02x}")).ok()
    }

    pub fn trace_id(&self) -> String {
        self.context.span().span_context().trace_id().to_string()
    }

    pub fn ids(&self) -> TraceIds {
        let span = self.context.span();
        let context = span.span_context();
        TraceIds { trace: context.trace_id().to_bytes(), span: context.span_id().to_bytes() }
    }
}

/// The trace that a request belongs to, as its caller says.
#[derive(Clone, Debug)]
pub struct Parent(Context);

impl Parent {
    /// From `traceparent` and `tracestate`; what is malformed counts as absent, as W3C's recommendation asks.
    pub fn of(headers: &HeaderMap) -> Parent {
        let none = Context::new();
        Parent(TraceContextPropagator::new().extract_with_context(&none, &Headers(headers)))
    }

    /// The caller's trace; `None` where it named none.
    pub fn trace_id(&self) -> Option<String> {
        let span = self.0.span();
        let context: &SpanContext = span.span_context();
        context.is_valid().then(|| context.trace_id().to_string())
    }
}

struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Counts what was sent, and what was not.
struct Counted(SpanExporter);

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl opentelemetry_sdk::trace::SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len() as u64;
        let result = self.0.export(batch).await;
        registry().spans(spans, result.is_ok());
        if let Err(error) = &result {
            tracing::debug!(%error, spans, "spans were not taken by the collector");
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parent(value: &str) -> Option<String> {
        let mut headers = HeaderMap::new();
        headers.insert("traceparent", HeaderValue::from_str(value).expect("a header"));
        Parent::of(&headers).trace_id()
    }

    #[test]
    fn a_callers_trace_is_followed_where_it_is_well_formed() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(parent(&format!("00-{trace}-00f067aa0ba902b7-01")).as_deref(), Some(trace));
        for bad in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736",
        ] {
            assert_eq!(parent(bad), None, "{bad}");
        }
        assert_eq!(Parent::of(&HeaderMap::new()).trace_id(), None);
    }

    #[test]
    fn options_that_cannot_work_are_refused() {
        let endpoint = |text: &str| {
            TraceOptions { otlp_endpoint: text.into(), ..TraceOptions::default() }.check()
        };
        assert_eq!(endpoint(""), Ok(()));
        assert_eq!(endpoint("http://127.0.0.1:4317"), Ok(()));
        for bad in ["https://collector:4317", "127.0.0.1:4317", "http://"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
        let ratio = |sample_ratio| TraceOptions { sample_ratio, ..TraceOptions::default() }.check();
        assert!(ratio(1.0).is_ok() && ratio(1.5).is_err() && ratio(f64::NAN).is_err());
    }
}
