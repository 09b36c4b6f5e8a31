//! A control socket between a backup and its server: what is asked, and what is answered, may be changed, or held.

use super::Dir;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// The server's own answer to a request.
pub type Server<'a> = &'a dyn Fn() -> Value;

/// Listens beside `control`. `answer` gets each request by its name, and answers it.
pub fn between(
    dir: &Dir,
    control: &Path,
    answer: impl Fn(&str, Server<'_>) -> Value + Clone + Send + 'static,
) -> PathBuf {
    let (path, control) = (dir.path("between"), control.to_path_buf());
    let socket = UnixListener::bind(&path).expect("listen");
    std::thread::spawn(move || {
        for client in socket.incoming() {
            let (client, control, answer) = (client.expect("a client"), control.clone(), answer.clone());
            std::thread::spawn(move || serve(&client, &control, &answer));
        }
    });
    path
}

/// Answers one client, until it goes or the server has gone.
fn serve(client: &UnixStream, control: &Path, answer: &impl Fn(&str, Server<'_>) -> Value) -> std::io::Result<()> {
    for line in BufReader::new(client).lines() {
        let line = line?;
        let ask = || {
            let mut server = UnixStream::connect(control).expect("a server");
            server.write_all(format!("{line}\n").as_bytes()).expect("ask");
            let mut answer = String::new();
            BufReader::new(server).read_line(&mut answer).expect("an answer");
            serde_json::from_str(&answer).expect("JSON")
        };
        let request: Value = serde_json::from_str(&line)?;
        let answer = answer(request["request"].as_str().expect("a name"), &ask);
        (&mut &*client).write_all(format!("{answer}\n").as_bytes())?;
    }
    Ok(())
}

/// The answer of a server that refuses.
pub fn refused(kind: &str) -> Value {
    json!({"error": {"kind": kind, "message": "refused", "exit": 8}})
}
