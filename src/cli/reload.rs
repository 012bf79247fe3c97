//! `ftps2sftp reload`: tells the running gateway to read its files again, and says whether that worked.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::config;

use super::{FAILED, complain, complain_of, print};

/// How long the gateway may take to read everything.
const LIMIT: Duration = Duration::from_secs(30);

/// What the gateway's process is called.
const PROGRAM: &str = "ftps2sftp";

/// How often it is asked meanwhile.
const PAUSE: Duration = Duration::from_millis(100);

/// The longest answer that is read.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

pub(super) fn main(file: &Path) -> ExitCode {
    let loaded = config::load(file);
    // Mistakes elsewhere are for the gateway to find: it tells of them below.
    let Some(config) = loaded.config else { return complain_of(file, &loaded.problems) };
    let Some(address) = config.admin else {
        complain("error: admin.address is null, so there is nobody to ask; send SIGHUP, and look into the log");
        return ExitCode::from(FAILED);
    };
    match reload(reachable(address)) {
        Ok(report) => tell(&report),
        Err(error) => {
            complain(&format!("error: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

fn tell(report: &Value) -> ExitCode {
    let words = |key: &str| -> Vec<String> {
        let words = report.get(key).and_then(Value::as_array).into_iter().flatten();
        words.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let (changed, problems) = (words("changed"), words("problems"));
    if problems.is_empty() {
        let changed = if changed.is_empty() { "nothing had changed".to_owned() } else { changed.join(", ") };
        print(&format!("reloaded: {changed}\n"));
        return ExitCode::SUCCESS;
    }
    for problem in problems {
        complain(&format!("error: {problem}\n"));
    }
    complain("the last good configuration stays in use");
    ExitCode::from(FAILED)
}

/// The report of the reload that was asked for.
fn reload(address: SocketAddr) -> io::Result<Value> {
    let status = ask(address, "/api/v1/status")?;
    let looks = |report: Option<&Value>| report.and_then(|report| report.get("looks")?.as_u64()).unwrap_or(0);
    let before = looks(status.get("reload"));
    let process = status.get("process").and_then(Value::as_i64).and_then(|id| i32::try_from(id).ok());
    let process = process.and_then(Pid::from_raw).ok_or_else(|| io::Error::other("it does not tell its process"))?;
    // SECURITY: whoever answers there may name any process.
    let name = std::fs::read_to_string(format!("/proc/{}/comm", process.as_raw_nonzero())).unwrap_or_default();
    if name.trim_end() != PROGRAM {
        return Err(io::Error::other(format!("the process it names is no {PROGRAM} here, so it gets no signal")));
    }
    kill_process(process, Signal::HUP)?;
    let deadline = Instant::now() + LIMIT;
    loop {
        let report = ask(address, "/api/v1/reload")?;
        if looks(Some(&report)) > before {
            return Ok(report);
        }
        if Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the gateway does not say how the reload went"));
        }
        sleep(PAUSE);
    }
}

/// Every address of a host is also the loopback's.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn ask(address: SocketAddr, path: &str) -> io::Result<Value> {
    let unreachable =
        |error: io::Error| io::Error::new(error.kind(), format!("no gateway answers at {address}: {error}"));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(unreachable)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).map_err(unreachable)?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    serde_json::from_str(body).map_err(|_| io::Error::other(format!("what answers at {address} is no ftps2sftp")))
}
