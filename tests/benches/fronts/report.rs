//! From samples to the table: medians, and how many times as good ours is.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::fronts::Front;
use super::scenarios::median;

/// Samples of all rounds, and why there are none.
#[derive(Default)]
pub(crate) struct Results {
    samples: BTreeMap<(&'static str, Front), Vec<f64>>,
    failures: BTreeMap<(&'static str, Front), String>,
}

/// Is more of it good?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Better {
    More,
    Less,
}

/// A line of the table.
struct Row {
    /// Names of samples; a line of the variant of ours has its own words behind it.
    metric: &'static str,
    variant: &'static str,
    ours: Front,
    better: Better,
    decimals: usize,
}

const fn more(metric: &'static str, decimals: usize) -> Row {
    Row { metric, variant: "", ours: Front::Ours, better: Better::More, decimals }
}

const fn less(metric: &'static str, decimals: usize) -> Row {
    Row { metric, variant: "", ours: Front::Ours, better: Better::Less, decimals }
}

const fn variant(of: Row, variant: &'static str, ours: Front) -> Row {
    Row { variant, ours, ..of }
}

const STRIPED: &str = ", `upload_streams: 4`";
const SHARED: &str = ", `connections: shared`";

const ROWS: &[Row] = &[
    more("one stream up, MB/s", 0),
    less("one stream up, CPU s/GiB", 2),
    more("one stream down, MB/s", 0),
    less("one stream down, CPU s/GiB", 2),
    more("40 ms: one stream up, MB/s", 1),
    variant(more("40 ms: one stream up, MB/s", 1), STRIPED, Front::OursStriped),
    less("40 ms: one stream up, CPU s/GiB", 2),
    more("40 ms: one stream down, MB/s", 1),
    less("40 ms: one stream down, CPU s/GiB", 2),
    more("16 streams up, MB/s", 0),
    more("16 streams down, MB/s", 0),
    more("files of 4 KiB/s, up", 0),
    more("files of 4 KiB/s, down", 0),
    more("TLS resumed on data connections, %", 0),
    less("40 ms: round trips per file of 4 KiB, up", 2),
    less("40 ms: round trips per file of 4 KiB, down", 2),
    more("logins/s, one after the other", 1),
    more("logins/s, one after the other, SFTP started", 1),
    variant(more("logins/s, one after the other", 1), SHARED, Front::OursShared),
    more("logins/s, 32 at once", 1),
    more("logins/s, 32 at once, SFTP started", 1),
    variant(more("logins/s, 32 at once", 1), SHARED, Front::OursShared),
    less("a login: TCP, ms", 1),
    less("a login: SSH key exchange, ms", 1),
    less("a login: SSH authentication, ms", 1),
    less("a login: channel and SFTP, ms", 1),
    less("NOOP, µs", 0),
    less("NOOP, 99th percentile, µs", 0),
    less("SIZE, µs", 0),
    less("SIZE, 99th percentile, µs", 0),
    less("CWD, µs", 0),
    less("CWD, 99th percentile, µs", 0),
    less("LIST of 10,000, first time, ms", 0),
    less("LIST of 10,000, first byte, ms", 1),
    less("LIST of 10,000, again, ms", 0),
    less("MLSD of 10,000, first time, ms", 0),
    less("MLSD of 10,000, first byte, ms", 1),
    less("MLSD of 10,000, again, ms", 0),
    less("40 ms: LIST of 10,000, first time, ms", 0),
    less("40 ms: LIST of 10,000, first byte, ms", 0),
    less("40 ms: LIST of 10,000, again, ms", 0),
    less("40 ms: MLSD of 10,000, first time, ms", 0),
    less("40 ms: MLSD of 10,000, first byte, ms", 0),
    less("40 ms: MLSD of 10,000, again, ms", 0),
    less("idle session, KiB", 0),
    less("memory during one large upload, MiB", 1),
    less("memory during one large download, MiB", 1),
];

const HEAD: &str = "\
| | ours | rclone ¹ | vsftpd on sshfs | vsftpd, local ² | straight ³ | to the best peer | to the one that encrypts | to vsftpd, local | \
to straight |\n\
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n";

const FOOT: &str = "\
The last four columns say how many times as good ours is: 2.00 is twice as fast, or half of the time, the CPU or the \
memory. Peers are rclone and vsftpd on sshfs, of which only the latter encrypts its data connections; local vsftpd and \
the straight way are limits. CPU and memory are those of a front's own processes, for sshfs and its `ssh` included; memory is counted above \
an idle process, shared pages by their share.\n\n\
¹ rclone `serve ftp` over an sftp remote: its data connections are **in clear**, all its sessions share its SSH \
connections, and it remembers directories for five minutes. ² A limit and not a rival: no SFTP server behind it. \
³ Also a limit: OpenSSH's `sftp` with AES-128-GCM, without what starting it costs (three files less one), for one login \
after the other `ssh`'s where that is all there is; logins by plain russh, the library that ours uses for SSH. `first \
time` and `again`: a front that remembers a listing shows it the second time; ours and `sftp` ask the server each time.\n";

impl Results {
    pub(crate) fn add(&mut self, metric: &'static str, front: Front, value: f64) {
        self.samples.entry((metric, front)).or_default().push(value);
    }

    pub(crate) fn fail(&mut self, scenario: &'static str, front: Front, reason: String) {
        self.failures.insert((scenario, front), reason);
    }

    pub(crate) fn has_failed(&self, scenario: &'static str, front: Front) -> bool {
        self.failures.contains_key(&(scenario, front))
    }

    fn value(&self, metric: &'static str, front: Front) -> Option<f64> {
        self.samples.get(&(metric, front)).map(|values| median(values))
    }

    /// The table with what one must know to read it.
    pub(crate) fn markdown(&self) -> String {
        let mut text = HEAD.to_owned();
        for row in ROWS {
            let at = |front| self.value(row.metric, front);
            // What started logins reach is compared with ours, which start it always.
            let of_ours = row.metric.strip_suffix(", SFTP started").map_or(row.metric, |metric| {
                ROWS.iter().map(|row| row.metric).find(|other| *other == metric).unwrap_or(row.metric)
            });
            let ours = self.value(of_ours, row.ours);
            let straight = at(Front::Russh).or(at(Front::OpenSsh));
            let (rclone, sshfs, local) = (at(Front::Rclone), at(Front::VsftpdSshfs), at(Front::VsftpdLocal));
            let shown = [ours, rclone, sshfs, local, straight];
            if shown.iter().all(Option::is_none) {
                continue;
            }
            let _ = write!(text, "| {}{} ", row.metric, row.variant);
            for value in shown {
                let value = value.map_or("-".to_owned(), |value| format!("{value:.*}", row.decimals));
                let _ = write!(text, "| {value} ");
            }
            let best = [rclone, sshfs].into_iter().flatten().reduce(match row.better {
                Better::More => f64::max,
                Better::Less => f64::min,
            });
            for other in [best, sshfs, local, straight] {
                let _ = write!(text, "| {} ", ratio(ours, other, row.better));
            }
            text.push_str("|\n");
        }
        text.push('\n');
        text.push_str(FOOT);
        if !self.failures.is_empty() {
            text.push_str("\nWhat arrived is looked at as soon as a front has said 226:\n");
        }
        for ((scenario, front), reason) in &self.failures {
            let _ = write!(text, "\n- No figure for {} in {scenario}: {reason}", front.name());
        }
        if !self.failures.is_empty() {
            text.push('\n');
        }
        text
    }

    /// Names of samples that have no line in the table.
    pub(crate) fn unlisted(&self) -> Vec<&'static str> {
        let known = |metric: &&str| ROWS.iter().any(|row| row.metric == *metric);
        self.samples.keys().map(|(metric, _)| *metric).filter(|metric| !known(metric)).collect()
    }
}

fn ratio(ours: Option<f64>, other: Option<f64>, better: Better) -> String {
    let value = match (ours, other, better) {
        (Some(ours), Some(other), Better::More) if other > 0.0 => ours / other,
        (Some(ours), Some(other), Better::Less) if ours > 0.0 => other / ours,
        _ => return "-".to_owned(),
    };
    format!("{value:.2}")
}
