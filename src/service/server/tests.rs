//! The accept loop without services: who gets in, who is dropped, how it ends.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::config::serve::Address;

struct Served {
    address: String,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<usize>,
}

impl Served {
    async fn with(limits: Limits) -> Self {
        let listener = Listener::bind(&"http://127.0.0.1:0".parse().unwrap(), None)
            .await
            .unwrap();
        let Address::Tcp { host, .. } = listener.address() else {
            panic!("not TCP");
        };
        let (stop, stopped) = oneshot::channel();
        let options = ServerOptions {
            access: Access::default(),
            limits,
            pool: Pool::beside(64 << 20),
            metrics: Arc::default(),
        };
        let serving = tokio::spawn(serve(Routes::default(), vec![listener], options, async {
            let _ = stopped.await;
        }));
        Self {
            address: host.to_string(),
            stop: Some(stop),
            serving,
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.unwrap()
    }

    /// A connection on which both sides have said their first words.
    async fn speak(&self) -> TcpStream {
        let mut stream = self.connect().await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        // The header of the server's first frame.
        stream.read_exact(&mut [0; 9]).await.unwrap();
        stream
    }

    async fn stop(mut self) -> usize {
        self.stop.take().unwrap().send(()).unwrap();
        self.serving.await.unwrap()
    }
}

async fn is_closed(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    // A reset closes as well as an end.
    let _ = stream.read_to_end(&mut rest).await;
    rest.is_empty()
}

#[tokio::test]
async fn a_connection_too_many_is_closed_and_one_that_ends_makes_room() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let served = Served::with(limits).await;
    let first = served.speak().await;
    assert!(is_closed(served.connect().await).await);
    drop(first);
    // The end of the first is noticed when it is, not when it is closed here.
    loop {
        let mut next = served.connect().await;
        // A connection that was refused takes nothing.
        let _ = next.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        if next.read_exact(&mut [0; 9]).await.is_ok() {
            break;
        }
    }
}

#[tokio::test]
async fn who_keeps_silent_is_dropped() {
    let served = Served::with(Limits::default()).await;
    let mut begun = served.connect().await;
    begun.write_all(b"PRI * HTTP/2.0\r\n").await.unwrap();
    for mut silent in [begun, served.connect().await] {
        // The server speaks first; what matters is that it comes to an end.
        let _ = silent.read_to_end(&mut Vec::new()).await;
    }
}

#[tokio::test]
async fn connections_that_do_not_end_are_dropped_and_counted() {
    let limits = Limits {
        drain: Duration::ZERO,
        ..Limits::default()
    };
    let served = Served::with(limits).await;
    let _open = served.speak().await;
    let address = served.address.clone();
    assert_eq!(served.stop().await, 1);
    assert!(TcpStream::connect(&address).await.is_err(), "nobody listens any more");
}
