//! Transfers step by step, and what to look at afterwards.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::client::Client;

/// How long a condition may take that is only waited for.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the specification grants ABOR.
pub(crate) const ABOR_LIMIT: Duration = Duration::from_secs(1);

/// How soon a client must hear that its backend is gone.
pub(crate) const LOSS_LIMIT: Duration = Duration::from_secs(2);

/// How a name ends that holds an upload under way.
const TEMPORARY_SUFFIX: &str = ".f2s-part";

/// A data connection under TLS.
pub(crate) type Data = TlsStream<TcpStream>;

/// EPSV, a transfer command, 150, and the data connection.
pub(crate) async fn begin(client: &mut Client, command: &str) -> Data {
    let address = client.passive().await;
    let opening = client.command(command).await;
    assert_eq!(opening.code, 150, "{command}: {}", opening.text());
    let stream = client.connect(address).await;
    client.secure(stream).await.unwrap()
}

/// Ends an upload as it should be: close_notify, and the gateway's answer to it.
pub(crate) async fn end(mut data: Data) {
    data.shutdown().await.unwrap();
    let mut rest = Vec::new();
    data.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
}

/// Closes so that the kernel sends RST.
pub(crate) fn reset(data: Data) {
    let (socket, _) = data.into_inner();
    socket2::SockRef::from(&socket).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Writes these bytes, again and again, until the other side takes no more for a moment: every buffer on the way is
/// full. Gives the number of bytes taken.
pub(crate) async fn fill(data: &mut Data, bytes: &[u8]) -> usize {
    let mut taken = 0;
    let moment = Duration::from_millis(300);
    while let Ok(count) = tokio::time::timeout(moment, data.write(&bytes[taken % bytes.len()..])).await {
        taken += count.unwrap();
    }
    taken
}

/// ABOR while a transfer runs: 426 and 226, in time.
pub(crate) async fn abort(client: &mut Client) {
    let asked = Instant::now();
    client.send("ABOR").await;
    client.expect(426).await;
    client.expect(226).await;
    assert!(asked.elapsed() < ABOR_LIMIT, "ABOR took {:?}", asked.elapsed());
}

/// Bytes that look random; the same for the same seed, and different at every place.
pub(crate) fn content(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Names in a directory, sorted.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Files of uploads under way.
pub(crate) fn temporaries(directory: &Path) -> Vec<String> {
    names(directory).into_iter().filter(|name| name.ends_with(TEMPORARY_SUFFIX)).collect()
}

/// Waits for something that happens by itself.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
