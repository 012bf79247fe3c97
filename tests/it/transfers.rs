//! Files through the gateway to a real OpenSSH server and back.

use crate::support::client::Client;
use crate::support::gateway::Gateway;
use crate::support::sshd::Sshd;

#[tokio::test]
async fn a_file_goes_up_and_comes_back() {
    let sshd = Sshd::start().await;
    let gateway = Gateway::before(&sshd);
    let mut client = Client::logged_in(&gateway).await;
    assert_eq!(client.command("TYPE I").await.code, 200);
    let content: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
    let reply = client.store("STOR numbers.bin", &content).await;
    assert_eq!(reply.code, 226, "{}", reply.text());
    assert_eq!(std::fs::read(sshd.files().join("numbers.bin")).unwrap(), content);
    assert_eq!(client.retrieve("numbers.bin").await, content);
}
