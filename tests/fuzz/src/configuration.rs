//! The configuration: any text is a configuration or a list of what is wrong with it, in time that grows with the text.

use std::path::Path;

use ftps2sftp::config::load_text;

use super::input::unfold;

/// A YAML document. The files it names are looked for in [`folder`].
pub fn run(bytes: &[u8]) {
    let text = unfold(bytes, 4096);
    // Text is UTF-8 once it is here, and what is not is not this target's: up to there it may be a configuration.
    let text = text.utf8_chunks().next().map_or("", |chunk| chunk.valid());
    // A file to be read in place of a value is opened whatever it is, and some of the system's have no end.
    if ["file:/", "file:.", "/dev", "/proc", "/sys"].iter().any(|file| text.contains(file)) {
        return;
    }
    let loaded = load_text(text, folder());
    assert_eq!(loaded.config.is_some(), loaded.problems.is_empty());
    for problem in &loaded.problems {
        assert!(!problem.what.is_empty() && problem.hint.as_ref().is_some_and(|hint| !hint.is_empty()), "{problem:?}");
        let shown = format!("{}{}", problem.at, problem.what);
        assert!(!shown.contains(['\0', '\u{1b}', '\r']), "{shown:?} is not for a terminal");
    }
    let Some(config) = loaded.config else { return };
    assert!(!config.listeners.is_empty() && !config.tls.certificates.is_empty() && !config.backends.is_empty());
    for user in config.users.values().chain(&config.any_user) {
        assert!(user.root.starts_with(b"/"));
    }
    for backend in config.backends.values() {
        assert!(!backend.addresses.is_empty());
        assert!(backend.known_hosts.is_some() || !backend.host_keys.is_empty(), "a backend that any key would do for");
    }
}

/// Where `Cargo.toml` lies, which seeds name as certificate and key.
pub fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
