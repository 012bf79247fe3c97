//! The admin listener: metrics and health over HTTP/1.1 (RFC 9112).
//!
//! | path | 200 means |
//! | --- | --- |
//! | `/metrics` | the Prometheus text format 0.0.4 |
//! | `/livez` | the program turns; never about backends, disks or certificates |
//! | `/readyz` | new sessions are taken; 503 while starting and draining, `?verbose` lists each check |
//! | `/startz` | the start is over |
//!
//! SECURITY: read-only, GET and HEAD only, no page that runs in a browser. It listens where the configuration says,
//! on loopback by default, and asks nobody who they are.

mod readiness;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::telemetry::metrics::Exposition;
pub use readiness::{Readiness, State};

/// Connections served at once; more wait in the listen queue. A monitor and the kubelet keep one each.
pub const MAX_CONNECTIONS: usize = 32;

/// Bytes of a request's head. Probes send some 200.
pub const MAX_HEAD: usize = 8 * 1024;

/// Header fields of a request.
pub const MAX_HEADERS: usize = 64;

/// From connect, or from the last answer, to the end of the next request's head.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection's whole life: one that does not read its answer, or trickles a body, ends here.
/// A monitor that scrapes each minute connects anew each time it is over.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(600);

/// Pause after a failed accept, which is mostly about file descriptors and would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Serves the admin listener until `shutdown`; then running answers are finished and the rest is closed.
pub async fn serve(listener: TcpListener, exposition: Exposition, readiness: Readiness, shutdown: CancellationToken) {
    let service = Service { exposition: exposition.clone(), readiness };
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let connections = TaskTracker::new();
    connections.spawn({
        let shutdown = shutdown.clone();
        async move { exposition.upkeep(shutdown).await }
    });
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                connections.spawn(converse(stream, permit, service.clone(), shutdown.clone()));
            }
            Err(error) => {
                debug!(%error, "admin accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    connections.close();
    connections.wait().await;
}

async fn accept(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, Option<OwnedSemaphorePermit>)> {
    // The semaphore is never closed, so there always is a permit in the end.
    let permit = Arc::clone(permits).acquire_owned().await.ok();
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

/// One connection, however many requests it carries.
async fn converse(
    stream: TcpStream,
    permit: Option<OwnedSemaphorePermit>,
    service: Service,
    shutdown: CancellationToken,
) {
    let answers = service_fn(move |request: Request<Incoming>| {
        let response = service.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), answers);
    tokio::pin!(connection);

    let life = tokio::time::sleep(CONNECTION_LIFETIME);
    tokio::pin!(life);
    let mut ending = false;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%error, "admin connection failed");
                }
                break;
            }
            () = &mut life => break,
            () = shutdown.cancelled(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
                life.as_mut().reset(tokio::time::Instant::now() + SHUTDOWN_GRACE);
            }
        }
    }
    drop(permit);
}

/// How long an answer may still take when the listener stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(1);

#[derive(Clone)]
struct Service {
    exposition: Exposition,
    readiness: Readiness,
}

impl Service {
    fn answer<Body>(&self, request: &Request<Body>) -> Response<Full<Bytes>> {
        let known = matches!(request.uri().path(), "/metrics" | "/livez" | "/readyz" | "/startz");
        if !known {
            return plain(StatusCode::NOT_FOUND, "not found\n");
        }
        // hyper leaves the body of an answer to HEAD out and keeps its length.
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let verbose = request.uri().query().is_some_and(|query| query.split('&').any(is_verbose));
        match request.uri().path() {
            "/metrics" => respond(StatusCode::OK, PROMETHEUS_TEXT, self.exposition.render()),
            "/readyz" => self.ready(verbose),
            "/startz" if self.readiness.state() == State::Starting => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n")
            }
            _ => plain(StatusCode::OK, "ok\n"),
        }
    }

    fn ready(&self, verbose: bool) -> Response<Full<Bytes>> {
        let state = self.readiness.state();
        let checks = [("started", state != State::Starting), ("not draining", state != State::Draining)];
        let ready = state == State::Ready;
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if !verbose {
            return plain(status, format!("{}\n", if ready { "ok" } else { state.as_str() }));
        }
        let mut text = String::new();
        for (check, passed) in checks {
            text.push_str(if passed { "[+] " } else { "[-] " });
            text.push_str(check);
            text.push('\n');
        }
        text.push_str(if ready { "ready\n" } else { "not ready\n" });
        plain(status, text)
    }
}

fn is_verbose(parameter: &str) -> bool {
    matches!(parameter, "verbose" | "verbose=" | "verbose=1" | "verbose=true")
}

fn plain(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, PLAIN_TEXT, text)
}

fn respond(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::telemetry::metrics;

    struct Admin {
        address: SocketAddr,
        readiness: Readiness,
        shutdown: CancellationToken,
        serving: JoinHandle<()>,
    }

    async fn admin() -> Admin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let readiness = Readiness::starting();
        let shutdown = CancellationToken::new();
        let exposition = metrics::install().unwrap();
        let serving = tokio::spawn(serve(listener, exposition, readiness.clone(), shutdown.clone()));
        Admin { address, readiness, shutdown, serving }
    }

    impl Admin {
        /// Sends raw bytes and reads until the server closes.
        async fn say(&self, bytes: &[u8]) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            // A server that refuses early may reset what it did not read; what it said before counts.
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        }

        async fn ask(&self, method: &str, target: &str) -> String {
            self.say(format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await
        }
    }

    fn status(answer: &str) -> u16 {
        answer.strip_prefix("HTTP/1.1 ").unwrap().get(..3).unwrap().parse().unwrap()
    }

    fn body(answer: &str) -> &str {
        answer.split_once("\r\n\r\n").unwrap().1
    }

    #[tokio::test]
    async fn metrics_are_served_in_the_text_format() {
        let admin = admin().await;
        let answer = admin.ask("GET", "/metrics").await;
        assert_eq!(status(&answer), 200);
        assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
        assert!(body(&answer).contains("\nftps2sftp_build_info{version=\""), "{answer}");
        assert!(body(&answer).contains("\nprocess_resident_memory_bytes "));
    }

    #[tokio::test]
    async fn readiness_goes_from_starting_to_ready_to_draining() {
        let admin = admin().await;
        for path in ["/readyz", "/startz"] {
            let answer = admin.ask("GET", path).await;
            assert_eq!((status(&answer), body(&answer)), (503, "starting\n"), "{path}");
        }
        assert_eq!(status(&admin.ask("GET", "/livez").await), 200);

        admin.readiness.ready();
        for path in ["/readyz", "/startz", "/livez"] {
            let answer = admin.ask("GET", path).await;
            assert_eq!((status(&answer), body(&answer)), (200, "ok\n"), "{path}");
        }
        let verbose = admin.ask("GET", "/readyz?verbose").await;
        assert_eq!(body(&verbose), "[+] started\n[+] not draining\nready\n");

        admin.readiness.draining();
        let verbose = admin.ask("GET", "/readyz?verbose=1").await;
        assert_eq!((status(&verbose), body(&verbose)), (503, "[+] started\n[-] not draining\nnot ready\n"));
        assert_eq!(body(&admin.ask("GET", "/readyz").await), "draining\n");
        assert_eq!(status(&admin.ask("GET", "/livez").await), 200);
        assert_eq!(status(&admin.ask("GET", "/startz").await), 200);
    }

    #[tokio::test]
    async fn head_has_the_length_and_no_body() {
        let admin = admin().await;
        let answer = admin.ask("HEAD", "/livez").await;
        assert_eq!((status(&answer), body(&answer)), (200, ""));
        assert!(answer.contains("content-length: 3\r\n"), "{answer}");
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        let admin = admin().await;
        for path in ["/", "/metrics/", "/livez/x", "/../metrics", "//metrics"] {
            assert_eq!(status(&admin.ask("GET", path).await), 404, "{path}");
        }
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"] {
            let answer = admin.ask(method, "/metrics").await;
            assert_eq!(status(&answer), 405, "{method}");
            assert!(answer.contains("allow: GET, HEAD\r\n"), "{answer}");
        }
        assert_eq!(status(&admin.say(b"USER anonymous\r\n\r\n").await), 400);
    }

    #[tokio::test]
    async fn one_connection_carries_many_requests() {
        let admin = admin().await;
        let once = "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n";
        let last = "GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        let answer = admin.say(format!("{once}{once}{last}").as_bytes()).await;
        assert_eq!(answer.matches("HTTP/1.1 200 OK").count(), 3, "{answer}");
    }

    #[tokio::test]
    async fn an_oversized_head_is_refused() {
        let admin = admin().await;
        let long = format!("GET /livez HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD));
        assert_eq!(status(&admin.say(long.as_bytes()).await), 431);
        let many = "X: y\r\n".repeat(MAX_HEADERS + 1);
        let many = format!("GET /livez HTTP/1.1\r\n{many}\r\n");
        assert_eq!(status(&admin.say(many.as_bytes()).await), 431);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_closed() {
        let admin = admin().await;
        let started = tokio::time::Instant::now();
        let mut stream = TcpStream::connect(admin.address).await.unwrap();
        stream.write_all(b"GET /live").await.unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(started.elapsed() <= CONNECTION_LIFETIME, "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn a_connection_beyond_the_bound_waits_for_its_turn() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let permits = Arc::new(Semaphore::new(1));
        let _first = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let _second = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let served = accept(&listener, &permits).await.unwrap();
        assert!(accept(&listener, &permits).now_or_never().is_none());
        drop(served);
        accept(&listener, &permits).await.unwrap();
    }

    #[tokio::test]
    async fn shutdown_ends_idle_connections_and_the_listener() {
        let admin = admin().await;
        let mut idle = TcpStream::connect(admin.address).await.unwrap();
        idle.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        idle.read_exact(&mut first).await.unwrap();
        admin.shutdown.cancel();
        admin.serving.await.unwrap();
        let mut rest = Vec::new();
        idle.read_to_end(&mut rest).await.unwrap();
        assert!(TcpStream::connect(admin.address).await.is_err());
    }
}
