//! `/metrics`: the newest values as Prometheus text, on a listener of its own. Names come from the
//! catalogue; beside them stand the names that OpenStack Watcher asks of Prometheus, so that it works
//! unmodified. It speaks just enough HTTP for a scraper.

mod names;
mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::guard::limits::Limit;
use crate::known::Known;

/// Scrapes at once; one more is turned away.
const SCRAPES_MAX: usize = 4;
/// Bytes of a request that are read.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// How long a scraper may take to ask, and to take its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves scrapes until it is dropped.
pub(crate) async fn serve(listen: SocketAddr, known: Known) -> std::io::Result<()> {
    let listener = TcpListener::bind(listen).await?;
    tracing::info!(metrics = %listener.local_addr()?, "serving /metrics");
    serve_on(listener, known).await
}

async fn serve_on(listener: TcpListener, known: Known) -> std::io::Result<()> {
    let places = Arc::new(Semaphore::new(SCRAPES_MAX));
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            // Out of files: the next try may fare better, and none is made at once.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            known.met.note(Limit::Scrapes, &*known.clock);
            continue;
        };
        let known = known.clone();
        tokio::spawn(async move {
            match tokio::time::timeout(PATIENCE, answer(&mut stream, known)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(error = %error, "a scrape broke off"),
                Err(_) => tracing::debug!("a scraper took too long"),
            }
            drop(place);
        });
    }
}

async fn answer(stream: &mut TcpStream, known: Known) -> std::io::Result<()> {
    let request = read_request(stream).await?;
    let (code, kind, body) = match route(&request) {
        Route::Metrics => {
            let body = tokio::task::spawn_blocking(move || text::render(&known)).await;
            let kind = "text/plain; version=0.0.4; charset=utf-8";
            ("200 OK", kind, body.map_err(std::io::Error::other)?)
        }
        Route::Elsewhere => (
            "404 Not Found",
            "text/plain",
            "only /metrics is here\n".to_owned(),
        ),
        Route::Refused => (
            "405 Method Not Allowed",
            "text/plain",
            "only GET is answered here\n".to_owned(),
        ),
    };
    let head = format!(
        "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

async fn read_request(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut request = Vec::new();
    while request.len() < REQUEST_BYTES_MAX && !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    Ok(request)
}

#[derive(Debug, PartialEq, Eq)]
enum Route {
    Metrics,
    Elsewhere,
    Refused,
}

fn route(request: &[u8]) -> Route {
    let line = request
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    match (method, path) {
        (Some("GET"), "/metrics") => Route::Metrics,
        (Some("GET"), _) => Route::Elsewhere,
        _ => Route::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_scrapers_are_answered_at_once_and_one_more_is_turned_away() {
        let scene = crate::scene::Scene::new();
        let met = Arc::clone(&scene.known.met);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve_on(listener, scene.known.clone()));
        let mut asking = Vec::new();
        for _ in 0..SCRAPES_MAX {
            asking.push(TcpStream::connect(address).await.unwrap());
        }
        let mut beyond = TcpStream::connect(address).await.unwrap();
        let mut said = Vec::new();
        // Whatever the end of a connection is called that was closed with words of ours unread.
        drop(beyond.read_to_end(&mut said).await);
        assert!(said.is_empty(), "nobody speaks to it");
        assert_eq!(met.count(Limit::Scrapes), 1);
        for scraper in &mut asking {
            scraper
                .write_all(b"GET /metrics HTTP/1.1\r\n\r\n")
                .await
                .unwrap();
            let mut answer = String::new();
            scraper.read_to_string(&mut answer).await.unwrap();
            assert!(
                answer.contains("limit_met_total{limit=\"scrapes\"} 1"),
                "{answer}"
            );
        }
        // Their places are free once they were answered.
        let mut again = TcpStream::connect(address).await.unwrap();
        again.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        again.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("404"), "{answer}");
    }

    #[test]
    fn only_a_get_of_metrics_is_answered() {
        assert_eq!(
            route(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"),
            Route::Metrics
        );
        assert_eq!(
            route(b"GET /metrics?name=x HTTP/1.1\r\n\r\n"),
            Route::Metrics
        );
        assert_eq!(route(b"GET / HTTP/1.1\r\n\r\n"), Route::Elsewhere);
        assert_eq!(route(b"POST /metrics HTTP/1.1\r\n\r\n"), Route::Refused);
        assert_eq!(route(b"\xff\xfe"), Route::Refused);
    }
}
