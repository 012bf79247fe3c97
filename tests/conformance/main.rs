//! The conformance table: every row of the `*.table` files over a real sshd, over the scripted SFTP server, and on
//! request over any FTPS server. README.md here says how a row is read.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "everything here is a test, helpers included; clippy's own allowance ends at `#[test]` functions"
)]

mod dialogue;
mod place;
mod stage;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, reason = "shared with the integration tests, which use the rest")]
mod support;
mod table;
mod text;

use std::collections::HashSet;
use std::net::ToSocketAddrs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ftps2sftp::command::spec;

use crate::dialogue::{Dialogue, Target};
use crate::place::Place;
use crate::stage::{Bench, Desk};
use crate::table::{Case, Expected, Stage, Step};

/// What the table must hold at least.
const LEAST_CASES: usize = 1_500;

/// How long another server may take to reply, and its files to become what they should be.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn over_a_real_sshd() {
    let bench = Bench::over_sshd().await;
    let sum = run(cases(), bench.desks.clone()).await;
    // Before anything panics: the servers would show their logs, in which the failed cases are not found.
    drop(bench);
    sum.demand();
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_scripted_server() {
    let bench = Bench::over_scripted_server().await;
    let sum = run(cases(), bench.desks.clone()).await;
    // Before anything panics: the servers would show their logs, in which the failed cases are not found.
    drop(bench);
    sum.demand();
}

/// What `tests/conformance/run` starts.
#[tokio::test]
#[ignore = "needs a server: tests/conformance/run --help"]
async fn over_another_server() {
    let given = |name: &str| std::env::var(format!("CONFORMANCE_{name}")).ok().filter(|value| !value.is_empty());
    let required = |name: &str| given(name).unwrap_or_else(|| panic!("CONFORMANCE_{name} is not set"));
    let address = format!("{}:{}", required("HOST"), required("PORT"));
    let address = address.to_socket_addrs().expect("an address").next().expect("an address");
    let implicit = given("IMPLICIT").is_some();
    let target = Target {
        explicit: Some(address).filter(|_| !implicit),
        implicit: Some(address).filter(|_| implicit),
        user: required("USER"),
        password: required("PASSWORD"),
        patience: given("PATIENCE").map_or(PATIENCE, |text| Duration::from_secs(text.parse().expect("seconds"))),
    };
    let place = given("ROOT").map(|root| {
        let root = PathBuf::from(root);
        let metadata = root.metadata().expect("the user's directory");
        Place::Folder { root, outside: None, owner: (metadata.uid(), metadata.gid()) }
    });
    run(cases(), vec![Desk::elsewhere(target, place)]).await.demand();
}

#[test]
fn the_table_is_complete() {
    let cases = cases();
    assert!(cases.len() >= LEAST_CASES, "{} cases", cases.len());
    let mut rows = HashSet::new();
    for case in &cases {
        let key = (case.row.rsplitn(3, " | ").last(), &case.files);
        assert!(rows.insert(key), "{}: this state with these bytes has a row already: {}", case.place, case.row);
    }
    let verbs = |wanted: fn(&Case) -> bool| -> HashSet<String> {
        cases.iter().filter(|case| wanted(case)).flat_map(|case| case.steps.iter().filter_map(verb)).collect()
    };
    let (inside, outside) = (verbs(|case| case.state.stage == Stage::LoggedIn), verbs(is_in_a_wrong_state));
    for row in spec::rows() {
        for verb in std::iter::once(&row.verb).chain(row.aliases) {
            assert!(inside.contains(*verb), "{verb}: no case after login");
            assert!(outside.contains(*verb), "{verb}: no case in a wrong state");
        }
    }
}

fn cases() -> Vec<Case> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    table::read(&directory).unwrap_or_else(|mistakes| panic!("{mistakes}"))
}

/// Before login, or refused for its order.
fn is_in_a_wrong_state(case: &Case) -> bool {
    let refuses = |expected: &Expected| matches!(expected, Expected::Reply { codes, .. } if codes.contains(&503));
    case.state.stage != Stage::LoggedIn || case.steps.iter().any(|step| step.expected.iter().any(refuses))
}

fn verb(step: &Step) -> Option<String> {
    Some(step.sent.as_ref()?.split([' ', '\\']).next()?.to_ascii_uppercase())
}

/// What came of all cases.
struct Sum {
    passed: usize,
    not_applicable: Vec<String>,
    failed: Vec<String>,
}

impl Sum {
    fn demand(self) {
        let Self { passed, mut not_applicable, mut failed } = self;
        not_applicable.sort();
        failed.sort_by_key(|told| {
            let (file, line) = told.split_whitespace().next().unwrap_or_default().split_once(':').unwrap_or_default();
            (file.to_owned(), line.parse::<usize>().unwrap_or_default())
        });
        let skipped = not_applicable.len();
        let mut reasons: Vec<(&str, usize)> = Vec::new();
        for reason in &not_applicable {
            match reasons.last_mut() {
                Some((last, count)) if last == reason => *count += 1,
                _ => reasons.push((reason, 1)),
            }
        }
        let reasons: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        let sum = format!(
            "{passed} cases as expected, {} otherwise, {skipped} not applicable ({})",
            failed.len(),
            reasons.join(", ")
        );
        println!("{sum}");
        assert!(failed.is_empty(), "\n{}\n{sum}", failed.join("\n"));
        assert!(passed > 0, "nothing was applicable");
    }
}

/// Each desk takes the next case until there is none.
async fn run(cases: Vec<Case>, desks: Vec<Desk>) -> Sum {
    let cases = Arc::new(cases);
    let next = Arc::new(AtomicUsize::new(0));
    let mut running = Vec::new();
    for desk in desks {
        let (cases, next) = (Arc::clone(&cases), Arc::clone(&next));
        running.push(tokio::spawn(async move {
            let mut sum = Sum { passed: 0, not_applicable: Vec::new(), failed: Vec::new() };
            while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Some(reason) = desk.objection(case) {
                    sum.not_applicable.push(reason.to_owned());
                    continue;
                }
                match one(&desk, case).await {
                    Ok(()) => sum.passed += 1,
                    Err(told) => sum.failed.push(told),
                }
            }
            sum
        }));
    }
    let mut sum = Sum { passed: 0, not_applicable: Vec::new(), failed: Vec::new() };
    for running in running {
        let Sum { passed, not_applicable, failed } = running.await.expect("a desk ends by itself");
        sum.passed += passed;
        sum.not_applicable.extend(not_applicable);
        sum.failed.extend(failed);
    }
    sum
}

/// Carries out one case; how it fails is told as it should be read.
async fn one(desk: &Desk, case: &Case) -> Result<(), String> {
    let mut log = Vec::new();
    carry_out(desk, case, &mut log).await.map_err(|why| {
        let mut columns = case.row.splitn(4, " | ");
        let mut column = || columns.next().unwrap_or_default();
        let (state, sent, replies, effect) = (column(), column(), column(), column());
        let came = if log.is_empty() { "nothing".to_owned() } else { log.join(" ; ") };
        format!(
            "{} in the state: {state}\n    sent:     {sent}\n    expected: {replies} and then {effect}\n    came:     \
             {came}\n    {why}",
            case.place
        )
    })
}

async fn carry_out(desk: &Desk, case: &Case, log: &mut Vec<String>) -> Result<(), String> {
    let place = desk.place.as_ref();
    desk.prepare(case);
    if let Some(place) = place {
        place.prepare(&case.files)?;
    }
    let target = desk.target(case);
    let mut dialogue = Dialogue::begin(&target, case).await?;
    let before = place.map(Place::look).transpose().map_err(|error| error.to_string())?;
    desk.misbehave(case)?;
    let carried_out = dialogue.carry_out(case).await;
    desk.behave();
    log.append(&mut dialogue.log);
    carried_out?;
    let (Some(place), Some(before)) = (place, before) else { return Ok(()) };
    let deadline = Instant::now() + target.patience;
    loop {
        let after = place.look().map_err(|error| error.to_string())?;
        match after.difference(&before, &case.effect)? {
            None => return Ok(()),
            Some(difference) if Instant::now() > deadline => return Err(format!("the files: {difference}")),
            Some(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}
