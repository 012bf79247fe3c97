//! Who may import whom: reads the sources and holds them to the order of the rooms.
//!
//! Every room of `src/` has a row in [`ROOMS`] with the rooms it may import, and every third-party crate that is kept
//! to some rooms has a row in [`FENCES`]. What only tests see (`#[cfg(test)]`) is free.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Room, rank, and the rooms it may import. A room may always import itself, and whoever may import `sftp` may import
/// its `wire` and `window`.
const ROOMS: &[(&str, u8, &[&str])] = &[
    ("ftp", 0, &[]),
    ("sftp::wire", 0, &[]),
    ("sftp::window", 0, &[]),
    ("shutdown", 0, &[]),
    ("config", 1, &["ftp"]),
    ("telemetry", 2, &["ftp", "config"]),
    ("proxy_protocol", 2, &["config"]),
    // A client of its own, which knows nothing of the server's side.
    ("probe", 2, &["config"]),
    ("tls", 3, &["ftp", "config", "telemetry"]),
    ("sftp", 3, &["ftp", "config", "telemetry"]),
    ("ssh", 3, &["ftp", "config", "telemetry", "sftp"]),
    ("identity", 4, &["ftp", "shutdown", "config", "telemetry", "tls", "sftp", "ssh"]),
    ("transfer", 4, &["ftp", "shutdown", "config", "telemetry", "proxy_protocol", "tls", "sftp", "ssh"]),
    (
        "session",
        5,
        &["ftp", "shutdown", "config", "telemetry", "proxy_protocol", "tls", "sftp", "ssh", "identity", "transfer"],
    ),
    // Handlers neither count nor log: no `telemetry`.
    ("command", 6, &["ftp", "shutdown", "config", "tls", "sftp", "ssh", "identity", "transfer", "session"]),
    (
        "control",
        7,
        &["ftp", "shutdown", "config", "telemetry", "tls", "sftp", "ssh", "identity", "transfer", "session", "command"],
    ),
    // It makes sessions and refuses them with a reply.
    ("server", 8, &["ftp", "config", "proxy_protocol", "tls", "telemetry", "shutdown", "session", "control"]),
    ("admin", 8, &["config", "tls", "telemetry", "shutdown"]),
    ("demo", 8, &["config", "tls", "telemetry", "shutdown"]),
    (
        "app",
        9,
        &[
            "ftp",
            "shutdown",
            "config",
            "telemetry",
            "proxy_protocol",
            "tls",
            "sftp",
            "ssh",
            "identity",
            "transfer",
            "session",
            "command",
            "control",
            "server",
            "admin",
            "demo",
        ],
    ),
    // `hash-password` makes what `identity` checks.
    ("cli", 10, &["app", "config", "command", "demo", "identity", "probe"]),
    ("main", 11, &["app", "config", "command", "demo", "cli"]),
];

/// A third-party crate (all the names it goes by) and where it may be used.
struct Fence {
    crates: &'static [&'static str],
    side: Side,
}

enum Side {
    /// Nowhere but in these rooms or files.
    Only(&'static [&'static str]),
    /// Anywhere but in these rooms.
    Never(&'static [&'static str]),
}

const FENCES: &[Fence] = &[
    Fence { crates: &["tokio", "tokio_util"], side: Side::Never(&["ftp", "sftp::wire", "sftp::window"]) },
    Fence { crates: &["russh", "russh_sftp"], side: Side::Only(&["ssh", "demo"]) },
    Fence {
        crates: &["rustls", "tokio_rustls", "rustls_pki_types"],
        side: Side::Only(&["tls", "control/stream.rs", "transfer/data_connection.rs", "probe"]),
    },
    Fence { crates: &["serde_yaml", "yaml_serde"], side: Side::Only(&["config/load.rs"]) },
    Fence { crates: &["metrics", "metrics_exporter_prometheus"], side: Side::Only(&["telemetry", "admin"]) },
    Fence {
        crates: &[
            "opentelemetry",
            "opentelemetry_http",
            "opentelemetry_otlp",
            "opentelemetry_sdk",
            "tracing_opentelemetry",
        ],
        side: Side::Only(&["telemetry/traces.rs"]),
    },
];

#[test]
fn every_room_imports_only_what_its_rank_allows() {
    let sources = sources("src");
    assert!(sources.len() > 10, "the sources were not found");
    let complaints = complaints(&sources);
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn every_file_says_first_what_it_is() {
    let mut silent = Vec::new();
    for (path, text) in sources("src").into_iter().chain(sources("tests/it")) {
        if !text.lines().next().is_some_and(|line| line.starts_with("//! ") && line.len() > "//! ".len()) {
            silent.push(path);
        }
    }
    assert!(silent.is_empty(), "the first line is no `//!`: {silent:?}");
}

/// Rust files below a folder of this crate, by their path relative to it.
fn sources(folder: &str) -> BTreeMap<String, String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    walk(&root, &mut found);
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect()
}

/// Everything that is wrong with these files, by path below `src/`.
fn complaints(sources: &BTreeMap<String, String>) -> Vec<String> {
    let tests_only: BTreeSet<String> =
        sources.iter().flat_map(|(path, text)| modules_for_tests(path, &tokens(text))).collect();
    let mut complaints = Vec::new();
    for (path, text) in sources {
        if path == "lib.rs"
            || tests_only.iter().any(|only| path == &format!("{only}.rs") || path.starts_with(&format!("{only}/")))
        {
            continue;
        }
        let module = module_of(path);
        let room = room_of(&module).unwrap_or_else(|| "main".to_owned());
        let Some((_, rank, allowed)) = ROOMS.iter().find(|(name, ..)| *name == room) else {
            complaints.push(format!("{path}: `{room}` is not in the table of rooms"));
            continue;
        };
        let tokens = without_tests(&tokens(text));
        let paths = paths(&tokens);
        for target in targets(&paths, &module) {
            if target != room
                && !allowed.contains(&target.as_str())
                && !allowed.contains(&parent_room(&target))
                && parent_room(&target) != room
            {
                complaints.push(format!("{path}: `{room}` may not import `{target}`: rank {rank}"));
            }
        }
        for name in third_party(&paths, &tokens) {
            for fence in FENCES.iter().filter(|fence| fence.crates.contains(&name.as_str())) {
                let inside = |places: &[&str]| places.iter().any(|place| *place == room || place == path);
                let allowed = match fence.side {
                    Side::Only(places) => inside(places),
                    Side::Never(places) => !inside(places),
                };
                if !allowed {
                    complaints.push(format!("{path}: `{room}` may not use `{name}`: fence"));
                }
            }
        }
    }
    complaints
}

/// `sftp` of `sftp::wire`; of others the room itself.
fn parent_room(room: &str) -> &str {
    room.split("::").next().unwrap_or(room)
}

/// `a/b.rs` is `[a, b]`, `a/mod.rs` is `[a]`, `main.rs` and `lib.rs` are the root.
fn module_of(path: &str) -> Vec<String> {
    let mut module: Vec<String> = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") || path == "main.rs" || path == "lib.rs" {
        module.pop();
    }
    module
}

/// The room that a path from the root of the crate leads into; none for the root itself.
fn room_of(path: &[String]) -> Option<String> {
    match path {
        [first, second, ..] if ROOMS.iter().any(|(name, ..)| *name == format!("{first}::{second}")) => {
            Some(format!("{first}::{second}"))
        }
        [first, ..] => Some(first.clone()),
        [] => None,
    }
}

/// One path as it is written, and whether it stands in a `use`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Written {
    segments: Vec<String>,
    /// What it is called here, where it is imported.
    imported_as: Option<String>,
}

/// Words, `::`, and single other characters; comments and literals are left out.
fn tokens(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let at = |index: usize| characters.get(index).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut index = 0;
    while index < characters.len() {
        let character = at(index);
        if character == '/' && at(index + 1) == '/' {
            while index < characters.len() && at(index) != '\n' {
                index += 1;
            }
        } else if character == '/' && at(index + 1) == '*' {
            let mut depth = 1;
            index += 2;
            while index < characters.len() && depth > 0 {
                match (at(index), at(index + 1)) {
                    ('/', '*') => (depth, index) = (depth + 1, index + 2),
                    ('*', '/') => (depth, index) = (depth - 1, index + 2),
                    _ => index += 1,
                }
            }
        } else if let Some(end) = raw_string_end(&characters, index) {
            index = end;
            tokens.push("\"\"".to_owned());
        } else if character == '"' || (character == 'b' && at(index + 1) == '"') {
            index += if character == 'b' { 2 } else { 1 };
            while index < characters.len() && at(index) != '"' {
                index += if at(index) == '\\' { 2 } else { 1 };
            }
            index += 1;
            tokens.push("\"\"".to_owned());
        } else if character == '\'' && (at(index + 1) == '\\' || at(index + 2) == '\'') {
            index += if at(index + 1) == '\\' { 3 } else { 2 };
            while index < characters.len() && at(index) != '\'' {
                index += 1;
            }
            index += 1;
        } else if character.is_alphanumeric() || character == '_' {
            let start = index;
            while at(index).is_alphanumeric() || at(index) == '_' {
                index += 1;
            }
            tokens.push(characters.get(start..index).unwrap().iter().collect());
        } else if character == ':' && at(index + 1) == ':' {
            tokens.push("::".to_owned());
            index += 2;
        } else {
            if !character.is_whitespace() {
                tokens.push(character.to_string());
            }
            index += 1;
        }
    }
    tokens
}

/// Where the raw string that begins here ends.
fn raw_string_end(characters: &[char], start: usize) -> Option<usize> {
    let mut index = start;
    if characters.get(index) == Some(&'b') {
        index += 1;
    }
    if characters.get(index) != Some(&'r') {
        return None;
    }
    // `for"` is no raw string.
    if start > 0 && characters.get(start - 1).is_some_and(|before| before.is_alphanumeric() || *before == '_') {
        return None;
    }
    index += 1;
    let hashes = characters.iter().skip(index).take_while(|character| **character == '#').count();
    index += hashes;
    if characters.get(index) != Some(&'"') {
        return None;
    }
    index += 1;
    while index < characters.len() {
        let closes = characters.get(index) == Some(&'"')
            && characters.iter().skip(index + 1).take(hashes).filter(|character| **character == '#').count() == hashes;
        index += 1;
        if closes {
            return Some(index + hashes);
        }
    }
    Some(index)
}

const TEST_ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];

fn is_test_attribute(tokens: &[String], index: usize) -> bool {
    tokens.iter().skip(index).take(TEST_ATTRIBUTE.len()).map(String::as_str).eq(TEST_ATTRIBUTE)
}

/// Leaves out each item behind `#[cfg(test)]`: up to its `;` or its closing brace.
fn without_tests(tokens: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut index = 0;
    while index < tokens.len() {
        if is_test_attribute(tokens, index) {
            index += TEST_ATTRIBUTE.len();
            let mut depth = 0;
            while let Some(token) = tokens.get(index) {
                index += 1;
                match token.as_str() {
                    "{" | "(" | "[" => depth += 1,
                    ")" | "]" => depth -= 1,
                    "}" => {
                        depth -= 1;
                        // `use a::{b};` goes on to its semicolon.
                        if depth == 0 && tokens.get(index).is_none_or(|next| next != ";") {
                            break;
                        }
                    }
                    ";" if depth == 0 => break,
                    _ => {}
                }
            }
        } else if let Some(token) = tokens.get(index) {
            kept.push(token.clone());
            index += 1;
        }
    }
    kept
}

/// Files that hold a module declared under `#[cfg(test)]`, as their path below `src/` without the ending.
fn modules_for_tests(path: &str, tokens: &[String]) -> Vec<String> {
    let folder = module_of(path).join("/");
    let mut found = Vec::new();
    for index in 0..tokens.len() {
        if !is_test_attribute(tokens, index) {
            continue;
        }
        let mut item =
            tokens.iter().skip(index + TEST_ATTRIBUTE.len()).map(String::as_str).skip_while(|token| *token != "mod");
        if let (Some(_), Some(name), Some(";")) = (item.next(), item.next(), item.next()) {
            found.push(if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") });
        }
    }
    found
}

/// Every path with `::` in it, and every `use`, expanded.
fn paths(tokens: &[String]) -> Vec<Written> {
    let mut found = Vec::new();
    let mut index = 0;
    while let Some(token) = tokens.get(index) {
        if token == "use" {
            index = expand(tokens, index + 1, &[], true, &mut found);
        } else if is_word(token) && tokens.get(index + 1).is_some_and(|next| next == "::") {
            index = expand(tokens, index, &[], false, &mut found);
        } else {
            index += 1;
        }
    }
    found
}

/// Reads one (use) path from `index` on, below `prefix`, and returns where it ends.
fn expand(tokens: &[String], mut index: usize, prefix: &[String], import: bool, found: &mut Vec<Written>) -> usize {
    let mut segments = prefix.to_vec();
    let token = |index: usize| tokens.get(index).map_or("", String::as_str);
    loop {
        match token(index) {
            "::" | "$" => index += 1,
            "{" if import => {
                index += 1;
                while !matches!(token(index), "}" | "") {
                    index = expand(tokens, index, &segments, import, found);
                    if token(index) == "," {
                        index += 1;
                    }
                }
                return index + 1;
            }
            "*" if import => {
                segments.push("*".to_owned());
                index += 1;
            }
            word if is_word(word) && word != "as" => {
                segments.push(word.to_owned());
                index += 1;
                // In an expression a path goes on only behind `::`.
                if token(index) != "::" {
                    break;
                }
            }
            _ => break,
        }
    }
    let mut imported_as = segments.last().filter(|_| import).cloned();
    if import && imported_as.as_deref() == Some("self") {
        segments.pop();
        imported_as = segments.last().cloned();
    }
    if import && token(index) == "as" {
        imported_as = Some(token(index + 1).to_owned());
        index += 2;
    }
    // Never stand still, whatever stands there.
    let end = if segments.len() == prefix.len() { index + 1 } else { index };
    found.push(Written { segments, imported_as });
    end
}

fn is_word(token: &str) -> bool {
    token.chars().next().is_some_and(|first| first.is_alphabetic() || first == '_')
}

/// The rooms that these paths, written in `module`, lead into.
fn targets(paths: &[Written], module: &[String]) -> BTreeSet<String> {
    let mut targets = BTreeSet::new();
    for written in paths {
        let mut segments = written.segments.iter().peekable();
        let mut from_root = match segments.peek().map(|first| first.as_str()) {
            Some("crate" | "ftps2sftp") => {
                segments.next();
                Vec::new()
            }
            Some("super") => module.to_vec(),
            _ => continue,
        };
        while segments.next_if(|segment| *segment == "super").is_some() {
            from_root.pop();
        }
        from_root.extend(segments.cloned());
        targets.extend(room_of(&from_root));
    }
    targets
}

/// The first words of paths that are not ours.
fn third_party(paths: &[Written], tokens: &[String]) -> BTreeSet<String> {
    let ours = |written: &Written| {
        written.segments.first().is_some_and(|first| matches!(first.as_str(), "crate" | "self" | "super" | "ftps2sftp"))
    };
    let mut local: BTreeSet<&str> =
        paths.iter().filter(|written| ours(written)).filter_map(|written| written.imported_as.as_deref()).collect();
    for (index, token) in tokens.iter().enumerate() {
        if token == "mod"
            && let Some(name) = tokens.get(index + 1)
        {
            local.insert(name);
        }
    }
    paths
        .iter()
        .filter(|written| !ours(written))
        .filter_map(|written| written.segments.first())
        .filter(|first| !local.contains(first.as_str()))
        .cloned()
        .collect()
}

mod the_checker {
    use super::*;

    fn complaints_about(path: &str, text: &str) -> Vec<String> {
        complaints(&BTreeMap::from([(path.to_owned(), text.to_owned())]))
    }

    fn refused(path: &str, text: &str, what: &str) {
        let complaints = complaints_about(path, text);
        assert!(complaints.iter().any(|complaint| complaint.contains(what)), "{text}: {complaints:?}");
    }

    fn allowed(path: &str, text: &str) {
        assert_eq!(complaints_about(path, text), Vec::<String>::new(), "{text}");
    }

    #[test]
    fn the_table_goes_downwards_only() {
        let rank = |room: &str| ROOMS.iter().find(|(name, ..)| *name == room).map(|(_, rank, _)| *rank).unwrap();
        for (room, own, allowed) in ROOMS {
            for other in *allowed {
                let same_rank_by_exception = (*room, *other) == ("ssh", "sftp");
                assert!(rank(other) < *own || same_rank_by_exception, "{room} imports {other}");
            }
        }
    }

    #[test]
    fn an_import_against_the_order_is_found_in_every_way_to_write_it() {
        let what = "`config` may not import `command`: rank 1";
        refused("config/mod.rs", "use crate::command::find;", what);
        refused("config/mod.rs", "pub use crate::command;", what);
        refused("config/mod.rs", "use crate::{ftp::path, command::{find, admit}};", what);
        refused("config/mod.rs", "use crate::{\n    ftp,\n    command as c,\n};", what);
        refused("config/mod.rs", "fn f() { crate::command::find(); }", what);
        refused("config/mod.rs", "fn f() -> Vec<crate::command::Row> { vec![] }", what);
        refused("config/mod.rs", "use super::command;", what);
        refused("config/load.rs", "use super::super::command;", what);
        refused("config/load.rs", "fn f() { super::super::command::find() }", what);
        refused("config/load.rs", "macro_rules! m { () => { $crate::command::find() } }", what);
        refused("config/mod.rs", "#[cfg(test)]\nmod tests { fn f() {} }\nuse crate::command::find;", what);
        refused("config/mod.rs", "#[cfg(test)] use crate::ftp::{x};\nuse crate::command::find;", what);
        refused("config/mod.rs", "const Q: char = '\"'; use crate::command::find; const R: char = '\"';", what);
        refused("config/mod.rs", "const Q: &str = r#\"\"#; use crate::command::find;", what);
    }

    #[test]
    fn what_the_order_allows_and_what_is_no_code_is_let_through() {
        allowed("config/mod.rs", "use crate::ftp::path; use super::ftp; use crate::config::secret; use self::secret;");
        allowed(
            "config/mod.rs",
            "//! [`crate::command::find`]\n/* crate::command /* nested */ crate::command */ fn f() {}",
        );
        allowed(
            "config/mod.rs",
            "const A: &str = \"crate::command::find\"; const B: &str = r##\"crate::command::\"#x\"##;",
        );
        allowed("config/mod.rs", "fn f<'a>(x: &'a str) -> &'a str { x }");
        allowed("config/mod.rs", "#[cfg(test)]\nmod tests { use crate::command::find; }");
        allowed("config/mod.rs", "#[cfg(test)]\nuse crate::command::{find, admit};\nfn f() {}");
        allowed("ssh/connection.rs", "use crate::sftp::Session; use crate::sftp::wire::attributes;");
        allowed("sftp/session.rs", "use super::wire::packet; use crate::sftp::window::Window; use crate::ftp;");
        allowed("main.rs", "use ftps2sftp::cli; fn main() { ftps2sftp::app::run() }");
        allowed("shutdown.rs", "use tokio::signal;");
    }

    #[test]
    fn the_sans_io_parts_of_sftp_are_rooms_of_their_own() {
        refused("sftp/wire/packet.rs", "use crate::ftp::path;", "`sftp::wire` may not import `ftp`");
        refused("sftp/window.rs", "use super::session::Session;", "`sftp::window` may not import `sftp`");
        refused("sftp/window.rs", "use crate::sftp::wire::packet;", "`sftp::window` may not import `sftp::wire`");
        refused("tls/mod.rs", "use crate::sftp::wire;", "`tls` may not import `sftp::wire`");
    }

    #[test]
    fn handlers_neither_count_nor_log() {
        refused("command/access.rs", "use crate::telemetry::metrics;", "`command` may not import `telemetry`");
        allowed("control/mod.rs", "use crate::telemetry::metrics; fn f() { metrics::login() }");
    }

    #[test]
    fn rooms_side_by_side_do_not_know_each_other() {
        refused("identity/root.rs", "use crate::transfer::commit;", "`identity` may not import `transfer`");
        refused("transfer/commit.rs", "use crate::identity::root;", "`transfer` may not import `identity`");
        refused("demo/mod.rs", "use crate::ssh::Target;", "`demo` may not import `ssh`");
    }

    #[test]
    fn a_room_without_a_row_is_found() {
        refused("utils/mod.rs", "fn f() {}", "`utils` is not in the table of rooms");
    }

    #[test]
    fn fences_hold_for_imports_and_for_paths_in_code() {
        refused("ftp/line.rs", "use tokio::io::AsyncRead;", "`ftp` may not use `tokio`: fence");
        refused("sftp/wire/packet.rs", "fn f() { tokio_util::codec::f() }", "may not use `tokio_util`: fence");
        refused("sftp/session.rs", "use {russh::client, std::io};", "`sftp` may not use `russh`: fence");
        refused("session/mod.rs", "use rustls::ServerConfig as C;", "`session` may not use `rustls`: fence");
        refused("control/mod.rs", "use ::tokio_rustls::TlsAcceptor;", "`control` may not use `tokio_rustls`: fence");
        refused("config/mod.rs", "use serde_yaml;", "`config` may not use `serde_yaml`: fence");
        refused("control/mod.rs", "fn f() { metrics::counter!(\"x\") }", "`control` may not use `metrics`: fence");
        allowed("control/stream.rs", "use tokio_rustls::server::TlsStream;");
        allowed("config/load.rs", "use serde_yaml::Value;");
        allowed("demo/server.rs", "use russh::server::Config; use russh_sftp::server;");
        allowed("sftp/session.rs", "use tokio::sync::mpsc;");
        allowed("admin/mod.rs", "use crate::telemetry::metrics::{self, Exposition}; fn f() { metrics::install() }");
    }

    #[test]
    fn a_file_that_only_tests_see_is_free() {
        let sources = BTreeMap::from([
            ("sftp/mod.rs".to_owned(), "#[cfg(test)]\npub(crate) mod scripted;".to_owned()),
            ("sftp/scripted.rs".to_owned(), "use crate::control; use russh::client;".to_owned()),
        ]);
        assert_eq!(complaints(&sources), Vec::<String>::new());
        let open = BTreeMap::from([
            ("sftp/mod.rs".to_owned(), "pub mod scripted;".to_owned()),
            ("sftp/scripted.rs".to_owned(), "use crate::control; use russh::client;".to_owned()),
        ]);
        assert_eq!(complaints(&open).len(), 2);
    }
}
