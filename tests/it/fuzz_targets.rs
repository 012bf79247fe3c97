//! The fuzz targets by an ordinary compiler: every seed, and what comes of seeds by some thousand small changes.
//!
//! cargo-fuzz runs the same bodies (`tests/fuzz/run`); what it finds becomes a seed.

#[path = "../fuzz/src/lib.rs"]
#[allow(unreachable_pub, reason = "it is a crate of its own as well, and public there")]
mod targets;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::campaign;

/// Changed seeds for each target.
const CHANGED: usize = 10_000;

/// Longest input made of seeds, in bytes.
const LONGEST: usize = 2048;

#[test]
fn arguments() {
    replay("arguments", targets::arguments::run);
}

#[test]
fn ascii() {
    replay("ascii", targets::ascii::run);
}

#[test]
fn charsets() {
    replay("charsets", targets::charsets::run);
}

#[test]
fn client_hello() {
    replay("client_hello", targets::client_hello::run);
}

#[test]
fn configuration() {
    replay("configuration", targets::configuration::run);
}

#[test]
fn facts() {
    replay("facts", targets::facts::run);
}

#[test]
fn globs() {
    replay("globs", targets::globs::run);
}

#[test]
fn known_hosts() {
    replay("known_hosts", targets::known_hosts::run);
}

#[test]
fn lines() {
    replay("lines", targets::lines::run);
}

#[test]
fn listings() {
    replay("listings", targets::listings::run);
}

#[test]
fn packets() {
    replay("packets", targets::packets::run);
}

#[test]
fn paths() {
    replay("paths", targets::paths::run);
}

#[test]
fn proxy_header() {
    replay("proxy_header", targets::proxy_header::run);
}

#[test]
fn sessions() {
    replay("sessions", targets::sessions::run);
}

#[test]
fn every_target_is_built_by_cargo_fuzz_and_replayed_here() {
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    let built: BTreeSet<String> =
        manifest.split("[[bin]]").skip(1).map(|section| section.split('"').nth(1).unwrap().to_owned()).collect();
    let seeded: BTreeSet<String> = files(&fuzz().join("seeds"))
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert_eq!(built, seeded);
    let here = include_str!("fuzz_targets.rs");
    for target in &built {
        assert!(here.contains(&format!("replay(\"{target}\", targets::{target}::run)")), "{target} is not replayed");
    }
}

fn replay(name: &str, target: fn(&[u8])) {
    let mut seeds = Vec::new();
    for path in files(&fuzz().join("seeds").join(name)) {
        let seed = fs::read(&path).unwrap();
        run(name, target, &seed);
        seeds.push(seed);
    }
    assert!(seeds.len() > 2, "{name} has hardly a seed");
    let mut random = campaign::random(seeds.len() as u64, usize::MAX);
    let mut random = |bound: usize| random.next().unwrap() % bound.max(1);
    for _ in 0..CHANGED {
        let mut input = seeds[random(seeds.len())].clone();
        for _ in 0..=random(4) {
            change(&mut input, &seeds, &mut random);
        }
        run(name, target, &input);
    }
}

/// One small change: a byte, a piece less, a piece twice, or a piece of another seed.
fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut impl FnMut(usize) -> usize) {
    let (from, other) = (random(input.len() + 1), &seeds[random(seeds.len())]);
    let to = from + random((input.len() - from).min(16) + 1);
    match random(4) {
        0 => input.insert(from, random(256) as u8),
        1 => drop(input.drain(from..to)),
        2 => input.extend_from_within(from..to),
        _ => {
            let start = random(other.len() + 1);
            let end = start + random((other.len() - start).min(32) + 1);
            input.splice(from..to, other[start..end].iter().copied());
        }
    }
    input.truncate(LONGEST);
}

fn run(name: &str, target: fn(&[u8]), input: &[u8]) {
    /// Tells the input when the target panics.
    struct Told<'a>(&'a str, &'a [u8]);
    impl Drop for Told<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                eprintln!("the input of {} was \"{}\"", self.0, self.1.escape_ascii());
            }
        }
    }
    let told = Told(name, input);
    target(told.1);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz")
}
