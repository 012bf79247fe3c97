//! SFTP requests of one backend: there are thousands in a second, so the handles of their series are kept.

use std::sync::OnceLock;
use std::time::Duration;

use super::labels::{RequestClass, SftpOperation, SftpStatus};
use super::table;

const OPERATIONS: usize = SftpOperation::VALUES.len();
const STATUSES: usize = SftpStatus::VALUES.len();

/// Counts the requests of one backend.
pub struct BackendRequests {
    backend: String,
    /// By operation and status; a series is there once it has something to count.
    counters: [[OnceLock<metrics::Counter>; STATUSES]; OPERATIONS],
    meta: metrics::Histogram,
    data: metrics::Histogram,
    list: metrics::Histogram,
    in_flight: metrics::Gauge,
}

impl BackendRequests {
    /// Of the backend of this name. To be made after [`super::install`].
    pub fn new(backend: &str) -> Self {
        let duration =
            |class: RequestClass| table::BACKEND_REQUEST_DURATION.histogram([backend.to_owned().into(), class.into()]);
        Self {
            backend: backend.to_owned(),
            counters: [const { [const { OnceLock::new() }; STATUSES] }; OPERATIONS],
            meta: duration(RequestClass::Meta),
            data: duration(RequestClass::Data),
            list: duration(RequestClass::List),
            in_flight: table::BACKEND_REQUESTS_IN_FLIGHT.gauge([backend.to_owned().into()]),
        }
    }

    /// One was sent.
    pub fn sent(&self) {
        self.in_flight.increment(1.0);
    }

    /// One that was sent was answered, or never will be.
    pub fn answered(&self, operation: SftpOperation, status: SftpStatus, elapsed: Duration) {
        self.in_flight.decrement(1.0);
        if let Some(counter) = self.counters.get(operation as usize).and_then(|row| row.get(status as usize)) {
            let series = || [self.backend.clone().into(), operation.into(), status.into()];
            counter.get_or_init(|| table::BACKEND_REQUESTS.counter(series())).increment(1);
        }
        let durations = match operation {
            SftpOperation::Read | SftpOperation::Write => &self.data,
            SftpOperation::Opendir | SftpOperation::Readdir => &self.list,
            _ => &self.meta,
        };
        durations.record(elapsed.as_secs_f64());
    }
}

impl std::fmt::Debug for BackendRequests {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("BackendRequests").field(&self.backend).finish()
    }
}
