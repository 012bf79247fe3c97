//! LIST, NLST and MLSD: from READDIR pages to lines on the data connection, while the pages arrive.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};

use crate::ftp::charset::Charset;
use crate::ftp::facts::{self, Entry, EntryKind, FactPermissions, FactSelection};
use crate::ftp::list;
use crate::sftp::{Attributes, BackendPath, Directory, DirectoryEntry, FileKind, SftpError};

use super::data_connection::DataConnection;
use super::endpoint::{DataEndpoint, Direction};
use super::outcome::{Outcome, Progress, Stop, TransferError};
use super::temporary::is_hidden;

/// Symbolic links resolved at a time: requests in flight on the backend.
const LINKS_AT_A_TIME: usize = 32;

/// Lines gathered before they are written, in bytes: one TLS record (RFC 8446 §5.1).
const GATHERED: usize = 16 * 1024;

/// What becomes of a symbolic link.
pub enum LeadsTo {
    /// Something the session may see.
    Entry(Attributes),
    /// Nothing, or out of the root; what it names, where the client may know.
    Nowhere(Option<Vec<u8>>),
}

/// Follows a symbolic link as far as the session may.
pub type ResolveLink = Arc<dyn Fn(BackendPath) -> BoxFuture<'static, LeadsTo> + Send + Sync>;

/// How symbolic links are shown.
#[derive(Clone)]
pub enum Links {
    /// As what they lead to; one that leads nowhere stays a link.
    Followed(ResolveLink),
    /// Not at all.
    Hidden,
}

impl Links {
    /// Is this entry shown to clients?
    pub fn show(&self, entry: &DirectoryEntry) -> bool {
        let is_link = entry.attributes.kind() == Some(FileKind::Symlink);
        is_shown(&entry.name) && !(is_link && matches!(self, Self::Hidden))
    }
}

/// How entries become lines.
#[derive(Debug, Clone)]
pub enum Style {
    /// The lines of LIST.
    Long(list::Form),
    /// Names, each after this prefix (RFC 1123 §4.1.2.7: usable as arguments).
    Names(Vec<u8>),
    /// Facts (RFC 3659 §7).
    Facts(FactSelection),
}

/// Where the entries come from.
#[derive(Debug)]
pub enum Source {
    /// An open directory.
    Directory(Directory),
    /// Entries that are known already: a single file, or the matches of a wildcard.
    Entries(Vec<DirectoryEntry>),
}

/// A listing that is ready to run.
pub struct Listing {
    /// Where the client will fetch it.
    pub endpoint: DataEndpoint,
    /// The entries.
    pub source: Source,
    /// The directory they are in.
    pub directory: BackendPath,
    /// How they are shown.
    pub style: Style,
    /// What the user may do, for the `perm` fact.
    pub permissions: FactPermissions,
    /// How links are shown.
    pub links: Links,
    /// The charset of the client; `None` for UTF-8.
    pub charset: Option<Charset>,
    /// Now, in seconds since 1970: LIST shows a time or a year.
    pub now: i64,
    /// No byte taken by the client for so long ends the listing.
    pub idle: Duration,
}

impl Listing {
    /// Runs it to its end.
    pub async fn run(self, stop: Stop, progress: Progress) -> Outcome {
        let Self { endpoint, mut source, directory, style, permissions, links, charset, now, idle } = self;
        let mut formatter = Formatter {
            directory,
            style,
            permissions,
            links,
            charset,
            now,
            lines: Vec::new(),
            hostile: 0,
            unmapped: 0,
        };
        let result = async {
            let mut connection = tokio::select! {
                reason = stop.tripped() => return Err(reason.into()),
                connection = endpoint.open(Direction::ToClient) => connection?,
            };
            let sent = tokio::select! {
                reason = stop.tripped() => Err(reason.into()),
                sent = send(&mut source, &mut formatter, &mut connection, idle, &progress) => sent,
            };
            match sent {
                Ok(()) => tokio::select! {
                    reason = stop.tripped() => Err(reason.into()),
                    finished = connection.finish(idle, &progress) => Ok(finished?),
                },
                Err(error) => {
                    connection.reset();
                    Err(error)
                }
            }
        }
        .await;
        Outcome {
            result,
            client_bytes: progress.bytes(),
            backend_bytes: progress.bytes(),
            unsettled: None,
            digested: None,
            hostile_names: formatter.hostile,
            unmapped_names: formatter.unmapped,
        }
    }
}

async fn send(
    source: &mut Source,
    formatter: &mut Formatter,
    connection: &mut DataConnection,
    idle: Duration,
    progress: &Progress,
) -> Result<(), TransferError> {
    loop {
        let page = match source.next().now_or_never() {
            Some(page) => page?,
            None => {
                // Nothing more is here: what is goes out, so that the client sees it while the backend works.
                connection.queue(formatter.take_lines());
                connection.send_early(idle, progress).await?;
                source.next().await?
            }
        };
        let Some(page) = page else { break };
        formatter.page(page).await;
        if formatter.lines.len() >= GATHERED {
            connection.queue(formatter.take_lines());
            connection.send(idle, progress).await?;
        }
    }
    connection.queue(formatter.take_lines());
    Ok(())
}

/// Lists a few entries as lines without a data connection (STAT with a pathname).
pub async fn lines(
    directory: BackendPath,
    entries: Vec<DirectoryEntry>,
    form: list::Form,
    links: Links,
    charset: Option<Charset>,
    now: i64,
) -> Vec<u8> {
    // LIST does not tell them.
    let permissions = FactPermissions::default();
    let style = Style::Long(form);
    let mut formatter =
        Formatter { directory, style, permissions, links, charset, now, lines: Vec::new(), hostile: 0, unmapped: 0 };
    formatter.page(entries).await;
    formatter.lines
}

impl Source {
    /// The next entries; `None` at the end. Cancel-safe.
    async fn next(&mut self) -> Result<Option<Vec<DirectoryEntry>>, SftpError> {
        match self {
            Self::Directory(directory) => directory.next().await,
            Self::Entries(entries) if entries.is_empty() => Ok(None),
            Self::Entries(entries) => Ok(Some(std::mem::take(entries))),
        }
    }
}

struct Formatter {
    directory: BackendPath,
    style: Style,
    permissions: FactPermissions,
    links: Links,
    charset: Option<Charset>,
    now: i64,
    lines: Vec<u8>,
    hostile: u64,
    unmapped: u64,
}

impl Formatter {
    fn take_lines(&mut self) -> Bytes {
        Bytes::from(std::mem::take(&mut self.lines))
    }

    async fn page(&mut self, mut entries: Vec<DirectoryEntry>) {
        entries.retain(|entry| {
            // SECURITY: a name that would break a line, or that no command could address, is not shown.
            if !list::is_listable(&entry.name) && entry.name != b"." && entry.name != b".." {
                self.hostile += 1;
            }
            self.links.show(entry)
        });
        let targets = match (&self.style, &self.links) {
            (Style::Long(_) | Style::Facts(_), Links::Followed(resolve)) => {
                self.follow_links(&mut entries, resolve).await
            }
            _ => HashMap::new(),
        };
        let in_charset = |name| self.charset.map_or(Cow::Borrowed(name), |charset| charset.shown(name));
        for (position, entry) in entries.iter().enumerate() {
            let name = in_charset(&entry.name);
            if self.charset.is_some() && !name.is_ascii() && matches!(name, Cow::Borrowed(_)) {
                self.unmapped += 1;
            }
            let target = targets.get(&position).map(|target| in_charset(target));
            let shown = Entry { target: target.as_deref(), ..describe(&name, &entry.attributes, self.permissions) };
            match &self.style {
                Style::Long(form) => list::line(&shown, form, self.now, &mut self.lines),
                Style::Names(prefix) => {
                    self.lines.extend_from_slice(prefix);
                    self.lines.extend_from_slice(&name);
                }
                Style::Facts(selection) => facts::line(&shown, selection, &mut self.lines),
            }
            self.lines.extend_from_slice(b"\r\n");
        }
    }

    /// Gives links the attributes of what they lead to; gives back what those name that lead nowhere, by position.
    async fn follow_links(&self, entries: &mut [DirectoryEntry], resolve: &ResolveLink) -> HashMap<usize, Vec<u8>> {
        let mut targets = HashMap::new();
        let mut links: Vec<(usize, &mut DirectoryEntry)> = entries
            .iter_mut()
            .enumerate()
            .filter(|(_, entry)| entry.attributes.kind() == Some(FileKind::Symlink))
            .collect();
        for some in links.chunks_mut(LINKS_AT_A_TIME) {
            let resolved = join_all(some.iter().map(|(_, entry)| resolve(self.directory.join(&entry.name)))).await;
            for ((position, entry), leads_to) in some.iter_mut().zip(resolved) {
                match leads_to {
                    LeadsTo::Entry(attributes) => entry.attributes = attributes,
                    LeadsTo::Nowhere(Some(target)) => drop(targets.insert(*position, target)),
                    LeadsTo::Nowhere(None) => {}
                }
            }
        }
        targets
    }
}

/// Is an entry of this name shown to clients?
pub fn is_shown(name: &[u8]) -> bool {
    list::is_listable(name) && !is_hidden(name)
}

/// One entry as FTP describes it.
pub fn describe<'a>(name: &'a [u8], attributes: &Attributes, permissions: FactPermissions) -> Entry<'a> {
    Entry {
        name,
        kind: match attributes.kind() {
            Some(FileKind::Directory) => EntryKind::Directory,
            Some(FileKind::Symlink) => EntryKind::Symlink,
            Some(FileKind::Regular) | None => EntryKind::File,
            Some(_) => EntryKind::Other,
        },
        target: None,
        size: attributes.size,
        modified: attributes.times.map(|(_, modified)| i64::from(modified)),
        mode: attributes.permissions.map(|mode| mode & 0o7777),
        owner: attributes.owner.map(|(owner, _)| owner),
        group: attributes.owner.map(|(_, group)| group),
        permissions,
    }
}
