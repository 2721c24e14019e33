//! As much HTTP/1.1 as a look at a service needs (RFC 9112): one GET a connection.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::protocol::{Failure, Page};

/// Answers a GET whose request line was read.
pub async fn answer(
    stream: &mut BufReader<TcpStream>,
    name: &str,
    client: SocketAddr,
    local: SocketAddr,
) -> Result<(), Failure> {
    let mut header = String::new();
    while stream.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let body = format!("Hello from {name} at {local}. You are {client}.\n");
    let text = format!(
        "HTTP/1.1 200 OK\r\nServer: {name}\r\nContent-Type: text/plain\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(text.as_bytes()).await?;
    Ok(stream.shutdown().await?)
}

/// Fetches a page.
pub async fn get(to: SocketAddr, path: &str) -> Result<Page, Failure> {
    let mut stream = TcpStream::connect(to).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    parse(&text).ok_or(Failure::Garbled(text))
}

fn parse(text: &str) -> Option<Page> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?;
    let server = lines.find_map(|line| line.strip_prefix("Server: "));
    Some(Page {
        status: status.split(' ').next()?.parse().ok()?,
        server: server.unwrap_or_default().to_owned(),
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_with_its_server() {
        let text = "HTTP/1.1 200 OK\r\nServer: nginx-0\r\nConnection: close\r\n\r\nhello\n";
        let page = parse(text).unwrap();
        assert_eq!((page.status, page.server.as_str()), (200, "nginx-0"));
        assert_eq!(page.body, "hello\n");
        assert_eq!(parse("HTTP/1.1 200 OK\r\n"), None);
    }
}
