//! The status page in a real browser: headless Chromium, as wide as a desk and as narrow as a phone.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::client::{Client, latin1};
use crate::support::gateway::Gateway;
use crate::support::real_clients::run;
use crate::support::sshd::Sshd;
use crate::support::transfer::{begin, content};

/// A name that is a script, should the page ever take it for one.
const HOSTILE: &str = "<img src=x onerror=document.title=1>.csv";

fn chromium(profile: &Path, url: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("chromium");
    command.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    // The page asks each two seconds: some of its time, not of ours.
    command.arg(format!("--user-data-dir={}", profile.display())).arg("--virtual-time-budget=5000");
    run(command.args(arguments).arg(url)).succeeded()
}

/// Measures the page once it has been filled, and tells it in the title.
const RULER: &str = "<script>setTimeout(() => { const page = document.documentElement; \
    document.title = `${page.scrollWidth} in ${window.innerWidth}`; }, 3000);</script></body>";

/// Stands between the browser and the page: counts how often the status is asked for, and puts a ruler into the page, which
/// lets no script in but its own.
async fn with_ruler(gateway: &Gateway) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked, admin) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)), gateway.admin);
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut browser, _) = listener.accept().await.unwrap();
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(browser.read_u8().await?);
                }
                let head = latin1(&head);
                let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                counted.fetch_add(usize::from(path.starts_with("/api/v1/")), Ordering::SeqCst);
                let mut server = TcpStream::connect(admin).await?;
                let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
                server.write_all(request.as_bytes()).await?;
                let mut answer = Vec::new();
                server.read_to_end(&mut answer).await?;
                let answer = String::from_utf8(answer).unwrap();
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                let kind = head.lines().find(|line| line.to_ascii_lowercase().starts_with("content-type")).unwrap();
                let body = body.replace("</body>", RULER);
                let told = format!("HTTP/1.1 200 OK\r\n{kind}\r\nConnection: close\r\n\r\n{body}");
                browser.write_all(told.as_bytes()).await
            });
        }
    });
    (address, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_asks_for_itself_and_fits_a_phone() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    client.ask("TYPE I", 200).await;
    // As long as a name can be.
    let mut data = begin(&mut client, &format!("STOR {}", "n".repeat(200))).await;
    data.write_all(&content(100_000, 1)).await.unwrap();
    let (address, asked) = with_ruler(&gateway).await;
    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{address}/");
    let page = chromium(&folder.path().join("profile"), &url, &["--dump-dom", "--window-size=390,844"]);
    let title = page.split_once("<title>").unwrap().1.split_once('<').unwrap().0;
    let (page_width, window_width) = title.split_once(" in ").unwrap_or_else(|| panic!("{title}"));
    assert!(page_width.parse::<u32>().unwrap() <= window_width.parse::<u32>().unwrap(), "{title}");
    let asked = asked.load(Ordering::SeqCst);
    assert!(asked >= 2, "it was asked {asked} times in five seconds");
    drop(data);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_runs_and_takes_nothing_for_markup() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    client.ask("TYPE I", 200).await;
    let mut data = begin(&mut client, &format!("STOR {HOSTILE}")).await;
    data.write_all(&content(3 * 1024 * 1024, 1)).await.unwrap();
    let mut other = Client::implicit(&gateway).await;
    other.ask("USER nobody", 331).await;
    other.ask("PASS wrong", 530).await;

    let folder = tempfile::tempdir().unwrap();
    let url = format!("http://{}/", gateway.admin);
    let page = chromium(&folder.path().join("profile"), &url, &["--dump-dom"]);
    for text in [
        "&lt;img src=x onerror=document.title=1&gt;.csv",
        "upload of acme",
        "3.0 MiB",
        "TLSv1.3",
        "answers",
        "days left",
        "login failed",
        "<title>ftps2sftp</title>",
    ] {
        assert!(page.contains(text), "{text} is not in\n{page}");
    }
    assert!(!page.contains("<img"), "{page}");
    assert!(page.contains("id=\"state\" role=\"status\" class=\"good\">ready<"), "{page}");
    let mut pictures = Vec::new();
    for (name, size, dark) in [("desk", "1200,900", false), ("phone", "390,844", false), ("night", "390,844", true)] {
        let picture = folder.path().join(format!("{name}.png"));
        let (shot, size) = (format!("--screenshot={}", picture.display()), format!("--window-size={size}"));
        let scheme =
            if dark { "--blink-settings=preferredColorScheme=0" } else { "--blink-settings=preferredColorScheme=1" };
        chromium(&folder.path().join("profile"), &url, &[&shot, &size, scheme, "--hide-scrollbars"]);
        pictures.push(std::fs::read(&picture).unwrap());
    }
    assert!(pictures.iter().all(|picture| picture.starts_with(b"\x89PNG") && picture.len() > 10_000));
    assert!(pictures[1] != pictures[2], "there is no dark page");
    drop(data);
}
