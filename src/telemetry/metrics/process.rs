//! The standard `process_*` metrics, read from `/proc` (proc(5)) when they are asked for.
//!
//! They are written straight into the exposition: CPU time is a counter with a fraction, which the recorder's
//! counters, whole numbers, cannot hold.

use std::fmt::Write;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use super::table::{Kind, MetricRow};

/// Clock ticks per second in `/proc/*/stat`. The kernel shows user space 100 whatever its own tick is (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

const fn row(name: &'static str, kind: Kind, help: &'static str) -> MetricRow {
    MetricRow { name, kind, help, labels: &[], from_start: true }
}

/// The process metrics; names and meanings as every Prometheus client library has them.
pub const PROCESS: &[MetricRow] = &[CPU, RESIDENT, OPEN_FILES, MAX_FILES, START];
const CPU: MetricRow = row("process_cpu_seconds_total", Kind::Counter, "User and system CPU time, in seconds.");
const RESIDENT: MetricRow = row("process_resident_memory_bytes", Kind::Gauge, "Resident memory, in bytes.");
const OPEN_FILES: MetricRow = row("process_open_fds", Kind::Gauge, "Open file descriptors.");
const MAX_FILES: MetricRow = row("process_max_fds", Kind::Gauge, "File descriptors this process may open.");
const START: MetricRow = row("process_start_time_seconds", Kind::Gauge, "When the process started, in Unix time.");

/// Appends what can be read now; what cannot be read is left out.
pub(super) fn render(output: &mut String) {
    let proc = Path::new("/proc/self");
    let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
    let status = std::fs::read_to_string(proc.join("status")).unwrap_or_default();
    let limits = std::fs::read_to_string(proc.join("limits")).unwrap_or_default();
    // The directory being read is itself one of the descriptors.
    let open_files = std::fs::read_dir(proc.join("fd")).ok().map(|entries| entries.count().saturating_sub(1) as f64);

    let values = [
        (&CPU, cpu_seconds(&stat)),
        (&RESIDENT, resident_bytes(&status)),
        (&OPEN_FILES, open_files),
        (&MAX_FILES, max_open_files(&limits)),
        (&START, Some(start_time())),
    ];
    for (row, value) in values {
        if let Some(value) = value {
            // Writing into a `String` cannot fail.
            let _ = write!(
                output,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n\n",
                name = row.name,
                help = row.help,
                kind = row.kind.as_str(),
            );
        }
    }
}

/// Field `number` of `/proc/self/stat`, counted from 1. The second field is the command in parentheses and may hold
/// anything, so counting starts behind its last `)`.
fn stat_field(stat: &str, number: usize) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    Some((stat_field(stat, 14)? + stat_field(stat, 15)?) / TICKS_PER_SECOND)
}

/// When it was asked for first, which is when metrics are set up. /proc/uptime, which tells better, is hidden from services
/// (systemd.exec(5), `ProcSubset=pid`).
pub(super) fn start_time() -> f64 {
    static STARTED: LazyLock<f64> =
        LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64().round());
    *STARTED
}

fn resident_bytes(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024.0)
}

fn max_open_files(limits: &str) -> Option<f64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_all_of_them() {
        let mut text = String::new();
        render(&mut text);
        for row in PROCESS {
            let value = text.lines().find_map(|line| line.strip_prefix(&format!("{} ", row.name))).unwrap();
            let value: f64 = value.parse().unwrap();
            assert!(value >= 0.0, "{} {value}", row.name);
        }
    }

    #[test]
    fn a_command_name_cannot_shift_the_fields() {
        let stat = "7 (a) S 1 ) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 4 0 1234 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds(""), None);
        assert_eq!(resident_bytes("VmRSS:\t    2048 kB\n"), Some(2_097_152.0));
        assert_eq!(
            max_open_files("Max open files            1024                 4096                 files\n"),
            Some(1024.0)
        );
    }
}
