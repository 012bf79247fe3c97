//! Traces: what a collector is sent, and that nobody waits for one. Only with the feature `otlp`, which tests/run has.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::{TcpListener, TcpSocket};

use crate::support::client::Client;
use crate::support::gateway::{Gateway, MAPPED_PASSWORD, MAPPED_USER, Setup};
use crate::support::sshd::{PASSWORD, Sshd};
use crate::support::transfer::content;

/// What a collector was sent, as it came.
type Sent = Arc<Mutex<Vec<Bytes>>>;

/// Takes OTLP over HTTP.
async fn collector() -> (SocketAddr, Sent) {
    let sent = Sent::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let taken = Arc::clone(&sent);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let taken = Arc::clone(&taken);
            let answer = service_fn(move |request: Request<Incoming>| {
                let taken = Arc::clone(&taken);
                async move {
                    assert_eq!(request.uri().path(), "/v1/traces");
                    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    taken.lock().unwrap().push(body);
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer));
        }
    });
    (address, sent)
}

fn traces_to(endpoint: impl std::fmt::Display) -> String {
    format!("traces: {{endpoint: \"http://{endpoint}\"}}\n")
}

fn text<'a>(attributes: &'a [KeyValue], key: &str) -> &'a str {
    let attribute = attributes.iter().find(|attribute| attribute.key == key);
    match attribute.and_then(|attribute| attribute.value.as_ref()) {
        Some(AnyValue { value: Some(Value::StringValue(text)) }) => text,
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

fn number(attributes: &[KeyValue], key: &str) -> i64 {
    let attribute = attributes.iter().find(|attribute| attribute.key == key);
    match attribute.and_then(|attribute| attribute.value.as_ref()) {
        Some(AnyValue { value: Some(Value::IntValue(number)) }) => *number,
        other => panic!("{key} is {other:?} in {attributes:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s17_a_session_is_a_trace_of_its_commands_and_their_requests() {
    let sshd = Sshd::start().await;
    let (address, sent) = collector().await;
    let mut gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()).with(&traces_to(address)));
    let mut client = Client::implicit(&gateway).await;
    client.ask(format!("USER {MAPPED_USER}"), 331).await;
    client.ask(format!("PASS {PASSWORD}canary"), 530).await;
    client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
    client.ask("TYPE I", 200).await;
    // Large enough for several channels, which are opened by a task of their own.
    assert_eq!(client.store("STOR file", &content(5_000_000, 1)).await.code, 226);
    client.ask("DELE absent", 550).await;
    client.ask("QUIT", 221).await;
    gateway.signal("TERM");
    assert!(gateway.wait().success());

    let bodies = sent.lock().unwrap().clone();
    for secret in [MAPPED_PASSWORD, "canary"] {
        let is_in = |body: &Bytes| body.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!bodies.iter().any(is_in), "a password is in a trace");
    }
    let groups: Vec<_> = bodies
        .iter()
        .flat_map(|body| ExportTraceServiceRequest::decode(body.clone()).unwrap().resource_spans)
        .collect();
    for group in &groups {
        assert_eq!(text(&group.resource.as_ref().unwrap().attributes, "service.name"), "ftps2sftp");
    }
    let spans: Vec<Span> =
        groups.into_iter().flat_map(|group| group.scope_spans).flat_map(|scope| scope.spans).collect();
    let traces: HashSet<_> = spans.iter().map(|span| span.trace_id.clone()).collect();
    assert_eq!(traces.len(), 1, "one session is one trace");
    let by_id: HashMap<_, _> = spans.iter().map(|span| (span.span_id.clone(), span)).collect();
    let one = |name: &str| {
        let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
        let [span] = found.as_slice() else { panic!("{name}: {found:?}") };
        *span
    };
    let above = |span: &Span| by_id.get(&span.parent_span_id).map_or("", |parent| parent.name.as_str());

    let session = one("session");
    assert!(session.parent_span_id.is_empty());
    assert_eq!(text(&session.attributes, "user.name"), MAPPED_USER);
    assert_eq!(text(&session.attributes, "client.address"), "127.0.0.1");
    let stored = one("STOR");
    assert_eq!((above(stored), number(&stored.attributes, "reply_code")), ("session", 226));
    assert_eq!(number(&stored.attributes, "client_bytes"), 5_000_000);
    assert_eq!(number(&stored.attributes, "backend_bytes"), 5_000_000);
    assert_eq!(text(&stored.attributes, "transfer_result"), "success");
    let complete = stored.events.iter().find(|event| event.name == "transfer complete").unwrap();
    assert_eq!(text(&complete.attributes, "file.path"), "/file");
    let opened: Vec<_> = spans.iter().filter(|span| span.name == "OPEN" && above(span) == "STOR").collect();
    assert!(!opened.is_empty(), "{:?}", spans.iter().map(|span| &span.name).collect::<Vec<_>>());
    assert!(!spans.iter().any(|span| span.name == "WRITE" || span.name == "READ"), "file data is not traced");
    let refused = one("DELE");
    assert_eq!((number(&refused.attributes, "reply_code"), refused.status.as_ref().unwrap().code), (550, 2));
    let asked: Vec<_> = spans.iter().filter(|span| above(span) == "DELE").collect();
    assert!(asked.iter().any(|span| text(&span.attributes, "sftp.status") == "NO_SUCH_FILE (2)"), "{asked:?}");
    let connected: HashSet<_> = spans.iter().filter(|span| span.name == "connect").map(above).collect();
    assert!(!connected.is_empty());
    for span in &spans {
        let within = by_id
            .get(&span.parent_span_id)
            .is_none_or(|parent| parent.start_time_unix_nano <= span.start_time_unix_nano);
        assert!(within && span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_hangs_or_is_gone_holds_nobody_up() {
    let sshd = Sshd::start().await;
    let hanging = TcpListener::bind("127.0.0.1:0").await.unwrap();
    // Bound, so that nobody else is there, and not listening.
    let gone = TcpSocket::new_v4().unwrap();
    gone.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    for (endpoint, is_told) in [(hanging.local_addr().unwrap(), false), (gone.local_addr().unwrap(), true)] {
        let mut gateway = Gateway::start(&Setup::backend(&sshd).with_users(&sshd.files()).with(&traces_to(endpoint)));
        let mut client = Client::implicit(&gateway).await;
        client.log_in(MAPPED_USER, MAPPED_PASSWORD).await;
        client.ask("TYPE I", 200).await;
        assert_eq!(client.store("STOR file", &content(100_000, 1)).await.code, 226);
        if is_told {
            gateway.wait_for_log(|log| log.contains("traces are not delivered"));
        }
        client.ask("QUIT", 221).await;
        let asked = Instant::now();
        gateway.signal("TERM");
        assert!(gateway.wait().success());
        assert!(asked.elapsed() < Duration::from_secs(8), "it waited {:?} for a collector", asked.elapsed());
        // The end has tried again.
        assert_eq!(gateway.log().matches("traces are not delivered").count(), usize::from(is_told));
    }
}
