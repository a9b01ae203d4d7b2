//! Names of STUN servers that are looked up: each once at a time, a few together.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{Semaphore, mpsc};
use tracing::debug;

use super::dial::Dialer;

/// Names that are looked up at a time: a map of many names is no reason for as many sockets.
const PLACES: usize = 8;

/// A name, and where it leads; nowhere, if nobody knows.
pub(super) type LookedUp = (String, Vec<IpAddr>);

/// What is being looked up. Where resolvers are dead, names are asked for faster than they are given up.
#[derive(Debug)]
pub(super) struct LookUps {
    under_way: HashSet<String>,
    places: Arc<Semaphore>,
    done: mpsc::Sender<LookedUp>,
}

impl LookUps {
    /// What is found goes to `done`; whoever takes it calls [`LookUps::ended`].
    pub(super) fn new(done: mpsc::Sender<LookedUp>) -> Self {
        Self { under_way: HashSet::new(), places: Arc::new(Semaphore::new(PLACES)), done }
    }

    /// Looks a name up, unless that is being done. Whether it was begun.
    pub(super) fn begin(&mut self, host: String, dialer: &Arc<Dialer>) -> bool {
        if !self.under_way.insert(host.clone()) {
            return false;
        }
        let (dialer, places, done) = (Arc::clone(dialer), Arc::clone(&self.places), self.done.clone());
        tokio::spawn(async move {
            // Nobody closes it.
            let _place = places.acquire().await;
            let found = dialer.addresses(&host).await;
            let found = found.inspect_err(|error| debug!(%error, "a STUN server's name")).unwrap_or_default();
            drop(done.send((host, found)).await);
        });
        true
    }

    /// A name was looked up.
    pub(super) fn ended(&mut self, host: &str) {
        self.under_way.remove(host);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_that_takes_long_is_not_asked_for_again_meanwhile() {
        // Who never answers.
        let resolver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let dead = Arc::new(Dialer::new(vec![resolver.local_addr().unwrap()], None, None));
        let (done, mut ended) = mpsc::channel(8);
        let mut look_ups = LookUps::new(done);
        let names = || (0..64).map(|number| format!("stun{number}.example"));
        let mut begun = 0;
        for _round in 0..10 {
            begun += names().filter(|name| look_ups.begin(name.clone(), &dead)).count();
        }
        assert_eq!(begun, 64);
        // One that ends is asked for again, also one that nobody knew.
        assert!(look_ups.begin("192.0.2.1".to_owned(), &dead));
        let nobody = Arc::new(Dialer::new(Vec::new(), None, None));
        let (done, mut found) = mpsc::channel(8);
        let mut other = LookUps::new(done);
        assert!(other.begin("stun.example".to_owned(), &nobody));
        let (host, addresses) = found.recv().await.unwrap();
        assert_eq!((host.as_str(), addresses), ("stun.example", Vec::new()));
        assert!(!other.begin(host.clone(), &nobody));
        other.ended(&host);
        assert!(other.begin(host, &nobody));
        ended.close();
    }
}
