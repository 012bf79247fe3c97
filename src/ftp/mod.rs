//! FTP's language, sans-IO: bytes in, values and bytes out (RFC 959, RFC 1123 §4.1, RFC 2389, RFC 2640, RFC 3659).
//!
//! Nothing here knows a socket, a clock, a log or the rest of the program; the caller brings bytes and the time.
//!
//! What a client sends:
//! * [`mod@line`]: command lines out of the control connection's bytes, Telnet and the length cap included;
//! * [`request`]: a line as verb and argument;
//! * [`argument`]: what stands behind a verb, one parser each, [`site`] and [`digest`] for those of SITE and HASH;
//! * [`path`]: the path a client means, [`VirtualPath`](path::VirtualPath);
//! * [`glob`]: the wildcards of LIST and NLST;
//! * [`charset`]: names for clients that do not speak UTF-8, in both directions.
//!
//! What it is sent:
//! * [`reply`]: the only form in which text reaches the control connection;
//! * [`facts`] and [`list`]: one directory entry as MLSD and as LIST show it;
//! * [`time`]: dates in the forms FTP has for them;
//! * [`ascii`]: line ends of TYPE A, in both directions.

pub mod argument;
pub mod ascii;
pub mod charset;
pub mod digest;
pub mod facts;
pub mod glob;
pub mod line;
pub mod list;
pub mod path;
pub mod reply;
pub mod request;
pub mod site;
pub mod time;
