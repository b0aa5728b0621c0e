//! Connections that stay open for several calls.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::client::Running;

/// A connection that is kept open.
pub struct Kept<S>(pub S);

impl<S: AsyncRead + AsyncWrite + Unpin> Kept<S> {
    pub async fn send(&mut self, bytes: &str) {
        self.0.write_all(bytes.as_bytes()).await.unwrap();
    }

    /// The next answer, whole: status, head without its date, body. `None`: closed.
    pub async fn answer(&mut self) -> Option<(u16, String, String)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if self.0.read(&mut byte).await.unwrap_or(0) == 0 {
                assert!(head.is_empty(), "{head:?}");
                return None;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let date = field("date: ").unwrap();
        assert!(date.len() == 29 && date.ends_with(" GMT"), "{date}");
        let mut body = vec![0; field("content-length: ").unwrap().parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Some((status, head.replace(date, ""), String::from_utf8(body).unwrap()))
    }

    pub async fn call(&mut self, bytes: &str) -> (u16, String, String) {
        self.send(bytes).await;
        self.answer().await.unwrap()
    }
}

impl Running {
    pub async fn keep(&self) -> Kept<TcpStream> {
        let stream = TcpStream::connect(&self.tcp).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Kept(stream)
    }

    pub async fn keep_unix(&self) -> Kept<UnixStream> {
        Kept(UnixStream::connect(self.dir.join("sidecar.sock")).await.unwrap())
    }

    /// The bytes of a POST on a connection that stays open.
    pub fn post_bytes(&self, headers: &str, body: &str) -> String {
        format!(
            "POST /v1/credentials HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n{headers}\
             Content-Length: {}\r\n\r\n{body}",
            self.tcp,
            self.token("agent.token"),
            body.len()
        )
    }
}
