//! The README says what the program does: its tables, examples and command lines are held to the code.

use std::path::Path;

use clap::{CommandFactory, Parser};
use ftps2sftp::cli::Arguments;
use ftps2sftp::command::spec;
use ftps2sftp::config::load_text;
use ftps2sftp::telemetry::metrics::{self, TABLE};

const README: &str = include_str!("../../README.md");

/// Every file that an example of the README names, relative to its configuration.
const FILES: [&str; 7] =
    ["tls.crt", "tls.key", "known_hosts", "acme_ed25519", "acme_passphrase", "client_ca.pem", "client_crl.pem"];

#[test]
fn the_command_table_is_the_programs_own() {
    assert_eq!(
        between_markers("commands"),
        spec::markdown().trim(),
        "\nput the output of `ftps2sftp commands --markdown` between the markers"
    );
}

#[test]
fn the_metric_table_is_the_programs_own() {
    let told = include_str!("../../deploy/metrics.md");
    let (_, table) = told.split_once("\n| Metric ").unwrap();
    assert_eq!(
        format!("| Metric {table}"),
        metrics::markdown(),
        "\nput the output of `ftps2sftp metrics` at the end of deploy/metrics.md"
    );
}

#[test]
fn the_performance_table_is_the_output_of_the_benchmark() {
    let table = between_markers("performance");
    for row in ["| one stream up, MB/s |", "| 40 ms: one stream down, MB/s |", "| idle session, KiB |", "Medians of "] {
        assert!(table.contains(row), "put the output of `tests/bench` between the markers: no {row}");
    }
}

#[test]
fn every_configuration_loads() {
    let folder = folder();
    let examples = blocks("yaml");
    assert!(examples.len() >= 2, "the examples were not found");
    for example in examples {
        let problems = load_text(&example, folder.path()).problems;
        assert!(problems.is_empty(), "{example}\n{problems:#?}");
    }
}

#[test]
fn every_command_line_can_be_typed() {
    let lines: Vec<String> =
        blocks("sh").iter().flat_map(|block| block.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    let mut seen = 0;
    for line in &lines {
        let Some(arguments) = arguments(line) else { continue };
        seen += 1;
        let parsed = Arguments::try_parse_from(std::iter::once("ftps2sftp").chain(arguments));
        // `--help` and `--version` end the parser as errors do, with exit code 0.
        if let Err(error) = parsed {
            assert_eq!(error.exit_code(), 0, "{line}\n{error}");
        }
    }
    assert!(seen >= 4, "the command lines were not found");
}

#[test]
fn every_subcommand_in_the_text_exists_and_every_subcommand_is_in_the_text() {
    let command = Arguments::command();
    let mentions: Vec<&str> = inline_code().into_iter().filter_map(|code| code.strip_prefix("ftps2sftp ")).collect();
    for mention in &mentions {
        let word = mention.split(' ').next().unwrap();
        assert!(word.starts_with('-') || command.find_subcommand(word).is_some(), "`ftps2sftp {mention}`");
    }
    // What only packages need is hidden.
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        let name = subcommand.get_name();
        assert!(
            mentions.iter().any(|mention| mention.split(' ').next() == Some(name)),
            "`ftps2sftp {name}` is missing"
        );
    }
}

#[test]
fn every_metric_in_the_text_exists() {
    let mut seen = 0;
    for code in inline_code() {
        let name = code.split('{').next().unwrap();
        if name.starts_with("ftps2sftp_") {
            seen += 1;
            assert!(TABLE.iter().any(|row| row.name == name), "{name}");
        }
    }
    assert!(seen > 0, "no metric was found");
}

#[test]
fn every_link_to_a_file_leads_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for document in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"] {
        let text = std::fs::read_to_string(root.join(document)).unwrap();
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let file = target.split('#').next().unwrap();
            assert!(file.is_empty() || target.contains("://") || root.join(file).exists(), "{document}: {target}");
        }
    }
}

#[test]
fn the_architecture_tells_of_every_room() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    for entry in std::fs::read_dir(root.join("src")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap();
        let is_told = [format!("`{name}/`"), format!("`{name}.rs`")].iter().any(|told| text.contains(told));
        assert!(is_told, "`{name}` is missing");
    }
}

/// A folder with the files that the examples name. What is in them is looked at later than here.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in FILES {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    folder
}

/// What stands between `<!-- NAME -->` and `<!-- end of NAME -->`.
fn between_markers(name: &str) -> &'static str {
    let (_, rest) = README.split_once(&format!("<!-- {name} -->")).unwrap_or_else(|| panic!("no marker {name}"));
    rest.split_once(&format!("<!-- end of {name} -->")).unwrap_or_else(|| panic!("no end of {name}")).0.trim()
}

/// Fenced blocks of this language.
fn blocks(language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    README.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// Code between single backquotes, outside of fenced blocks.
fn inline_code() -> Vec<&'static str> {
    README.split("```").step_by(2).flat_map(|text| text.split('`').skip(1).step_by(2)).collect()
}

/// What a line gives to the program; `None` where it calls another.
fn arguments(line: &str) -> Option<Vec<&str>> {
    let line = line.split(" #").next().unwrap_or(line);
    let line = line.split(" | ").last().unwrap_or(line);
    let line = line.split(['<', '>']).next().unwrap_or(line);
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["cargo", "run", rest @ ..] => Some(rest.iter().skip_while(|word| **word != "--").skip(1).copied().collect()),
        [program, rest @ ..] if program.rsplit('/').next() == Some("ftps2sftp") => Some(rest.to_vec()),
        _ => None,
    }
}
