//! The admin listener: metrics and health over HTTP/1.1 (RFC 9112).
//!
//! | path | 200 means |
//! | --- | --- |
//! | `/metrics` | the Prometheus text format 0.0.4 |
//! | `/livez` | the program turns; never about backends, disks or certificates |
//! | `/readyz` | new sessions are taken; 503 while starting and draining, `?verbose` lists each check |
//! | `/startz` | the start is over |
//! | `/` | the status page |
//! | `/api/v1/status` | what the status page shows, as JSON; [`PARTS`] each by itself below `/api/v1/` |
//!
//! SECURITY: read-only, GET and HEAD only. The page runs its own script and nothing else, and asks this listener alone.
//! It listens where the configuration says, on loopback by default, and asks nobody who they are: the page names users,
//! addresses and paths.

mod readiness;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
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
pub use readiness::{Check, Readiness, State};

/// Parts of the status that can be asked for by themselves, below `/api/v1/`.
pub const PARTS: [&str; 7] =
    ["sessions", "transfers", "backends", "certificates", "passive_ports", "failures", "reload"];

/// Tells the status: an object with the [`PARTS`] and what stands beside them.
pub type Status = Arc<dyn Fn() -> serde_json::Value + Send + Sync>;

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
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

/// The status page. `NONCE` in it is another word for each answer.
const PAGE: &str = include_str!("page.html");

const PLAIN_TEXT: &str = "text/plain; charset=utf-8";

/// Serves the admin listener until `shutdown`; then running answers are finished and the rest is closed.
pub async fn serve(
    listener: TcpListener,
    exposition: Exposition,
    readiness: Readiness,
    status: Status,
    shutdown: CancellationToken,
) {
    let service = Service { exposition: exposition.clone(), readiness, status };
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
    status: Status,
}

impl Service {
    fn answer<Body>(&self, request: &Request<Body>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let part = path.strip_prefix("/api/v1/").filter(|part| *part == "status" || PARTS.contains(part));
        if part.is_none() && !matches!(path, "/" | "/metrics" | "/livez" | "/readyz" | "/startz") {
            return plain(StatusCode::NOT_FOUND, "not found\n");
        }
        // hyper leaves the body of an answer to HEAD out and keeps its length.
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        let verbose = request.uri().query().is_some_and(|query| query.split('&').any(is_verbose));
        if (part.is_some() || path == "/") && !is_asked_directly(request) {
            return plain(StatusCode::FORBIDDEN, "ask for it by address, or as localhost\n");
        }
        if let Some(part) = part {
            return self.status(part);
        }
        match path {
            "/" => page(),
            "/metrics" => respond(StatusCode::OK, PROMETHEUS_TEXT, self.exposition.scrape()),
            "/readyz" => self.ready(verbose),
            "/startz" if self.readiness.state() == State::Starting => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "starting\n")
            }
            "/livez" if !self.readiness.is_alive() => {
                plain(StatusCode::SERVICE_UNAVAILABLE, "the runtime does not turn\n")
            }
            _ => plain(StatusCode::OK, "ok\n"),
        }
    }

    fn status(&self, part: &str) -> Response<Full<Bytes>> {
        let status = (self.status)();
        let part = if part == "status" { Some(&status) } else { status.get(part) };
        respond(StatusCode::OK, JSON, part.unwrap_or(&serde_json::Value::Null).to_string())
    }

    fn ready(&self, verbose: bool) -> Response<Full<Bytes>> {
        let (state, checks) = (self.readiness.state(), self.readiness.checks());
        let failed = checks.iter().find(|(_, passed)| !passed).map(|(check, _)| *check);
        let status = if failed.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        if !verbose {
            let why = match (failed, state) {
                (None, _) => "ok".to_owned(),
                (Some(check), State::Ready) => format!("not ready: {check}"),
                (Some(_), state) => state.as_str().to_owned(),
            };
            return plain(status, format!("{why}\n"));
        }
        let mut text = String::new();
        for (check, passed) in checks {
            text.push_str(if passed { "[+] " } else { "[-] " });
            text.push_str(check);
            text.push('\n');
        }
        text.push_str(if failed.is_none() { "ready\n" } else { "not ready\n" });
        plain(status, text)
    }
}

/// SECURITY: a page elsewhere may give its own name this address (DNS rebinding), and its visitor's browser would read the
/// status for it. It cannot make the browser ask for an address.
fn is_asked_directly<Body>(request: &Request<Body>) -> bool {
    let Some(host) = request.headers().get(HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = host.strip_prefix("localhost").is_some_and(|rest| rest.is_empty() || rest.starts_with(':'));
    name || host.parse::<SocketAddr>().is_ok() || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
}

/// SECURITY: what the page shows comes from clients. It is put there as text, and should that fail, no script but its own
/// runs.
fn page() -> Response<Full<Bytes>> {
    let mut random = [0; 16];
    // Without random bytes the page stays as it is, and its script does not run.
    let nonce = match aws_lc_rs::rand::fill(&mut random) {
        Ok(()) => random.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        Err(_) => String::new(),
    };
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let mut response = respond(StatusCode::OK, HTML, PAGE.replace("NONCE", &nonce));
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        response.headers_mut().insert(CONTENT_SECURITY_POLICY, policy);
    }
    response.headers_mut().insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
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
        let status: Status = Arc::new(|| serde_json::json!({"version": "1", "sessions": [{"id": 7}]}));
        let serving = tokio::spawn(serve(listener, exposition, readiness.clone(), status, shutdown.clone()));
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
            self.say(
                format!("{method} {target} HTTP/1.1\r\nHost: localhost:9105\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .await
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
        assert_eq!(
            body(&verbose),
            "[+] started\n[+] not draining\n[+] room for sessions\n[+] a valid certificate\n[+] a backend answers\nready\n"
        );

        admin.readiness.draining();
        let verbose = admin.ask("GET", "/readyz?verbose=1").await;
        assert_eq!(status(&verbose), 503);
        let told = body(&verbose);
        assert!(told.starts_with("[+] started\n[-] not draining\n") && told.ends_with("\nnot ready\n"), "{told}");
        assert_eq!(body(&admin.ask("GET", "/readyz").await), "draining\n");
        assert_eq!(status(&admin.ask("GET", "/livez").await), 200);
        assert_eq!(status(&admin.ask("GET", "/startz").await), 200);
    }

    #[tokio::test]
    async fn a_failed_check_is_named() {
        let admin = admin().await;
        admin.readiness.ready();
        admin.readiness.set(Check::Backend, false);
        let answer = admin.ask("GET", "/readyz").await;
        assert_eq!((status(&answer), body(&answer)), (503, "not ready: a backend answers\n"));
        let verbose = admin.ask("GET", "/readyz?verbose").await;
        assert!(body(&verbose).contains("\n[-] a backend answers\n"), "{verbose}");
        assert_eq!(status(&admin.ask("GET", "/livez").await), 200);
    }

    #[tokio::test]
    async fn the_status_is_told_whole_and_in_parts() {
        let admin = admin().await;
        let answer = admin.ask("GET", "/api/v1/status").await;
        assert!(answer.contains("content-type: application/json\r\n"), "{answer}");
        assert_eq!(body(&answer), "{\"sessions\":[{\"id\":7}],\"version\":\"1\"}");
        assert_eq!(body(&admin.ask("GET", "/api/v1/sessions").await), "[{\"id\":7}]");
        assert_eq!(status(&admin.ask("GET", "/api/v1/version").await), 404);
        assert_eq!(status(&admin.ask("POST", "/api/v1/status").await), 405);
    }

    #[tokio::test]
    async fn the_status_is_for_those_who_ask_by_address() {
        let admin = admin().await;
        for (host, code) in [
            ("127.0.0.1:9105", 200),
            ("[::1]:9105", 200),
            ("[::1]", 200),
            ("localhost", 200),
            ("rebound.example", 403),
            ("localhost.example", 403),
            ("localhostile:9105", 403),
        ] {
            for path in ["/", "/api/v1/status"] {
                let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
                assert_eq!(status(&admin.say(request.as_bytes()).await), code, "{host} {path}");
            }
            let request = format!("GET /metrics HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            assert_eq!(status(&admin.say(request.as_bytes()).await), 200, "{host}");
        }
    }

    #[tokio::test]
    async fn the_page_runs_no_script_but_its_own() {
        let admin = admin().await;
        let answer = admin.ask("GET", "/").await;
        assert!(answer.contains("content-type: text/html; charset=utf-8\r\n"), "{answer}");
        let nonce = answer.split_once("script-src 'nonce-").unwrap().1.split_once('\'').unwrap().0.to_owned();
        assert_eq!(nonce.len(), 32);
        let page = body(&answer);
        let (tags, with_nonce) = (page.matches("<script").count(), format!("<script nonce=\"{nonce}\">"));
        assert_eq!((tags, page.matches(&with_nonce).count()), (1, 1));
        for outside in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(!admin.ask("GET", "/").await.contains(&nonce));
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
        for path in ["/index.html", "/api/v1/", "/metrics/", "/livez/x", "/../metrics", "//metrics"] {
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
