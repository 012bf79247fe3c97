//! What is probed: `ftps://` is TLS from the first byte, `ftp://` and `ftpes://` are AUTH TLS, which is required.

use crate::config::secret::Secret;

/// A server, who logs in, and where the file is put.
#[derive(Debug)]
pub struct Target {
    /// TLS from the first byte.
    pub implicit: bool,
    /// Name or address, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Who logs in.
    pub user: String,
    /// With what; `None` where the URL has none.
    pub password: Option<Secret>,
    /// The directory; empty is the one after login.
    pub directory: String,
}

/// What is wrong with a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The scheme.
    #[error("begin with ftps:// (TLS from the first byte) or ftp:// (AUTH TLS)")]
    Scheme,
    /// Host or port.
    #[error("the server's name or its port is missing or wrong")]
    Host,
    /// A percent sign without two digits, or a byte that no command may hold.
    #[error("a character is written in a way that means nothing, or may not be there")]
    Character,
}

/// Ports by RFC 4217 and by custom.
const EXPLICIT_PORT: u16 = 21;
const IMPLICIT_PORT: u16 = 990;

impl Target {
    /// Reads `ftps://user:password@host:port/directory`.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let (scheme, rest) = url.split_once("://").ok_or(TargetError::Scheme)?;
        let implicit = match scheme.to_ascii_lowercase().as_str() {
            "ftps" => true,
            "ftp" | "ftpes" => false,
            _ => return Err(TargetError::Scheme),
        };
        let (authority, directory) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, server) =
            authority.rsplit_once('@').map_or((None, authority), |(login, server)| (Some(login), server));
        let (user, password) = match login {
            Some(login) => login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password))),
            None => ("", None),
        };
        let default = if implicit { IMPLICIT_PORT } else { EXPLICIT_PORT };
        let (host, port) = match server.strip_prefix('[') {
            Some(address) => {
                let (address, port) = address.split_once(']').ok_or(TargetError::Host)?;
                (address, port.strip_prefix(':'))
            }
            None => server.split_once(':').map_or((server, None), |(host, port)| (host, Some(port))),
        };
        if host.is_empty() {
            return Err(TargetError::Host);
        }
        let port = port.map_or(Ok(default), str::parse).map_err(|_| TargetError::Host)?;
        let password = password.map(decoded).transpose()?.map(Secret::new);
        Ok(Self {
            implicit,
            host: host.to_owned(),
            port,
            user: decoded(user)?,
            password,
            directory: decoded(directory)?,
        })
    }
}

/// RFC 3986 §2.1. No line ends: they would begin another command.
fn decoded(text: &str) -> Result<String, TargetError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2).ok_or(TargetError::Character)?;
        let digits = std::str::from_utf8(digits).map_err(|_| TargetError::Character)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| TargetError::Character)?);
        rest = after;
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains(['\r', '\n', '\0']) => Ok(text),
        _ => Err(TargetError::Character),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_as_people_write_them() {
        let target = Target::parse("ftps://acme:s%40fe%3A@ftp.example.com/in/a%20b").unwrap();
        assert!(target.implicit);
        assert_eq!((target.host.as_str(), target.port), ("ftp.example.com", 990));
        assert_eq!((target.user.as_str(), target.directory.as_str()), ("acme", "in/a b"));
        assert_eq!(target.password.unwrap().reveal(), b"s@fe:");
        let target = Target::parse("ftp://[::1]:2121").unwrap();
        assert!(!target.implicit && target.password.is_none());
        assert_eq!((target.host.as_str(), target.port, target.user.as_str()), ("::1", 2121, ""));
        assert_eq!(Target::parse("FTPES://u@h:7/").unwrap().port, 7);
    }

    #[test]
    fn what_is_no_url_is_told() {
        for (url, error) in [
            ("", TargetError::Scheme),
            ("localhost", TargetError::Scheme),
            ("http://x", TargetError::Scheme),
            ("ftps://", TargetError::Host),
            ("ftps://u:p@", TargetError::Host),
            ("ftps://h:port", TargetError::Host),
            ("ftps://h:99999", TargetError::Host),
            ("ftps://[::1", TargetError::Host),
            ("ftps://u%4@h", TargetError::Character),
            ("ftps://u%0d%0aDELE x@h", TargetError::Character),
            ("ftps://h/%ff", TargetError::Character),
        ] {
            assert_eq!(Target::parse(url).unwrap_err(), error, "{url}");
        }
    }
}
