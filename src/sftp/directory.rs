//! A directory read page by page with several READDIR in flight (draft-ietf-secsh-filexfer-02 §6.7).

use std::collections::VecDeque;

use super::SftpError;
use super::file::File;
use super::requests::Pending;
use super::wire::attributes::Attributes;
use super::wire::packet::{Reply, Request};
use super::wire::status::StatusCode;

/// READDIR in flight: the page wanted, the next, and the one that will say "end". More gained nothing measurable.
const IN_FLIGHT: usize = 3;

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
        Self { file, in_flight: VecDeque::new(), ending: None }
    }

    /// The next page of names, in the server's order; `None` at the end. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As any request; see [`SftpError`]. It stays failed.
    pub async fn next(&mut self) -> Result<Option<Vec<DirectoryEntry>>, SftpError> {
        loop {
            while self.ending.is_none() && self.in_flight.len() < IN_FLIGHT {
                let request = Request::Readdir { handle: self.file.handle().clone() };
                match self.file.session().begin(request).await {
                    Ok(pending) => self.in_flight.push_back(pending),
                    Err(error) => self.ending = Some(Ending::Failed(error)),
                }
            }
            let Some(front) = self.in_flight.front_mut() else {
                return match &self.ending {
                    Some(Ending::Failed(error)) => Err(error.clone()),
                    Some(Ending::End) | None => Ok(None),
                };
            };
            let reply = front.reply(self.file.session().request_time()).await;
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

    /// The first ending counts: requests behind it may well be refused.
    fn end(&mut self, ending: Ending) {
        if matches!(ending, Ending::Failed(SftpError::Lost(_) | SftpError::TimedOut)) {
            // Nothing more will come; waiting for each of the rest would only take longer.
            self.in_flight.clear();
        }
        self.ending.get_or_insert(ending);
    }
}
