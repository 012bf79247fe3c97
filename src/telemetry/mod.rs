//! What the gateway tells about itself: log records and metrics.

pub mod audit;
pub mod logging;
pub mod metrics;
