//! Processes: started by us, ended by their ids, and what they cost.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::Outcome;

/// Ticks of the clock that /proc counts CPU time with: a constant of Linux's interface on every architecture that
/// these servers run on.
const TICKS: f64 = 100.0;

/// How long a server may take to listen.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a process may take to end by itself.
const END_LIMIT: Duration = Duration::from_secs(5);

/// A process and everything it starts. Dropping it ends them all.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it; what it says goes to `log`. Nothing can be read from it.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Outcome<Self> {
        let output = File::create(log)?;
        let child = command
            // vsftpd tells what is wrong with its configuration to whoever it takes for its client.
            .stdin(output.try_clone()?)
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Waits until something listens there, or it is clear that nothing will.
    pub(crate) fn listens(&mut self, address: SocketAddr) -> Outcome<()> {
        self.becomes(|| TcpStream::connect(address).is_ok())
    }

    /// Waits until it has become what was wanted.
    pub(crate) fn becomes(&mut self, wanted: impl Fn() -> bool) -> Outcome<()> {
        let deadline = Instant::now() + START_LIMIT;
        while !wanted() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let said = fs::read(&self.log).unwrap_or_default();
                let said = String::from_utf8(said).unwrap_or_default();
                let state = ended.map_or("does not get ready".to_owned(), |status| status.to_string());
                let last: Vec<&str> = said.lines().rev().take(4).collect();
                return Err(format!("{state}: {}", last.into_iter().rev().collect::<Vec<_>>().join(" | ")).into());
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// It and its descendants.
    fn tree(&self) -> Vec<u32> {
        tree(self.child.id())
    }

    /// CPU time of it and its descendants so far, those included that have ended and were waited for.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        // utime, stime, cutime, cstime.
        self.tree().iter().filter_map(|id| stat(*id)).map(|fields| ticks(&fields, 11..15)).sum()
    }

    /// Memory that it and its descendants hold, shared pages by their share, in KiB.
    pub(crate) fn memory(&self) -> f64 {
        self.tree().iter().map(|id| kibibytes(&format!("/proc/{id}/smaps_rollup"), "Pss:")).sum()
    }

    /// Forgets the highest memory use so far. Gives what is resident now, in KiB.
    pub(crate) fn forget_peak(&self) -> f64 {
        let tree = self.tree();
        for id in &tree {
            // See proc(5): 5 resets the peak resident set size.
            let _ = fs::write(format!("/proc/{id}/clear_refs"), "5");
        }
        tree.iter().map(|id| kibibytes(&format!("/proc/{id}/status"), "VmRSS:")).sum()
    }

    /// The highest resident memory since then, in KiB.
    pub(crate) fn peak(&self) -> f64 {
        self.tree().iter().map(|id| kibibytes(&format!("/proc/{id}/status"), "VmHWM:")).sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let tree = self.tree();
        signal("TERM", &tree);
        let deadline = Instant::now() + END_LIMIT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        // Whoever did not listen. An id cannot be another process' by now: ids are given out in turn.
        signal("KILL", &tree.into_iter().filter(|id| stat(*id).is_some()).collect::<Vec<_>>());
        let _ = self.child.wait();
    }
}

/// CPU time of the children of this process that have ended.
pub(crate) fn cpu_of_ended_children() -> f64 {
    stat(std::process::id()).map_or(0.0, |fields| ticks(&fields, 13..15))
}

/// Runs a program to its end, which must be a good one. Gives what it printed.
pub(crate) fn run(program: &str, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Outcome<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8(output.stderr).unwrap_or_default();
        return Err(format!("{program}: {}: {}", output.status, said.trim()).into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

fn signal(name: &str, ids: &[u32]) {
    if !ids.is_empty() {
        // Some may have ended in between; then kill complains.
        let _ = run("kill", [format!("-{name}")].into_iter().chain(ids.iter().map(u32::to_string)));
    }
}

fn tree(root: u32) -> Vec<u32> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if let Some((id, fields)) = id.and_then(|id| Some((id, stat(id)?)))
            && let Some(parent) = fields.get(1).and_then(|parent| parent.parse::<u32>().ok())
        {
            parents.push((id, parent));
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(parents.iter().filter(|(id, of)| *of == parent && *id != parent).map(|(id, _)| *id));
        next += 1;
    }
    found
}

/// The fields of /proc/PID/stat behind the name, which may hold anything.
fn stat(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

fn ticks(fields: &[String], which: std::ops::Range<usize>) -> f64 {
    fields.get(which).into_iter().flatten().filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / TICKS
}

fn kibibytes(file: &str, field: &str) -> f64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0.0)
}
