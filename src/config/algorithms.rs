//! `algorithms`: which SSH algorithms are offered to a backend, by their names in the protocol.

/// The names of each kind, most wanted first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Algorithms {
    /// Key exchange.
    pub kex: Vec<&'static str>,
    /// Signatures: of the server's host key, and of our own keys.
    pub host_key: Vec<&'static str>,
    /// Encryption.
    pub cipher: Vec<&'static str>,
    /// Integrity, for ciphers that do not see to it themselves.
    pub mac: Vec<&'static str>,
    /// Nothing that Terrapin (CVE-2023-48795) breaks is spoken with a server that has no strict key exchange.
    pub strict: bool,
}

/// One kind: what is offered unless told otherwise, what `legacy` adds, and what has to be named to be had.
#[derive(Debug)]
pub struct Kind {
    /// Its key.
    pub key: &'static str,
    modern: &'static [&'static str],
    legacy: &'static [&'static str],
    named: &'static [&'static str],
}

/// Hybrid post-quantum first, then elliptic curves, then the fixed groups of at least 2048 bits.
pub const KEX: Kind = Kind {
    key: "kex",
    modern: &[
        "mlkem768x25519-sha256",
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
        "ecdh-sha2-nistp256",
        "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp521",
        "diffie-hellman-group16-sha512",
        "diffie-hellman-group18-sha512",
        "diffie-hellman-group14-sha256",
    ],
    legacy: &[
        "diffie-hellman-group-exchange-sha256",
        "diffie-hellman-group14-sha1",
        "diffie-hellman-group-exchange-sha1",
    ],
    // A group of 1024 bits, which a state can break for everyone at once (Logjam).
    named: &["diffie-hellman-group1-sha1"],
};

/// RSA without SHA-1 (RFC 8332).
pub const HOST_KEY: Kind = Kind {
    key: "host_key",
    modern: &[
        "ssh-ed25519",
        "ecdsa-sha2-nistp256",
        "ecdsa-sha2-nistp384",
        "ecdsa-sha2-nistp521",
        "rsa-sha2-512",
        "rsa-sha2-256",
    ],
    legacy: &["ssh-rsa"],
    named: &[],
};

/// AES-GCM costs half the CPU of ChaCha20-Poly1305 and of CTR with HMAC; 128 bits suffice and are the cheapest.
pub const CIPHER: Kind = Kind {
    key: "cipher",
    modern: &[
        "aes128-gcm@openssh.com",
        "aes256-gcm@openssh.com",
        "chacha20-poly1305@openssh.com",
        "aes128-ctr",
        "aes192-ctr",
        "aes256-ctr",
    ],
    legacy: &["aes128-cbc", "aes192-cbc", "aes256-cbc"],
    named: &[],
};

/// Encrypt-then-MAC first.
pub const MAC: Kind = Kind {
    key: "mac",
    modern: &["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"],
    legacy: &["hmac-sha1-etm@openssh.com", "hmac-sha1"],
    named: &[],
};

impl Kind {
    /// What is offered unless told otherwise.
    pub fn modern(&self) -> Vec<&'static str> {
        self.modern.to_vec()
    }

    /// The same, and behind it what only old servers need.
    pub fn legacy(&self) -> Vec<&'static str> {
        [self.modern, self.legacy].concat()
    }

    /// Every name that can be asked for.
    pub fn known(&self) -> impl Iterator<Item = &'static str> + Clone {
        [self.modern, self.legacy, self.named].into_iter().flatten().copied()
    }
}

impl Algorithms {
    /// No SHA-1 and no CBC.
    pub fn modern() -> Self {
        Self {
            kex: KEX.modern(),
            host_key: HOST_KEY.modern(),
            cipher: CIPHER.modern(),
            mac: MAC.modern(),
            strict: true,
        }
    }

    /// For servers that have nothing better.
    pub fn legacy() -> Self {
        Self {
            kex: KEX.legacy(),
            host_key: HOST_KEY.legacy(),
            cipher: CIPHER.legacy(),
            mac: MAC.legacy(),
            strict: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modern_has_no_sha1_and_no_cbc() {
        let Algorithms { kex, host_key, cipher, mac, strict } = Algorithms::modern();
        let names = [kex, host_key, cipher, mac].concat();
        let old = |name: &&str| name.contains("sha1") || name.contains("cbc") || *name == "ssh-rsa";
        assert!(!names.iter().any(old), "{names:?}");
        assert!(strict);
        let legacy = Algorithms::legacy();
        assert!([legacy.kex, legacy.host_key, legacy.cipher, legacy.mac].iter().all(|kind| kind.iter().any(old)));
    }
}
