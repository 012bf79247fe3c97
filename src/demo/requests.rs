//! SFTP version 3 requests (draft-ietf-secsh-filexfer-02) carried out on a [`Folder`].
//!
//! `russh-sftp` decodes every name as UTF-8, so a file whose name is not UTF-8 is not listed and cannot be reached
//! here. It also answers one request after the other. Both are fine for trying the gateway, and reasons why its tests
//! run against OpenSSH too.

use std::collections::HashMap;
use std::fs::{File, Metadata, ReadDir};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use bytes::Bytes;
use russh_sftp::extensions::{FsyncExtension, HardlinkExtension, LimitsExtension, Statvfs, StatvfsExtension};
use russh_sftp::protocol::{
    Attrs, Data, ExtendedReply, File as NameEntry, FileAttributes, Handle, Name, OpenFlags, Packet, Status, StatusCode,
    Version,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::debug;

use super::folder::{self, Changes, Folder, Opening};
use super::refusal::{Code, Refusal};

/// Handles open at once in a session.
const MAX_HANDLES: usize = 256;

/// Entries in one answer to READDIR, as OpenSSH: a page stays far below the packet limit.
const PAGE: usize = 100;

/// Longest READ and WRITE, as OpenSSH: its packet limit less room for the header.
const MAX_DATA: u32 = 255 * 1024;

/// Longest packet (`russh-sftp`'s own default bound).
const MAX_PACKET: u64 = 256 * 1024;

const POSIX_RENAME: &str = "posix-rename@openssh.com";
const STATVFS: &str = "statvfs@openssh.com";
const FSYNC: &str = "fsync@openssh.com";
const LIMITS: &str = "limits@openssh.com";

/// The extensions that VERSION offers, with the version of each.
const EXTENSIONS: [(&str, &str); 4] = [(POSIX_RENAME, "1"), (STATVFS, "2"), (FSYNC, "1"), (LIMITS, "1")];

/// One SFTP session.
pub(super) struct Requests {
    folder: Folder,
    handles: HashMap<String, Opened>,
    opened: u64,
}

enum Opened {
    File(Arc<File>),
    Directory(ReadDir),
}

impl Requests {
    pub(super) fn new(folder: Folder) -> Self {
        Self { folder, handles: HashMap::new(), opened: 0 }
    }

    /// Carries out what may block on the disk where it may block.
    async fn on_folder<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> Result<T, Refusal> + Send + 'static,
    ) -> Result<T, Refusal> {
        let folder = self.folder.clone();
        blocking(move || work(&folder)).await
    }

    fn keep(&mut self, id: u32, opened: Opened) -> Result<Handle, Refusal> {
        if self.handles.len() >= MAX_HANDLES {
            return Err(Refusal::new(Code::Failure, "too many open handles"));
        }
        self.opened += 1;
        let handle = self.opened.to_string();
        self.handles.insert(handle.clone(), opened);
        Ok(Handle { id, handle })
    }

    fn file(&self, handle: &str) -> Result<Arc<File>, Refusal> {
        match self.handles.get(handle) {
            Some(Opened::File(file)) => Ok(Arc::clone(file)),
            Some(Opened::Directory(_)) | None => Err(no_such_handle()),
        }
    }
}

impl russh_sftp::server::Handler for Requests {
    type Error = Refusal;

    fn unimplemented(&self) -> Refusal {
        Refusal::new(Code::Unsupported, "operation unsupported")
    }

    async fn init(&mut self, _version: u32, _extensions: HashMap<String, String>) -> Result<Version, Refusal> {
        let mut version = Version::new();
        version.extensions = EXTENSIONS.map(|(name, revision)| (name.to_owned(), revision.to_owned())).into();
        Ok(version)
    }

    async fn open(
        &mut self,
        id: u32,
        path: String,
        flags: OpenFlags,
        attrs: FileAttributes,
    ) -> Result<Handle, Refusal> {
        let opening = Opening {
            read: flags.contains(OpenFlags::READ),
            write: flags.contains(OpenFlags::WRITE),
            append: flags.contains(OpenFlags::APPEND),
            create: flags.contains(OpenFlags::CREATE),
            truncate: flags.contains(OpenFlags::TRUNCATE),
            exclusive: flags.contains(OpenFlags::EXCLUDE),
            mode: attrs.permissions,
        };
        let file = self.on_folder(move |folder| folder.open_file(&path, opening)).await?;
        self.keep(id, Opened::File(Arc::new(file)))
    }

    async fn close(&mut self, id: u32, handle: String) -> Result<Status, Refusal> {
        let opened = self.handles.remove(&handle).ok_or_else(no_such_handle)?;
        blocking(move || {
            drop(opened);
            Ok(())
        })
        .await?;
        Ok(done(id))
    }

    async fn read(&mut self, id: u32, handle: String, offset: u64, length: u32) -> Result<Data, Refusal> {
        let file = self.file(&handle)?;
        let data = blocking(move || {
            let mut data = vec![0; length.min(MAX_DATA) as usize];
            let read = file.read_at(&mut data, offset)?;
            data.truncate(read);
            Ok(data)
        })
        .await?;
        if data.is_empty() && length > 0 { Err(Refusal::end_of_file()) } else { Ok(Data { id, data }) }
    }

    async fn write(&mut self, id: u32, handle: String, offset: u64, data: Vec<u8>) -> Result<Status, Refusal> {
        let file = self.file(&handle)?;
        // On a file opened for appending, Linux appends whatever the offset, which is what SSH_FXF_APPEND means.
        blocking(move || Ok(file.write_all_at(&data, offset)?)).await?;
        Ok(done(id))
    }

    async fn lstat(&mut self, id: u32, path: String) -> Result<Attrs, Refusal> {
        let metadata = self.on_folder(move |folder| folder.lstat(&path)).await?;
        Ok(Attrs { id, attrs: attributes(&metadata) })
    }

    async fn stat(&mut self, id: u32, path: String) -> Result<Attrs, Refusal> {
        let metadata = self.on_folder(move |folder| folder.stat(&path)).await?;
        Ok(Attrs { id, attrs: attributes(&metadata) })
    }

    async fn fstat(&mut self, id: u32, handle: String) -> Result<Attrs, Refusal> {
        let file = self.file(&handle)?;
        let metadata = blocking(move || Ok(file.metadata()?)).await?;
        Ok(Attrs { id, attrs: attributes(&metadata) })
    }

    async fn setstat(&mut self, id: u32, path: String, attrs: FileAttributes) -> Result<Status, Refusal> {
        let changes = changes(&attrs);
        self.on_folder(move |folder| folder.change(&path, changes)).await?;
        Ok(done(id))
    }

    async fn fsetstat(&mut self, id: u32, handle: String, attrs: FileAttributes) -> Result<Status, Refusal> {
        let file = self.file(&handle)?;
        let changes = changes(&attrs);
        blocking(move || folder::change_file(&file, changes)).await?;
        Ok(done(id))
    }

    async fn opendir(&mut self, id: u32, path: String) -> Result<Handle, Refusal> {
        let directory = self.on_folder(move |folder| folder.open_directory(&path)).await?;
        self.keep(id, Opened::Directory(directory))
    }

    async fn readdir(&mut self, id: u32, handle: String) -> Result<Name, Refusal> {
        let mut directory = match self.handles.remove(&handle) {
            Some(Opened::Directory(directory)) => directory,
            Some(file) => {
                self.handles.insert(handle, file);
                return Err(no_such_handle());
            }
            None => return Err(no_such_handle()),
        };
        let (directory, page) = blocking(move || {
            let page = read_page(&mut directory)?;
            Ok((directory, page))
        })
        .await?;
        self.handles.insert(handle, Opened::Directory(directory));
        if page.is_empty() { Err(Refusal::end_of_file()) } else { Ok(Name { id, files: page }) }
    }

    async fn remove(&mut self, id: u32, path: String) -> Result<Status, Refusal> {
        self.on_folder(move |folder| folder.remove(&path)).await?;
        Ok(done(id))
    }

    async fn mkdir(&mut self, id: u32, path: String, attrs: FileAttributes) -> Result<Status, Refusal> {
        self.on_folder(move |folder| folder.make_directory(&path, attrs.permissions)).await?;
        Ok(done(id))
    }

    async fn rmdir(&mut self, id: u32, path: String) -> Result<Status, Refusal> {
        self.on_folder(move |folder| folder.remove_directory(&path)).await?;
        Ok(done(id))
    }

    async fn realpath(&mut self, id: u32, path: String) -> Result<Name, Refusal> {
        let shown = self.on_folder(move |folder| folder.real_path(&path)).await?;
        Ok(Name { id, files: vec![NameEntry::dummy(shown)] })
    }

    async fn rename(&mut self, id: u32, from: String, to: String) -> Result<Status, Refusal> {
        self.on_folder(move |folder| folder.rename(&from, &to, false)).await?;
        Ok(done(id))
    }

    async fn readlink(&mut self, id: u32, path: String) -> Result<Name, Refusal> {
        let target = self.on_folder(move |folder| folder.read_link(&path)).await?;
        Ok(Name { id, files: vec![NameEntry::dummy(target)] })
    }

    async fn extended(&mut self, id: u32, request: String, data: Vec<u8>) -> Result<Packet, Refusal> {
        match request.as_str() {
            POSIX_RENAME => {
                // Two pathnames, old and new: the shape of hardlink@openssh.com.
                let HardlinkExtension { oldpath, newpath } = decoded(data)?;
                self.on_folder(move |folder| folder.rename(&oldpath, &newpath, true)).await?;
                Ok(Packet::Status(done(id)))
            }
            FSYNC => {
                let FsyncExtension { handle } = decoded(data)?;
                let file = self.file(&handle)?;
                blocking(move || Ok(file.sync_all()?)).await?;
                Ok(Packet::Status(done(id)))
            }
            STATVFS => {
                let StatvfsExtension { path } = decoded(data)?;
                let facts = self.on_folder(move |folder| folder.file_system(&path)).await?;
                encoded(
                    id,
                    &Statvfs {
                        block_size: facts.f_bsize,
                        fragment_size: facts.f_frsize,
                        blocks: facts.f_blocks,
                        blocks_free: facts.f_bfree,
                        blocks_avail: facts.f_bavail,
                        inodes: facts.f_files,
                        inodes_free: facts.f_ffree,
                        inodes_avail: facts.f_favail,
                        fs_id: facts.f_fsid,
                        flags: 0,
                        name_max: facts.f_namemax,
                    },
                )
            }
            LIMITS => encoded(
                id,
                &LimitsExtension {
                    max_packet_len: MAX_PACKET,
                    max_read_len: MAX_DATA.into(),
                    max_write_len: MAX_DATA.into(),
                    max_open_handles: MAX_HANDLES as u64,
                },
            ),
            _ => Err(self.unimplemented()),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => Err(Refusal::new(Code::Failure, "the request was not carried out")),
    }
}

fn read_page(directory: &mut ReadDir) -> io::Result<Vec<NameEntry>> {
    let mut page = Vec::new();
    while page.len() < PAGE {
        let Some(entry) = directory.next().transpose()? else { break };
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            debug!(?name, "left out of a listing: the name is not UTF-8");
            continue;
        };
        match entry.metadata() {
            Ok(metadata) => page.push(NameEntry::new(name, attributes(&metadata))),
            // Removed since the directory was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(page)
}

fn attributes(metadata: &Metadata) -> FileAttributes {
    // Version 3 has 32 bits for a time: those beyond are shown as its ends.
    let time = |seconds: i64| Some(u32::try_from(seconds.max(0)).unwrap_or(u32::MAX));
    FileAttributes {
        size: Some(metadata.len()),
        uid: Some(metadata.uid()),
        user: None,
        gid: Some(metadata.gid()),
        group: None,
        permissions: Some(metadata.mode()),
        atime: time(metadata.atime()),
        mtime: time(metadata.mtime()),
    }
}

fn changes(attrs: &FileAttributes) -> Changes {
    Changes {
        size: attrs.size,
        mode: attrs.permissions,
        owner: attrs.uid.zip(attrs.gid),
        times: attrs.atime.zip(attrs.mtime),
    }
}

fn no_such_handle() -> Refusal {
    Refusal::new(Code::Failure, "no such handle")
}

fn done(id: u32) -> Status {
    Status { id, status_code: StatusCode::Ok, error_message: "ok".to_owned(), language_tag: "en".to_owned() }
}

fn decoded<T: DeserializeOwned>(data: Vec<u8>) -> Result<T, Refusal> {
    russh_sftp::de::from_bytes(&mut Bytes::from(data))
        .map_err(|_| Refusal::new(Code::BadMessage, "the extension's data is malformed"))
}

fn encoded(id: u32, value: &impl Serialize) -> Result<Packet, Refusal> {
    let data = russh_sftp::ser::to_bytes(value)
        .map_err(|_| Refusal::new(Code::Failure, "the extension's answer could not be encoded"))?;
    Ok(Packet::ExtendedReply(ExtendedReply { id, data: data.to_vec() }))
}
