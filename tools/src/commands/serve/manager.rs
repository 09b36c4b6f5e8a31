//! What a service manager has to do with a server: sockets that it made, a word when clients may come, the process's number.
//!
//! Invariant kept here: nobody is told that it serves before it does.

use crate::exit::{Failure, Result};
use listenfd::ListenFd;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};

/// A socket that a service manager made.
pub enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// The sockets that a service manager has passed on (`LISTEN_FDS`).
pub fn sockets() -> Result<Vec<Socket>> {
    let mut passed = ListenFd::from_env();
    let mut taken = Vec::new();
    for i in 0..passed.len() {
        let unix = passed.take_unix_listener(i).ok().flatten().map(Socket::Unix);
        let socket = unix.or_else(|| passed.take_tcp_listener(i).ok().flatten().map(Socket::Tcp));
        taken.push(socket.ok_or_else(|| {
            Failure::new("io", format!("socket {i} of LISTEN_FDS is no stream socket that could be listened on"))
        })?);
    }
    Ok(taken)
}

/// Tells a service manager, if there is one (`NOTIFY_SOCKET`).
pub fn tell(state: &str) -> Result<()> {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let bytes = name.as_encoded_bytes();
    let address = match bytes.strip_prefix(b"@") {
        Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name),
        None => SocketAddr::from_pathname(&name),
    };
    let told = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    told.map(drop).map_err(|e| Failure::io("NOTIFY_SOCKET: tell the service manager", &e))
}

/// A file with the number of this process, for as long as this is there.
pub struct PidFile(PathBuf);

impl PidFile {
    /// Writes it. One that is left over is replaced, whole at every moment.
    pub fn write(path: &Path) -> Result<PidFile> {
        let failed = |e: std::io::Error| Failure::at(path, "write", &e);
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        std::fs::write(&name, format!("{}\n", std::process::id())).map_err(failed)?;
        std::fs::rename(&name, path).map_err(failed)?;
        Ok(PidFile(path.to_path_buf()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
