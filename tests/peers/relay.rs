//! An address that is known before the one it leads to: two meshes must each be told where the other is.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OnceCell;

pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    to: Arc<OnceCell<SocketAddr>>,
}

impl Relay {
    pub(crate) async fn open() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let to = Arc::<OnceCell<SocketAddr>>::default();
        let shared = Arc::clone(&to);
        tokio::spawn(async move {
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let to = *shared.get().unwrap();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    // Ends with an error when either side cuts the connection.
                    drop(tokio::io::copy_bidirectional(&mut near, &mut far).await);
                });
            }
        });
        Self { address, to }
    }

    pub(crate) fn lead_to(&self, address: SocketAddr) {
        self.to.set(address).unwrap();
    }
}
