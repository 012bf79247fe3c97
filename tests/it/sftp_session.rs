//! The SFTP client (draft-ietf-secsh-filexfer-02) against a scripted server and against OpenSSH's `sftp-server`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

use std::future::poll_fn;
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;

use ftps2sftp::sftp::wire::packet::{Name, Reply};
use ftps2sftp::sftp::{
    Attributes, BackendPath, FileKind, OpenFlags, PacketSink, ReadStream, Session, SftpError, SinkClosed, StatusCode,
    StreamSink, StreamSource, WriteStream,
};

use crate::support::scripted_sftp::{Profile, Script, ScriptedSftp, Then, When};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
const WINDOW: usize = 2 << 20;

const READ: OpenFlags = OpenFlags { read: true, write: false, create: false, exclusive: false, truncate: false };
const WRITE: OpenFlags = OpenFlags { read: false, write: true, create: true, exclusive: false, truncate: true };

fn path(path: impl Into<Vec<u8>>) -> BackendPath {
    BackendPath::from_bytes(path)
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64).map(|index| (index.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0]).collect()
}

fn serve(
    server: &ScriptedSftp,
) -> (StreamSource<tokio::io::ReadHalf<DuplexStream>>, tokio::io::WriteHalf<DuplexStream>) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let server = server.clone();
    tokio::spawn(async move {
        let (reader, writer) = tokio::io::split(theirs);
        server.serve(reader, writer).await;
    });
    let (reader, writer) = tokio::io::split(ours);
    (StreamSource::new(reader), writer)
}

async fn connect(server: &ScriptedSftp) -> Session {
    let (source, writer) = serve(server);
    Session::start(source, StreamSink::new(writer), REQUEST_TIMEOUT).await.unwrap()
}

async fn download(session: &Session, name: &BackendPath, offset: u64) -> Result<Vec<u8>, SftpError> {
    let mut stream = ReadStream::new(session.open(name, READ, None).await?, offset, WINDOW);
    let mut data = Vec::new();
    while let Some(bytes) = stream.next().await? {
        assert!(!bytes.is_empty());
        data.extend_from_slice(&bytes);
    }
    stream.close().await?;
    Ok(data)
}

async fn upload(session: &Session, name: &BackendPath, mut data: &[u8]) -> Result<u64, SftpError> {
    let mut stream = WriteStream::new(session.open(name, WRITE, Some(0o644)).await?, 0, WINDOW);
    while !data.is_empty() {
        let mut buffer = stream.buffer();
        while !buffer.is_full() && !data.is_empty() {
            data.read_buf(&mut buffer.spare()).await.unwrap();
        }
        stream.write(buffer).await?;
    }
    let (file, bytes) = stream.finish().await?;
    assert_eq!(file.stat().await?.size, Some(bytes));
    file.close().await?;
    Ok(bytes)
}

/// Takes so long for each packet.
struct SlowSink<S>(S, Duration);

impl<S: PacketSink> PacketSink for SlowSink<S> {
    async fn send(&mut self, bytes: Bytes) -> Result<(), SinkClosed> {
        tokio::time::sleep(self.1).await;
        self.0.send(bytes).await
    }

    async fn close(&mut self) {
        self.0.close().await;
    }
}

fn profiles() -> [Profile; 4] {
    [Profile::openssh(), Profile::bare(), Profile::binary_handles(), Profile::windows_like()]
}

fn code(error: &SftpError) -> StatusCode {
    error.code().unwrap_or_else(|| panic!("no status: {error}"))
}

// ---- What a session does, on every kind of server -------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn names_are_made_seen_changed_and_removed_on_every_profile() {
    for profile in profiles() {
        let server = ScriptedSftp::new(Script::new(profile));
        let session = connect(&server).await;
        let home = session.real_path(b".").await.unwrap();
        assert_eq!(home.as_bytes(), b"/home/user");
        let directory = home.join(b"a");
        session.make_directory(&directory, 0o750).await.unwrap();
        let file = directory.join(b"caf\xe9");
        upload(&session, &file, b"hello").await.unwrap();
        assert_eq!(session.stat(&file).await.unwrap().size, Some(5));
        let times = Attributes { times: Some((7, 8)), ..Attributes::default() };
        session.set_attributes(&file, &times).await.unwrap();
        assert_eq!(session.lstat(&file).await.unwrap().times, Some((7, 8)));
        assert!(session.remove_directory(&directory).await.is_err(), "not empty");
        session.rename(&file, &directory.join(b"b"), false).await.unwrap();
        assert_eq!(code(&session.stat(&file).await.unwrap_err()), StatusCode::NO_SUCH_FILE);
        session.remove(&directory.join(b"b")).await.unwrap();
        session.remove_directory(&directory).await.unwrap();
        assert_eq!(server.record().open_handles, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn extensions_are_used_where_offered_and_refused_here_where_not() {
    let with = ScriptedSftp::new(Script::new(Profile::openssh()));
    with.tree().put_file("/a", "new");
    with.tree().put_file("/b", "old");
    with.tree().put_symlink("/link", "a");
    let session = connect(&with).await;
    assert_eq!(session.limits().await.read_length, 261_120);
    session.rename(&path("/a"), &path("/b"), true).await.unwrap();
    assert_eq!(with.tree().file("/b").unwrap(), b"new");
    assert!(session.statvfs(&path("/")).await.unwrap().available_bytes() > 0);
    session.open(&path("/b"), READ, None).await.unwrap().sync().await.unwrap();
    let times = Attributes { times: Some((1, 2)), ..Attributes::default() };
    session.set_link_attributes(&path("/link"), &times).await.unwrap();
    assert_eq!(with.tree().attributes("/link").unwrap().times, Some((1, 2)));
    assert_eq!(session.read_link(&path("/link")).await.unwrap(), b"a");

    let without = ScriptedSftp::new(Script::new(Profile::bare()));
    without.tree().put_file("/b", "old");
    let session = connect(&without).await;
    let file = session.open(&path("/b"), READ, None).await.unwrap();
    let asked = without.record().requests.len();
    for refused in [
        session.rename(&path("/b"), &path("/c"), true).await,
        session.set_link_attributes(&path("/b"), &times).await,
        session.statvfs(&path("/")).await.map(drop),
        file.sync().await,
    ] {
        assert!(matches!(refused, Err(SftpError::Unsupported(_))), "{refused:?}");
    }
    assert_eq!(without.record().requests.len(), asked, "nothing was sent");
}

#[tokio::test(start_paused = true)]
async fn files_of_every_size_go_both_ways_on_every_profile() {
    for profile in profiles() {
        let server = ScriptedSftp::new(Script::new(profile.clone()));
        let session = connect(&server).await;
        for size in [0, 1, 32_739, 32_740, 131_072, 261_120, 261_121, 3_000_000] {
            let (data, name) = (pattern(size), path(format!("/home/user/{size}")));
            assert_eq!(upload(&session, &name, &data).await, Ok(size as u64));
            assert!(server.tree().file(name.as_bytes()).unwrap() == data, "upload of {size}");
            assert!(download(&session, &name, 0).await.unwrap() == data, "download of {size}");
            let offset = size / 2;
            assert!(download(&session, &name, offset as u64).await.unwrap() == data[offset..], "rest of {size}");
        }
        let record = server.record();
        assert_eq!((record.open_handles, record.strays), (0, 0));
        assert!(record.longest_packet <= profile.longest_packet, "{}", record.longest_packet);
    }
}

#[tokio::test(start_paused = true)]
async fn short_reads_in_any_order_give_the_same_bytes() {
    for seed in 1..30 {
        let mut script = Script::new(Profile::openssh());
        script.short_reads = Some(seed);
        script.reorder = Some(seed * 7919);
        script.latency = Duration::from_millis(20);
        let server = ScriptedSftp::new(script);
        let data = pattern(1_000_000);
        server.tree().put_file("/f", data.clone());
        let session = connect(&server).await;
        assert!(download(&session, &path("/f"), 0).await.unwrap() == data, "seed {seed}");
        assert_eq!(upload(&session, &path("/g"), &data).await, Ok(data.len() as u64));
        assert!(server.tree().file("/g").unwrap() == data, "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn reads_are_pipelined_and_a_known_size_saves_the_last_round_trip() {
    let mut script = Script::new(Profile::openssh());
    script.latency = Duration::from_millis(100);
    let server = ScriptedSftp::new(script);
    server.tree().put_file("/f", pattern(600_000));
    let session = connect(&server).await;
    for (expected, round_trips) in [(None, 2), (Some(600_000), 1)] {
        let file = session.open(&path("/f"), READ, None).await.unwrap();
        let mut stream = ReadStream::new(file, 0, WINDOW);
        if let Some(size) = expected {
            stream = stream.expecting(size);
        }
        let begin = Instant::now();
        while stream.next().await.unwrap().is_some() {}
        assert_eq!(begin.elapsed().as_millis() / 100, round_trips);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_consumer_makes_the_stream_ask_for_no_more_than_its_window() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()));
    server.tree().put_file("/f", pattern(8 << 20));
    let session = connect(&server).await;
    let file = session.open(&path("/f"), READ, None).await.unwrap();
    let mut stream = ReadStream::new(file, 0, 1 << 20);
    for _ in 0..8 {
        stream.next().await.unwrap().unwrap();
    }
    let asked = server.record().count("READ");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(server.record().count("READ"), asked);
    assert!(stream.next().await.unwrap().is_some(), "a pause of the consumer is no stall of the server");
    let mut data = 0;
    while let Some(bytes) = stream.next().await.unwrap() {
        data += bytes.len();
    }
    assert!(data > 7 << 20);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_and_forty_files_are_open_at_once_on_every_profile() {
    for profile in profiles() {
        let server = ScriptedSftp::new(Script::new(profile));
        let session = connect(&server).await;
        let mut streams = Vec::new();
        for number in 0..140 {
            let file = session.open(&path(format!("/f{number}")), WRITE, None).await.unwrap();
            streams.push(WriteStream::new(file, 0, WINDOW));
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut buffer = stream.buffer();
            buffer.extend(number.to_string().as_bytes());
            stream.write(buffer).await.unwrap();
        }
        for stream in streams {
            stream.finish().await.unwrap().0.close().await.unwrap();
        }
        for number in 0..140 {
            assert_eq!(server.tree().file(format!("/f{number}")).unwrap(), number.to_string().as_bytes());
        }
        assert_eq!((server.record().most_open_handles, server.record().open_handles), (140, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_names_stream_in_pages_each_once_and_byte_for_byte() {
    let mut script = Script::new(Profile::openssh());
    script.latency = Duration::from_millis(10);
    let server = ScriptedSftp::new(script);
    let mut expected: Vec<_> = (0..10_000).map(|number| format!("n{number}").into_bytes()).collect();
    expected.push(b"r\xe4k.txt".to_vec());
    server.tree().put_directory("/many");
    for name in &expected {
        server.tree().put_file([b"/many/".as_slice(), name].concat(), name.clone());
    }
    let session = connect(&server).await;
    let begin = Instant::now();
    let mut directory = session.open_directory(&path("/many")).await.unwrap();
    let (mut names, mut pages) = (Vec::new(), 0);
    while let Some(page) = directory.next().await.unwrap() {
        pages += 1;
        names.extend(page.into_iter().map(|entry| entry.name).filter(|name| name != b"." && name != b".."));
    }
    assert!(directory.next().await.unwrap().is_none(), "the end stays the end");
    directory.close().await.unwrap();
    assert_eq!(pages, 101);
    // OPENDIR, seven round trips of pages at most, CLOSE.
    assert!(begin.elapsed() <= Duration::from_millis(9 * 10), "{:?} for 101 pages", begin.elapsed());
    names.sort();
    expected.sort();
    assert!(names == expected);
    assert_eq!(download(&session, &path(*b"/many/r\xe4k.txt"), 0).await.unwrap(), b"r\xe4k.txt");
}

#[tokio::test(start_paused = true)]
async fn a_small_directory_costs_few_requests_and_a_listing_given_up_at_every_wait_loses_no_name() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()));
    for number in 0..50 {
        server.tree().put_file(format!("/f{number}"), number.to_string());
    }
    let session = connect(&server).await;
    let mut directory = session.open_directory(&path("/")).await.unwrap();
    let mut names = Vec::new();
    loop {
        // Given up whenever it would wait, and asked again.
        match directory.next().now_or_never() {
            Some(page) => match page.unwrap() {
                Some(page) => {
                    names.extend(page.into_iter().map(|entry| entry.name).filter(|name| name.starts_with(b"f")))
                }
                None => break,
            },
            None => tokio::task::yield_now().await,
        }
    }
    assert_eq!(names.len(), 50);
    // The page, and what was under way or asked for before its end was heard.
    assert!(server.record().count("READDIR") <= 4, "{}", server.record().count("READDIR"));
}

#[tokio::test(start_paused = true)]
async fn names_told_after_the_end_by_a_server_that_works_in_parallel_are_heard() {
    let name = |text: &'static str| Name {
        filename: Bytes::from_static(text.as_bytes()),
        longname: Bytes::new(),
        attributes: Attributes::default(),
    };
    let script = Script::new(Profile::openssh())
        .fault(When::Nth("READDIR", 0), Then::Fail(StatusCode::EOF))
        .fault(When::Nth("READDIR", 1), Then::Reply(Reply::Name(vec![name("late")])))
        .fault(When::Nth("READDIR", 2), Then::Fail(StatusCode::FAILURE));
    let session = connect(&ScriptedSftp::new(script)).await;
    let mut directory = session.open_directory(&path("/")).await.unwrap();
    assert_eq!(directory.next().await.unwrap().unwrap()[0].name, b"late");
    assert_eq!(directory.next().await, Ok(None));
}

// ---- What servers say -----------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn any_status_code_with_or_without_message_is_kept_and_ends_nothing() {
    for profile in [Profile::openssh(), Profile::windows_like()] {
        for number in [3, 4, 8, 9, 12, 15, 31, 4711, u32::MAX] {
            let script = Script::new(profile.clone()).fault(When::Nth("STAT", 0), Then::Fail(StatusCode(number)));
            let session = connect(&ScriptedSftp::new(script)).await;
            assert_eq!(code(&session.stat(&path("/")).await.unwrap_err()), StatusCode(number));
            assert!(session.stat(&path("/")).await.is_ok());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn s29_a_malformed_reply_fails_its_request_and_no_other() {
    let malformed = [
        vec![0, 0, 0, 5, 105, 0, 0, 0, 0],
        vec![0, 0, 0, 9, 105, 0, 0, 0, 0, 0, 0, 0, 1],
        vec![0, 0, 0, 9, 104, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        vec![0, 0, 0, 9, 102, 0, 0, 0, 0, 0, 0, 0, 99],
        vec![0, 0, 0, 9, 103, 0, 0, 0, 0, 0, 0, 0, 99],
        vec![0, 0, 0, 7, 101, 0, 0, 0, 0, 0, 0],
    ];
    for bytes in malformed {
        let script = Script::new(Profile::openssh()).fault(When::Nth("STAT", 1), Then::Raw(bytes));
        let session = connect(&ScriptedSftp::new(script)).await;
        let root = path("/");
        let (first, second, third) = tokio::join!(session.stat(&root), session.stat(&root), session.stat(&root));
        assert!(first.is_ok() && third.is_ok());
        assert!(matches!(second, Err(SftpError::Protocol(_))), "{second:?}");
        assert!(!session.is_lost());
    }
}

#[tokio::test(start_paused = true)]
async fn replies_nobody_asked_for_are_ignored() {
    let unknown_type = vec![0, 0, 0, 6, 99, 0, 0, 0, 0, 1];
    let no_type = vec![0, 0, 0, 0];
    let no_id = vec![0, 0, 0, 3, 101, 0, 0];
    let a_request = vec![0, 0, 0, 9, 4, 0, 0, 0, 0, 0, 0, 0, 0];
    for noise in [unknown_type, no_type, no_id, a_request] {
        let script = Script::new(Profile::openssh())
            .fault(When::Nth("LSTAT", 0), Then::Raw(noise))
            .fault(When::Every("STAT"), Then::Twice);
        let session = connect(&ScriptedSftp::new(script)).await;
        let root = path("/");
        tokio::select! {
            biased;
            unanswered = session.lstat(&root) => panic!("{unanswered:?}"),
            answered = async { session.stat(&root).await.and(session.stat(&root).await) } => assert!(answered.is_ok()),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_of_the_wrong_type_is_a_protocol_error() {
    let ok = || Reply::status(StatusCode::OK, "");
    let script = Script::new(Profile::openssh())
        .fault(When::Every("STAT"), Then::Reply(ok()))
        .fault(When::Every("OPEN"), Then::Reply(ok()))
        .fault(When::Every("REALPATH"), Then::Reply(Reply::Name(Vec::new())))
        .fault(When::Every("REMOVE"), Then::Reply(Reply::Handle(Bytes::from_static(b"h"))));
    let session = connect(&ScriptedSftp::new(script)).await;
    let root = path("/");
    assert!(matches!(session.stat(&root).await, Err(SftpError::Protocol(_))));
    assert!(matches!(session.open(&root, READ, None).await, Err(SftpError::Protocol(_))));
    assert!(matches!(session.real_path(b"/").await, Err(SftpError::Protocol(_))));
    assert!(matches!(session.remove(&root).await, Err(SftpError::Protocol(_))));
}

#[tokio::test(start_paused = true)]
async fn data_that_was_not_asked_for_is_never_handed_on() {
    let long = Reply::Data(vec![Bytes::from(vec![1; 300_000])]);
    let empty = Reply::Data(Vec::new());
    for wrong in [long, empty] {
        let script = Script::new(Profile::openssh()).fault(When::Nth("READ", 1), Then::Reply(wrong));
        let server = ScriptedSftp::new(script);
        let data = pattern(1_000_000);
        server.tree().put_file("/f", data.clone());
        let session = connect(&server).await;
        let file = session.open(&path("/f"), READ, None).await.unwrap();
        let mut stream = ReadStream::new(file, 0, WINDOW);
        let mut read = Vec::new();
        let error = loop {
            match stream.next().await {
                Ok(bytes) => read.extend_from_slice(&bytes.unwrap()),
                Err(error) => break error,
            }
        };
        assert!(data.starts_with(&read));
        assert!(matches!(error, SftpError::Protocol(_)));
        assert_eq!(stream.next().await, Err(error), "it stays failed");
        assert!(session.stat(&path("/f")).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_comes_after_the_bytes_before_it() {
    let script = Script::new(Profile::bare()).fault(When::Nth("READ", 2), Then::Fail(StatusCode::PERMISSION_DENIED));
    let server = ScriptedSftp::new(script);
    server.tree().put_file("/f", pattern(1_000_000));
    let session = connect(&server).await;
    let mut stream = ReadStream::new(session.open(&path("/f"), READ, None).await.unwrap(), 0, WINDOW);
    let mut read = Vec::new();
    let error = loop {
        match stream.next().await {
            Ok(bytes) => read.extend_from_slice(&bytes.unwrap()),
            Err(error) => break error,
        }
    };
    assert_eq!(code(&error), StatusCode::PERMISSION_DENIED);
    assert!(read == pattern(2 * 32_768));
}

// ---- Uploads that fail ----------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_failed_write_is_told_at_once_and_by_every_later_call() {
    let mut script = Script::new(Profile::bare()).fault(When::Nth("WRITE", 5), Then::DoneButFail(StatusCode(14)));
    script.latency = Duration::from_millis(50);
    script.profile.refined_codes = true;
    let server = ScriptedSftp::new(script);
    let session = connect(&server).await;
    let file = session.open(&path("/f"), WRITE, None).await.unwrap();
    let mut stream = WriteStream::new(file, 0, 8 * 32_768);
    let mut written = 0;
    let error = loop {
        let mut buffer = stream.buffer();
        buffer.extend(&pattern(buffer.remaining()));
        match stream.write(buffer).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(code(&error), StatusCode::NO_SPACE_ON_FILESYSTEM);
    assert!(written <= 5 + 8, "{written} writes after the failed one");
    assert_eq!(stream.acknowledged(), 5 * 32_739);
    // Those that were under way behind it are stored, and yet there is a gap.
    assert!(stream.all_answered().await);
    assert_eq!(stream.acknowledged(), 5 * 32_739);
    assert_eq!(stream.failed().await, error);
    let empty = stream.buffer();
    assert_eq!(stream.write(empty).await, Err(error.clone()));
    assert_eq!(stream.finish().await.unwrap_err(), error);
    server.until(|record| record.open_handles == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_is_told_while_the_client_sends_nothing() {
    let mut script = Script::new(Profile::openssh()).fault(When::Nth("WRITE", 0), Then::Fail(StatusCode::FAILURE));
    script.latency = Duration::from_secs(5);
    let session = connect(&ScriptedSftp::new(script)).await;
    let mut stream = WriteStream::new(session.open(&path("/f"), WRITE, None).await.unwrap(), 0, WINDOW);
    let mut buffer = stream.buffer();
    buffer.extend(b"x");
    stream.write(buffer).await.unwrap();
    assert_eq!(code(&stream.failed().await), StatusCode::FAILURE);
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_failure_that_does_not_come_takes_in_acknowledgements_and_ends_with_the_session() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()).fault(When::Nth("STAT", 0), Then::Disconnect));
    let session = connect(&server).await;
    let mut stream = WriteStream::new(session.open(&path("/f"), WRITE, None).await.unwrap(), 10, WINDOW);
    let mut buffer = stream.buffer();
    buffer.extend(b"abc");
    stream.write(buffer).await.unwrap();
    let quiet = tokio::time::timeout(Duration::from_secs(3600), stream.failed()).await;
    assert!(quiet.is_err());
    assert_eq!(stream.acknowledged(), 3);
    assert!(matches!(session.stat(&path("/")).await, Err(SftpError::Lost(_))));
    assert!(matches!(stream.failed().await, SftpError::Lost(_)));
}

#[tokio::test(start_paused = true)]
async fn a_write_given_up_half_way_cannot_leave_a_hole() {
    let script = Script::new(Profile::openssh()).fault(When::Every("WRITE"), Then::Silence);
    let session = connect(&ScriptedSftp::new(script)).await;
    let mut stream = WriteStream::new(session.open(&path("/f"), WRITE, None).await.unwrap(), 0, 1);
    let full = |stream: &WriteStream| {
        let mut buffer = stream.buffer();
        buffer.extend(&pattern(buffer.remaining()));
        buffer
    };
    let first = full(&stream);
    stream.write(first).await.unwrap();
    let second = full(&stream);
    assert!(tokio::time::timeout(Duration::from_secs(1), stream.write(second)).await.is_err());
    let third = full(&stream);
    assert!(matches!(stream.write(third).await, Err(SftpError::Protocol(_))));
    assert!(matches!(stream.finish().await, Err(SftpError::Protocol(_))));
}

#[tokio::test(start_paused = true)]
async fn a_full_file_system_and_a_failed_close_are_both_told() {
    let server = ScriptedSftp::new(Script::new(Profile::windows_like()));
    server.tree().capacity = Some(100_000);
    let session = connect(&server).await;
    let error = upload(&session, &path("/f"), &pattern(1_000_000)).await.unwrap_err();
    assert_eq!(code(&error), StatusCode::NO_SPACE_ON_FILESYSTEM);

    let script = Script::new(Profile::openssh()).fault(When::Every("CLOSE"), Then::DoneButFail(StatusCode::FAILURE));
    let session = connect(&ScriptedSftp::new(script)).await;
    assert_eq!(code(&upload(&session, &path("/f"), b"x").await.unwrap_err()), StatusCode::FAILURE);
}

// ---- Handles are given back -----------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_cancelled_open_closes_the_handle_when_it_comes() {
    let late = || Then::Late(Duration::from_secs(10));
    let script =
        Script::new(Profile::openssh()).fault(When::Every("OPEN"), late()).fault(When::Every("OPENDIR"), late());
    let server = ScriptedSftp::new(script);
    server.tree().put_file("/f", "x");
    let session = connect(&server).await;
    let (file, directory) = (path("/f"), path("/"));
    let second = Duration::from_secs(1);
    assert!(tokio::time::timeout(second, session.open(&file, READ, None)).await.is_err());
    assert!(tokio::time::timeout(second, session.open_directory(&directory)).await.is_err());
    assert_eq!(server.record().open_handles, 2);
    server.until(|record| record.count("CLOSE") == 2 && record.open_handles == 0).await;
    assert!(session.stat(&file).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_open_that_timed_out_is_closed_when_it_comes() {
    let late = Then::Late(REQUEST_TIMEOUT + Duration::from_secs(1));
    let server = ScriptedSftp::new(Script::new(Profile::openssh()).fault(When::Nth("OPEN", 0), late));
    server.tree().put_file("/f", "x");
    let session = connect(&server).await;
    assert_eq!(session.open(&path("/f"), READ, None).await.unwrap_err(), SftpError::TimedOut);
    server.until(|record| record.open_handles == 0 && record.count("CLOSE") == 1).await;
}

#[tokio::test(start_paused = true)]
async fn whatever_is_dropped_is_closed_and_no_close_overtakes_a_write() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()));
    server.tree().put_file("/f", pattern(4 << 20));
    let session = connect(&server).await;
    for round in 0..20 {
        drop(session.open(&path("/f"), READ, None).await.unwrap());
        let mut directory = session.open_directory(&path("/")).await.unwrap();
        directory.next().await.unwrap();
        drop(directory);
        let mut reader = ReadStream::new(session.open(&path("/f"), READ, None).await.unwrap(), 0, WINDOW);
        reader.next().await.unwrap();
        drop(reader);
        let file = session.open(&path(format!("/g{round}")), WRITE, None).await.unwrap();
        let mut writer = WriteStream::new(file, 0, 4 << 20);
        for _ in 0..10 {
            let mut buffer = writer.buffer();
            buffer.extend(&vec![round; buffer.remaining()]);
            writer.write(buffer).await.unwrap();
        }
        drop(writer);
    }
    server.until(|record| record.open_handles == 0).await;
    assert_eq!(server.record().strays, 0);
    for round in 0..20_u8 {
        let data = server.tree().file(format!("/g{round}")).unwrap();
        assert!(data.iter().all(|byte| *byte == round), "bytes of another file in g{round}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handle_whose_open_was_dropped_after_the_reply_came_is_closed() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()));
    server.tree().put_file("/f", "x");
    let session = connect(&server).await;
    let name = path("/f");
    let mut open = Box::pin(session.open(&name, READ, None));
    tokio::select! {
        biased;
        file = &mut open => panic!("{file:?}"),
        () = std::future::ready(()) => {}
    }
    server.until(|record| record.open_handles == 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(open);
    server.until(|record| record.open_handles == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_close_in_the_background_keeps_its_place_among_requests() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()));
    let session = connect(&server).await;
    let name = path("/f");
    drop(session.open(&name, WRITE, None).await.unwrap());
    session.remove(&name).await.unwrap();
    assert_eq!(server.record().requests[1..], ["OPEN", "CLOSE", "REMOVE"]);
}

#[tokio::test(start_paused = true)]
async fn writes_that_still_wait_for_the_channel_never_reach_the_next_file_under_the_same_handle() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()));
    let (source, writer) = serve(&server);
    let sink = SlowSink(StreamSink::new(writer), Duration::from_secs(5));
    let session = Session::start(source, sink, REQUEST_TIMEOUT).await.unwrap();
    let file = session.open(&path("/given-up"), WRITE, None).await.unwrap();
    let mut stream = WriteStream::new(file, 0, 64 << 20);
    let full = |stream: &WriteStream, byte: u8| {
        let mut buffer = stream.buffer();
        buffer.extend(&vec![byte; buffer.remaining()]);
        buffer
    };
    let no_time = Duration::from_millis(1);
    loop {
        let buffer = full(&stream, 1);
        if tokio::time::timeout(no_time, stream.write(buffer)).await.is_err() {
            break;
        }
    }
    // The queue is full of writes, so the CLOSE cannot simply follow them.
    drop(stream);
    let next = session.open(&path("/next"), WRITE, None).await.unwrap();
    let mut stream = WriteStream::new(next, 0, WINDOW);
    let buffer = full(&stream, 2);
    stream.write(buffer).await.unwrap();
    stream.finish().await.unwrap().0.close().await.unwrap();
    assert!(server.tree().file("/next").unwrap().iter().all(|byte| *byte == 2));
    server.until(|record| record.open_handles == 0).await;
    assert_eq!(server.record().strays, 0);
}

#[tokio::test(start_paused = true)]
async fn closes_that_find_the_queue_full_are_sent_all_the_same() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()));
    server.tree().put_file("/f", "x");
    let session = connect(&server).await;
    let mut files = Vec::new();
    for _ in 0..200 {
        files.push(session.open(&path("/f"), READ, None).await.unwrap());
    }
    // No await in between: the writer task cannot run, the queue overflows.
    drop(files);
    server.until(|record| record.open_handles == 0).await;
    assert!(session.stat(&path("/f")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_last_owner_closes_what_is_open_and_ends_the_connection() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()));
    server.tree().put_file("/f", "x");
    let session = connect(&server).await;
    let file = session.open(&path("/f"), READ, None).await.unwrap();
    drop(session);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server.record().connections_ended, 0, "an open file keeps its session");
    assert!(file.stat().await.is_ok());
    drop(file);
    server.until(|record| record.connections_ended == 1).await;
    assert_eq!(server.record().count("CLOSE"), 1);
}

// ---- Time -----------------------------------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn an_unanswered_request_times_out_alone() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()).fault(When::Nth("STAT", 0), Then::Silence));
    let session = connect(&server).await;
    let begin = Instant::now();
    assert_eq!(session.stat(&path("/")).await, Err(SftpError::TimedOut));
    assert_eq!(begin.elapsed().as_secs(), REQUEST_TIMEOUT.as_secs());
    assert!(session.stat(&path("/")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_request_begins_when_it_is_written() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()));
    let (source, writer) = serve(&server);
    let sink = SlowSink(StreamSink::new(writer), Duration::from_secs(5));
    let session = Session::start(source, sink, Duration::from_secs(20)).await.unwrap();
    let file = session.open(&path("/f"), WRITE, None).await.unwrap();
    let mut stream = WriteStream::new(file, 0, 4 << 20);
    for _ in 0..20 {
        let mut buffer = stream.buffer();
        buffer.extend(&pattern(buffer.remaining()));
        stream.write(buffer).await.unwrap();
    }
    let begin = Instant::now();
    assert!(session.stat(&path("/f")).await.is_ok(), "it waited behind the data, not for the server");
    assert!(begin.elapsed() > Duration::from_secs(60));
    stream.finish().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn two_files_that_are_read_at_a_time_wait_for_room_and_not_for_each_other() {
    // It takes READs of 32 KiB: more of them fit the window than the queue of a session.
    let server = ScriptedSftp::new(Script::new(Profile::bare()));
    let (source, writer) = serve(&server);
    let sink = SlowSink(StreamSink::new(writer), Duration::from_millis(100));
    let session = Session::start(source, sink, Duration::from_secs(20)).await.unwrap();
    let data = pattern(6 << 20);
    upload(&session, &path("/f"), &data).await.unwrap();
    let name = path("/f");
    let mut both = pin!(async { tokio::join!(download(&session, &name, 0), download(&session, &name, 0)) });
    // Two that hand the one free place to each other never let the clock go on.
    let mut polls = 0;
    let (one, other) = poll_fn(|context| {
        polls += 1;
        assert!(polls < 100_000, "they only wake each other");
        both.as_mut().poll(context)
    })
    .await;
    assert!(one.unwrap() == data && other.unwrap() == data);
}

#[tokio::test(start_paused = true)]
async fn data_times_out_only_without_any_progress() {
    let mut script = Script::new(Profile::bare());
    script.latency = Duration::from_secs(50);
    // Some come later than others, so that there is never a moment with nothing under way.
    for number in (1..40).step_by(2) {
        script.faults.push((When::Nth("READ", number), Then::Late(Duration::from_secs(25))));
        script.faults.push((When::Nth("WRITE", number), Then::Late(Duration::from_secs(25))));
    }
    let server = ScriptedSftp::new(script);
    let data = pattern(500_000);
    server.tree().put_file("/f", data.clone());
    let (source, writer) = serve(&server);
    let session = Session::start(source, StreamSink::new(writer), Duration::from_secs(90)).await.unwrap();
    assert!(download(&session, &path("/f"), 0).await.unwrap() == data);
    assert_eq!(upload(&session, &path("/g"), &data).await, Ok(500_000));

    server.script().faults.push((When::Every("READ"), Then::Silence));
    server.script().faults.push((When::Every("WRITE"), Then::Silence));
    let begin = Instant::now();
    let mut reader = ReadStream::new(session.open(&path("/f"), READ, None).await.unwrap(), 0, WINDOW);
    assert_eq!(reader.next().await, Err(SftpError::TimedOut));
    assert_eq!(begin.elapsed().as_secs(), 50 + 60);
    let mut writer = WriteStream::new(session.open(&path("/g"), WRITE, None).await.unwrap(), 0, WINDOW);
    let mut buffer = writer.buffer();
    buffer.extend(b"x");
    writer.write(buffer).await.unwrap();
    assert_eq!(writer.finish().await.unwrap_err(), SftpError::TimedOut);
    assert!(!session.is_lost());
}

#[tokio::test(start_paused = true)]
async fn waiting_in_pieces_does_not_postpone_the_time_out() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()).fault(When::Every("READ"), Then::Silence));
    server.tree().put_file("/f", "x");
    let session = connect(&server).await;
    let mut reader = ReadStream::new(session.open(&path("/f"), READ, None).await.unwrap(), 0, WINDOW);
    let begin = Instant::now();
    loop {
        if let Ok(result) = tokio::time::timeout(Duration::from_secs(7), reader.next()).await {
            assert_eq!(result, Err(SftpError::TimedOut));
            break;
        }
    }
    assert_eq!(begin.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_nothing_loses_the_session_instead_of_hanging_everyone() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()).fault(When::Nth("WRITE", 0), Then::Hang));
    let session = connect(&server).await;
    let mut stream = WriteStream::new(session.open(&path("/f"), WRITE, None).await.unwrap(), 0, 4 << 20);
    let begin = Instant::now();
    let error = loop {
        let mut buffer = stream.buffer();
        buffer.extend(&pattern(buffer.remaining()));
        if let Err(error) = stream.write(buffer).await {
            break error;
        }
    };
    assert!(matches!(error, SftpError::TimedOut | SftpError::Lost(_)));
    session.lost().await;
    assert!(begin.elapsed() <= Duration::from_secs(61));
    assert!(matches!(session.stat(&path("/")).await, Err(SftpError::Lost(_))));
}

// ---- Sessions that break --------------------------------------------------------------------------------------------

/// A dialogue with a bit of everything.
async fn dialogue(session: &Session) -> Result<(), SftpError> {
    let home = session.real_path(b".").await?;
    let data = pattern(300_000);
    upload(session, &home.join(b"part"), &data).await?;
    session.rename(&home.join(b"part"), &home.join(b"whole"), false).await?;
    let mut directory = session.open_directory(&home).await?;
    while directory.next().await?.is_some() {}
    directory.close().await?;
    assert!(download(session, &home.join(b"whole"), 0).await? == data);
    session.remove(&home.join(b"whole")).await
}

#[tokio::test(start_paused = true)]
async fn a_connection_cut_at_any_packet_is_an_error_and_never_a_hang_or_wrong_bytes() {
    let whole = ScriptedSftp::new(Script::new(Profile::bare()));
    dialogue(&connect(&whole).await).await.unwrap();
    let packets = 1 + whole.record().requests.len();
    assert!(packets > 30);
    for cut in 0..packets {
        for then in [Then::Disconnect, Then::DoneAndDisconnect] {
            let server = ScriptedSftp::new(Script::new(Profile::bare()).fault(When::Packet(cut), then));
            let (source, writer) = serve(&server);
            let begin = Instant::now();
            let result = match Session::start(source, StreamSink::new(writer), REQUEST_TIMEOUT).await {
                Ok(session) => dialogue(&session).await,
                Err(error) => Err(error),
            };
            assert!(begin.elapsed() < Duration::from_secs(1), "cut at {cut}");
            match result {
                Err(SftpError::Lost(_)) => {}
                Ok(()) => panic!("cut at {cut}: and all is well?"),
                Err(other) => panic!("cut at {cut}: {other}"),
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_tells_everyone_who_waits_and_everyone_who_asks() {
    let script = Script::new(Profile::openssh())
        .fault(When::Every("STAT"), Then::Silence)
        .fault(When::Every("READ"), Then::Silence)
        .fault(When::Nth("LSTAT", 0), Then::Disconnect);
    let server = ScriptedSftp::new(script);
    server.tree().put_file("/f", "x");
    let session = connect(&server).await;
    let root = path("/");
    let mut reader = ReadStream::new(session.open(&path("/f"), READ, None).await.unwrap(), 0, WINDOW);
    let begin = Instant::now();
    let (stat, read, lstat, ()) =
        tokio::join!(session.stat(&root), reader.next(), session.lstat(&root), session.lost());
    assert_eq!(begin.elapsed(), Duration::ZERO);
    for lost in [stat.map(drop), read.map(drop), lstat.map(drop), session.remove(&root).await] {
        assert!(matches!(lost, Err(SftpError::Lost(_))), "{lost:?}");
    }
    assert!(session.is_lost());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_not_sftp_is_named_as_what_it_is() {
    let greetings: [(&[u8], &str); 5] = [
        (b"Welcome to host!\r\n", "login script"),
        (&[0x7f, 0xff, 0xff, 0xff, 2], "2147483647 bytes"),
        (&[0, 0, 0, 5, 2, 0, 0, 0, 2], "version 2"),
        (&[0, 0, 0, 5, 101, 0, 0, 0, 3], "truncated"),
        (b"", "closed"),
    ];
    for (greeting, reason) in greetings {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(greeting).await.unwrap();
        let keep = (!greeting.is_empty()).then_some(theirs);
        let (reader, writer) = tokio::io::split(ours);
        let started = Session::start(StreamSource::new(reader), StreamSink::new(writer), REQUEST_TIMEOUT).await;
        let error = started.unwrap_err();
        assert!(matches!(error, SftpError::Protocol(_) | SftpError::Lost(_)));
        if reason != "truncated" {
            assert!(error.to_string().contains(reason), "{error}");
        }
        drop(keep);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_greets_times_out() {
    let (ours, theirs) = tokio::io::duplex(1024);
    let (reader, writer) = tokio::io::split(ours);
    let started = Session::start(StreamSource::new(reader), StreamSink::new(writer), REQUEST_TIMEOUT).await;
    assert_eq!(started.unwrap_err(), SftpError::TimedOut);
    drop(theirs);
}

#[tokio::test(start_paused = true)]
async fn a_packet_above_the_bound_ends_the_session() {
    let mut bytes = Vec::new();
    bytes.put_u32(64 << 20);
    let server = ScriptedSftp::new(Script::new(Profile::openssh()).fault(When::Nth("STAT", 0), Then::Raw(bytes)));
    let session = connect(&server).await;
    assert!(matches!(session.stat(&path("/")).await, Err(SftpError::Lost(_))));
}

#[tokio::test(start_paused = true)]
async fn pathnames_that_would_kill_the_server_are_refused_here() {
    let server = ScriptedSftp::new(Script::new(Profile::openssh()));
    let session = connect(&server).await;
    let asked = server.record().requests.len();
    let (nul, long, fine) = (path(*b"/a\0b"), path(vec![b'x'; 300_000]), path("/a"));
    for refused in [
        session.stat(&nul).await.map(drop),
        session.rename(&fine, &nul, true).await,
        session.open(&nul, READ, None).await.map(drop),
        session.real_path(b"\0").await.map(drop),
        session.stat(&long).await.map(drop),
        session.rename(&path(vec![b'x'; 140_000]), &path(vec![b'x'; 140_000]), false).await,
    ] {
        assert_eq!(code(&refused.unwrap_err()), StatusCode::BAD_MESSAGE);
    }
    assert_eq!(server.record().requests.len(), asked, "nothing was sent");
    assert!(session.stat(&path("/")).await.is_ok());
}

// ---- OpenSSH --------------------------------------------------------------------------------------------------------

const OPENSSH_SERVER: &str = "/usr/lib/openssh/sftp-server";

fn openssh(home: &std::path::Path) -> (tokio::process::Child, impl Future<Output = Session>) {
    assert!(
        std::path::Path::new(OPENSSH_SERVER).exists(),
        "{OPENSSH_SERVER} is missing: install openssh-sftp-server; this test needs the real thing"
    );
    let mut child = tokio::process::Command::new(OPENSSH_SERVER)
        .current_dir(home)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let (reader, writer) = (child.stdout.take().unwrap(), child.stdin.take().unwrap());
    let session =
        async { Session::start(StreamSource::new(reader), StreamSink::new(writer), REQUEST_TIMEOUT).await.unwrap() };
    (child, session)
}

#[tokio::test]
async fn openssh_stores_and_returns_the_same_bytes() {
    let home = tempfile::tempdir().unwrap();
    let (mut child, session) = openssh(home.path());
    let session = session.await;
    let limits = session.limits().await;
    assert_eq!(limits.packet_length, 262_144);
    assert_eq!((limits.read_length, limits.write_length), (261_120, 261_120));
    let root = session.real_path(b".").await.unwrap();
    let data = pattern(24 << 20);
    assert_eq!(upload(&session, &root.join(b"part"), &data).await, Ok(data.len() as u64));
    session.rename(&root.join(b"part"), &root.join(b"whole"), true).await.unwrap();
    assert!(std::fs::read(home.path().join("whole")).unwrap() == data);
    assert!(download(&session, &root.join(b"whole"), 0).await.unwrap() == data);
    assert!(download(&session, &root.join(b"whole"), 24 << 20).await.unwrap().is_empty());
    let file = session.open(&root.join(b"whole"), OpenFlags { write: true, ..READ }, None).await.unwrap();
    file.sync().await.unwrap();
    file.set_attributes(&Attributes { size: Some(3), ..Attributes::default() }).await.unwrap();
    assert_eq!(file.stat().await.unwrap().size, Some(3));
    file.close().await.unwrap();
    drop(session);
    assert!(child.wait().await.unwrap().success(), "the last owner ends the server");
}

#[tokio::test]
async fn openssh_names_handles_and_errors_are_what_they_are() {
    let home = tempfile::tempdir().unwrap();
    let (_child, session) = openssh(home.path());
    let session = session.await;
    let root = session.real_path(b".").await.unwrap();

    let mut streams = Vec::new();
    for number in 0..140 {
        let name = root.join(format!("f{number}").as_bytes());
        streams.push(WriteStream::new(session.open(&name, WRITE, Some(0o600)).await.unwrap(), 0, WINDOW));
    }
    for stream in &mut streams {
        let mut buffer = stream.buffer();
        buffer.extend(b"x");
        stream.write(buffer).await.unwrap();
    }
    for stream in streams {
        stream.finish().await.unwrap().0.close().await.unwrap();
    }

    let latin = root.join(b"r\xe4k.txt");
    upload(&session, &latin, b"latin").await.unwrap();
    session.make_directory(&root.join(b"d"), 0o755).await.unwrap();
    let mut directory = session.open_directory(&root).await.unwrap();
    let mut entries = Vec::new();
    while let Some(page) = directory.next().await.unwrap() {
        entries.extend(page);
    }
    assert_eq!(entries.len(), 140 + 2 + 2);
    let kind = |name: &[u8]| entries.iter().find(|entry| entry.name == name).unwrap().attributes.kind();
    assert_eq!(kind(b"r\xe4k.txt"), Some(FileKind::Regular));
    assert_eq!(kind(b"d"), Some(FileKind::Directory));
    assert_eq!(download(&session, &latin, 0).await.unwrap(), b"latin");

    let root_file = root.join(b"f0");
    assert_eq!(code(&session.stat(&root.join(b"none")).await.unwrap_err()), StatusCode::NO_SUCH_FILE);
    assert_eq!(code(&session.rename(&latin, &root_file, false).await.unwrap_err()), StatusCode::FAILURE);
    assert_eq!(code(&session.make_directory(&root.join(b"d"), 0o755).await.unwrap_err()), StatusCode::FAILURE);
    let error = session.open(&root_file, OpenFlags { exclusive: true, ..WRITE }, None).await.unwrap_err();
    assert_eq!(code(&error), StatusCode::FAILURE);
    let mut reader = ReadStream::new(session.open(&root.join(b"d"), READ, None).await.unwrap(), 0, WINDOW);
    assert_eq!(code(&reader.next().await.unwrap_err()), StatusCode::FAILURE, "opens, and only READ fails");
    assert_eq!(code(&session.stat(&path(*b"a\0b")).await.unwrap_err()), StatusCode::BAD_MESSAGE);
    assert!(session.statvfs(&root).await.unwrap().available_bytes() > 0);
    std::os::unix::fs::symlink("f0", home.path().join("link")).unwrap();
    assert_eq!(session.read_link(&root.join(b"link")).await.unwrap(), b"f0");
    let times = Attributes { times: Some((5, 6)), ..Attributes::default() };
    session.set_link_attributes(&root.join(b"link"), &times).await.unwrap();
    assert_eq!(session.lstat(&root.join(b"link")).await.unwrap().times, Some((5, 6)));
    assert_ne!(session.stat(&root.join(b"link")).await.unwrap().times, Some((5, 6)));
}

#[tokio::test]
async fn openssh_killed_in_the_middle_is_a_lost_session() {
    let home = tempfile::tempdir().unwrap();
    let (mut child, session) = openssh(home.path());
    let session = session.await;
    let name = session.real_path(b".").await.unwrap().join(b"f");
    upload(&session, &name, &pattern(4 << 20)).await.unwrap();
    let mut reader = ReadStream::new(session.open(&name, READ, None).await.unwrap(), 0, 300_000);
    reader.next().await.unwrap();
    child.kill().await.unwrap();
    let error = loop {
        match reader.next().await {
            Ok(bytes) => assert!(bytes.is_some(), "an end of file that nobody told"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SftpError::Lost(_)));
    session.lost().await;
}
