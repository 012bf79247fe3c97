//! The closed sets of label values. A label whose values come from outside would grow without bound.

/// Declares a label: an enum whose variants are all the values there can be.
macro_rules! label {
    ($(#[$about:meta])* $name:ident { $($(#[$about_value:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[$about_value])* $variant,)+
        }

        impl $name {
            /// Every value, in order of declaration.
            pub const VALUES: &'static [&'static str] = &[$($text),+];

            /// The value as it stands in the exposition.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl From<$name> for metrics::SharedString {
            fn from(value: $name) -> Self {
                metrics::SharedString::const_str(value.as_str())
            }
        }
    };
}

label! {
    /// What became of a control connection when it was accepted.
    ConnectionResult {
        /// A session began.
        Accepted = "accepted",
        /// A bound on sessions was reached.
        Limit = "limit",
        /// The gateway is stopping.
        Draining = "draining",
        /// The PROXY header was missing or wrong.
        ProxyHeader = "proxy_header",
    }
}

label! {
    /// What a reload takes over, each by itself.
    ReloadObject {
        /// The rest of the configuration file.
        Configuration = "config",
        /// Certificates and what else stands under `tls`.
        Tls = "tls",
        /// Who vouches for client certificates, and what is revoked.
        ClientAuthorities = "client_ca",
        /// Backends.
        Backends = "backends",
        /// Host keys of backends.
        KnownHosts = "known_hosts",
        /// Users and their policy.
        Users = "users",
    }
}

impl ReloadObject {
    /// Every object.
    pub const ALL: [Self; 6] =
        [Self::Configuration, Self::Tls, Self::ClientAuthorities, Self::Backends, Self::KnownHosts, Self::Users];
}

label! {
    /// How a reload ended.
    ReloadResult {
        /// What changed is in use.
        Success = "success",
        /// The last good one stays in use.
        Failed = "failed",
    }
}

label! {
    /// What a session is doing.
    SessionState {
        /// The TLS handshake of an implicit listener.
        Handshake = "handshake",
        /// Not logged in yet.
        Login = "login",
        /// Logged in, no transfer.
        Idle = "idle",
        /// A transfer runs.
        Transfer = "transfer",
    }
}

label! {
    /// Which connection a TLS handshake was on.
    Channel {
        /// The control connection.
        Control = "control",
        /// A data connection.
        Data = "data",
    }
}

label! {
    /// The version a TLS handshake agreed on.
    TlsVersion {
        /// TLS 1.2 (RFC 5246).
        Tls12 = "1.2",
        /// TLS 1.3 (RFC 8446).
        Tls13 = "1.3",
        /// It failed before there was one.
        None = "none",
    }
}

label! {
    /// Why the TLS of a client cannot be served.
    TlsRefusal {
        /// Its versions are too old.
        Version = "version",
        /// No cipher suite, group or signature in common.
        Suite = "suite",
        /// It wants another protocol over TLS.
        Protocol = "protocol",
        /// It does not speak TLS.
        NotTls = "not_tls",
    }
}

label! {
    /// The highest version of TLS that a client offers.
    OfferedVersion {
        /// SSL 2.0.
        Ssl2 = "ssl2",
        /// SSL 3.0.
        Ssl3 = "ssl3",
        /// TLS 1.0.
        Tls10 = "1.0",
        /// TLS 1.1.
        Tls11 = "1.1",
        /// TLS 1.2.
        Tls12 = "1.2",
        /// TLS 1.3.
        Tls13 = "1.3",
        /// There is none.
        None = "none",
    }
}

label! {
    /// The best kind of cipher suite that a client offers.
    OfferedSuite {
        /// Ephemeral keys on a curve and an authenticated cipher.
        EcdheAead = "ecdhe_aead",
        /// Ephemeral keys on a curve and CBC or RC4.
        EcdheCbc = "ecdhe_cbc",
        /// Ephemeral keys in a finite field.
        Dhe = "dhe",
        /// The key encrypted to the certificate.
        Rsa = "rsa",
        /// Another.
        Other = "other",
        /// There is none.
        None = "none",
    }
}

label! {
    /// How a TLS handshake ended.
    HandshakeResult {
        /// A full handshake.
        Full = "full",
        /// A resumed session.
        Resumed = "resumed",
        /// No connection came of it.
        Failed = "failed",
    }
}

label! {
    /// What a client proved itself with.
    LoginMethod {
        /// USER and PASS.
        Password = "password",
        /// A client certificate.
        Certificate = "cert",
        /// Both.
        Both = "both",
    }
}

label! {
    /// How a login ended.
    LoginResult {
        /// Logged in, backend included.
        Success = "success",
        /// The name or the password is wrong, by our own record.
        BadCredentials = "bad_credentials",
        /// Known, but not allowed here or now.
        Denied = "denied",
        /// The backend refused the credentials.
        BackendDenied = "backend_denied",
        /// The backend refused the login of the gateway's own that a user is mapped to.
        BackendRefusedUs = "backend_refused_us",
        /// The backend could not be asked.
        BackendUnavailable = "backend_unavailable",
        /// Refused unasked, because of earlier failures.
        Throttled = "throttled",
    }
}

label! {
    /// The first digit of a final reply (RFC 959 §4.2).
    ReplyClass {
        /// Completed.
        Completion = "2xx",
        /// Go on.
        Intermediate = "3xx",
        /// Not now.
        Transient = "4xx",
        /// Not so.
        Permanent = "5xx",
    }
}

impl ReplyClass {
    /// The class of a final reply code.
    pub const fn of(code: u16) -> Self {
        match code / 100 {
            // A preliminary reply is not final; counted here, the mistake at least is no new series.
            0..=2 => Self::Completion,
            3 => Self::Intermediate,
            4 => Self::Transient,
            _ => Self::Permanent,
        }
    }
}

label! {
    /// Commands that cost about the same, for the latency of each kind.
    CommandGroup {
        /// Login and TLS.
        Auth = "auth",
        /// Working directory.
        Navigate = "navigate",
        /// Directory listings.
        List = "list",
        /// Facts about one path.
        Stat = "stat",
        /// Changes of the tree: delete, rename, make, set.
        Modify = "modify",
        /// Parameters and data endpoints.
        Setup = "setup",
        /// The rest, transfers of files included.
        Other = "other",
    }
}

label! {
    /// The command that set a data connection up.
    DataMode {
        /// PASV (RFC 959).
        Pasv = "pasv",
        /// EPSV (RFC 2428).
        Epsv = "epsv",
        /// PORT (RFC 959).
        Port = "port",
        /// EPRT (RFC 2428).
        Eprt = "eprt",
    }
}

label! {
    /// How the set-up of a data connection ended.
    DataConnectionResult {
        /// It can carry data.
        Ok = "ok",
        /// No connection came.
        Timeout = "timeout",
        /// It came from another address than the control connection.
        WrongPeer = "wrong_peer",
        /// It did not resume the control connection's TLS session.
        NotResumed = "not_resumed",
        /// Its TLS handshake failed.
        TlsError = "tls_error",
        /// No passive port was free.
        NoPort = "no_port",
        /// The client refused ours (active mode).
        Refused = "refused",
    }
}

label! {
    /// What a transfer carries, seen from the client.
    Direction {
        /// STOR, STOU, APPE.
        Upload = "upload",
        /// RETR.
        Download = "download",
        /// LIST, NLST, MLSD.
        List = "list",
    }
}

label! {
    /// How a transfer ended.
    TransferResult {
        /// 226.
        Success = "success",
        /// ABOR, or the client left.
        ClientAbort = "client_abort",
        /// The data connection broke, or ended without close_notify.
        ClientError = "client_error",
        /// The backend failed.
        BackendError = "backend_error",
        /// Nothing moved for too long.
        Timeout = "timeout",
        /// Not allowed.
        Denied = "denied",
        /// No room on the backend.
        Quota = "quota",
        /// Cut when the drain deadline passed.
        Drained = "drained",
    }
}

label! {
    /// Which leg bytes were counted on.
    Side {
        /// The data connection.
        Client = "client",
        /// The SFTP channel.
        Backend = "backend",
    }
}

label! {
    /// How an attempt to reach a backend ended.
    BackendConnectResult {
        /// An SFTP session is open.
        Ok = "ok",
        /// Its name does not resolve.
        Dns = "dns",
        /// The connection was refused or unreachable.
        Refused = "refused",
        /// It took too long.
        Timeout = "timeout",
        /// The host key is not the one expected.
        HostKey = "host_key",
        /// The credentials were refused.
        Auth = "auth",
        /// It does not speak SSH or SFTP as it should.
        Protocol = "protocol",
    }
}

label! {
    /// A part of connecting to a backend.
    ConnectPhase {
        /// The TCP connection.
        Tcp = "tcp",
        /// Version and key exchange.
        KeyExchange = "kex",
        /// User authentication.
        Login = "auth",
        /// The channel and SSH_FXP_INIT.
        Sftp = "sftp",
    }
}

label! {
    /// What an SFTP request asks for.
    SftpOperation {
        /// OPEN.
        Open = "open",
        /// CLOSE.
        Close = "close",
        /// READ.
        Read = "read",
        /// WRITE.
        Write = "write",
        /// STAT, LSTAT and FSTAT.
        Stat = "stat",
        /// SETSTAT and FSETSTAT.
        Setstat = "setstat",
        /// OPENDIR.
        Opendir = "opendir",
        /// READDIR.
        Readdir = "readdir",
        /// REMOVE.
        Remove = "remove",
        /// MKDIR.
        Mkdir = "mkdir",
        /// RMDIR.
        Rmdir = "rmdir",
        /// REALPATH.
        Realpath = "realpath",
        /// RENAME.
        Rename = "rename",
        /// READLINK.
        Readlink = "readlink",
        /// EXTENDED, such as posix-rename@openssh.com.
        Extended = "extended",
    }
}

label! {
    /// How a backend answered an SFTP request.
    SftpStatus {
        /// As asked.
        Ok = "ok",
        /// There is no more of it.
        Eof = "eof",
        /// There is no such file.
        NoSuchFile = "no_such_file",
        /// It may not be done.
        Denied = "denied",
        /// It failed, and the server does not say why.
        Failure = "failure",
        /// The server cannot do it.
        Unsupported = "unsupported",
        /// Not at all: the session was lost before.
        Lost = "lost",
        /// Otherwise.
        Other = "other",
    }
}

label! {
    /// What kind of work an SFTP request is.
    RequestClass {
        /// Names and attributes.
        Meta = "meta",
        /// File contents.
        Data = "data",
        /// Directories.
        List = "list",
    }
}

label! {
    /// What an SSH connection to a backend is doing.
    ConnectionState {
        /// It is being made.
        Connecting = "connecting",
        /// It carries transfers.
        Active = "active",
        /// It carries none.
        Idle = "idle",
    }
}

label! {
    /// How a session ended that was open when the gateway was told to stop.
    DrainOutcome {
        /// In its own time.
        Clean = "clean",
        /// It was ended.
        Forced = "forced",
    }
}

label! {
    /// Where audit records go, besides the log.
    AuditSink {
        /// A file of JSON lines.
        File = "file",
        /// A file as wu-ftpd writes it.
        Xferlog = "xferlog",
    }
}

label! {
    /// What became of an audit record.
    AuditResult {
        /// Written.
        Ok = "ok",
        /// Lost.
        Dropped = "dropped",
    }
}

label! {
    /// What FTPS clients use that a move to SFTP has to take care of.
    LegacyFeature {
        /// TLS 1.2.
        Tls12 = "tls12",
        /// TLS from the first byte.
        ImplicitTls = "implicit_tls",
        /// PASV, and never EPSV.
        PasvOnly = "pasv_only",
        /// PORT or EPRT.
        ActiveMode = "active_mode",
        /// Transfers in TYPE A.
        Ascii = "ascii",
        /// Data connections that do not resume the session's TLS.
        NoResumption = "no_resumption",
        /// Names in another charset than UTF-8.
        NonUtf8 = "non_utf8",
        /// Logins in clear, which were refused.
        PlainRefused = "plain_refused",
    }
}
