//! A network of IP addresses as configurations write it: `10.0.0.0/8`, `2001:db8::/32`, or one address.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::scalar::Wrong;

/// Addresses that share a prefix (RFC 4632).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network(IpNet);

impl Network {
    /// Reads it; `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        network(text).ok()
    }

    /// Is this address in it? An IPv4 address and its IPv6-mapped form (RFC 4291 §2.5.5.2) are one.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains(&address.to_canonical())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// An address, or an address and the length of its prefix.
pub(super) fn network(text: &str) -> Result<Network, Wrong> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => text.parse::<IpAddr>().map(IpNet::from).map_err(|_| Wrong::Form(None))?,
    };
    if network.addr() != network.network() {
        return Err(Wrong::Value(
            "has bits set behind its prefix",
            Some("a network is written by its first address, such as 10.0.0.0/8; one address needs no prefix"),
        ));
    }
    if network.addr().to_canonical() != network.addr() {
        return Err(Wrong::Value("is an IPv4-mapped address", Some("write it as an IPv4 address")));
    }
    Ok(Network(network))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_what_is_in_them() {
        let is_in = |network: &str, address: &str| Network::parse(network).unwrap().contains(address.parse().unwrap());
        assert!(is_in("10.0.0.0/8", "10.255.0.1"));
        assert!(is_in("10.0.0.0/8", "::ffff:10.1.2.3"));
        assert!(!is_in("10.0.0.0/8", "11.0.0.1"));
        assert!(is_in("192.0.2.7", "192.0.2.7"));
        assert!(!is_in("192.0.2.7", "192.0.2.8"));
        assert!(is_in("2001:db8::/32", "2001:db8:1::1"));
        assert!(is_in("0.0.0.0/0", "203.0.113.1"));
        assert!(!is_in("0.0.0.0/0", "::1"));
        assert!(!is_in("::/0", "203.0.113.1"));
    }

    #[test]
    fn what_is_no_network() {
        for text in ["", "10.0.0.0/33", "10.0.0/8", "sftp.internal", "10.0.0.0/-1", "/8", "10.0.0.0/8/8", "::/129"] {
            assert!(matches!(network(text), Err(Wrong::Form(_))), "{text}");
        }
        for text in ["10.0.0.1/8", "2001:db8::1/32", "::ffff:10.0.0.0/104", "::ffff:10.0.0.1"] {
            assert!(matches!(network(text), Err(Wrong::Value(..))), "{text}");
        }
    }
}
