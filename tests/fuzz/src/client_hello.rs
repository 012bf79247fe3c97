//! The first message of a TLS client: whole, in pieces, and with anything behind it.

use ftps2sftp::tls::client_hello::{LONGEST, Progress, read};

/// Reading what came so far never changes its mind: what is complete stays what it is with more behind it, and what is
/// none becomes none.
pub fn run(bytes: &[u8]) {
    let whole = read(bytes);
    match &whole {
        Progress::Partial => assert!(bytes.len() < LONGEST, "{} bytes are enough", bytes.len()),
        Progress::Complete(hello) => {
            let held: usize = hello.offer.tickets.iter().map(Vec::len).sum();
            let suites = 2 * hello.cipher_suites.len();
            let name = hello.server_name.as_ref().map_or(0, String::len);
            assert!(held + suites + name + hello.offer.session_id.len() <= bytes.len());
        }
        Progress::Other => {}
    }
    // As it arrives: at most one change, from partial to what it is.
    let mut before = Progress::Partial;
    for end in cuts(bytes.len()) {
        let so_far = read(bytes.get(..end).unwrap_or_default());
        match &before {
            Progress::Partial => {}
            Progress::Complete(hello) => assert_eq!(so_far, Progress::Complete(hello.clone()), "at {end}"),
            Progress::Other => assert_eq!(so_far, Progress::Other, "at {end}"),
        }
        before = so_far;
    }
    assert_eq!(before, whole);
}

/// Every length of a short input, some of a long one, and the whole.
fn cuts(length: usize) -> impl Iterator<Item = usize> {
    (0..length).step_by(length / 64 + 1).chain([length])
}
