//! The status page in a real browser: headless Chromium, as wide as a desk and as narrow as a phone.

use std::path::Path;
use std::process::Command;

use tokio::io::AsyncWriteExt;

use crate::support::client::Client;
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
