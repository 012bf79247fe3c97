//! The configuration as its reader meets it: what loads, and what is said about what does not.

#![allow(clippy::unwrap_used, reason = "the helpers of tests may fail a test as tests themselves may")]

use std::path::Path;
use std::time::Duration;

use ftps2sftp::config::error::Problem;
use ftps2sftp::config::{
    AsciiMode, HostPort, KeyHolder, Loaded, LogFormat, Login, LoginKey, MappedLogin, Material, PassiveAddress,
    ProxyProtocol, Resumption, Symlinks, TlsMode, TlsVersion, UploadMode, load, load_text,
};
use proptest::prelude::*;

const EXAMPLE: &str = include_str!("../../deploy/config.example.yaml");
const CANARY: &str = "Zx9!canary";
const HASH: &str = "$argon2id$v=19$m=19456,t=2,p=1$gXF06bnyQu2/HyTqnjtFjw$GufRKxqEX6FYxHz5h4ocqVbYqhs4ye4MmSNeK76RDFU";

/// A folder with the files that the documents below name. What is in them is not the configuration's business.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["tls.crt", "tls.key", "known_hosts", "id_ed25519", "ca.pem"] {
        std::fs::write(folder.path().join(name), "x").unwrap();
    }
    std::fs::write(folder.path().join("secret"), format!("{CANARY}\n")).unwrap();
    std::fs::create_dir(folder.path().join("folder")).unwrap();
    folder
}

/// The example of the deployment, with its paths changed to files that are there.
fn example() -> String {
    EXAMPLE
        .replace("/tls/tls.", "tls.")
        .replace("/etc/ftps2sftp/known_hosts", "known_hosts")
        .replace("/run/secrets/acme/id_ed25519", "id_ed25519")
}

/// The shortest useful configuration, and what is added to it.
fn with(addition: &str) -> String {
    format!("{MINIMAL}{addition}\n")
}

const MINIMAL: &str = "\
tls: {certificates: [{certificate: tls.crt, key: tls.key}]}
backends: {warehouse: {address: sftp.internal, known_hosts: known_hosts}}
users: {'*': {backend: warehouse, login: passthrough}}
";

/// A configuration with these entries in `backends.warehouse`.
fn backend(entries: &str) -> String {
    MINIMAL.replace("address: sftp.internal, known_hosts: known_hosts", entries)
}

/// A configuration with these entries in `users.acme`.
fn user(entries: &str) -> String {
    MINIMAL.replace("'*': {backend: warehouse, login: passthrough}", &format!("acme: {{{entries}}}"))
}

fn told(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn the_deployment_example_loads_and_holds_the_defaults() {
    let folder = folder();
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, example()).unwrap();
    let loaded = load(&path);
    assert_eq!(told(&loaded.problems), "");
    let written = loaded.config.unwrap();

    let loaded = load_text(&with(""), folder.path());
    assert_eq!(told(&loaded.problems), "");
    let default = loaded.config.unwrap();

    assert_eq!(format!("{:?}", written.listeners), format!("{:?}", default.listeners));
    assert_eq!(format!("{:?}", written.passive), format!("{:?}", default.passive));
    assert_eq!(format!("{:?}", written.limits), format!("{:?}", default.limits));
    assert_eq!(format!("{:?}", written.timeouts), format!("{:?}", default.timeouts));
    assert_eq!(format!("{:?}", written.shutdown), format!("{:?}", default.shutdown));
    assert_eq!(format!("{:?}", written.log), format!("{:?}", default.log));
    assert_eq!(format!("{:?}", written.tls), format!("{:?}", default.tls));
    assert_eq!(format!("{:?}", written.any_user), format!("{:?}", default.any_user));
    assert_eq!(written.admin, default.admin);

    let acme = &written.users["acme"];
    assert_eq!((acme.root.as_slice(), acme.max_sessions), (b"/incoming/acme".as_slice(), Some(20)));
    let Login::Mapped(login) = &acme.login else { panic!("{:?}", acme.login) };
    assert_eq!(login.user, "acme-sftp");
    assert!(
        matches!(&login.key, Some(LoginKey { holder: KeyHolder::File { path, passphrase: None }, certificate: None })
        if path == &folder.path().join("id_ed25519"))
    );
    let policy = &acme.policy;
    assert!(policy.data_tls_required && policy.data_peer_check && policy.upload_eof_strict && policy.fsync);
    assert_eq!((policy.data_tls_resumption, policy.upload), (Resumption::Prefer, UploadMode::Atomic));
    assert_eq!((policy.ascii, policy.symlinks, policy.umask), (AsciiMode::Convert, Symlinks::Inside, 0o022));
    let backend = &written.backends["warehouse"];
    assert_eq!(backend.addresses, [HostPort { host: "sftp.internal".into(), port: 22 }]);
    assert_eq!(backend.keepalive, Duration::from_secs(15));
}

#[test]
fn every_key_of_the_example_is_read() {
    let folder = folder();
    let document = "
listeners: [{name: a, address: '127.0.0.1:1', tls: implicit, proxy_protocol: optional}]
tls: {certificates: [{certificate: tls.crt, key: tls.key}], min_version: 1.3, require_control: false}
passive:
  ports: 4000
  address: ftp.example
  shared: false
  overrides: [{clients: 10.0.0.0/8, address: 10.1.2.3}, {clients: '2001:db8::/32', address: auto}]
  proxy_protocol: required
trusted_proxies: [192.0.2.0/24, 198.51.100.7, '::1']
backends:
  b: {address: ['[::1]:2', h:3], host_keys: ['SHA256:uNiVztksCsDhcc0u9e8BrJQXVUpKZIDTMczCvj3tD2s'], keepalive: 1m, connect_timeout: 2s, request_timeout: 3s, connections: shared, idle_release: 5m}
users:
  u: {backend: b, login: passthrough, root: /r/, permissions: [list, mkdir], limits: {sessions: 7}, policy: {fsync: true}}
policy: {data_tls: optional, data_tls_resumption: off, data_peer_check: false, upload: direct, upload_streams: 4, upload_eof: lax, fsync: false, ascii: refuse, symlinks: follow, umask: '077'}
limits: {sessions: 5, sessions_per_ip: 4, failed_logins: {per_session: 9}, transfer_window: 1MiB}
timeouts: {tls_handshake: 1s, login: 2s, idle: 3s, data_connect: 4s, data_idle: 5s}
shutdown: {delay: 6s, drain: 0s}
admin: {address: null}
log: {format: json, level: 'info,ftps2sftp::ssh=debug'}
";
    let loaded = load_text(document, folder.path());
    assert_eq!(told(&loaded.problems), "");
    let config = loaded.config.unwrap();
    assert_eq!((config.listeners[0].name.as_str(), config.listeners[0].tls), ("a", TlsMode::Implicit));
    assert_eq!(config.listeners[0].address, "127.0.0.1:1".parse().unwrap());
    assert_eq!((config.tls.min_version, config.tls.require_control), (TlsVersion::Tls13, false));
    assert_eq!((config.passive.ports, config.passive.shared), (4000..=4000, false));
    assert_eq!(config.passive.address, PassiveAddress::Name("ftp.example".into()));
    assert_eq!(config.listeners[0].proxy_protocol, ProxyProtocol::Optional);
    assert_eq!(config.passive.proxy_protocol, ProxyProtocol::Required);
    let networks: Vec<String> = config.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["192.0.2.0/24", "198.51.100.7/32", "::1/128"]);
    let overrides = &config.passive.overrides;
    assert!(overrides[0].clients.contains("10.9.9.9".parse().unwrap()));
    assert_eq!(overrides[0].address, PassiveAddress::Fixed("10.1.2.3".parse().unwrap()));
    assert_eq!((overrides.len(), &overrides[1].address), (2, &PassiveAddress::Auto));
    let backend = &config.backends["b"];
    assert_eq!(backend.addresses[0], HostPort { host: "::1".into(), port: 2 });
    assert_eq!((backend.addresses.len(), backend.host_keys.len(), &backend.known_hosts), (2, 1, &None));
    let seconds = Duration::from_secs;
    assert_eq!((backend.keepalive, backend.connect_timeout), (seconds(60), seconds(2)));
    assert_eq!((backend.shared, backend.idle_release), (true, Some(seconds(300))));
    let user = &config.users["u"];
    assert_eq!((user.root.as_slice(), user.max_sessions), (b"/r".as_slice(), Some(7)));
    assert!(user.permissions.list && user.permissions.mkdir && !user.permissions.read && !user.permissions.write);
    // Their own policy lies over the general one.
    assert!(user.policy.fsync && !user.policy.data_tls_required && !user.policy.upload_eof_strict);
    assert_eq!((user.policy.data_tls_resumption, user.policy.upload), (Resumption::Off, UploadMode::Direct));
    assert_eq!((user.policy.ascii, user.policy.symlinks), (AsciiMode::Refuse, Symlinks::Follow));
    assert_eq!(user.policy.umask, 0o077);
    let limits = &config.limits;
    assert_eq!((limits.sessions, limits.sessions_per_ip, limits.failed_logins.per_session), (5, 4, 9));
    assert_eq!(limits.transfer_window, 1 << 20);
    assert_eq!((config.timeouts.tls_handshake, config.timeouts.data_idle), (seconds(1), seconds(5)));
    assert_eq!((config.shutdown.delay, config.shutdown.drain), (seconds(6), seconds(0)));
    assert_eq!((config.admin, config.log.format), (None, LogFormat::Json));
}

#[test]
fn each_mistake_is_named_with_its_key_path() {
    let folder = folder();
    for (document, at, words) in [
        // The file itself.
        (String::new(), "backends", "is missing"),
        ("# nothing yet\n".into(), "users", "is missing"),
        ("- a".into(), "", "expected a mapping, found a list"),
        ("a: b: c".into(), "", "not YAML: mapping values are not allowed in this context at line 1 column 5"),
        ("a: [".into(), "", "line 2"),
        ("a: b\n--- \nc: d".into(), "", "more than one document"),
        ("\ta: b".into(), "", "indent with spaces"),
        ("a: *b".into(), "", "unknown anchor"),
        ("a: \0".into(), "", "NUL"),
        // Keys.
        (with("pasive: {}"), "pasive", "did you mean `passive`?"),
        (with("telemetry: {}"), "telemetry", "unknown key"),
        (with("policy: {f_sync: true}"), "policy.f_sync", "did you mean `fsync`?"),
        (with("limits: {failed_logins: {perip: 1}}"), "limits.failed_logins.perip", "did you mean `per_ip`?"),
        (with("log: {level: info, level: debug}"), "log.level", "twice"),
        (with("log: {1: 2}"), "log", "not text"),
        (with("log: text"), "log", "expected a mapping, found text"),
        (MINIMAL.replace("backends:", "backend:"), "backend", "did you mean `backends`?"),
        (MINIMAL.replace("users:", "people:"), "users", "is missing"),
        // Listeners.
        (with("listeners: []"), "listeners", "no listener"),
        (with("listeners: {}"), "listeners", "expected a list of listeners, found a mapping"),
        (with("listeners: [{tls: explicitt}]"), "listeners[0].tls", "not one of `explicit`, `implicit`"),
        (
            with("listeners: [{tls: [explicit]}]"),
            "listeners[0].tls",
            "expected one of `explicit`, `implicit`, found a list",
        ),
        (with("listeners: [{address: ':2121'}]"), "listeners[0].address", "write 0.0.0.0 in front"),
        (with("listeners: [{address: 'localhost:1'}]"), "listeners[0].address", "expected an address"),
        (with("listeners: [{name: a b}]"), "listeners[0].name", "letters, digits"),
        (
            with("listeners: [{name: a}, {name: a, tls: implicit}]"),
            "listeners[1].name",
            "`a` is the name of listeners[0] too",
        ),
        (
            with("listeners: [{name: a}, {name: b, address: '127.0.0.1:2121'}]"),
            "listeners[1].address",
            "is taken by listeners[0]",
        ),
        (with("listeners: [{address: '0.0.0.0:30001'}]"), "listeners[0].address", "lies in passive.ports"),
        (with("admin: {address: '127.0.0.1:2121'}"), "admin.address", "is taken by listeners[0]"),
        // TLS.
        (with("").replace("tls.crt", "absent.crt"), "tls.certificates[0].certificate", "no such file"),
        (with("").replace("tls.key", "folder"), "tls.certificates[0].key", "is a folder"),
        (with("").replace(", key: tls.key", ""), "tls.certificates[0].key", "is missing"),
        (with("").replace("[{certificate: tls.crt, key: tls.key}]", "[]"), "tls.certificates", "no certificate"),
        (with("").replace("]}", "], min_version: 1.1}"), "tls.min_version", "not one of `1.2`, `1.3`"),
        (with("").replace("]}", "], require_control: 'yes'}"), "tls.require_control", "expected true or false"),
        // Passive ports.
        (with("passive: {ports: 30047-30000}"), "passive.ports", "ends before it begins"),
        (with("passive: {ports: 60000-65536}"), "passive.ports", "above 65535"),
        (with("passive: {ports: 0-10}"), "passive.ports", "port 0"),
        (
            with("passive: {ports: [1, 2]}"),
            "passive.ports",
            "expected a range of ports such as 30000-30047, found a list",
        ),
        (with("passive: {address: '::1'}"), "passive.address", "EPSV"),
        (with("listeners: [{proxy_protocol: true}]"), "listeners[0].proxy_protocol", "is not one of"),
        (with("listeners: [{proxy_protocol: required}]"), "listeners[0].proxy_protocol", "`trusted_proxies`"),
        (with("passive: {proxy_protocol: optional}"), "passive.proxy_protocol", "`trusted_proxies`"),
        (
            with("trusted_proxies: []\nlisteners: [{proxy_protocol: optional}]"),
            "listeners[0].proxy_protocol",
            "nobody's PROXY header is believed",
        ),
        (with("trusted_proxies: 10.0.0.0/8"), "trusted_proxies", "a list of networks"),
        (with("trusted_proxies: [10.0.0.0/33]"), "trusted_proxies[0]", "a network such as"),
        (with("trusted_proxies: ['::/0', 10.1.2.3/8]"), "trusted_proxies[1]", "bits set behind its prefix"),
        (with("passive: {overrides: [{clients: 10.0.0.0/8}]}"), "passive.overrides[0].address", "is missing"),
        (with("passive: {overrides: [{address: auto}]}"), "passive.overrides[0].clients", "is missing"),
        (
            with("passive: {overrides: [{clients: all, address: auto}]}"),
            "passive.overrides[0].clients",
            "a network such as",
        ),
        (
            with("passive: {overrides: [{clients: '::/0', address: '::1'}]}"),
            "passive.overrides[0].address",
            "reply 227 can tell only an IPv4 address",
        ),
        (
            with("passive: {overrides: [{clients: '::/0', address: auto, port: 1}]}"),
            "passive.overrides[0].port",
            "unknown key",
        ),
        (with("passive: {address: 10.0.0.300}"), "passive.address", "DNS name"),
        // Backends.
        ("backends: {}".into(), "backends", "no backend"),
        (backend("address: h"), "backends.warehouse.known_hosts", "ssh-keyscan -p 22 h"),
        (backend("address: 'h:2222', host_keys: []"), "backends.warehouse.known_hosts", "ssh-keyscan -p 2222 h"),
        (backend("address: h"), "backends.warehouse.known_hosts", "No setting accepts any key"),
        (
            backend("address: h, known_host: known_hosts"),
            "backends.warehouse.known_host",
            "did you mean `known_hosts`?",
        ),
        (backend("address: h, known_hosts: absent"), "backends.warehouse.known_hosts", "no such file"),
        (backend("known_hosts: known_hosts"), "backends.warehouse.address", "is missing"),
        (backend("known_hosts: known_hosts, address: 'h:0'"), "backends.warehouse.address", "port 0"),
        (
            backend("known_hosts: known_hosts, address: [h, 'h:x']"),
            "backends.warehouse.address[1]",
            "expected an address",
        ),
        (backend("known_hosts: known_hosts, address: []"), "backends.warehouse.address", "holds no address"),
        (backend("known_hosts: known_hosts, address: '::1'"), "backends.warehouse.address", "brackets"),
        (backend("address: h, host_keys: ['MD5:aa']"), "backends.warehouse.host_keys[0]", "can be forged"),
        (backend("address: h, host_keys: ['SHA256:aa']"), "backends.warehouse.host_keys[0]", "43 characters"),
        (backend("address: h, known_hosts: known_hosts, keepalive: 15"), "backends.warehouse.keepalive", "write 15s"),
        (backend("address: h, known_hosts: known_hosts, keepalive: 0s"), "backends.warehouse.keepalive", "too short"),
        (
            backend("address: h, known_hosts: known_hosts, keepalive: []"),
            "backends.warehouse.keepalive",
            "expected a duration such as 30s, found a list",
        ),
        (
            backend("address: h, known_hosts: known_hosts, keepalive: null"),
            "backends.warehouse.keepalive",
            "leave the key out",
        ),
        // Users.
        (MINIMAL.replace("'*': {backend: warehouse, login: passthrough}", ""), "users", "no user"),
        (user("login: passthrough"), "users.acme.backend", "is missing"),
        (user("backend: warehouse"), "users.acme.login", "is missing"),
        (user("backend: warehous, login: passthrough"), "users.acme.backend", "did you mean `warehouse`?"),
        (user("backend: x, login: passthrough"), "users.acme.backend", "no backend is named `x`"),
        (user("backend: warehouse, login: pasthrough"), "users.acme.login", "found other text"),
        (user("backend: warehouse, login: passthrough-twice"), "users.acme.login", "`passthrough-once`"),
        (user("backend: warehouse, login: []"), "users.acme.login", "found a list"),
        (
            user("backend: warehouse, login: {user: a, password: p}"),
            "users.acme.password_hash",
            "ftps2sftp hash-password",
        ),
        (
            user(&format!("backend: warehouse, password_hash: '{HASH}', login: {{password: p}}")),
            "users.acme.login.user",
            "is missing",
        ),
        (
            user(&format!("backend: warehouse, password_hash: '{HASH}', login: {{user: a}}")),
            "users.acme.login",
            "neither",
        ),
        (
            user(&format!("backend: warehouse, password_hash: '{HASH}', login: {{user: a, agent: s, passphrase: q}}")),
            "users.acme.login.passphrase",
            "no use to an agent",
        ),
        (
            user(&format!(
                "backend: warehouse, password_hash: '{HASH}', login: {{user: a, password: p, certificate: id_ed25519}}"
            )),
            "users.acme.login.certificate",
            "no key",
        ),
        (
            user(&format!("backend: warehouse, password_hash: '{HASH}', login: {{user: a, agent: ''}}")),
            "users.acme.login.agent",
            "empty",
        ),
        (backend("address: h, known_hosts: known_hosts, jump: warehous"), "backends.warehouse.jump", "did you mean"),
        (backend("address: h, known_hosts: known_hosts, jump: warehouse"), "backends.warehouse.jump", "circle"),
        (
            backend("address: h, known_hosts: known_hosts, jump: bastion")
                .replace("backends: {", "backends: {bastion: {address: b, known_hosts: known_hosts}, "),
            "backends.warehouse.jump",
            "has no `login`",
        ),
        (
            backend("address: h, known_hosts: known_hosts, algorithms: modrn"),
            "backends.warehouse.algorithms",
            "did you mean `modern`?",
        ),
        (
            backend("address: h, known_hosts: known_hosts, algorithms: {cipher: [aes128-cbd]}"),
            "backends.warehouse.algorithms.cipher[0]",
            "did you mean",
        ),
        (
            backend("address: h, known_hosts: known_hosts, algorithms: {kex: []}"),
            "backends.warehouse.algorithms.kex",
            "holds no algorithm",
        ),
        (
            backend("address: h, known_hosts: known_hosts, algorithms: {ciphers: modern}"),
            "backends.warehouse.algorithms.ciphers",
            "did you mean `cipher`?",
        ),
        (
            user(&format!("backend: warehouse, password_hash: '{HASH}', login: {{user: a, password: 12}}")),
            "users.acme.login.password",
            "write it in quotes",
        ),
        (
            user(&format!("backend: warehouse, password_hash: '{HASH}', login: {{user: a, password: ''}}")),
            "users.acme.login.password",
            "empty",
        ),
        (
            user(&format!(
                "backend: warehouse, password_hash: '{HASH}', login: {{user: a, password: p, passphrase: q}}"
            )),
            "users.acme.login.passphrase",
            "no `private_key`",
        ),
        (
            user(&format!("backend: warehouse, password_hash: '{HASH}', login: {{user: a, private_key: absent}}")),
            "users.acme.login.private_key",
            "no such file",
        ),
        (
            user("backend: warehouse, login: passthrough, password_hash: hunter2"),
            "users.acme.password_hash",
            "is not an argon2id",
        ),
        (
            user("backend: warehouse, login: passthrough, password_hash: $6$x"),
            "users.acme.password_hash",
            "not a complete sha512-crypt",
        ),
        (user("backend: warehouse, login: passthrough, root: incoming"), "users.acme.root", "absolute"),
        (user("backend: warehouse, login: passthrough, root: /a/../b"), "users.acme.root", "`..`"),
        (
            user("backend: warehouse, login: passthrough, permissions: some"),
            "users.acme.permissions",
            "not one of `all`",
        ),
        (
            user("backend: warehouse, login: passthrough, permissions: [list, raed]"),
            "users.acme.permissions[1]",
            "did you mean `read`?",
        ),
        (
            user("backend: warehouse, login: passthrough, limits: {sessions: 0}"),
            "users.acme.limits.sessions",
            "between 1 and",
        ),
        (user("backend: warehouse, login: passthrough, policy: {umask: 22}"), "users.acme.policy.umask", "quotes"),
        (
            MINIMAL.replace("login: passthrough", "login: {user: a, password: p}"),
            "users.\"*\".login",
            "must be `passthrough`",
        ),
        // The rest.
        (with("policy: {upload: atomik}"), "policy.upload", "did you mean `atomic`?"),
        (with("policy: {umask: 'abc'}"), "policy.umask", "octal"),
        (with("limits: {sessions: many}"), "limits.sessions", "expected a whole number, found text"),
        (with("limits: {sessions: '5'}"), "limits.sessions", "remove the quotes"),
        (with("limits: {sessions: -1}"), "limits.sessions", "`-1` is not between"),
        (with("limits: {transfer_window: 4MB}"), "limits.transfer_window", "expected a size such as 4MiB"),
        (with("limits: {transfer_window: 1KiB}"), "limits.transfer_window", "not between"),
        (with("timeouts: {idle: 1h30m}"), "timeouts.idle", "ms, s, m, h, d"),
        (with("timeouts: {idle: 9999d}"), "timeouts.idle", "longer than"),
        (with("admin:"), "admin", "turns it off"),
        (with("log: {level: inof}"), "log.level", "expected a log level"),
        (with("log: {format: !x json}"), "log.format", "found a tagged value"),
        (with("log: {format: '${env:FTPS2SFTP_NOT_SET}'}"), "log.format", "`FTPS2SFTP_NOT_SET` is not set"),
        (with("log: {format: '${file:absent}'}"), "log.format", "cannot read `absent`: no such file"),
    ] {
        let loaded = load_text(&document, folder.path());
        assert!(loaded.config.is_none(), "{document}");
        let named = |problem: &Problem| problem.at == at && problem.to_string().contains(words);
        assert!(
            loaded.problems.iter().any(named),
            "{document}\nexpected {at}: {words}\nfound {}",
            told(&loaded.problems)
        );
        // A mistake is told once: what is not a whole file missing is one problem.
        if !document.starts_with(['#', 'b', '-']) && !document.is_empty() && !document.contains("people:") {
            assert_eq!(loaded.problems.len(), 1, "{document}\n{}", told(&loaded.problems));
        }
    }
}

#[test]
fn where_audit_records_go_and_when_their_files_are_moved_away() {
    let folder = folder();
    let audit = |yaml: &str| {
        let loaded = load_text(&with(yaml), folder.path());
        assert_eq!(told(&loaded.problems), "", "{yaml}");
        loaded.config.unwrap().audit
    };
    let default = audit("audit: {path: null, xferlog: null}");
    assert_eq!((default.path, default.xferlog, default.max_size, default.keep), (None, None, Some(104_857_600), 10));
    let own = audit("audit: {path: a.jsonl, xferlog: /var/log/xferlog, max_size: null, keep: 3}");
    assert_eq!(own.path.unwrap(), folder.path().join("a.jsonl"));
    assert_eq!((own.xferlog.unwrap().to_str().unwrap(), own.max_size, own.keep), ("/var/log/xferlog", None, 3));
    for (yaml, at) in [
        ("audit: {path: a, xferlog: a}", "audit.xferlog"),
        ("audit: {path: a, max_size: 1KiB}", "audit.max_size"),
        ("audit: {path: a, keep: -1}", "audit.keep"),
        ("metrics: {per_user: maybe}", "metrics.per_user"),
        ("admin: {readiness_needs_backend: 1}", "admin.readiness_needs_backend"),
    ] {
        let loaded = load_text(&with(yaml), folder.path());
        assert_eq!(loaded.problems.len(), 1, "{yaml}\n{}", told(&loaded.problems));
        assert_eq!(loaded.problems[0].at, at);
    }
}

#[test]
fn traces_go_where_a_collector_is_and_only_where_they_are_built_in() {
    let folder = folder();
    for (yaml, endpoint) in [
        ("", None),
        ("traces: {endpoint: null}", None),
        ("traces: {endpoint: 'http://127.0.0.1:4318'}", Some("http://127.0.0.1:4318/v1/traces")),
        ("traces: {endpoint: 'http://collector:4318/'}", Some("http://collector:4318/v1/traces")),
        ("traces: {endpoint: 'http://[::1]/own'}", Some("http://[::1]/own")),
    ] {
        let loaded = load_text(&with(yaml), folder.path());
        if cfg!(feature = "otlp") || endpoint.is_none() {
            assert_eq!(told(&loaded.problems), "", "{yaml}");
            assert_eq!(loaded.config.unwrap().traces.endpoint.as_deref(), endpoint);
        } else {
            assert!(told(&loaded.problems).contains("--features otlp"), "{}", told(&loaded.problems));
        }
    }
    for wrong in [
        "https://collector:4318",
        "collector:4318",
        "ftp://collector",
        "http://me:secret@collector",
        "http://collector:4318?x=1",
        "7",
    ] {
        let loaded = load_text(&with(&format!("traces: {{endpoint: '{wrong}'}}")), folder.path());
        assert_eq!(loaded.problems.len(), 1, "{wrong}\n{}", told(&loaded.problems));
        assert_eq!(loaded.problems[0].at, "traces.endpoint");
        assert!(!told(&loaded.problems).contains("secret"), "{}", told(&loaded.problems));
    }
}

#[test]
fn five_mistakes_are_five_problems() {
    let folder = folder();
    let document = "
listeners: [{name: a, adress: '0.0.0.0:2121'}]
tls: {certificates: [{certificate: absent.crt, key: tls.key}]}
backends: {warehouse: {address: sftp.internal}}
users: {acme: {backend: warehouse, login: {user: acme, private_key: id_ed25519, passphrase: p}, password_hash: hunter2}}
timeouts: {idle: 30}
";
    let loaded = load_text(document, folder.path());
    let at: Vec<&str> = loaded.problems.iter().map(|problem| problem.at.as_str()).collect();
    assert_eq!(
        at,
        [
            "listeners[0].adress",
            "tls.certificates[0].certificate",
            "backends.warehouse.known_hosts",
            "timeouts.idle",
            "users.acme.password_hash",
        ]
    );
    assert!(loaded.problems.iter().all(|problem| problem.hint.is_some()), "{}", told(&loaded.problems));
    // What can be looked at further is listed all the same.
    assert!(matches!(loaded.materials.as_slice(), [Material::LoginKey { at, .. }] if at == "users.acme.login"));
}

#[test]
fn the_files_it_names_are_listed() {
    let folder = folder();
    let loaded = load_text(&example(), folder.path());
    let at: Vec<&str> = loaded
        .materials
        .iter()
        .map(|material| match material {
            Material::Certificate { at, .. }
            | Material::ClientAuthorities { at, .. }
            | Material::KnownHosts { at, .. }
            | Material::LoginKey { at, .. } => at.as_str(),
        })
        .collect();
    assert_eq!(at, ["tls.certificates[0]", "backends.warehouse.known_hosts", "users.acme.login"]);
}

#[test]
fn references_stand_for_their_values_everywhere() {
    let folder = folder();
    std::fs::write(folder.path().join("number"), "17\n").unwrap();
    std::fs::write(folder.path().join("no"), "false").unwrap();
    std::fs::write(folder.path().join("name"), "known").unwrap();
    let document = format!(
        "
tls: {{certificates: [{{certificate: tls.crt, key: tls.key}}], require_control: '${{file:no}}'}}
backends: {{warehouse: {{address: 'h:${{file:number}}', known_hosts: '${{file:name}}_hosts'}}}}
users: {{acme: {{backend: warehouse, password_hash: '{HASH}', login: {{user: a, password: '<${{file:secret}}>'}}}}}}
limits: {{sessions: '${{file:number}}'}}
"
    );
    let loaded = load_text(&document, folder.path());
    assert_eq!(told(&loaded.problems), "");
    let config = loaded.config.unwrap();
    assert_eq!((config.limits.sessions, config.tls.require_control), (17, false));
    let acme = &config.users["acme"];
    assert_eq!(acme.backend.addresses[0].port, 17);
    assert!(matches!(&acme.login, Login::Mapped(MappedLogin { password: Some(password), .. })
        if password.reveal() == b"<Zx9!canary>"));
}

#[test]
fn a_configuration_that_cannot_be_read_says_so() {
    let folder = folder();
    let path = folder.path().join("config.yaml");
    assert!(told(&load(&path).problems).contains("no such file"));
    assert!(told(&load(&folder.path().join("folder")).problems).contains("folder"));
    std::fs::write(&path, b"a: b\nc: \xff\n").unwrap();
    assert!(told(&load(&path).problems).contains("not UTF-8 text: see line 2"));
    std::fs::write(&path, format!("\u{feff}{MINIMAL}")).unwrap();
    assert_eq!(told(&load(&path).problems), "");
}

#[test]
fn an_alias_cannot_fill_the_memory() {
    let mut document = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..20 {
        let items = vec![format!("*a{}", level - 1); 10].join(",");
        document.push_str(&format!("a{level}: &a{level} [{items}]\n"));
    }
    assert_eq!(load_text(&document, Path::new("")).problems.len(), 1);
    let nested = format!("a: {}{}", "[".repeat(5000), "]".repeat(5000));
    assert_eq!(load_text(&nested, Path::new("")).problems.len(), 1);
}

/// Everything that is told or printed about a configuration.
fn output(loaded: &Loaded) -> String {
    format!("{loaded:?}\n{loaded:#?}\n{}{}", told(&loaded.problems), told(&loaded.warnings))
}

#[test]
fn no_secret_is_told() {
    let folder = folder();
    for secret in [
        "Zx9!canary",
        "'${file:secret}'",
        "'x${file:secret}${env:FTPS2SFTP_NOT_SET}'",
        "'${Zx9!canary}'",
        "'${Zx9:Zx9!canary}'",
        "'${env:Zx9!canary'",
        "!!int Zx9!canary",
        "!!binary Zx9!canary",
        "!x Zx9!canary",
        "[Zx9!canary]",
        "\"Zx9!canary",
        "Zx9!canary: Zx9!canary",
        "a,Zx9!canary",
        "a,canary",
        "a,canary,canary",
        "a,Zx9!canary: x",
    ] {
        for document in [
            user(&format!("backend: warehouse, password_hash: '{HASH}', login: {{user: a, password: {secret}}}")),
            user(&format!(
                "backend: warehouse, password_hash: '{HASH}', login: {{user: a, private_key: id_ed25519, passphrase: {secret}}}"
            )),
            user(&format!("backend: warehouse, login: passthrough, password_hash: {secret}")),
            user(&format!("backend: warehouse, login: {secret}")),
        ] {
            let loaded = load_text(&document, folder.path());
            assert!(!output(&loaded).contains("canary"), "{document}\n{}", output(&loaded));
        }
    }
}

/// A value from a file or the environment may be a secret wherever it stands: no message repeats it.
#[test]
fn no_referenced_value_is_told() {
    let folder = folder();
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    let mut replaced = 0;
    for (index, line) in lines.iter().enumerate() {
        let Some((key, value)) = line.split_once(": ") else { continue };
        if key.trim_start().starts_with('#') || value.trim_start().starts_with('#') {
            continue;
        }
        let mut document: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        document[index] = format!("{key}: '${{file:secret}}'");
        let loaded = load_text(&document.join("\n"), folder.path());
        assert!(!told(&loaded.problems).contains("canary"), "{line}\n{}", told(&loaded.problems));
        replaced += 1;
    }
    assert!(replaced > 60, "{replaced}");
}

/// Every place in the example where a key of the contract stands: line, and the key's bytes in it.
fn keys() -> Vec<(usize, std::ops::Range<usize>)> {
    let is_key_byte = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    let mut keys = Vec::new();
    for (number, line) in EXAMPLE.lines().enumerate() {
        let content = line.split('#').next().unwrap();
        let start = content.len() - content.trim_start_matches([' ', '-']).len();
        let end = start + content[start..].bytes().take_while(|byte| is_key_byte(*byte)).count();
        // The names that the example's author chose are not keys of the contract.
        if end > start && content[end..].starts_with(':') && !["warehouse", "acme"].contains(&&content[start..end]) {
            keys.push((number, start..end));
        }
    }
    keys
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_renamed_key_is_named(index in any::<prop::sample::Index>(), suffix in "[a-z]{1,6}", replace in any::<bool>()) {
        let keys = keys();
        prop_assert!(keys.len() > 70, "{}", keys.len());
        let (number, range) = keys[index.index(keys.len())].clone();
        let folder = folder();
        let mut lines: Vec<String> = example().lines().map(str::to_owned).collect();
        let old = lines[number][range.clone()].to_owned();
        let new = if replace { format!("zq{suffix}") } else { format!("{old}_zq{suffix}") };
        lines[number].replace_range(range, &new);
        let loaded = load_text(&lines.join("\n"), folder.path());
        prop_assert!(loaded.config.is_none());
        // Without a value, beside secrets, it may be a piece of one: then its name is not told, only where it is.
        let may_be_secret = example().lines().nth(number).is_some_and(|line| line.contains("client_certificate: null"));
        let named = |problem: &Problem| match may_be_secret {
            true => problem.at == "users.acme" && problem.what.contains("unknown key, not shown"),
            false => problem.at.ends_with(&new) && problem.what == "unknown key" && problem.hint.is_some(),
        };
        prop_assert!(loaded.problems.iter().any(named), "{old} → {new}\n{}", told(&loaded.problems));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in any::<String>()) {
        let loaded = load_text(&text, Path::new("/nonexistent"));
        prop_assert_eq!(loaded.config.is_some(), loaded.problems.is_empty());
    }

    #[test]
    fn no_yaml_like_text_panics(text in "([a-z]{0,3}|users|backends|listeners|[ \n:,{}\\[\\]&*!|>'\"#%@`$é-]|\\$\\{env:|<<: ){0,60}") {
        let loaded = load_text(&text, Path::new("/nonexistent"));
        prop_assert_eq!(loaded.config.is_some(), loaded.problems.is_empty());
    }

    #[test]
    fn no_change_of_the_example_panics(at in any::<prop::sample::Index>(), length in 0_usize..40, text in any::<String>()) {
        let mut characters: Vec<char> = EXAMPLE.chars().collect();
        let start = at.index(characters.len());
        let end = (start + length).min(characters.len());
        characters.splice(start..end, text.chars());
        let document: String = characters.into_iter().collect();
        let loaded = load_text(&document, Path::new("/nonexistent"));
        prop_assert_eq!(loaded.config.is_some(), loaded.problems.is_empty());
    }

    #[test]
    fn no_bytes_in_the_file_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, bytes).unwrap();
        let loaded = load(&path);
        prop_assert_eq!(loaded.config.is_some(), loaded.problems.is_empty());
    }
}

#[test]
fn client_certificates_and_their_users_fit_together_or_are_refused() {
    let folder = folder();
    let asked = "tls: {certificates: [{certificate: tls.crt, key: tls.key}], client_certificates: optional, client_ca: ca.pem}\n\
                 backends: {b: {address: h, known_hosts: known_hosts}}\nusers: {acme: {backend: b, USER}}\n";
    let mapped = "login: {user: u, password: p}";
    let load = |text: &str| {
        let loaded = load_text(text, folder.path());
        (told(&loaded.problems), loaded.config)
    };
    let rule = "client_certificate: {subject: 'CN=acme'}";
    let (problems, config) = load(&asked.replace("USER", &format!("{mapped}, {rule}")));
    assert_eq!(problems, "");
    let config = config.unwrap();
    assert!(!config.tls.client_certificates.as_ref().unwrap().required);
    assert!(config.users["acme"].client_certificate.is_some() && config.users["acme"].password_hash.is_none());
    for (from, to, at) in [
        // Passthrough has no password to pass.
        (
            "USER",
            "login: passthrough, client_certificate: {subject: 'CN=a'}".to_owned(),
            "users.acme.client_certificate",
        ),
        ("USER", format!("{mapped}, client_certificate: {{}}"), "users.acme.client_certificate"),
        ("USER", format!("{mapped}, client_certificate: {{subject: acme}}"), "users.acme.client_certificate.subject"),
        (
            "USER",
            format!("{mapped}, client_certificate: {{fingerprints: [12]}}"),
            "users.acme.client_certificate.fingerprints[0]",
        ),
        (
            "USER",
            format!("{mapped}, client_certificate: {{fingerprints: []}}"),
            "users.acme.client_certificate.fingerprints",
        ),
        ("USER", format!("{mapped}, client_certificat: {{}}"), "users.acme.client_certificat"),
        ("USER", mapped.to_owned(), "users.acme.password_hash"),
        ("USER", format!("{mapped}, {rule}, from: []"), "users.acme.from"),
        ("USER", format!("{mapped}, {rule}, from: [10.0.0.1/8]"), "users.acme.from[0]"),
        ("USER", format!("{mapped}, {rule}, limits: {{rate: 10MiB}}"), "users.acme.limits.rate"),
        ("USER", format!("{mapped}, {rule}, limits: {{rate: 1B/s}}"), "users.acme.limits.rate"),
        (", client_ca: ca.pem", String::new(), "tls.client_ca"),
        ("client_ca: ca.pem", "client_ca: missing.pem".to_owned(), "tls.client_ca"),
        ("client_certificates: optional, client_ca: ca.pem", "client_ca: ca.pem".to_owned(), "tls.client_ca"),
        ("optional", "maybe".to_owned(), "tls.client_certificates"),
        (", client_certificates: optional, client_ca: ca.pem", String::new(), "users.acme.client_certificate"),
    ] {
        let text = asked.replace(from, &to).replace("USER", &format!("{mapped}, {rule}"));
        let loaded = load_text(&text, folder.path());
        assert_eq!(loaded.problems.len(), 1, "{to}: {:#?}", loaded.problems);
        assert_eq!(loaded.problems[0].at, at, "{to}: {:#?}", loaded.problems);
        assert!(loaded.problems[0].hint.is_some());
    }
    // Everybody would be the one with the certificate.
    let text = asked.replace("acme", "'*'").replace("USER", &format!("login: passthrough, {rule}"));
    assert!(load(&text).0.contains("users.\"*\".client_certificate"));
}

#[test]
fn only_anonymous_can_be_without_a_password_and_only_where_it_says_so() {
    let folder = folder();
    let load = |entry: &str| load_text(&user(entry).replace("acme:", "anonymous:"), folder.path());
    let mapped = "backend: warehouse, login: {user: u, password: p}";
    let loaded = load(&format!("{mapped}, password_hash: null"));
    assert_eq!(told(&loaded.problems), "");
    assert_eq!(loaded.warnings.len(), 1);
    let anonymous = &loaded.config.unwrap().users["anonymous"];
    assert!(anonymous.takes_any_password);
    assert!(anonymous.permissions.read && !anonymous.permissions.write && !anonymous.permissions.delete);
    let loaded = load(&format!("{mapped}, password_hash: null, permissions: all"));
    assert!(loaded.config.unwrap().users["anonymous"].permissions.write);
    let forgotten = load(mapped);
    assert_eq!(forgotten.problems[0].at, "users.anonymous.password_hash");
    assert!(forgotten.problems[0].hint.as_ref().unwrap().contains("null"));
    // With a hash or by passthrough it is a name like any other.
    let hashed = load(&format!("{mapped}, password_hash: '{HASH}'")).config.unwrap();
    assert!(!hashed.users["anonymous"].takes_any_password && hashed.users["anonymous"].permissions.write);
    let passed = load("backend: warehouse, login: passthrough, password_hash: null").config.unwrap();
    assert!(!passed.users["anonymous"].takes_any_password);
    let other = load_text(&user(&format!("{mapped}, password_hash: null")), folder.path());
    assert_eq!(other.problems[0].at, "users.acme.password_hash");
}

#[test]
fn bounds_on_failed_logins_may_be_turned_off() {
    let folder = folder();
    let limits = "limits: {failed_logins: {per_session: 2, per_ip: null, per_user: 7, window: 1m, ban: 1h}, commands_per_second: 5}";
    let limits = load_text(&with(limits), folder.path()).config.unwrap().limits;
    let failed = limits.failed_logins;
    assert_eq!((failed.per_session, failed.per_ip, failed.per_user), (2, None, Some(7)));
    assert_eq!((failed.window, failed.ban), (Duration::from_secs(60), Duration::from_secs(3600)));
    assert_eq!(limits.commands_per_second, 5);
    for (key, value) in [("per_ip", "0"), ("per_user", "x"), ("window", "5"), ("ban", "1ms")] {
        let loaded = load_text(&with(&format!("limits: {{failed_logins: {{{key}: {value}}}}}")), folder.path());
        assert_eq!(loaded.problems.len(), 1, "{key}");
        assert_eq!(loaded.problems[0].at, format!("limits.failed_logins.{key}"));
    }
}
