//! The address that reply 227 tells (RFC 959 §4.1.2 PASV): what the client dialled, a fixed one, or what a name stands for.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use crate::config::{Network, Passive, PassiveAddress};

/// A name is asked for again when its answer is older. How long it is valid (its TTL) the system's resolver does not
/// tell; load balancers have theirs at a minute.
const INTERVAL: Duration = Duration::from_secs(30);

/// After an attempt that failed: no PASV in between waits for the next.
const INTERVAL_WHILE_FAILING: Duration = Duration::from_secs(5);

/// How long a PASV waits for the answer; there may be an older one.
const PATIENCE: Duration = Duration::from_secs(3);

/// Addresses of one name that are remembered.
const MOST_ADDRESSES: usize = 64;

/// The name stands for no IPv4 address, and never did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the name of the passive address does not resolve to an IPv4 address")]
pub struct Unresolved;

/// Which address is told to which clients.
#[derive(Debug)]
pub struct Announced {
    overrides: Vec<(Network, Source)>,
    usual: Source,
    warned_of_private: AtomicBool,
}

#[derive(Debug)]
enum Source {
    /// What the client dialled.
    Dialled,
    Fixed(Ipv4Addr),
    Name(Name),
}

/// A name and what it stood for last.
#[derive(Debug)]
struct Name {
    name: String,
    /// Contended by PASV commands, for a look.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: Vec<Ipv4Addr>,
    /// When to ask again.
    next: Option<Instant>,
    is_failing: bool,
}

impl Announced {
    /// As configured.
    pub fn new(passive: &Passive) -> Self {
        Self {
            overrides: passive.overrides.iter().map(|entry| (entry.clients, Source::new(&entry.address))).collect(),
            usual: Source::new(&passive.address),
            warned_of_private: AtomicBool::new(false),
        }
    }

    /// The address for a client that dialled `dialled`.
    ///
    /// # Errors
    /// When it is a name that cannot be resolved and never could.
    pub async fn to(&self, client: IpAddr, dialled: Ipv4Addr) -> Result<Ipv4Addr, Unresolved> {
        let own = self.overrides.iter().find(|(clients, _)| clients.contains(client));
        match own.map_or(&self.usual, |(_, source)| source) {
            Source::Fixed(address) => Ok(*address),
            Source::Name(name) => name.address(dialled).await,
            Source::Dialled => {
                // S-38. It is what the client dialled as far as is known here, and nothing better is known: some
                // clients put the address of their control connection in its place.
                if is_public(client)
                    && !is_public(dialled.into())
                    && !self.warned_of_private.swap(true, Ordering::Relaxed)
                {
                    tracing::warn!(
                        server.address = %dialled,
                        "PASV tells clients on the internet a private address, as passive.address: auto does behind an \
                         address translator; set it to the address they dial (told once)"
                    );
                }
                Ok(dialled)
            }
        }
    }
}

impl Source {
    fn new(address: &PassiveAddress) -> Self {
        match address {
            PassiveAddress::Fixed(IpAddr::V4(address)) => Self::Fixed(*address),
            // An IPv6 address is refused by the configuration.
            PassiveAddress::Auto | PassiveAddress::Fixed(IpAddr::V6(_)) => Self::Dialled,
            PassiveAddress::Name(name) => Self::Name(Name { name: name.clone(), known: Mutex::default() }),
        }
    }
}

impl Name {
    async fn address(&self, dialled: Ipv4Addr) -> Result<Ipv4Addr, Unresolved> {
        if self.is_due() {
            let answer = timeout(PATIENCE, lookup_host((self.name.as_str(), 0))).await;
            let answer = answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            self.answered(answer.map(|found| {
                let addresses = found.filter_map(|address| match address.ip() {
                    IpAddr::V4(address) => Some(address),
                    IpAddr::V6(_) => None,
                });
                addresses.take(MOST_ADDRESSES).collect()
            }));
        }
        let known = self.known();
        // A name may stand for several addresses, and some clients insist on that of the control connection.
        let dialled = known.addresses.iter().find(|address| **address == dialled);
        dialled.or(known.addresses.first()).copied().ok_or(Unresolved)
    }

    /// Is it this call that asks? Others do with what is known.
    fn is_due(&self) -> bool {
        let (mut known, now) = (self.known(), Instant::now());
        let is_due = known.next.is_none_or(|next| next <= now) || known.addresses.is_empty() && !known.is_failing;
        if is_due {
            known.next = Some(now + INTERVAL);
        }
        is_due
    }

    /// Remembers an answer. Where there is none, the last good one holds.
    fn answered(&self, answer: io::Result<Vec<Ipv4Addr>>) {
        let mut known = self.known();
        let error = match answer {
            Ok(addresses) if !addresses.is_empty() => {
                if known.is_failing {
                    tracing::info!(name = %self.name, "passive.address resolves again");
                }
                *known = Known { addresses, next: Some(Instant::now() + INTERVAL), is_failing: false };
                return;
            }
            Ok(_) => "it has no IPv4 address".to_owned(),
            Err(error) => error.to_string(),
        };
        if !known.is_failing {
            let meanwhile = if known.addresses.is_empty() { "PASV is answered 425" } else { "the last answer holds" };
            tracing::warn!(name = %self.name, exception.message = %error, "passive.address does not resolve: {meanwhile}");
        }
        known.is_failing = true;
        known.next = Some(Instant::now() + INTERVAL_WHILE_FAILING);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// May it be met on the internet? Not so private (RFC 1918), carriers' (RFC 6598), link-local and loopback addresses.
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let is_carriers = first == 100 && second & 0xc0 == 64;
            !(address.is_private() || address.is_loopback() || address.is_link_local() || is_carriers)
        }
        IpAddr::V6(address) => !(address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()),
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{PassiveOverride, ProxyProtocol};

    use super::*;

    const DIALLED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);

    fn announced(usual: &str, overrides: &[(&str, &str)]) -> Announced {
        let address = |text: &str| match text.parse() {
            Ok(address) => PassiveAddress::Fixed(address),
            Err(_) if text == "auto" => PassiveAddress::Auto,
            Err(_) => PassiveAddress::Name(text.to_owned()),
        };
        let one = |(clients, told): &(&str, &str)| PassiveOverride {
            clients: Network::parse(clients).unwrap(),
            address: address(told),
        };
        Announced::new(&Passive {
            ports: 1..=2,
            address: address(usual),
            overrides: overrides.iter().map(one).collect(),
            shared: true,
            proxy_protocol: ProxyProtocol::Off,
        })
    }

    async fn told(announced: &Announced, client: &str) -> Result<String, Unresolved> {
        announced.to(client.parse().unwrap(), DIALLED).await.map(|address| address.to_string())
    }

    #[tokio::test]
    async fn the_first_override_that_fits_counts() {
        let overrides =
            [("10.1.0.0/16", "10.9.9.9"), ("10.0.0.0/8", "auto"), ("192.0.2.0/24", "localhost"), ("::/0", "10.6.6.6")];
        let announced = announced("203.0.113.9", &overrides);
        for (client, address) in [
            ("10.1.2.3", "10.9.9.9"),
            ("::ffff:10.1.2.3", "10.9.9.9"),
            ("10.2.0.1", "10.0.0.5"),
            ("192.0.2.1", "127.0.0.1"),
            ("198.51.100.1", "203.0.113.9"),
            ("2001:db8::1", "10.6.6.6"),
        ] {
            assert_eq!(told(&announced, client).await.as_deref(), Ok(address), "{client}");
        }
    }

    /// S-38.
    #[tokio::test]
    async fn a_private_address_for_a_public_client_is_told_and_warned_of_once() {
        let announced = announced("auto", &[]);
        for (client, warned) in [("10.2.0.1", false), ("127.0.0.1", false), ("198.51.100.1", true)] {
            assert_eq!(told(&announced, client).await.as_deref(), Ok("10.0.0.5"));
            assert_eq!(announced.warned_of_private.load(Ordering::Relaxed), warned, "{client}");
        }
    }

    fn name(addresses: &[[u8; 4]]) -> Name {
        let name = Name { name: "ftp.example".to_owned(), known: Mutex::default() };
        assert!(name.is_due());
        name.answered(Ok(addresses.iter().map(|address| Ipv4Addr::from(*address)).collect()));
        name
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_is_asked_for_again_and_its_last_good_answer_holds_while_that_fails() {
        let name = name(&[[192, 0, 2, 1], [192, 0, 2, 2]]);
        let first = Ok(Ipv4Addr::new(192, 0, 2, 1));
        assert!(!name.is_due());
        assert_eq!(name.address(DIALLED).await, first);
        // Where the client dialled one of them, it is told that one.
        assert_eq!(name.address(Ipv4Addr::new(192, 0, 2, 2)).await, Ok(Ipv4Addr::new(192, 0, 2, 2)));
        tokio::time::advance(INTERVAL).await;
        assert!(name.is_due(), "one asks");
        assert!(!name.is_due(), "and only one");
        for answer in [Err(io::ErrorKind::TimedOut.into()), Ok(Vec::new())] {
            name.answered(answer);
            assert_eq!(name.address(DIALLED).await, first);
            assert!(!name.is_due());
            tokio::time::advance(INTERVAL_WHILE_FAILING).await;
            assert!(name.is_due());
        }
        name.answered(Ok(vec![Ipv4Addr::new(192, 0, 2, 3)]));
        assert_eq!(name.address(DIALLED).await, Ok(Ipv4Addr::new(192, 0, 2, 3)));
        tokio::time::advance(INTERVAL_WHILE_FAILING).await;
        assert!(!name.is_due());
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_never_resolved_is_no_address() {
        let name = name(&[]);
        assert!(!name.is_due());
        assert_eq!(name.address(DIALLED).await, Err(Unresolved));
    }

    #[test]
    fn addresses_that_are_met_on_the_internet() {
        for (address, expected) in [
            ("8.8.8.8", true),
            ("100.63.0.1", true),
            ("100.64.0.1", false),
            ("100.127.255.255", false),
            ("100.128.0.1", true),
            ("172.16.0.1", false),
            ("169.254.1.1", false),
            ("::ffff:10.0.0.1", false),
            ("2600::1", true),
            ("fd00::1", false),
            ("fe80::1", false),
            ("::1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), expected, "{address}");
        }
    }
}
