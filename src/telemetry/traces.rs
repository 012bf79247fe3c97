//! Traces, by OTLP over HTTP to an OpenTelemetry collector: one trace for each session, in it a span for each command, each
//! connection to a backend, and each SFTP request that carries no file data. Only with the feature `otlp`.
//!
//! Nothing waits for a collector: spans that ended stand in a bounded queue, what does not fit is dropped, and a thread
//! sends them. That it cannot be reached is told once in the log, and once when it can be again.
//!
//! The SDK's own variables hold as well, such as `OTEL_TRACES_SAMPLER`, `OTEL_RESOURCE_ATTRIBUTES` and
//! `OTEL_EXPORTER_OTLP_HEADERS`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use tokio::runtime::Handle;
use tracing::{Level, Metadata, Subscriber, info, warn};
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::Layer;
use tracing_subscriber::registry::LookupSpan;

/// Spans that wait to be sent. A few megabytes; two hundred sessions end as many in ten seconds.
const QUEUE: usize = 8192;

/// How long one delivery may take.
const DELIVERY_LIMIT: Duration = Duration::from_secs(10);

/// How long the end of the process waits for what is still queued.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Sends the spans of this process; dropping it sends what is queued, waiting a bounded time.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Begins to send to `endpoint`. Must be called on the runtime, which carries the requests.
    ///
    /// # Errors
    /// The exporter cannot be made.
    pub fn start(endpoint: &str) -> std::io::Result<Self> {
        let client = Deliverer {
            client: HyperClient::with_default_connector(DELIVERY_LIMIT, None),
            runtime: Handle::current(),
            is_failing: AtomicBool::new(false),
        };
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(endpoint)
            .build()
            .map_err(std::io::Error::other)?;
        let queue = BatchConfigBuilder::default().with_max_queue_size(QUEUE).build();
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(queue).build();
        let resource = Resource::builder()
            .with_service_name(env!("CARGO_PKG_NAME"))
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            provider: SdkTracerProvider::builder().with_span_processor(processor).with_resource(resource).build(),
        })
    }

    /// What makes spans of the gateway's own into those of a trace, with its log records as their events.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer(env!("CARGO_PKG_NAME")))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_told))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        // What cannot be delivered now never will be, and the log has said so.
        let _ = self.provider.shutdown_with_timeout(FLUSH_LIMIT);
    }
}

/// Spans of ours, and what an operator would see in the log. SECURITY: nothing of libraries, which put protocol contents
/// into theirs.
fn is_told(metadata: &Metadata<'_>) -> bool {
    let is_ours = metadata.target().starts_with(env!("CARGO_PKG_NAME"));
    is_ours && (metadata.is_span() || *metadata.level() <= Level::INFO)
}

/// Carries requests of the exporter's thread on the runtime.
#[derive(Debug)]
struct Deliverer {
    client: HyperClient,
    runtime: Handle,
    is_failing: AtomicBool,
}

#[async_trait]
impl HttpClient for Deliverer {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.clone();
        let sent = self.runtime.spawn(async move { client.send_bytes(request).await }).await?;
        self.tell(match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("the collector answered {}", response.status())),
            Err(error) => Some(error.to_string()),
        });
        sent
    }
}

impl Deliverer {
    /// Says what changed.
    fn tell(&self, failure: Option<String>) {
        match (self.is_failing.swap(failure.is_some(), Ordering::Relaxed), failure) {
            (false, Some(reason)) => warn!(exception.message = %reason, "traces are not delivered"),
            (true, None) => info!("traces are delivered again"),
            _ => {}
        }
    }
}
