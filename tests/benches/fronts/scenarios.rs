//! What is measured: each scenario is a row of the table, runs on a front that was started for it, checks that the
//! right bytes arrived, and gives one sample of each of its figures.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Outcome;
use super::client::{Access, Ftp};
use super::fronts::{Front, Programs, Running};
use super::place::{Link, Place};
use super::straight;

const MIB: u64 = 1024 * 1024;
const GIB: f64 = 1024.0 * 1024.0 * 1024.0;

/// Of a small file.
const SMALL: u64 = 4096;

/// Streams at once.
const STREAMS: usize = 16;

/// Sessions that log in at once.
const AT_ONCE: usize = 32;

/// Sessions before the counting of memory begins: what a process needs once is not counted.
const WARM_UP: usize = 16;

/// How long memory gets to settle: allocators give pages back after a while.
const SETTLING: Duration = Duration::from_secs(3);

/// vsftpd has two processes for a session; more of them show nothing new.
const FORKING_SESSIONS: usize = 100;

/// How much of everything.
#[derive(Debug, Clone)]
pub(crate) struct Sizes {
    /// MiB.
    pub(crate) stream: u64,
    pub(crate) far: u64,
    pub(crate) parallel: u64,
    pub(crate) large: u64,
    /// Files.
    pub(crate) small: usize,
    pub(crate) small_far: usize,
    pub(crate) entries: usize,
    /// Times.
    pub(crate) logins: usize,
    pub(crate) commands: usize,
    pub(crate) lists: usize,
    pub(crate) sessions: usize,
}

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Up,
    Down,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    Stream(Direction, Link),
    Parallel(Direction),
    Small(Direction, Link),
    Logins,
    Latency,
    List(&'static str, Link),
    IdleMemory,
    TransferMemory,
}

/// A row.
pub(crate) struct Scenario {
    /// As `--only` takes it.
    pub(crate) name: &'static str,
    pub(crate) work: Work,
    pub(crate) fronts: &'static [Front],
    /// In the first round only: it costs much and varies little.
    pub(crate) once: bool,
}

/// One figure of one run.
pub(crate) struct Sample {
    pub(crate) metric: &'static str,
    pub(crate) value: f64,
}

const TRANSFERS: &[Front] = &[Front::Ours, Front::Rclone, Front::VsftpdSshfs, Front::VsftpdLocal, Front::OpenSsh];
const FAR: &[Front] = &[Front::Ours, Front::Rclone, Front::VsftpdSshfs, Front::OpenSsh];
const FAR_DOWN: &[Front] = &[Front::Ours, Front::Rclone, Front::OpenSsh];
const SSHFS: &[Front] = &[Front::VsftpdSshfs];
const FAR_UP: &[Front] = &[Front::Ours, Front::OursStriped, Front::Rclone, Front::VsftpdSshfs, Front::OpenSsh];
const LOGINS: &[Front] = &[
    Front::Ours,
    Front::OursShared,
    Front::Rclone,
    Front::VsftpdSshfs,
    Front::VsftpdLocal,
    Front::OpenSsh,
    Front::Russh,
];
const SERVERS: &[Front] = &[Front::Ours, Front::Rclone, Front::VsftpdSshfs, Front::VsftpdLocal];
const MLSD: &[Front] = &[Front::Ours, Front::Rclone];

/// All of them.
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario { name: "stream-up", work: Work::Stream(Direction::Up, Link::Near), fronts: TRANSFERS, once: false },
    Scenario { name: "stream-down", work: Work::Stream(Direction::Down, Link::Near), fronts: TRANSFERS, once: false },
    Scenario { name: "far-up", work: Work::Stream(Direction::Up, Link::Far), fronts: FAR_UP, once: false },
    Scenario { name: "far-down", work: Work::Stream(Direction::Down, Link::Far), fronts: FAR_DOWN, once: false },
    // Minutes.
    Scenario { name: "far-down-sshfs", work: Work::Stream(Direction::Down, Link::Far), fronts: SSHFS, once: true },
    Scenario { name: "parallel-up", work: Work::Parallel(Direction::Up), fronts: TRANSFERS, once: false },
    Scenario { name: "parallel-down", work: Work::Parallel(Direction::Down), fronts: TRANSFERS, once: false },
    Scenario { name: "small-up", work: Work::Small(Direction::Up, Link::Near), fronts: TRANSFERS, once: false },
    Scenario { name: "small-down", work: Work::Small(Direction::Down, Link::Near), fronts: TRANSFERS, once: false },
    Scenario { name: "small-far-up", work: Work::Small(Direction::Up, Link::Far), fronts: FAR, once: false },
    Scenario { name: "small-far-down", work: Work::Small(Direction::Down, Link::Far), fronts: FAR, once: false },
    Scenario { name: "logins", work: Work::Logins, fronts: LOGINS, once: false },
    Scenario { name: "latency", work: Work::Latency, fronts: SERVERS, once: false },
    Scenario { name: "list", work: Work::List("LIST", Link::Near), fronts: TRANSFERS, once: false },
    Scenario { name: "mlsd", work: Work::List("MLSD", Link::Near), fronts: MLSD, once: false },
    Scenario { name: "list-far", work: Work::List("LIST", Link::Far), fronts: FAR, once: false },
    Scenario { name: "mlsd-far", work: Work::List("MLSD", Link::Far), fronts: MLSD, once: false },
    Scenario { name: "idle-memory", work: Work::IdleMemory, fronts: SERVERS, once: true },
    Scenario { name: "transfer-memory", work: Work::TransferMemory, fronts: SERVERS, once: true },
];

/// What a run has around it.
pub(crate) struct Run<'a> {
    pub(crate) front: Front,
    pub(crate) place: &'a Place,
    pub(crate) programs: &'a Programs,
    pub(crate) sizes: &'a Sizes,
}

impl Run<'_> {
    /// One sample of each figure.
    pub(crate) async fn measure(&self, work: Work) -> Outcome<Vec<Sample>> {
        match (work, self.front) {
            (Work::Stream(direction, link), Front::OpenSsh) => self.straight_stream(direction, link),
            (Work::Stream(direction, link), _) => self.stream(direction, link).await,
            (Work::Parallel(direction), Front::OpenSsh) => self.straight_parallel(direction),
            (Work::Parallel(direction), _) => self.parallel(direction).await,
            (Work::Small(direction, link), Front::OpenSsh) => self.straight_small(direction, link),
            (Work::Small(direction, link), _) => self.small(direction, link).await,
            (Work::Logins, Front::OpenSsh) => self.straight_logins(),
            (Work::Logins, Front::Russh) => self.russh_logins().await,
            (Work::Logins, _) => self.logins().await,
            (Work::Latency, _) => self.latency().await,
            (Work::List(_, link), Front::OpenSsh) => self.straight_list(link),
            (Work::List(command, link), _) => self.list(command, link).await,
            (Work::IdleMemory, _) => self.idle_memory().await,
            (Work::TransferMemory, _) => self.transfer_memory().await,
        }
    }

    fn start(&self, link: Link) -> Outcome<Running> {
        Running::start(self.front, link, self.place, self.programs)
    }

    fn stream_length(&self, link: Link) -> u64 {
        MIB * if link == Link::Near { self.sizes.stream } else { self.sizes.far }
    }

    async fn stream(&self, direction: Direction, link: Link) -> Outcome<Vec<Sample>> {
        let (content, length) = (&self.place.content, self.stream_length(link));
        if direction == Direction::Down {
            self.place.provide("file", 0, length)?;
        }
        let running = self.start(link)?;
        let mut ftp = Ftp::log_in(&running.access).await?;
        let (cpu, start) = (running.cpu_seconds(), Instant::now());
        match direction {
            Direction::Up => ftp.store("file", content, 0, length).await?,
            Direction::Down => ftp.retrieve("file", content, 0, length).await?,
        }
        let (wall, cpu) = (start.elapsed(), running.cpu_seconds() - cpu);
        content.check(&self.place.home("file"), 0, length)?;
        let [rate, cost] = stream_metrics(direction, link);
        Ok(vec![sample(rate, megabytes(length) / wall.as_secs_f64()), sample(cost, cpu * GIB / length as f64)])
    }

    /// Three files less one file: what starting and logging in costs falls out. Far away they are shorter, which changes
    /// nothing about the rate and saves minutes.
    fn straight_stream(&self, direction: Direction, link: Link) -> Outcome<Vec<Sample>> {
        let length = self.stream_length(link) / if link == Link::Near { 1 } else { 4 };
        let (local, here) = (self.place.path("local/file"), self.place.path("local"));
        match direction {
            Direction::Up => self.place.content.write(&local, 0, length)?,
            Direction::Down => self.place.provide("file", 0, length)?,
        }
        let line = |number: usize| match direction {
            Direction::Up => format!("put {} file-{number}\n", local.display()),
            // One name: three copies here and the original there would be more than memory is set aside for.
            Direction::Down => format!("get file {}/copy\n", here.display()),
        };
        let one = straight::sftp(self.place, link, &[line(0)])?;
        match direction {
            Direction::Up => self.place.content.check(&self.place.home("file-0"), 0, length)?,
            Direction::Down => self.place.content.check(&here.join("copy"), 0, length)?,
        }
        let _ = fs::remove_file(self.place.home("file-0"));
        let _ = fs::remove_file(here.join("copy"));
        let three = straight::sftp(self.place, link, &[line(0) + &line(1) + &line(2)])?;
        let (wall, cpu) = (three.wall.saturating_sub(one.wall).as_secs_f64(), three.cpu - one.cpu);
        let [rate, cost] = stream_metrics(direction, link);
        let length = 2 * length;
        Ok(vec![sample(rate, megabytes(length) / wall), sample(cost, cpu * GIB / length as f64)])
    }

    async fn parallel(&self, direction: Direction) -> Outcome<Vec<Sample>> {
        let length = MIB * self.sizes.parallel;
        if direction == Direction::Down {
            for number in 0..STREAMS {
                self.place.provide(&format!("file-{number}"), parallel_start(number), length)?;
            }
        }
        let running = self.start(Link::Near)?;
        let mut sessions = Vec::new();
        for _ in 0..STREAMS {
            sessions.push(Ftp::log_in(&running.access).await?);
        }
        let content = &self.place.content;
        let mut transfers = JoinSet::new();
        let start = Instant::now();
        for (number, mut ftp) in sessions.into_iter().enumerate() {
            let content = Arc::clone(content);
            transfers.spawn(async move {
                let (name, from) = (format!("file-{number}"), parallel_start(number));
                match direction {
                    Direction::Up => ftp.store(&name, &content, from, length).await,
                    Direction::Down => ftp.retrieve(&name, &content, from, length).await,
                }
            });
        }
        while let Some(ended) = transfers.join_next().await {
            ended??;
        }
        let wall = start.elapsed();
        for number in 0..STREAMS {
            content.check(&self.place.home(&format!("file-{number}")), parallel_start(number), length)?;
        }
        let metric = parallel_metric(direction);
        Ok(vec![sample(metric, megabytes(length * STREAMS as u64) / wall.as_secs_f64())])
    }

    fn straight_parallel(&self, direction: Direction) -> Outcome<Vec<Sample>> {
        let length = MIB * self.sizes.parallel;
        let (local, here) = (self.place.path("local/file"), self.place.path("local"));
        match direction {
            Direction::Up => self.place.content.write(&local, 0, length)?,
            Direction::Down => self.place.provide("file", 0, length)?,
        }
        let line = |stream: usize| match direction {
            Direction::Up => format!("put {} file-{stream}\n", local.display()),
            Direction::Down => format!("get file {}/copy-{stream}\n", here.display()),
        };
        let batches = |times: usize| (0..STREAMS).map(|stream| line(stream).repeat(times)).collect::<Vec<_>>();
        let one = straight::sftp(self.place, Link::Near, &batches(1))?;
        let three = straight::sftp(self.place, Link::Near, &batches(3))?;
        let wall = three.wall.saturating_sub(one.wall).as_secs_f64();
        Ok(vec![sample(parallel_metric(direction), megabytes(2 * length * STREAMS as u64) / wall)])
    }

    async fn small(&self, direction: Direction, link: Link) -> Outcome<Vec<Sample>> {
        let count = self.small_count(link);
        if direction == Direction::Down {
            for number in 0..count {
                self.place.provide(&small_name(number), small_start(number), SMALL)?;
            }
        }
        let running = self.start(link)?;
        let mut ftp = Ftp::log_in(&running.access).await?;
        let content = &self.place.content;
        let start = Instant::now();
        for number in 0..count {
            let (name, from) = (small_name(number), small_start(number));
            match direction {
                Direction::Up => ftp.store(&name, content, from, SMALL).await?,
                Direction::Down => ftp.retrieve(&name, content, from, SMALL).await?,
            }
        }
        let wall = start.elapsed();
        for number in 0..count {
            content.check(&self.place.home(&small_name(number)), small_start(number), SMALL)?;
        }
        let mut samples = vec![self.small_sample(direction, link, count, wall)];
        if link == Link::Near && direction == Direction::Up && ftp.handshakes > 0 {
            samples.push(sample("TLS resumed on data connections, %", 100.0 * percent(ftp.resumed, ftp.handshakes)));
        }
        Ok(samples)
    }

    /// All files in one batch, less a batch that does nothing.
    fn straight_small(&self, direction: Direction, link: Link) -> Outcome<Vec<Sample>> {
        let count = self.small_count(link);
        let here = self.place.path("local");
        let mut batch = String::new();
        for number in 0..count {
            let (name, from) = (small_name(number), small_start(number));
            let local = here.join(&name);
            match direction {
                Direction::Up => {
                    self.place.content.write(&local, from, SMALL)?;
                    batch.push_str(&format!("put {} {name}\n", local.display()));
                }
                Direction::Down => {
                    self.place.provide(&name, from, SMALL)?;
                    batch.push_str(&format!("get {name} {}\n", local.display()));
                }
            }
        }
        let nothing = straight::sftp(self.place, link, &["pwd\n".to_owned()])?;
        let all = straight::sftp(self.place, link, &[batch])?;
        for number in 0..count {
            let name = small_name(number);
            let arrived = if direction == Direction::Up { self.place.home(&name) } else { here.join(&name) };
            self.place.content.check(&arrived, small_start(number), SMALL)?;
        }
        Ok(vec![self.small_sample(direction, link, count, all.wall.saturating_sub(nothing.wall))])
    }

    fn small_count(&self, link: Link) -> usize {
        if link == Link::Near { self.sizes.small } else { self.sizes.small_far }
    }

    fn small_sample(&self, direction: Direction, link: Link, count: usize, wall: Duration) -> Sample {
        let each = wall.as_secs_f64() / count as f64;
        match (link, direction) {
            (Link::Near, Direction::Up) => sample("files of 4 KiB/s, up", 1.0 / each),
            (Link::Near, Direction::Down) => sample("files of 4 KiB/s, down", 1.0 / each),
            (Link::Far, Direction::Up) => {
                sample("40 ms: round trips per file of 4 KiB, up", each / self.place.round_trip.as_secs_f64())
            }
            (Link::Far, Direction::Down) => {
                sample("40 ms: round trips per file of 4 KiB, down", each / self.place.round_trip.as_secs_f64())
            }
        }
    }

    async fn logins(&self) -> Outcome<Vec<Sample>> {
        let running = self.start(Link::Near)?;
        let access = &running.access;
        // What a front makes once and keeps is not what a login costs.
        Ftp::to_230(access).await?.quit().await?;
        let one = rate(1, self.sizes.logins, || log_in_and_out(access.clone())).await?;
        let mut samples = Vec::new();
        if self.front == Front::Ours {
            let metrics = running.metrics().await?;
            for (metric, phase) in LOGIN_PHASES {
                samples.push(sample(metric, mean_phase(&metrics, phase).ok_or("no time of a phase")? * 1e3));
            }
        }
        let many = rate(AT_ONCE, self.logins_at_once(), || log_in_and_out(access.clone())).await?;
        samples.extend([sample("logins/s, one after the other", one), sample("logins/s, 32 at once", many)]);
        Ok(samples)
    }

    async fn russh_logins(&self) -> Outcome<Vec<Sample>> {
        let mut samples = Vec::new();
        for (sftp, metrics) in [
            (false, ["logins/s, one after the other", "logins/s, 32 at once"]),
            (true, ["logins/s, one after the other, SFTP started", "logins/s, 32 at once, SFTP started"]),
        ] {
            let server = self.place.sshd(Link::Near);
            let login = || straight::russh_login(server, sftp);
            samples.push(sample(metrics[0], rate(1, self.sizes.logins, login).await?));
            samples.push(sample(metrics[1], rate(AT_ONCE, self.logins_at_once(), login).await?));
        }
        Ok(samples)
    }

    fn straight_logins(&self) -> Outcome<Vec<Sample>> {
        let count = self.sizes.logins;
        let start = Instant::now();
        for _ in 0..count {
            straight::ssh(self.place, Link::Near)?;
        }
        Ok(vec![sample("logins/s, one after the other", count as f64 / start.elapsed().as_secs_f64())])
    }

    /// Enough that most of the time so many are under way.
    fn logins_at_once(&self) -> usize {
        2 * AT_ONCE + self.sizes.logins
    }

    async fn latency(&self) -> Outcome<Vec<Sample>> {
        self.place.provide("file", 0, SMALL)?;
        self.place.provide_directory("directory", 1)?;
        let running = self.start(Link::Near)?;
        let mut ftp = Ftp::log_in(&running.access).await?;
        let mut samples = Vec::new();
        for (command, code, median, rare) in [
            ("NOOP", 200, "NOOP, µs", "NOOP, 99th percentile, µs"),
            ("SIZE file", 213, "SIZE, µs", "SIZE, 99th percentile, µs"),
            ("CWD directory", 250, "CWD, µs", "CWD, 99th percentile, µs"),
        ] {
            let mut times = Vec::new();
            for _ in 0..self.sizes.commands {
                let start = Instant::now();
                ftp.expect(command, code).await?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
                if command.starts_with("CWD") {
                    ftp.expect("CDUP", 250).await.or(Err("CDUP"))?;
                }
            }
            times.sort_by(f64::total_cmp);
            samples.push(sample(median, times[times.len() / 2]));
            samples.push(sample(rare, times[times.len() * 99 / 100]));
        }
        Ok(samples)
    }

    async fn list(&self, command: &'static str, link: Link) -> Outcome<Vec<Sample>> {
        let entries = self.sizes.entries;
        self.place.provide_directory("many", entries)?;
        let running = self.start(link)?;
        let mut ftp = Ftp::log_in(&running.access).await?;
        ftp.expect("CWD many", 250).await?;
        let (mut first_bytes, mut times) = (Vec::new(), Vec::new());
        for _ in 0..self.sizes.lists {
            let listing = ftp.list(command).await?;
            // Two more where . and .. are listed.
            if !(entries..=entries + 2).contains(&listing.lines) {
                return Err(format!("{command}: {} lines", listing.lines).into());
            }
            first_bytes.push(listing.first_byte.as_secs_f64() * 1e3);
            times.push(listing.whole.as_secs_f64() * 1e3);
        }
        let [first, again, byte] = list_metrics(command, link);
        let mut samples = vec![sample(first, times[0]), sample(byte, first_bytes[0])];
        if times.len() > 1 {
            samples.push(sample(again, median(&times[1..])));
        }
        Ok(samples)
    }

    fn straight_list(&self, link: Link) -> Outcome<Vec<Sample>> {
        self.place.provide_directory("many", self.sizes.entries)?;
        let nothing = straight::sftp(self.place, link, &["pwd\n".to_owned()])?;
        let list = straight::sftp(self.place, link, &["ls -l many\n".to_owned()])?;
        let [first, ..] = list_metrics("LIST", link);
        Ok(vec![sample(first, list.wall.saturating_sub(nothing.wall).as_secs_f64() * 1e3)])
    }

    async fn idle_memory(&self) -> Outcome<Vec<Sample>> {
        let forks = matches!(self.front, Front::VsftpdLocal | Front::VsftpdSshfs);
        let count = if forks { self.sizes.sessions.min(FORKING_SESSIONS) } else { self.sizes.sessions };
        let running = self.start(Link::Near)?;
        let mut sessions = Vec::new();
        fill(&mut sessions, WARM_UP, &running.access).await?;
        sleep(SETTLING).await;
        let before = running.memory();
        fill(&mut sessions, WARM_UP + count, &running.access).await?;
        sleep(SETTLING).await;
        let after = running.memory();
        for ftp in &mut sessions {
            ftp.expect("NOOP", 200).await?;
        }
        Ok(vec![sample("idle session, KiB", (after - before) / count as f64)])
    }

    async fn transfer_memory(&self) -> Outcome<Vec<Sample>> {
        let (content, length) = (&self.place.content, MIB * self.sizes.large);
        let running = self.start(Link::Near)?;
        let mut ftp = Ftp::log_in(&running.access).await?;
        let before = running.forget_peak();
        ftp.store("file", content, 0, length).await?;
        let up = running.peak() - before;
        content.check(&self.place.home("file"), 0, length)?;
        let before = running.forget_peak();
        ftp.retrieve("file", content, 0, length).await?;
        let down = running.peak() - before;
        Ok(vec![
            sample("memory during one large upload, MiB", up / 1024.0),
            sample("memory during one large download, MiB", down / 1024.0),
        ])
    }
}

fn sample(metric: &'static str, value: f64) -> Sample {
    Sample { metric, value }
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn percent(part: u32, whole: u32) -> f64 {
    f64::from(part) / f64::from(whole)
}

/// The middle one, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { f64::midpoint(values[middle - 1], values[middle]) } else { values[middle] }
}

fn stream_metrics(direction: Direction, link: Link) -> [&'static str; 2] {
    match (direction, link) {
        (Direction::Up, Link::Near) => ["one stream up, MB/s", "one stream up, CPU s/GiB"],
        (Direction::Down, Link::Near) => ["one stream down, MB/s", "one stream down, CPU s/GiB"],
        (Direction::Up, Link::Far) => ["40 ms: one stream up, MB/s", "40 ms: one stream up, CPU s/GiB"],
        (Direction::Down, Link::Far) => ["40 ms: one stream down, MB/s", "40 ms: one stream down, CPU s/GiB"],
    }
}

fn parallel_metric(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "16 streams up, MB/s",
        Direction::Down => "16 streams down, MB/s",
    }
}

fn list_metrics(command: &str, link: Link) -> [&'static str; 3] {
    match (command, link) {
        ("LIST", Link::Near) => {
            ["LIST of 10,000, first time, ms", "LIST of 10,000, again, ms", "LIST of 10,000, first byte, ms"]
        }
        ("LIST", Link::Far) => [
            "40 ms: LIST of 10,000, first time, ms",
            "40 ms: LIST of 10,000, again, ms",
            "40 ms: LIST of 10,000, first byte, ms",
        ],
        (_, Link::Near) => {
            ["MLSD of 10,000, first time, ms", "MLSD of 10,000, again, ms", "MLSD of 10,000, first byte, ms"]
        }
        (_, Link::Far) => [
            "40 ms: MLSD of 10,000, first time, ms",
            "40 ms: MLSD of 10,000, again, ms",
            "40 ms: MLSD of 10,000, first byte, ms",
        ],
    }
}

fn small_name(number: usize) -> String {
    format!("small-{number}")
}

/// Each file has other bytes.
fn small_start(number: usize) -> u64 {
    number as u64 * (SMALL + 1)
}

fn parallel_start(number: usize) -> u64 {
    number as u64 * 12_345
}

/// Where the time of a login goes on the way to the backend: the phases of `ftps2sftp_backend_connect_duration_seconds`.
const LOGIN_PHASES: [(&str, &str); 4] = [
    ("a login: TCP, ms", "tcp"),
    ("a login: SSH key exchange, ms", "kex"),
    ("a login: SSH authentication, ms", "auth"),
    ("a login: channel and SFTP, ms", "sftp"),
];

/// The mean of a phase in seconds.
fn mean_phase(metrics: &str, phase: &str) -> Option<f64> {
    let value = |suffix: &str| {
        let start = format!("ftps2sftp_backend_connect_duration_seconds_{suffix}{{");
        let phase = format!("phase=\"{phase}\"");
        let line = metrics.lines().find(|line| line.starts_with(&start) && line.contains(&phase))?;
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    Some(value("sum")? / value("count")?)
}

async fn log_in_and_out(access: Access) -> Outcome<()> {
    Ftp::to_230(&access).await?.quit().await
}

/// Does it `count` times, `at_once` at a time, on all threads. Gives how many came to their end in a second.
async fn rate<F>(at_once: usize, count: usize, one: impl Fn() -> F) -> Outcome<f64>
where
    F: Future<Output = Outcome<()>> + Send + 'static,
{
    let start = Instant::now();
    let mut running = JoinSet::new();
    for begun in 0..count {
        if begun >= at_once
            && let Some(ended) = running.join_next().await
        {
            ended??;
        }
        running.spawn(one());
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Logs in until there are so many.
async fn fill(sessions: &mut Vec<Ftp>, wanted: usize, access: &Access) -> Outcome<()> {
    while sessions.len() < wanted {
        let mut logins = JoinSet::new();
        for _ in 0..WARM_UP.min(wanted - sessions.len()) {
            let access = access.clone();
            logins.spawn(async move { Ftp::log_in(&access).await });
        }
        while let Some(session) = logins.join_next().await {
            sessions.push(session??);
        }
    }
    Ok(())
}
