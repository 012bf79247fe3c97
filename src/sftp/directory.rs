//! A directory read page by page with several READDIR in flight (draft-ietf-secsh-filexfer-02 §6.7).

use std::collections::VecDeque;

use futures_util::FutureExt;

use super::SftpError;
use super::file::File;
use super::requests::Pending;
use super::wire::attributes::Attributes;
use super::wire::packet::{Reply, Request};
use super::wire::status::StatusCode;

/// READDIR in flight at first: the page wanted, the next, and the one that will say "end". A directory of one page (100
/// names from OpenSSH) costs no more.
const FIRST_IN_FLIGHT: usize = 3;

/// How many more each page after the first opens. OpenSSH answers in order, so that a far server sends as many pages in
/// a round trip as are in flight: 10,000 names take 5 round trips instead of 34.
const OPENED_BY_PAGE: usize = 4;

/// The most in flight: with pages as OpenSSH makes them (some 20 KiB) less than 1 MiB of a listing.
const MOST_IN_FLIGHT: usize = 32;

/// One name in a directory, as the server told it: `.` and `..` too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Its name, one segment if the server is sane: to be checked before it is joined to a path.
    pub name: Vec<u8>,
    /// Its attributes, links not followed.
    pub attributes: Attributes,
}

/// An open directory. Dropping it sends CLOSE in the background.
#[derive(Debug)]
pub struct Directory {
    file: File,
    in_flight: VecDeque<Pending>,
    opened: usize,
    pages: usize,
    ending: Option<Ending>,
}

/// The end was told, or a failure; what was asked before is still taken in.
#[derive(Debug)]
enum Ending {
    End,
    Failed(SftpError),
}

impl Directory {
    pub(super) fn new(file: File) -> Self {
        Self { file, in_flight: VecDeque::new(), opened: FIRST_IN_FLIGHT, pages: 0, ending: None }
    }

    /// The next page of names, in the server's order; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`]. It stays failed.
    pub async fn next(&mut self) -> Result<Option<Vec<DirectoryEntry>>, SftpError> {
        loop {
            let time = self.file.session().request_time();
            // What is here already may be the end: then nothing more is asked.
            let here = self.in_flight.front_mut().and_then(|front| front.reply(time).now_or_never());
            if !here.as_ref().is_some_and(is_end) {
                self.ask();
            }
            if self.in_flight.is_empty() && self.ending.is_none() {
                // No room for a single one.
                let pending = self.file.session().begin(self.request()).await;
                self.asked(pending);
            }
            let Some(front) = self.in_flight.front_mut() else {
                return match &self.ending {
                    Some(Ending::Failed(error)) => Err(error.clone()),
                    Some(Ending::End) | None => Ok(None),
                };
            };
            let reply = match here {
                Some(reply) => reply,
                None => front.reply(time).await,
            };
            self.in_flight.pop_front();
            match reply {
                // A server that works on several requests at once may give the end to an earlier one than the last
                // names: all that were asked are heard.
                Ok(Reply::Name(names)) if names.is_empty() => self.end(Ending::End),
                Ok(Reply::Name(names)) => {
                    let entry = |name: super::wire::packet::Name| DirectoryEntry {
                        name: name.filename.to_vec(),
                        attributes: name.attributes,
                    };
                    if self.pages > 0 {
                        self.opened = (self.opened + OPENED_BY_PAGE).min(MOST_IN_FLIGHT);
                    }
                    self.pages += 1;
                    return Ok(Some(names.into_iter().map(entry).collect()));
                }
                Ok(Reply::Status(status)) if status.code == StatusCode::EOF => self.end(Ending::End),
                Ok(other) => self.end(Ending::Failed(SftpError::unexpected(&other))),
                Err(error) => self.end(Ending::Failed(error)),
            }
        }
    }

    /// CLOSE.
    ///
    /// # Errors
    ///
    /// The server did not close it well.
    pub async fn close(self) -> Result<(), SftpError> {
        self.file.close().await
    }

    /// Asks for as many pages as may be in flight and as there is room for; without waiting, so that no reply that was
    /// taken is lost when [`Directory::next`] is given up.
    fn ask(&mut self) {
        while self.ending.is_none() && self.in_flight.len() < self.opened {
            let Some(turn) = self.file.session().requests().try_turn() else { break };
            let pending = turn.send(self.request());
            self.asked(pending);
        }
    }

    fn request(&self) -> Request {
        Request::Readdir { handle: self.file.handle().clone() }
    }

    fn asked(&mut self, pending: Result<Pending, SftpError>) {
        match pending {
            Ok(pending) => self.in_flight.push_back(pending),
            Err(error) => self.end(Ending::Failed(error)),
        }
    }

    /// The first ending counts: requests behind it may well be refused.
    fn end(&mut self, ending: Ending) {
        if matches!(ending, Ending::Failed(SftpError::Lost(_) | SftpError::TimedOut)) {
            // Nothing more will come; waiting for each of the rest would only take longer.
            self.in_flight.clear();
        }
        self.ending.get_or_insert(ending);
    }
}

/// Anything but names: an end, or a failure.
fn is_end(reply: &Result<Reply, SftpError>) -> bool {
    match reply {
        Ok(Reply::Name(names)) => names.is_empty(),
        _ => true,
    }
}
