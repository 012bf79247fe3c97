//! SECURITY.md names a test for each threat: each of them exists, is run, and says in its name which threat it is about.

use std::fs;
use std::path::Path;

const DOCUMENT: &str = include_str!("../../SECURITY.md");

/// Rows that no test of `tests/it` is about: what stands beside the code, in a table of conformance, in the tests of the
/// deployment, or in no test at all, and the row says what.
const ELSEWHERE: [&str; 10] = ["S-5", "S-19", "S-32", "S-35", "S-38", "S-42", "TLS-3", "TLS-21", "TLS-25", "TLS-26"];

/// The rows of both tables: their numbers, such as `S-1` or `TLS-10`, and the cell that names what was seen.
fn rows() -> Vec<(Vec<String>, &'static str)> {
    let rows = DOCUMENT.lines().filter(|line| line.starts_with("| S-") || line.starts_with("| TLS-"));
    rows.map(|row| {
        let cells: Vec<&str> = row.split(" | ").collect();
        (numbers_of_row(cells[0].trim_start_matches("| ")), *cells.last().unwrap())
    })
    .collect()
}

/// `S-1`, `TLS-10 to TLS-14` or `TLS-33, TLS-35`.
fn numbers_of_row(cell: &str) -> Vec<String> {
    let number = |name: &str| name.rsplit_once('-').unwrap().1.parse::<u32>().unwrap();
    match cell.split_once(" to ") {
        Some((first, last)) => (number(first)..=number(last)).map(|number| format!("TLS-{number}")).collect(),
        None => cell.split(", ").map(str::to_owned).collect(),
    }
}

/// What a test says it is about: `s13_and_tls_40_41_and_45_bytes…`, `s10_and_11_nothing…`, `tls_10_to_14_an_upload…`.
fn numbers_of_test(name: &str) -> Vec<String> {
    let (mut kind, mut numbers, mut last, mut is_range) = ("", Vec::new(), 0, false);
    for word in name.split('_') {
        let word = match (word, word.strip_prefix('s').filter(|rest| rest.parse::<u32>().is_ok())) {
            ("tls", _) => {
                kind = "TLS";
                continue;
            }
            ("and", _) => continue,
            ("to", _) => {
                is_range = true;
                continue;
            }
            (_, Some(rest)) => {
                kind = "S";
                rest
            }
            (word, None) => word,
        };
        let Ok(number) = word.parse::<u32>() else { break };
        if kind.is_empty() {
            break;
        }
        let first = if is_range { last + 1 } else { number };
        numbers.extend((first..=number).map(|number| format!("{kind}-{number}")));
        (last, is_range) = (number, false);
    }
    numbers
}

/// Names in code quotes.
fn named(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Is there such a test function, which is run?
fn is_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().collect();
    let Some(at) = lines.iter().position(|line| line.ends_with(&format!("fn {name}() {{"))) else { return false };
    let attributes = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
    attributes.clone().any(|line| *line == "#[test]" || line.starts_with("#[tokio::test"))
        && !attributes.clone().any(|line| line.starts_with("#[ignore"))
}

#[test]
fn every_threat_has_its_row() {
    let mut told: Vec<String> = rows().into_iter().flat_map(|(numbers, _)| numbers).collect();
    let tls = [1..=6, 10..=15, 20..=26, 30..=35, 40..=46, 50..=53, 60..=62].into_iter().flatten();
    let mut expected: Vec<String> = (1..=42).map(|number| format!("S-{number}")).collect();
    expected.extend(tls.map(|number| format!("TLS-{number}")));
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
}

#[test]
fn every_test_and_file_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for code in named(DOCUMENT) {
        if let Some((module, test)) = code.split_once("::") {
            let source = fs::read_to_string(root.join("tests/it").join(module).with_extension("rs")).unwrap();
            assert!(is_test(&source, test), "{code} is no test");
            count += 1;
        } else if code.contains('/') && code != "tests/it" {
            assert!(root.join(code).exists(), "{code} does not exist");
        }
    }
    assert!(count > 60, "{count} tests are named");
    // Those of the deployment are named beside their file.
    for (_, cell) in rows() {
        for test in named(cell).filter(|name| name.starts_with("test_")) {
            let file = named(cell).find(|name| name.ends_with(".py")).unwrap();
            assert!(fs::read_to_string(root.join(file)).unwrap().contains(&format!("def {test}(")), "{test}");
        }
    }
}

#[test]
fn each_row_names_a_test_that_says_it_is_about_it() {
    let mut elsewhere = Vec::new();
    for (numbers, cell) in rows() {
        let tests = named(cell).filter_map(|name| Some(name.split_once("::")?.1));
        let told: Vec<String> = tests.flat_map(numbers_of_test).collect();
        elsewhere.extend(numbers.into_iter().filter(|number| !told.contains(number)));
    }
    elsewhere.sort_by_key(|number| ELSEWHERE.iter().position(|name| name == number));
    assert_eq!(elsewhere, ELSEWHERE, "rows that name no test with their number");
}

#[test]
fn a_name_says_which_threats_it_is_about() {
    for (name, numbers) in [
        ("s8_lines_without_an_end", &["S-8"][..]),
        ("s10_and_11_nothing_above", &["S-10", "S-11"]),
        ("s13_and_tls_40_41_and_45_bytes_behind", &["S-13", "TLS-40", "TLS-41", "TLS-45"]),
        ("tls_10_to_12_an_upload", &["TLS-10", "TLS-11", "TLS-12"]),
        ("s6_behind_one_address_after_10_guesses", &["S-6"]),
        ("ten_ports_serve_10_sessions", &[]),
        ("s_and_t", &[]),
    ] {
        assert_eq!(numbers_of_test(name), numbers, "{name}");
    }
    let source = "#[test]\n#[cfg(x)]\nfn one() {\n}\n#[tokio::test]\nasync fn two() {\n}\nfn three() {\n}\n#[test]\n#[ignore]\nfn four() {\n";
    assert_eq!(
        ["one", "two", "three", "four", "five"].map(|name| is_test(source, name)),
        [true, true, false, false, false]
    );
}
