//! Reads TLS records one at a time, so that a control connection can leave TLS again (CCC, RFC 4217 §12.3): no byte
//! that comes in clear behind the last record may end up in the TLS library.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::tls::refused::{Flight, MAX_KEPT};

/// Type, version, and length of what follows (RFC 8446 §5.1).
const HEADER: usize = 5;

/// The content types that records have or had: 20 to 24. No command begins with such a byte.
const FIRST_TYPE: u8 = 20;
const LAST_TYPE: u8 = 24;

/// A connection that hands out no more than the rest of one record with a read.
#[derive(Debug)]
pub struct Records<S> {
    stream: S,
    /// As much of the next header as has been handed out.
    header: [u8; HEADER],
    in_header: usize,
    /// What is missing of the record whose header was handed out.
    rest: usize,
    mode: Mode,
    /// What the client began with, which was read before it is handed out.
    flight: Vec<u8>,
    /// As much of it as has been handed out.
    replayed: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Records go to the TLS library.
    Tls,
    /// It has ended. The client may still send records, of which the last is its close_notify; some send none.
    Ending,
    /// Everything is in clear.
    Clear,
}

impl<S> Records<S> {
    /// A connection that is about to begin TLS.
    pub fn new(stream: S) -> Self {
        Self { stream, header: [0; HEADER], in_header: 0, rest: 0, mode: Mode::Tls, flight: Vec::new(), replayed: 0 }
    }

    /// What the client began with; not to be asked for before all of it was handed out.
    pub fn take_flight(&mut self) -> Vec<u8> {
        self.replayed = 0;
        std::mem::take(&mut self.flight)
    }

    /// TLS has ended: what comes after the records that are under way is in clear.
    pub fn end_tls(&mut self) {
        self.mode = Mode::Ending;
    }

    fn handed_out(&mut self, bytes: &[u8]) {
        if self.rest > 0 {
            self.rest = self.rest.saturating_sub(bytes.len());
            return;
        }
        for byte in bytes {
            if let Some(place) = self.header.get_mut(self.in_header) {
                *place = *byte;
                self.in_header += 1;
            }
        }
        if self.in_header == HEADER {
            let [_, _, _, high, low] = self.header;
            (self.in_header, self.rest) = (0, u16::from_be_bytes([high, low]).into());
        }
    }

    /// The most that may be read without going beyond the header or the record.
    fn limit(&self) -> usize {
        if self.rest > 0 { self.rest } else { HEADER - self.in_header }
    }

    fn is_between_records(&self) -> bool {
        self.rest == 0 && self.in_header == 0
    }
}

impl<S: AsyncRead + Unpin> Records<S> {
    /// Reads what the client begins with, as far as needed to tell what it can do. It is handed out all the same.
    ///
    /// # Errors
    /// When the connection fails.
    pub async fn first_flight(&mut self) -> io::Result<Flight> {
        let mut space = [0; 512];
        loop {
            let flight = Flight::read(&self.flight);
            if flight != Flight::Incomplete || self.flight.len() >= MAX_KEPT {
                return Ok(flight);
            }
            let mut buffer = ReadBuf::new(&mut space);
            let limit = self.limit();
            let read = poll_fn(|context| self.poll_read_up_to(context, &mut buffer, limit)).await?;
            buffer.advance(read);
            self.handed_out(buffer.filled());
            self.flight.extend_from_slice(buffer.filled());
            if read == 0 {
                return Ok(flight);
            }
        }
    }

    fn poll_read_up_to(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
        limit: usize,
    ) -> Poll<io::Result<usize>> {
        let limit = limit.min(buffer.remaining());
        let mut limited = ReadBuf::new(buffer.initialize_unfilled_to(limit));
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut limited))?;
        let read = limited.filled().len();
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Records<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match this.mode {
                Mode::Clear => return Pin::new(&mut this.stream).poll_read(context, buffer),
                Mode::Tls => {
                    let early = this.flight.get(this.replayed..).unwrap_or_default();
                    if !early.is_empty() {
                        let count = early.len().min(buffer.remaining());
                        buffer.put_slice(early.get(..count).unwrap_or_default());
                        this.replayed += count;
                        return Poll::Ready(Ok(()));
                    }
                    let limit = this.limit();
                    let read = ready!(this.poll_read_up_to(context, buffer, limit))?;
                    let begins = buffer.filled().len();
                    buffer.advance(read);
                    this.handed_out(buffer.filled().get(begins..).unwrap_or_default());
                    return Poll::Ready(Ok(()));
                }
                Mode::Ending => {
                    let mut space = [0; 512];
                    let mut skipped = ReadBuf::new(&mut space);
                    // One byte tells whether it is a record's.
                    let limit = if this.is_between_records() { 1 } else { this.limit() };
                    let read = ready!(this.poll_read_up_to(context, &mut skipped, limit))?;
                    skipped.advance(read);
                    match skipped.filled() {
                        [] => return Poll::Ready(Ok(())),
                        [byte] if this.is_between_records() && !(FIRST_TYPE..=LAST_TYPE).contains(byte) => {
                            this.mode = Mode::Clear;
                            buffer.put_slice(&[*byte]);
                            return Poll::Ready(Ok(()));
                        }
                        bytes => this.handed_out(bytes),
                    }
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Records<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn record(content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[23, 3, 3], &length[..], content].concat()
    }

    #[tokio::test]
    async fn no_read_goes_beyond_a_record() {
        let bytes = [record(b"first"), record(b""), record(&[7; 3000])].concat();
        let mut records = Records::new(&bytes[..]);
        let mut seen = Vec::new();
        let mut lengths = Vec::new();
        loop {
            let before = seen.len();
            if records.read_buf(&mut seen).await.unwrap() == 0 {
                break;
            }
            lengths.push(seen.len() - before);
        }
        assert_eq!(seen, bytes);
        let bounds: Vec<usize> = lengths
            .iter()
            .scan(0, |sum, length| {
                *sum += length;
                Some(*sum)
            })
            .collect();
        for bound in [HEADER, HEADER + 5, 2 * HEADER + 5, 3 * HEADER + 5] {
            assert!(bounds.contains(&bound), "{bounds:?}");
        }
    }

    #[tokio::test]
    async fn behind_the_last_record_everything_is_in_clear() {
        let half = record(b"under way").split_off(HEADER + 3);
        for records_before in [&b""[..], &record(&[1; 700]), &[record(b"x"), record(b"close_notify")].concat()] {
            let bytes = [&record(b"under way")[..HEADER + 3], &half, records_before, b"NOOP\r\n\x17\x03\x03"].concat();
            let mut records = Records::new(&bytes[..]);
            let mut begun = [0; HEADER + 3];
            records.read_exact(&mut begun).await.unwrap();
            records.end_tls();
            let mut clear = Vec::new();
            records.read_to_end(&mut clear).await.unwrap();
            assert_eq!(clear, b"NOOP\r\n\x17\x03\x03");
        }
    }
}
