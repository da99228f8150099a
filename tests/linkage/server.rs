//! A bucket's front door on a real socket: answers like COS, or falls silent on old and new connections alike.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    Healthy,
    /// Takes everything, answers nothing.
    Silent,
    /// Breaks every connection.
    Rude,
    /// 403 to everything.
    Strict,
    /// Healthy under the second domain, silent under the first.
    OneName,
}

#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    manner: Arc<watch::Sender<Manner>>,
}

impl Server {
    pub async fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let server = Server {
            address: listener.local_addr().expect("address"),
            manner: Arc::new(watch::Sender::new(Manner::Healthy)),
        };
        let manner = server.manner.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let manner = manner.subscribe();
                tokio::spawn(serve(stream, manner));
            }
        });
        server
    }

    pub fn behave(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }
}

async fn serve(mut stream: TcpStream, manner: watch::Receiver<Manner>) {
    let mut seen = Vec::new();
    let mut chunk = [0u8; 4096];
    loop {
        let Some(end) = seen.windows(4).position(|w| w == b"\r\n\r\n").map(|at| at + 4) else {
            match stream.read(&mut chunk).await {
                Ok(n) if n > 0 => seen.extend_from_slice(&chunk[..n]),
                _ => return,
            }
            continue;
        };
        let head = String::from_utf8_lossy(&seen[..end]).to_string();
        seen.drain(..end);
        let mut now = *manner.borrow();
        if now == Manner::OneName {
            now = if head.contains(".tencentcos.cn") { Manner::Healthy } else { Manner::Silent };
        }
        let answer = match now {
            Manner::Silent | Manner::OneName => {
                // Whatever this connection was asked, it never answers again.
                while matches!(stream.read(&mut chunk).await, Ok(n) if n > 0) {}
                return;
            }
            Manner::Rude => return,
            Manner::Strict => answer("403 Forbidden", &head, ""),
            Manner::Healthy if head.starts_with("POST") => answer(
                "200 OK",
                &head,
                "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>u1</UploadId></InitiateMultipartUploadResult>",
            ),
            Manner::Healthy if head.starts_with("DELETE") => answer("204 No Content", &head, ""),
            Manner::Healthy => answer("404 Not Found", &head, ""),
        };
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn answer(status: &str, head: &str, body: &str) -> String {
    let body = if head.starts_with("HEAD") { "" } else { body };
    let length = if status.starts_with("204") { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    format!("HTTP/1.1 {status}\r\nx-cos-request-id: test\r\n{length}\r\n{body}")
}
