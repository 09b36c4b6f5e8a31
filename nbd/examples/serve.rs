//! Serves a raw image on a unix socket until standard input ends: `cargo run --example serve IMAGE SOCKET`.

use dirtymap_nbd::{FileBackend, FixedExports, Server, ServerOptions};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let mut paths = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(image), Some(socket)) = (paths.next(), paths.next()) else {
        return Err(std::io::Error::other("serve IMAGE SOCKET"));
    };
    let exports = FixedExports::new().with("", Arc::new(FileBackend::open(&image, true)?));
    let mut server = Server::new(Arc::new(exports), ServerOptions::default());
    server.listen_unix(&socket)?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    server.shutdown(Duration::from_secs(10));
    Ok(())
}
