//! An SFTP session against a server that answers as the fuzzer likes: nothing panics or hangs, file data is right or an
//! error, what is acknowledged was acknowledged, every handle is closed once, and both tasks end.
//!
//! Time is tokio's paused clock: where nobody has anything to do, it jumps to the next deadline.

mod server;

use std::time::Duration;

use ftps2sftp::sftp::{Attributes, BackendPath, Ending, File, OpenFlags, ReadStream, Session, SftpError, WriteStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{sleep, timeout};

use self::server::{Server, content};
use super::input::Input;

/// What a server has to answer one request.
const REQUEST_TIME: Duration = Duration::from_secs(5);

/// Longer than everything a client can do here when each answer comes at the last moment: then it hangs.
const LIFETIME: Duration = Duration::from_secs(60 * 24 * 3600);

/// Longer than any deadline of the session.
const LONG: Duration = Duration::from_secs(3600);

/// Things a client does one after the other.
const MOST_STEPS: usize = 6;

/// READs and WRITEs under way, in bytes.
const WINDOW: usize = 256;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
}

/// What the client does, as a piece; then what the server is like and how it answers.
pub fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let steps = input.piece();
    let server = Server::new(input);
    RUNTIME.with(|runtime| runtime.block_on(converse(Input::new(steps), server)));
}

async fn converse(steps: Input<'_>, server: Server) {
    let client = async {
        let session = Session::start(server.source(), server.sink(), REQUEST_TIME).await.ok()?;
        work(steps, &session, &server).await;
        let answered = timeout(LONG, session.settled()).await.is_ok();
        Some(answered && !session.is_lost())
    };
    let in_order = timeout(LIFETIME, client).await.expect("the session hangs");
    for _ in 0..LONG.as_secs() {
        if Handle::current().metrics().num_alive_tasks() == 0 {
            break;
        }
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(Handle::current().metrics().num_alive_tasks(), 0, "a task goes on without its session");
    if in_order == Some(true) && server.is_honest() {
        server.has_its_handles_back();
    }
}

async fn work(mut steps: Input<'_>, session: &Session, server: &Server) {
    for _ in 0..MOST_STEPS {
        if steps.is_empty() {
            break;
        }
        let (what, detail) = (steps.byte(), steps.byte());
        let step = step(what & 0x1f, detail, session, server);
        match what & 0xe0 {
            // Given up half-way.
            0x20 => drop(timeout(Duration::from_millis(u64::from(detail) * 100), step).await),
            // Two at a time.
            0x40 => drop(tokio::join!(step, self::step(detail & 0x1f, what, session, server))),
            _ => step.await,
        }
    }
}

/// One thing a client does. What it hears is the server's; that it hears it is what is looked at.
async fn step(what: u8, detail: u8, session: &Session, server: &Server) {
    let name = BackendPath::from_bytes(vec![b'n'; usize::from(detail)]);
    let name = &name;
    match what {
        0 => drop(session.stat(name).await),
        1 => drop(session.lstat(name).await),
        2 => drop(session.real_path(name.as_bytes()).await),
        3 => drop(session.read_link(name).await),
        4 => drop(session.set_attributes(name, &mode()).await),
        5 => drop(session.set_link_attributes(name, &mode()).await),
        6 => drop(session.make_directory(name, 0o755).await),
        7 => drop(session.remove(name).await),
        8 => drop(session.remove_directory(name).await),
        9 => drop(session.rename(name, &name.sibling(b"other"), detail & 1 == 0).await),
        10 => drop(session.statvfs(name).await),
        11 => drop(session.limits().await),
        12..=14 => drop(list(session, name, if what == 12 { usize::MAX } else { usize::from(detail) }).await),
        15..=18 => drop(read(session, server, name, detail, if what < 17 { usize::MAX } else { 2 }).await),
        19..=25 => drop(write(session, server, name, what, detail).await),
        26 => drop(touch(session, name).await),
        // Nothing is waited for any more, as after a transfer that was stopped while the server hung.
        27 => session.leave(),
        _ => sleep(Duration::from_secs(detail.into())).await,
    }
}

async fn list(session: &Session, name: &BackendPath, most: usize) -> Result<(), SftpError> {
    let mut directory = session.open_directory(name).await?;
    for _ in 0..most {
        if directory.next().await?.is_none() {
            return directory.close().await;
        }
    }
    Ok(())
}

async fn read(
    session: &Session,
    server: &Server,
    name: &BackendPath,
    detail: u8,
    most: usize,
) -> Result<(), SftpError> {
    let flags = OpenFlags { read: true, ..OpenFlags::default() };
    let file = session.open(name, flags, None).await?;
    let mut offset = u64::from(detail);
    let mut stream = ReadStream::new(file, offset, WINDOW);
    if detail & 1 == 1 {
        stream = stream.expecting(u64::from(detail) * 2);
    }
    for _ in 0..most {
        let Some(bytes) = stream.next().await? else { return stream.close().await };
        assert!(!bytes.is_empty(), "nothing was handed on as data");
        let end = offset + bytes.len() as u64;
        assert!(!server.is_honest() || bytes == content(offset, end), "wrong data at {offset}");
        offset = end;
    }
    stream.ready();
    stream.size().await.map(drop)
}

async fn write(session: &Session, server: &Server, name: &BackendPath, what: u8, detail: u8) -> Result<(), SftpError> {
    let flags = OpenFlags { write: true, create: true, ..OpenFlags::default() };
    let file = session.open(name, flags, Some(0o644)).await?;
    let begin = u64::from(detail);
    let mut stream = WriteStream::new(file, begin, WINDOW);
    let mut sent = 0;
    for index in 0..detail % 4 {
        let mut buffer = stream.buffer();
        sent += buffer.extend(&vec![index; 4 * usize::from(detail)]) as u64;
        stream.write(buffer).await?;
        assert!(stream.acknowledged() <= sent);
    }
    match what {
        19 | 20 => {
            let ending = Ending { mode: (detail & 1 == 0).then_some(0o600), sync: session.extensions().fsync };
            let sealed = stream.seal(ending).await?;
            assert!(sealed.bytes == sent && server.took(sent), "sealed without every acknowledgement");
            sealed.closed
        }
        21 | 22 => {
            let (file, bytes) = stream.finish().await?;
            assert!(bytes == sent && server.took(sent), "finished without every acknowledgement");
            file.close().await
        }
        23 => {
            stream.all_answered().await;
            assert!(stream.acknowledged() <= sent);
            Ok(())
        }
        24 => stream.abandon().close().await,
        // It is waited for beside the client, and without a failure for as long as the session lasts.
        _ => timeout(LONG, stream.failed()).await.map_or(Ok(()), Err),
    }
}

/// What is asked of an open file besides its data.
async fn touch(session: &Session, name: &BackendPath) -> Result<(), SftpError> {
    let file: File = session.open(name, OpenFlags::default(), None).await?;
    let attributes = mode();
    let later = file.begin_set_attributes(&attributes).await?;
    drop(tokio::join!(file.stat(), file.set_attributes(&attributes), later.wait()));
    file.sync().await
}

fn mode() -> Attributes {
    Attributes { permissions: Some(0o600), ..Attributes::default() }
}
