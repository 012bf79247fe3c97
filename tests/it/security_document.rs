//! SECURITY.md names a test for each threat; each of them exists.

use std::fs;
use std::path::Path;

const DOCUMENT: &str = include_str!("../../SECURITY.md");

/// The numbers of a table's rows: `S-1`, `TLS-10 to TLS-14` or `TLS-33, TLS-35`.
fn numbers(prefix: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for row in DOCUMENT.lines().filter_map(|line| line.strip_prefix("| ")?.strip_prefix(prefix)) {
        let cell = format!("{prefix}{}", row.split(" |").next().unwrap());
        let in_cell: Vec<u32> =
            cell.split([' ', ',']).filter_map(|word| word.strip_prefix(prefix)?.parse().ok()).collect();
        match (cell.contains(" to "), &*in_cell) {
            (true, [first, last]) => numbers.extend(*first..=*last),
            _ => numbers.extend(in_cell),
        }
    }
    numbers
}

#[test]
fn every_threat_has_its_row() {
    assert_eq!(numbers("S-"), (1..=42).collect::<Vec<_>>());
    let tls: Vec<u32> = [1..=6, 10..=15, 20..=26, 30..=35, 40..=46, 50..=53, 60..=62].into_iter().flatten().collect();
    let mut told = numbers("TLS-");
    told.sort_unstable();
    assert_eq!(told, tls);
}

#[test]
fn every_test_and_file_that_is_named_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut named = 0;
    for code in DOCUMENT.split('`').skip(1).step_by(2) {
        if let Some((module, test)) = code.split_once("::") {
            let source = fs::read_to_string(root.join("tests/it").join(module).with_extension("rs")).unwrap();
            assert!(source.contains(&format!("fn {test}()")), "{code} is no test");
            named += 1;
        } else if code.contains('/') && code != "tests/it" {
            assert!(root.join(code).exists(), "{code} does not exist");
        }
    }
    assert!(named > 60, "{named} tests are named");
}
