//! What the gateway tells about itself: log records, audit records, metrics and traces.

pub mod audit;
pub mod logging;
pub mod metrics;
#[cfg(feature = "otlp")]
pub mod traces;
