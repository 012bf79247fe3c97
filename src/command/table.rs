//! The command table: one row per command, offered or not. Everything that depends on a verb is here.

use crate::ftp::digest::Algorithm;

use super::spec::{CommandSpec, DuringTransfer, Effect, Feature, Handler, PendingEffect, Theme};
use super::{
    access, attributes, digest, file, information, listing, navigation, parameters, port, security, store, transfer,
};

/// A row that waits its turn, needs TLS where TLS is required, opens no data connection and keeps REST.
const ORDINARY: CommandSpec = CommandSpec {
    verb: "",
    aliases: &[],
    syntax: "",
    reference: "",
    theme: Theme::Other,
    feature: Feature::Silent,
    before_tls: false,
    during_transfer: DuringTransfer::Waits,
    uses_data: false,
    is_long: false,
    pending: PendingEffect::KeepsRestart,
    effect: Effect::Free,
    replies: &[],
    handler: Handler::NotOffered(502, "Command not implemented"),
};

macro_rules! anytime {
    ($handler:path) => {
        Handler::Anytime(|session, services, argument| Box::pin($handler(session, services, argument)))
    };
}

macro_rules! logged_in {
    ($handler:path) => {
        Handler::LoggedIn(|session, services, argument| Box::pin($handler(session, services, argument)))
    };
}

/// An X digest: each verb is its own algorithm.
macro_rules! digest {
    ($algorithm:expr) => {
        Handler::LoggedIn(|session, services, argument| {
            Box::pin(digest::of_one_algorithm(session, services, argument, $algorithm))
        })
    };
}

const fn x_digest(
    verb: &'static str,
    aliases: &'static [&'static str],
    syntax: &'static str,
    algorithm: Algorithm,
    handler: Handler,
) -> CommandSpec {
    CommandSpec {
        verb,
        aliases,
        syntax,
        reference: "de facto",
        // A whole file is read: as HASH, and not as what is answered from a file's attributes.
        theme: Theme::Other,
        feature: Feature::WhereOffered(verb, algorithm),
        is_long: true,
        effect: Effect::Reads,
        replies: &[250, 426, 450, 501, 502, 550],
        handler,
        ..ORDINARY
    }
}

const fn not_offered(verb: &'static str, syntax: &'static str, reference: &'static str) -> CommandSpec {
    CommandSpec { verb, syntax, reference, replies: &[502], before_tls: true, ..ORDINARY }
}

/// All commands. Every row may also be refused with 500 (line), 530 (login, TLS) or 550 (permission) by the gate.
#[rustfmt::skip]
pub const TABLE: &[CommandSpec] = &[
    // Access control
    CommandSpec { verb: "USER", theme: Theme::Access, syntax: "USER <name>", reference: "RFC 959 §4.1.1", pending: PendingEffect::ClearsAll,
        replies: &[232, 331, 421, 501, 530], handler: anytime!(access::user), ..ORDINARY },
    CommandSpec { verb: "PASS", theme: Theme::Access, syntax: "PASS <password>", reference: "RFC 959 §4.1.1",
        replies: &[202, 230, 421, 503, 530], handler: anytime!(access::pass), ..ORDINARY },
    CommandSpec { verb: "ACCT", theme: Theme::Access, syntax: "ACCT <account>", reference: "RFC 959 §4.1.1",
        replies: &[202, 503], handler: anytime!(access::acct), ..ORDINARY },
    CommandSpec { verb: "QUIT", syntax: "QUIT", reference: "RFC 959 §4.1.1", before_tls: true,
        during_transfer: DuringTransfer::Quits, replies: &[221], handler: anytime!(access::quit), ..ORDINARY },

    CommandSpec { verb: "HOST", theme: Theme::Access, syntax: "HOST <name>", reference: "RFC 7151 §3", feature: Feature::Line("HOST"),
        before_tls: true, replies: &[220, 501, 503, 504], handler: anytime!(access::host), ..ORDINARY },

    // Security (RFC 2228, RFC 4217)
    CommandSpec { verb: "AUTH", theme: Theme::Access, syntax: "AUTH TLS", reference: "RFC 4217 §4", feature: Feature::Line("AUTH TLS"),
        before_tls: true, pending: PendingEffect::ClearsAll, replies: &[234, 501, 503, 504],
        handler: anytime!(security::auth), ..ORDINARY },
    CommandSpec { verb: "PBSZ", theme: Theme::Setup, syntax: "PBSZ 0", reference: "RFC 4217 §8", feature: Feature::Line("PBSZ"),
        before_tls: true, replies: &[200, 501, 503], handler: anytime!(security::pbsz), ..ORDINARY },
    CommandSpec { verb: "PROT", theme: Theme::Setup, syntax: "PROT P|C", reference: "RFC 4217 §9", feature: Feature::Line("PROT"),
        before_tls: true, replies: &[200, 501, 503, 504, 534, 536], handler: anytime!(security::prot), ..ORDINARY },

    CommandSpec { verb: "CCC", theme: Theme::Setup, syntax: "CCC", reference: "RFC 2228 §3", before_tls: true,
        replies: &[200, 533, 534], handler: anytime!(security::ccc), ..ORDINARY },

    // Navigation
    CommandSpec { verb: "PWD", aliases: &["XPWD"], theme: Theme::Navigation, syntax: "PWD", reference: "RFC 959 §4.1.3",
        replies: &[257], handler: logged_in!(navigation::pwd), ..ORDINARY },
    CommandSpec { verb: "CWD", aliases: &["XCWD"], theme: Theme::Navigation, syntax: "CWD <pathname>", reference: "RFC 959 §4.1.1",
        feature: Feature::Line("TVFS"), replies: &[250, 450, 501, 502, 550],
        handler: logged_in!(navigation::cwd), ..ORDINARY },
    CommandSpec { verb: "CDUP", aliases: &["XCUP"], theme: Theme::Navigation, syntax: "CDUP", reference: "RFC 959 §4.1.1",
        replies: &[250, 450, 502, 550], handler: logged_in!(navigation::cdup), ..ORDINARY },

    // Transfer parameters
    CommandSpec { verb: "TYPE", theme: Theme::Setup, syntax: "TYPE A [N] | I | L 8", reference: "RFC 959 §4.1.2",
        replies: &[200, 501, 504], handler: logged_in!(parameters::transfer_type), ..ORDINARY },
    CommandSpec { verb: "MODE", theme: Theme::Setup, syntax: "MODE S", reference: "RFC 959 §4.1.2",
        replies: &[200, 501, 504], handler: logged_in!(parameters::mode), ..ORDINARY },
    CommandSpec { verb: "STRU", theme: Theme::Setup, syntax: "STRU F", reference: "RFC 959 §4.1.2",
        replies: &[200, 501, 504], handler: logged_in!(parameters::structure), ..ORDINARY },
    CommandSpec { verb: "OPTS", theme: Theme::Setup, syntax: "OPTS UTF8 ON | MLST <facts> | HASH [algorithm]", reference: "RFC 2389 §4", before_tls: true,
        feature: Feature::Line("UTF8"), replies: &[200, 501, 530], handler: anytime!(parameters::options), ..ORDINARY },

    // Data connections
    CommandSpec { verb: "PASV", aliases: &["P@SW"], theme: Theme::Setup, syntax: "PASV", reference: "RFC 959 §4.1.2", replies: &[227, 421, 425, 501, 522],
        handler: logged_in!(port::pasv), ..ORDINARY },
    CommandSpec { verb: "EPSV", theme: Theme::Setup, syntax: "EPSV [1|2|ALL]", reference: "RFC 2428 §3", feature: Feature::Line("EPSV"),
        replies: &[200, 229, 425, 501, 522], handler: logged_in!(port::epsv), ..ORDINARY },

    CommandSpec { verb: "PORT", theme: Theme::Setup, syntax: "PORT <h1,h2,h3,h4,p1,p2>", reference: "RFC 959 §4.1.2",
        replies: &[200, 501, 502, 504, 522], handler: logged_in!(port::port), ..ORDINARY },
    CommandSpec { verb: "EPRT", theme: Theme::Setup, syntax: "EPRT |<family>|<address>|<port>|", reference: "RFC 2428 §2",
        feature: Feature::WhereActive("EPRT"), replies: &[200, 501, 502, 504, 522], handler: logged_in!(port::eprt), ..ORDINARY },

    // Transfers
    CommandSpec { verb: "REST", theme: Theme::Setup, syntax: "REST <offset>", reference: "RFC 3659 §5", feature: Feature::Line("REST STREAM"),
        replies: &[350, 501], handler: logged_in!(transfer::rest), ..ORDINARY },
    CommandSpec { verb: "RANG", theme: Theme::Setup, syntax: "RANG <first> <last>", reference: "draft-bryan-ftp-range",
        feature: Feature::Line("RANG STREAM"), replies: &[350, 501], handler: logged_in!(transfer::rang), ..ORDINARY },
    CommandSpec { verb: "RETR", syntax: "RETR <pathname>", reference: "RFC 959 §4.1.3", uses_data: true,
        pending: PendingEffect::TakesRestart, effect: Effect::Reads,
        replies: &[150, 226, 425, 426, 450, 451, 501, 502, 521, 522, 550, 554],
        handler: logged_in!(transfer::retr), ..ORDINARY },
    CommandSpec { verb: "STOR", syntax: "STOR <pathname>", reference: "RFC 959 §4.1.3", uses_data: true,
        pending: PendingEffect::TakesRestart, effect: Effect::Writes,
        replies: &[150, 226, 425, 426, 450, 451, 452, 501, 502, 521, 522, 550, 552, 553, 554],
        handler: logged_in!(store::stor), ..ORDINARY },
    CommandSpec { verb: "APPE", syntax: "APPE <pathname>", reference: "RFC 959 §4.1.3", uses_data: true,
        pending: PendingEffect::TakesRestart, effect: Effect::Writes,
        replies: &[150, 226, 425, 426, 450, 451, 452, 501, 502, 521, 522, 550, 552, 553, 554],
        handler: logged_in!(store::appe), ..ORDINARY },
    CommandSpec { verb: "STOU", syntax: "STOU [pathname]", reference: "RFC 959 §4.1.3", uses_data: true,
        pending: PendingEffect::TakesRestart, effect: Effect::Writes,
        replies: &[150, 226, 425, 426, 450, 451, 452, 501, 502, 521, 522, 550, 552, 553, 554],
        handler: logged_in!(store::stou), ..ORDINARY },
    CommandSpec { verb: "ALLO", theme: Theme::Setup, syntax: "ALLO <bytes> [R <bytes>]", reference: "RFC 959 §4.1.3",
        replies: &[202, 501], handler: logged_in!(transfer::allo), ..ORDINARY },
    CommandSpec { verb: "ABOR", syntax: "ABOR", reference: "RFC 959 §4.1.3", during_transfer: DuringTransfer::Aborts,
        pending: PendingEffect::ClearsAll, replies: &[226], handler: logged_in!(transfer::abor), ..ORDINARY },

    // Listings
    CommandSpec { verb: "LIST", theme: Theme::Listing, syntax: "LIST [options] [pathname]", reference: "RFC 959 §4.1.3", uses_data: true,
        pending: PendingEffect::ClearsAll, effect: Effect::Lists,
        replies: &[150, 226, 425, 426, 450, 451, 501, 502, 521, 522, 550],
        handler: logged_in!(listing::list), ..ORDINARY },
    CommandSpec { verb: "NLST", theme: Theme::Listing, syntax: "NLST [options] [pathname]", reference: "RFC 959 §4.1.3", uses_data: true,
        pending: PendingEffect::ClearsAll, effect: Effect::Lists,
        replies: &[150, 226, 425, 426, 450, 451, 501, 502, 521, 522, 550],
        handler: logged_in!(listing::nlst), ..ORDINARY },
    CommandSpec { verb: "MLSD", theme: Theme::Listing, syntax: "MLSD [pathname]", reference: "RFC 3659 §7", uses_data: true,
        pending: PendingEffect::ClearsAll, effect: Effect::Lists,
        replies: &[150, 226, 425, 426, 450, 451, 501, 502, 521, 522, 550],
        handler: logged_in!(listing::mlsd), ..ORDINARY },
    CommandSpec { verb: "MLST", theme: Theme::Information, syntax: "MLST [pathname]", reference: "RFC 3659 §7", feature: Feature::Facts,
        effect: Effect::Lists, replies: &[250, 450, 501, 502, 550], handler: logged_in!(listing::mlst), ..ORDINARY },

    // Files and directories
    CommandSpec { verb: "SIZE", theme: Theme::Information, syntax: "SIZE <pathname>", reference: "RFC 3659 §4", feature: Feature::Line("SIZE"),
        effect: Effect::Lists, replies: &[213, 450, 501, 502, 550], handler: logged_in!(file::size), ..ORDINARY },
    CommandSpec { verb: "MDTM", theme: Theme::Information, syntax: "MDTM <pathname>", reference: "RFC 3659 §3", feature: Feature::Line("MDTM"),
        effect: Effect::Lists, replies: &[213, 450, 501, 502, 550], handler: logged_in!(attributes::mdtm), ..ORDINARY },
    CommandSpec { verb: "MFMT", theme: Theme::Change, syntax: "MFMT <YYYYMMDDHHMMSS> <pathname>", reference: "draft-somers-ftp-mfxx §3.1",
        feature: Feature::Line("MFMT"), effect: Effect::Writes, replies: &[213, 450, 501, 502, 550],
        handler: logged_in!(attributes::mfmt), ..ORDINARY },
    CommandSpec { verb: "MFF", theme: Theme::Change, syntax: "MFF <fact>=<value>; <pathname>", reference: "draft-somers-ftp-mfxx §3.3",
        feature: Feature::Line("MFF Modify;UNIX.mode;"), replies: &[213, 450, 501, 502, 504, 550],
        handler: logged_in!(attributes::mff), ..ORDINARY },
    CommandSpec { verb: "SITE", theme: Theme::Change, syntax: "SITE CHMOD | UTIME | UMASK | IDLE | HELP", reference: "RFC 959 §4.1.3",
        before_tls: true,
        replies: &[200, 214, 450, 500, 501, 502, 530, 550], handler: anytime!(attributes::site), ..ORDINARY },
    CommandSpec { verb: "DELE", theme: Theme::Change, syntax: "DELE <pathname>", reference: "RFC 959 §4.1.3", effect: Effect::Deletes,
        replies: &[250, 450, 501, 502, 550], handler: logged_in!(file::dele), ..ORDINARY },
    CommandSpec { verb: "MKD", aliases: &["XMKD"], theme: Theme::Change, syntax: "MKD <pathname>", reference: "RFC 959 §4.1.3",
        effect: Effect::MakesDirectory, replies: &[257, 450, 501, 502, 550],
        handler: logged_in!(file::mkd), ..ORDINARY },
    CommandSpec { verb: "RMD", aliases: &["XRMD"], theme: Theme::Change, syntax: "RMD <pathname>", reference: "RFC 959 §4.1.3",
        effect: Effect::Deletes, replies: &[250, 450, 501, 502, 550], handler: logged_in!(file::rmd), ..ORDINARY },
    CommandSpec { verb: "RNFR", theme: Theme::Change, syntax: "RNFR <pathname>", reference: "RFC 959 §4.1.3", effect: Effect::Renames,
        replies: &[350, 450, 501, 502, 550], handler: logged_in!(file::rnfr), ..ORDINARY },
    CommandSpec { verb: "RNTO", theme: Theme::Change, syntax: "RNTO <pathname>", reference: "RFC 959 §4.1.3",
        pending: PendingEffect::TakesRename, effect: Effect::Renames,
        replies: &[250, 450, 451, 501, 502, 503, 550, 553], handler: logged_in!(file::rnto), ..ORDINARY },

    // Digests
    CommandSpec { verb: "HASH", syntax: "HASH <pathname>", reference: "draft-bryan-ftpext-hash", feature: Feature::Hash, is_long: true,
        effect: Effect::Reads, replies: &[213, 426, 450, 501, 502, 550, 556], handler: logged_in!(digest::hash), ..ORDINARY },
    x_digest("XCRC", &[], "XCRC <pathname> | \"<pathname>\" [<start> [<end>]]", Algorithm::Crc32, digest!(Algorithm::Crc32)),
    x_digest("XMD5", &[], "XMD5 <pathname> | \"<pathname>\" [<start> [<end>]]", Algorithm::Md5, digest!(Algorithm::Md5)),
    x_digest("XSHA1", &["XSHA"], "XSHA1 <pathname> | \"<pathname>\" [<start> [<end>]]", Algorithm::Sha1, digest!(Algorithm::Sha1)),
    x_digest("XSHA256", &[], "XSHA256 <pathname> | \"<pathname>\" [<start> [<end>]]", Algorithm::Sha256, digest!(Algorithm::Sha256)),
    x_digest("XSHA512", &[], "XSHA512 <pathname> | \"<pathname>\" [<start> [<end>]]", Algorithm::Sha512, digest!(Algorithm::Sha512)),

    // Information
    CommandSpec { verb: "FEAT", theme: Theme::Setup, syntax: "FEAT", reference: "RFC 2389 §3", before_tls: true, replies: &[211],
        handler: anytime!(information::feat), ..ORDINARY },
    CommandSpec { verb: "SYST", theme: Theme::Setup, syntax: "SYST", reference: "RFC 959 §4.1.3", before_tls: true, replies: &[215],
        handler: anytime!(information::syst), ..ORDINARY },
    CommandSpec { verb: "STAT", theme: Theme::Information, syntax: "STAT [pathname]", reference: "RFC 959 §4.1.3", before_tls: true,
        during_transfer: DuringTransfer::Tells, replies: &[211, 212, 213, 450, 501, 502, 530, 550],
        handler: anytime!(information::stat), ..ORDINARY },
    CommandSpec { verb: "HELP", syntax: "HELP [verb]", reference: "RFC 959 §4.1.3", before_tls: true,
        replies: &[214, 502], handler: anytime!(information::help), ..ORDINARY },
    CommandSpec { verb: "NOOP", syntax: "NOOP", reference: "RFC 959 §4.1.3", before_tls: true, replies: &[200],
        handler: anytime!(information::noop), ..ORDINARY },
    CommandSpec { verb: "CLNT", theme: Theme::Setup, syntax: "CLNT <name>", reference: "de facto", feature: Feature::Line("CLNT"),
        before_tls: true, replies: &[200], handler: anytime!(information::clnt), ..ORDINARY },

    CommandSpec { verb: "CSID", theme: Theme::Setup, syntax: "CSID <name>", reference: "de facto", before_tls: true,
        replies: &[200], handler: anytime!(information::csid), ..ORDINARY },
    CommandSpec { verb: "LANG", theme: Theme::Setup, syntax: "LANG [tag]", reference: "RFC 2640 §4", feature: Feature::Line("LANG EN*"),
        before_tls: true, replies: &[200, 501, 504], handler: anytime!(information::lang), ..ORDINARY },
    CommandSpec { verb: "AVBL", theme: Theme::Information, syntax: "AVBL [pathname]", reference: "de facto",
        effect: Effect::Lists, replies: &[213, 450, 501, 502, 550], handler: logged_in!(information::avbl), ..ORDINARY },

    // Known and not offered
    // RFC 2228 §3: no mechanism that AUTH takes here has an exchange of ADAT.
    CommandSpec { replies: &[503], handler: Handler::NotOffered(503, "No exchange of security data is under way"), ..not_offered("ADAT", "ADAT <data>", "RFC 2228 §3") },
    not_offered("MIC", "MIC <data>", "RFC 2228 §3"),
    not_offered("CONF", "CONF <data>", "RFC 2228 §3"),
    not_offered("ENC", "ENC <data>", "RFC 2228 §3"),
    not_offered("REIN", "REIN", "RFC 959 §4.1.1"),
    not_offered("SMNT", "SMNT <pathname>", "RFC 959 §4.1.1"),
    not_offered("DSIZ", "DSIZ [pathname]", "de facto"),
    not_offered("MFCT", "MFCT <time> <pathname>", "draft-somers-ftp-mfxx §3.2"),
    not_offered("COMB", "COMB <target> <sources>", "de facto"),
    not_offered("THMB", "THMB <format> <pathname>", "de facto"),
    not_offered("PRET", "PRET <command>", "de facto"),
    not_offered("NAMEFMT", "NAMEFMT 0|1", "de facto"),
];
