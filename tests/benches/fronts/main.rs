//! The driver of `tests/bench`: measures the gateway beside its peers, in one interleaved run, in front of the same SSH
//! server. `cargo bench --bench fronts -- --help`; it needs root, and the programs that `tests/bench` installs.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for developers, which may end where a service may not"
)]

mod client;
mod content;
mod delay;
mod fronts;
mod place;
mod process;
mod report;
mod scenarios;
mod straight;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_rustls::rustls::version;

use fronts::{Front, Programs};
use place::Place;
use report::Results;
use scenarios::{Run, SCENARIOS, Scenario, Sizes};

/// What failed, for a person to read.
type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How long one front may take for one scenario.
const LIMIT: Duration = Duration::from_secs(300);

/// Measures ftps2sftp beside its peers and prints a Markdown table of medians.
#[derive(Debug, Parser)]
#[command(name = "fronts")]
struct Arguments {
    /// Rounds; in each one every front does every scenario
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Small sizes: minutes in place of an hour, and figures to orient by
    #[arg(long)]
    quick: bool,
    /// Scenarios, by name or by how the name begins: `--only stream-up,small,logins`
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Fronts, by name or by how the name begins
    #[arg(long, value_delimiter = ',')]
    fronts: Vec<String>,
    /// Idle sessions whose memory is measured; each has an SSH connection with three processes of the server
    #[arg(long, default_value_t = 500)]
    sessions: usize,
    /// Write the table to this file too
    #[arg(long)]
    output: Option<PathBuf>,
    /// Name scenarios and fronts, and measure nothing
    #[arg(long)]
    list: bool,
    /// The gateway, if not the one that was built with this
    #[arg(long, default_value = env!("CARGO_BIN_EXE_ftps2sftp"))]
    gateway: PathBuf,
    /// rclone with `serve ftp`
    #[arg(long, default_value = "rclone")]
    rclone: PathBuf,
    /// vsftpd
    #[arg(long, default_value = "/usr/sbin/vsftpd")]
    vsftpd: PathBuf,
    /// Version of TLS. Clients resume one session for all data connections; the library of this one does that under
    /// TLS 1.2 only, and makes a whole handshake for most under 1.3
    #[arg(long, default_value = "1.2", value_parser = ["1.2", "1.3"])]
    tls: String,
    /// What `cargo bench` says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // `cargo test --all-targets` starts benchmarks too, without this word, to see whether they start.
    if arguments.list || !arguments.bench {
        println!("scenarios: {}", SCENARIOS.iter().map(|one| one.name).collect::<Vec<_>>().join(" "));
        println!("fronts: {}", Front::ALL.map(Front::name).join(" "));
        return ExitCode::SUCCESS;
    }
    match place::enter().and_then(|entered| entered.map_or_else(|| inside(&arguments), Ok)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("fronts: {error}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn inside(arguments: &Arguments) -> Outcome<ExitCode> {
    // The first process of a namespace is ended by no signal that it does not ask for; everything else ends with it.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let table = tokio::select! {
        table = measure(arguments) => table?,
        _ = interrupt.recv() => return Ok(ExitCode::from(130)),
        _ = terminate.recv() => return Ok(ExitCode::from(143)),
    };
    println!("{table}");
    if let Some(output) = &arguments.output {
        fs::write(output, table)?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(arguments: &Arguments) -> Outcome<String> {
    let chosen =
        |list: &[String], name: &str| list.is_empty() || list.iter().any(|start| name.starts_with(start.as_str()));
    let scenarios: Vec<&Scenario> = SCENARIOS.iter().filter(|one| chosen(&arguments.only, one.name)).collect();
    let fronts: Vec<Front> = Front::ALL.into_iter().filter(|one| chosen(&arguments.fronts, one.name())).collect();
    if scenarios.is_empty() || fronts.is_empty() {
        return Err("nothing has a name like that; --list names all".into());
    }
    let sizes = sizes(arguments);
    let programs = Programs {
        gateway: arguments.gateway.clone(),
        rclone: arguments.rclone.clone(),
        vsftpd: arguments.vsftpd.clone(),
        tls: if arguments.tls == "1.2" { &version::TLS12 } else { &version::TLS13 },
    };
    let begun = Instant::now();
    let place = Place::prepare().await?;
    let mut results = Results::default();
    let load_before = load();
    for round in 0..arguments.rounds {
        for scenario in scenarios.iter().filter(|one| !one.once || round == 0) {
            // Another one begins each time.
            let mut order: Vec<Front> = fronts.iter().copied().filter(|one| scenario.fronts.contains(one)).collect();
            let shift = round as usize % order.len().max(1);
            order.rotate_left(shift);
            for front in order {
                if results.has_failed(scenario.name, front) {
                    continue;
                }
                let run = Run { front, place: &place, programs: &programs, sizes: &sizes };
                let measured = timeout(LIMIT, run.measure(scenario.work)).await;
                let samples = measured.unwrap_or_else(|_| Err(format!("not done after {LIMIT:?}").into()));
                place.clear()?;
                eprint!(
                    "{:>5} s, round {}, {}, {}:",
                    begun.elapsed().as_secs(),
                    round + 1,
                    scenario.name,
                    front.name()
                );
                match samples {
                    Ok(samples) => {
                        for sample in samples {
                            eprint!(" [{}: {:.2}]", sample.metric, sample.value);
                            results.add(sample.metric, front, sample.value);
                        }
                        eprintln!();
                    }
                    Err(error) => {
                        eprintln!(" {error}");
                        results.fail(scenario.name, front, error.to_string());
                    }
                }
            }
        }
    }
    for metric in results.unlisted() {
        eprintln!("no line in the table for: {metric}");
    }
    let mut table = results.markdown();
    table.push_str(&format!("\n{}\n", circumstances(arguments, &sizes, &place, &load_before)));
    Ok(table)
}

fn sizes(arguments: &Arguments) -> Sizes {
    let sessions = arguments.sessions;
    if arguments.quick {
        Sizes {
            stream: 256,
            far: 64,
            parallel: 16,
            large: 512,
            small: 200,
            small_far: 25,
            entries: 10_000,
            logins: 16,
            commands: 200,
            lists: 4,
            sessions: sessions.min(100),
        }
    } else {
        Sizes {
            stream: 1024,
            far: 1024,
            parallel: 64,
            large: 4096,
            small: 1000,
            small_far: 100,
            entries: 10_000,
            logins: 32,
            commands: 1000,
            lists: 6,
            sessions,
        }
    }
}

/// What the figures depend on.
fn circumstances(arguments: &Arguments, sizes: &Sizes, place: &Place, load_before: &str) -> String {
    let said = |program: &PathBuf, argument: &str, line: usize| {
        let output = Command::new(program).arg(argument).output().ok();
        let bytes = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default().lines().nth(line).unwrap_or("unknown").trim().to_owned()
    };
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!(
        "Medians of {} rounds over all fronts in turn, {processors} processors ({}), clients and servers together on \
         them, files in memory. Load average {load_before} before and {} after. Sizes: one stream {} MiB, at 40 ms {} \
         MiB (straight a quarter of it), 16 streams of {} MiB, {} and at 40 ms {} small files, large transfers {} MiB, \
         {} idle sessions (of vsftpd at most 100). The delayed link takes {:.1} ms for a byte and its answer. TLS {}.\n{}; {}; {}; {}.",
        arguments.rounds,
        processor.map_or("unknown", |(_, name)| name),
        load(),
        sizes.stream,
        sizes.far,
        sizes.parallel,
        sizes.small,
        sizes.small_far,
        sizes.large,
        sizes.sessions,
        place.round_trip.as_secs_f64() * 1e3,
        arguments.tls,
        said(&arguments.gateway, "--version", 0),
        said(&arguments.rclone, "--version", 0),
        said(&"sshfs".into(), "--version", 0),
        said(&"ssh".into(), "-V", 0),
    )
}

/// Of the last minute.
fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
