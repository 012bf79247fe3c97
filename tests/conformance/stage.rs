//! What the cases are played on: gateways over a backend, and for each desk users and a directory of its own, so that
//! many cases run at the same time.

use std::borrow::Cow;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, chown};
use std::sync::Arc;
use std::time::Duration;

use ftps2sftp::sftp::StatusCode;

use crate::dialogue::Target;
use crate::place::Place;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, Setup};
use crate::support::scripted_sftp::{Profile, Script, Then, When};
use crate::support::scripted_sshd::ScriptedSshd;
use crate::support::sshd::{self, Sshd};
use crate::table::{Case, Fault};

/// Cases that run at the same time.
const DESKS: usize = 12;

/// How long a gateway on a busy machine may take for a reply.
const PATIENCE: Duration = Duration::from_secs(30);

/// Of [`MAPPED_PASSWORD`], under cheap parameters.
const HASH: &str = include_str!("../it/support/mapped_password.hash");

/// The user without `as:`, who may do everything.
const USUAL: &str = "usual";

/// Every user, and what is different about it in the configuration.
const USERS: &[(&str, &str)] = &[
    (USUAL, ""),
    ("read-only", "permissions: read-only"),
    ("write-only", "permissions: write-only"),
    ("no-list", "permissions: [read, write, overwrite, delete, rename, mkdir, chmod]"),
    ("no-read", "permissions: [list, write, overwrite, delete, rename, mkdir, chmod]"),
    ("no-write", "permissions: [list, read, overwrite, delete, rename, mkdir, chmod]"),
    ("no-overwrite", "permissions: [list, read, write, delete, rename, mkdir, chmod]"),
    ("no-delete", "permissions: [list, read, write, overwrite, rename, mkdir, chmod]"),
    ("no-rename", "permissions: [list, read, write, overwrite, delete, mkdir, chmod]"),
    ("no-mkdir", "permissions: [list, read, write, overwrite, delete, rename, chmod]"),
    ("no-chmod", "permissions: [list, read, write, overwrite, delete, rename, mkdir]"),
    ("data-optional", "policy: {data_tls: optional}"),
    ("resuming", "policy: {data_tls_resumption: require}"),
    ("binary", "policy: {ascii: binary}"),
    ("no-ascii", "policy: {ascii: refuse}"),
    ("following", "policy: {symlinks: follow}"),
    ("direct", "policy: {upload: direct}"),
    ("keeping", "policy: {broken_upload: keep}"),
    ("lax", "policy: {upload_eof: lax}"),
    ("masked", "policy: {umask: \"077\"}"),
    ("no-hash", "policy: {hash: []}"),
    ("md5-only", "policy: {hash: [MD5]}"),
    ("space", "policy: {available_space: true}"),
    ("away", ""),
    ("refused", ""),
];

/// Requests that a `fault:` may name.
const REQUESTS: &[&str] = &[
    "OPEN",
    "CLOSE",
    "READ",
    "WRITE",
    "LSTAT",
    "FSTAT",
    "SETSTAT",
    "FSETSTAT",
    "OPENDIR",
    "READDIR",
    "REMOVE",
    "MKDIR",
    "RMDIR",
    "REALPATH",
    "STAT",
    "RENAME",
    "posix-rename@openssh.com",
    "statvfs@openssh.com",
    "fsync@openssh.com",
];

/// The servers, as long as they run.
pub(crate) struct Bench {
    pub(crate) desks: Vec<Desk>,
    _gateways: [Gateway; 2],
    _sshd: Option<Sshd>,
    _scripted: Vec<Arc<ScriptedSshd>>,
}

/// Where one case at a time is carried out.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) place: Option<Place>,
    kind: DeskKind,
    scripted: Option<Arc<ScriptedSshd>>,
}

#[derive(Clone)]
enum DeskKind {
    /// Addresses of the usual gateway and of the lenient one; users end in the number.
    Ours {
        usual: [SocketAddr; 2],
        lenient: [SocketAddr; 2],
        number: usize,
    },
    Elsewhere(Target),
}

impl Bench {
    /// Over OpenSSH. The backend shares connections, or each case would wait for a login of its own.
    pub(crate) async fn over_sshd() -> Self {
        let sshd = Sshd::start().await;
        let files = sshd.files();
        let metadata = files.metadata().unwrap();
        let owner = (metadata.uid(), metadata.gid());
        let mut setup = Setup::backend_with(&sshd, "connections: shared");
        let mut places = Vec::new();
        for number in 0..DESKS {
            let (desk, root) = (files.join(format!("desk{number}")), files.join(format!("desk{number}/root")));
            for directory in [&desk, &root] {
                fs::create_dir(directory).unwrap();
                chown(directory, Some(owner.0), Some(owner.1)).unwrap();
            }
            add_users(&mut setup, number, "files", root.to_str().unwrap());
            places.push(Place::Folder { root, outside: Some(desk.join("outside")), owner });
        }
        let mut bench = Self::before(setup, places.into_iter().map(|place| (place, None)).collect());
        bench._sshd = Some(sshd);
        bench
    }

    /// Over a scripted server for each desk, so that it can misbehave for one case alone.
    pub(crate) async fn over_scripted_server() -> Self {
        let (mut setup, mut places, mut servers) = (Setup::default(), Vec::new(), Vec::new());
        let (root, outside) = ("/home/user/root", "/home/user/outside");
        for number in 0..DESKS {
            let server = Arc::new(ScriptedSshd::start(Script::new(Profile::openssh())).await);
            let backend = format!("scripted{number}");
            let (address, fingerprint) = server.address_and_fingerprint();
            let line = format!("  {backend}: {{address: \"{address}\", host_keys: [\"{fingerprint}\"]}}\n");
            setup.backends.push_str(&line);
            add_users(&mut setup, number, &backend, root);
            places.push((Place::Scripted { sftp: server.sftp().clone(), root, outside }, Some(Arc::clone(&server))));
            servers.push(server);
        }
        let mut bench = Self::before(setup, places);
        bench._scripted = servers;
        bench
    }

    fn before(mut setup: Setup, places: Vec<(Place, Option<Arc<ScriptedSshd>>)>) -> Self {
        // Nobody listens on port 1 of a machine of our days.
        setup.backends.push_str("  away: {address: \"127.0.0.1:1\", host_keys: [\"SHA256:");
        setup.backends.push_str(&format!("{}\"]}}\n", "A".repeat(43)));
        setup.level = Some("info".to_owned());
        let usual = Gateway::start(&setup);
        setup.tls.push_str("  require_control: false\n");
        let lenient = Gateway::start(&setup.with("active: {enabled: true}\npolicy: {data_tls: optional}\n"));
        let addresses = |gateway: &Gateway| [gateway.explicit, gateway.implicit];
        let desks = places.into_iter().enumerate().map(|(number, (place, scripted))| {
            let kind = DeskKind::Ours { usual: addresses(&usual), lenient: addresses(&lenient), number };
            Desk { place: Some(place), kind, scripted }
        });
        Self { desks: desks.collect(), _gateways: [usual, lenient], _sshd: None, _scripted: Vec::new() }
    }
}

fn add_users(setup: &mut Setup, number: usize, backend: &str, root: &str) {
    for (user, lines) in USERS {
        let backend = if *user == "away" { "away" } else { backend };
        let password = if *user == "refused" { "not the password" } else { sshd::PASSWORD };
        setup.users.push_str(&format!(
            "  {user}{number}:\n    password_hash: \"{}\"\n    backend: {backend}\n    \
             login: {{user: {}, password: \"{password}\"}}\n    root: \"{root}\"\n    {lines}\n",
            HASH.trim(),
            sshd::USER,
        ));
    }
}

impl Desk {
    /// At a server that is not ours. Without a place no files are made or looked at.
    pub(crate) fn elsewhere(target: Target, place: Option<Place>) -> Self {
        Self { place, kind: DeskKind::Elsewhere(target), scripted: None }
    }

    /// Why a case cannot be carried out here.
    pub(crate) fn objection(&self, case: &Case) -> Option<&'static str> {
        let state = &case.state;
        match &self.kind {
            DeskKind::Ours { .. } if state.scripted && self.scripted.is_none() => Some("want the scripted server"),
            DeskKind::Ours { .. } if state.real && self.scripted.is_some() => Some("want a real file system"),
            DeskKind::Ours { .. } => None,
            DeskKind::Elsewhere(_) if state.user.is_some() => Some("want a user with a configuration of its own"),
            DeskKind::Elsewhere(_) if state.lenient => Some("want another configuration of the gateway"),
            DeskKind::Elsewhere(_) if state.scripted => Some("want the scripted server"),
            DeskKind::Elsewhere(target) if state.implicit && target.implicit.is_none() => {
                Some("want the port for implicit TLS")
            }
            DeskKind::Elsewhere(target) if !state.implicit && target.explicit.is_none() => {
                Some("want the port for explicit TLS")
            }
            DeskKind::Elsewhere(_)
                if self.place.is_none() && state.stage == crate::table::Stage::LoggedIn && !case.files.is_empty() =>
            {
                Some("want --root")
            }
            DeskKind::Elsewhere(_) if case.files.iter().any(|file| file.contains("../outside")) => {
                Some("want a directory beside the user's")
            }
            DeskKind::Elsewhere(_) => None,
        }
    }

    /// The server of a case, and its user.
    pub(crate) fn target(&self, case: &Case) -> Cow<'_, Target> {
        match &self.kind {
            DeskKind::Ours { usual, lenient, number } => {
                let [explicit, implicit] = if case.state.lenient { lenient } else { usual };
                Cow::Owned(Target {
                    explicit: Some(*explicit),
                    implicit: Some(*implicit),
                    user: format!("{}{number}", case.state.user.as_deref().unwrap_or(USUAL)),
                    password: MAPPED_PASSWORD.to_owned(),
                    patience: PATIENCE,
                })
            }
            DeskKind::Elsewhere(target) => Cow::Borrowed(target),
        }
    }

    /// Before the login.
    pub(crate) fn prepare(&self, case: &Case) {
        if let Some(scripted) = &self.scripted {
            scripted.sftp().script().profile = if case.state.bare { Profile::bare() } else { Profile::openssh() };
        }
    }

    /// From here on requests fail and room is short, as the case says.
    pub(crate) fn misbehave(&self, case: &Case) -> Result<(), String> {
        let Some(scripted) = &self.scripted else { return Ok(()) };
        if let Some(room) = case.state.room {
            let plenty = 1 << 40;
            let mut tree = scripted.sftp().tree();
            tree.capacity = Some(plenty);
            tree.capacity = Some(plenty - tree.room() + room);
        }
        let mut faults = Vec::new();
        for (request, fault) in &case.state.faults {
            let known = REQUESTS.iter().find(|known| *known == request);
            let when = When::Every(known.ok_or_else(|| format!("no request is called {request}"))?);
            faults.push(match fault {
                Fault::Status(code) => (when, Then::Fail(StatusCode(*code))),
                Fault::Lost => (when, Then::Disconnect),
                Fault::DoneAndLost => (when, Then::DoneAndDisconnect),
            });
        }
        let mut script = scripted.sftp().script();
        script.profile.refined_codes = !faults.is_empty();
        script.faults = faults;
        Ok(())
    }

    /// Ends that.
    pub(crate) fn behave(&self) {
        if let Some(scripted) = &self.scripted {
            scripted.sftp().script().faults.clear();
        }
    }
}
