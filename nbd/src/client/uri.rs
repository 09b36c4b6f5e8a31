//! Addresses of exports: `nbd://HOST[:PORT]/EXPORT` and `nbd+unix:///EXPORT?socket=PATH`.

use crate::codec::values::PORT;
use crate::stream::Stream;
use std::fmt;
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host, by name or number, and a port.
    Tcp(String, u16),
    /// The socket's path.
    Unix(PathBuf),
}

/// Where an export is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uri {
    /// The server.
    pub address: Address,
    /// The export; empty is the default one.
    pub export: String,
}

/// What is wrong with a URI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UriError(&'static str);

impl fmt::Display for UriError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for UriError {}

impl Address {
    /// Connects to the server.
    ///
    /// # Errors
    /// What the system says.
    pub fn connect(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port))?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Unix(path) => Box::new(UnixStream::connect(path)?),
        })
    }
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let (scheme, rest) = text.split_once("://").ok_or(UriError("a URI begins with nbd:// or nbd+unix://"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, export) = rest.split_once('/').unwrap_or((rest, ""));
        let export = decode(export)?;
        let socket = query.split('&').find_map(|part| part.strip_prefix("socket="));
        let address = match (scheme, socket) {
            ("nbd+unix", Some(socket)) if host.is_empty() && !socket.is_empty() => {
                Address::Unix(decode(socket)?.into())
            }
            ("nbd+unix", _) => {
                return Err(UriError("nbd+unix:///EXPORT?socket=PATH has no host, and needs the socket"));
            }
            ("nbd", None) => {
                let (host, port) = host_and_port(host)?;
                Address::Tcp(host, port)
            }
            ("nbd", Some(_)) => return Err(UriError("a socket's path needs nbd+unix://")),
            ("nbds" | "nbds+unix", _) => return Err(UriError("there is no TLS here")),
            _ => return Err(UriError("a URI begins with nbd:// or nbd+unix://")),
        };
        Ok(Self { address, export })
    }
}

/// As it is parsed.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let export = encode(self.export.as_bytes());
        match &self.address {
            Address::Unix(socket) => {
                write!(f, "nbd+unix:///{export}?socket={}", encode(socket.as_os_str().as_encoded_bytes()))
            }
            Address::Tcp(host, port) if host.contains(':') => write!(f, "nbd://[{host}]:{port}/{export}"),
            Address::Tcp(host, port) => write!(f, "nbd://{}:{port}/{export}", encode(host.as_bytes())),
        }
    }
}

/// As it stands in a URI.
fn encode(bytes: &[u8]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    bytes.iter().map(|&b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn host_and_port(text: &str) -> Result<(String, u16), UriError> {
    let (host, port) = match text.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((host, rest)) => (host, rest),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match port.strip_prefix(':') {
        Some(port) => port.parse().map_err(|_| UriError("the port is no number"))?,
        None if port.is_empty() => PORT,
        None => return Err(UriError("what follows the host is no port")),
    };
    let host = if host.is_empty() { "localhost" } else { host };
    Ok((decode(host)?, port))
}

/// `%20` becomes a space.
fn decode(text: &str) -> Result<String, UriError> {
    let mut bytes = text.bytes();
    let mut out = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (digit(), digit());
        let value = high.zip(low).ok_or(UriError("% is followed by two hexadecimal digits"))?;
        out.push((value.0 * 16 + value.1) as u8);
    }
    String::from_utf8(out).map_err(|_| UriError("the URI is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_lead_to_exports() {
        let tcp = |host: &str, port, export: &str| {
            Ok(Uri { address: Address::Tcp(host.into(), port), export: export.into() })
        };
        let unix = |path: &str, export: &str| Ok(Uri { address: Address::Unix(path.into()), export: export.into() });
        for (text, wanted) in [
            ("nbd://host", tcp("host", 10809, "")),
            ("nbd://host:99/a%20b", tcp("host", 99, "a b")),
            ("nbd://[::1]:7/x", tcp("::1", 7, "x")),
            ("nbd:///x", tcp("localhost", 10809, "x")),
            ("nbd+unix:///?socket=/run/s", unix("/run/s", "")),
            ("nbd+unix:///a/b?socket=/a%3fb&x=1", unix("/a?b", "a/b")),
        ] {
            assert_eq!(text.parse::<Uri>(), wanted, "{text}");
            let shown = wanted.clone().map(|uri: Uri| uri.to_string()).expect("a URI");
            assert_eq!(shown.parse::<Uri>(), wanted, "{shown}");
        }
        for text in
            ["", "nbd", "http://x", "nbds://x", "nbd+unix:///x", "nbd+unix://h/?socket=/s", "nbd://h:x/", "nbd://h/%2"]
        {
            assert!(text.parse::<Uri>().is_err(), "{text}");
        }
    }
}
