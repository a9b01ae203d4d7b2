//! Our addresses in the network: those of the map, and those that the parent has set. Only the latter are ours.

use std::time::{Duration, Instant};

use ipnet::IpNet;

/// The first wait after a refusal; doubled with each.
const MIN_BACK_OFF: Duration = Duration::from_secs(1);
/// The longest.
const MAX_BACK_OFF: Duration = Duration::from_secs(60);
/// Between two requests: each is work of the parent and of the kernel, and how often our addresses change is the server's word.
const INTERVAL: Duration = Duration::from_secs(1);

/// What is set, what is wanted, and what is being asked for.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    /// `None`: before the first map.
    wanted: Option<Vec<IpNet>>,
    set: Option<Vec<IpNet>>,
    /// A request failed since: who knows how much of it was done.
    unsure: bool,
    asked: Option<Vec<IpNet>>,
    /// When it was asked last.
    last: Option<Instant>,
    failure: Option<String>,
    failures: u32,
    again: Option<Instant>,
}

impl Assignment {
    /// What the map says now.
    pub(super) fn want(&mut self, addresses: &[IpNet]) {
        if self.wanted.as_deref() != Some(addresses) {
            self.wanted = Some(addresses.to_vec());
            self.failure = None;
            self.failures = 0;
            self.again = None;
        }
    }

    /// What is set: nobody is to reach us at other addresses.
    pub(super) fn set(&self) -> &[IpNet] {
        self.set.as_deref().unwrap_or_default()
    }

    /// Why what is wanted is not set, if it was refused.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// When [`Assignment::ask`] has something to ask for that it has not now.
    pub(super) fn due(&self) -> Option<Instant> {
        self.earliest().filter(|_| self.asked.is_none() && !self.is_set())
    }

    fn earliest(&self) -> Option<Instant> {
        self.again.max(self.last.map(|last| last + INTERVAL))
    }

    fn is_set(&self) -> bool {
        !self.unsure && self.set == self.wanted
    }

    /// What to ask the parent for, one thing at a time; answered by [`Assignment::answered`].
    pub(super) fn ask(&mut self, now: Instant) -> Option<Vec<IpNet>> {
        let waits = self.earliest().is_some_and(|earliest| now < earliest);
        if waits || self.asked.is_some() || self.is_set() {
            return None;
        }
        self.again = None;
        self.last = Some(now);
        self.asked.clone_from(&self.wanted);
        self.asked.clone()
    }

    /// What the parent said. Whether something else is set than before.
    pub(super) fn answered(&mut self, now: Instant, outcome: Result<(), String>) -> bool {
        let Some(asked) = self.asked.take() else { return false };
        self.unsure = outcome.is_err();
        let is_wanted = self.wanted.as_ref() == Some(&asked);
        match outcome {
            Ok(()) => {
                if is_wanted {
                    self.failure = None;
                    self.failures = 0;
                }
                let changed = self.set.as_ref() != Some(&asked);
                self.set = Some(asked);
                changed
            }
            // Something else is wanted meanwhile: it may fare better.
            Err(_) if !is_wanted => false,
            Err(error) => {
                self.failure = Some(error);
                self.again =
                    Some(now + MIN_BACK_OFF.saturating_mul(1 << self.failures.min(6)).min(MAX_BACK_OFF));
                self.failures = self.failures.saturating_add(1);
                false
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]
mod tests {
    use super::*;

    fn nets(text: &str) -> Vec<IpNet> {
        vec![text.parse().unwrap()]
    }

    #[test]
    fn what_is_refused_is_asked_for_again_and_never_ours() {
        let start = Instant::now();
        let (one, two) = (nets("100.64.0.1/32"), nets("100.64.0.2/32"));
        let mut assignment = Assignment::default();
        assert_eq!(assignment.ask(start), None, "there is no map");
        assignment.want(&one);
        assert_eq!(assignment.ask(start), Some(one.clone()));
        assert_eq!(assignment.ask(start), None, "one question at a time");
        assert!(assignment.answered(start, Ok(())));
        assert_eq!(assignment.set(), one);
        assert_eq!(assignment.ask(start), None, "it is set");

        assignment.want(&two);
        let mut now = start + INTERVAL;
        let mut waits = Vec::new();
        for _ in 0..9 {
            assert_eq!(assignment.ask(now), Some(two.clone()));
            assert!(!assignment.answered(now, Err("the kernel refused it".to_owned())));
            let due = assignment.due().unwrap();
            assert_eq!(assignment.ask(due - Duration::from_millis(1)), None);
            waits.push((due - now).as_secs());
            now = due;
            // The map comes again and again: that is no reason to hurry.
            assignment.want(&two);
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!((assignment.set(), assignment.failure()), (one.as_slice(), Some("the kernel refused it")));
        assert!(assignment.ask(now).is_some() && assignment.answered(now, Ok(())));
        assert_eq!((assignment.set(), assignment.failure(), assignment.due()), (two.as_slice(), None, None));
    }

    #[test]
    fn what_was_wanted_before_the_answer_came_is_not_what_is_wanted() {
        let mut now = Instant::now();
        let (one, two) = (nets("100.64.0.1/32"), nets("100.64.0.2/32"));
        let mut assignment = Assignment::default();
        assignment.want(&one);
        assignment.ask(now);
        assignment.want(&two);
        assert!(assignment.answered(now, Ok(())));
        assert_eq!(assignment.set(), one);
        now += INTERVAL;
        assert_eq!(assignment.ask(now), Some(two));
        assignment.want(&one);
        assert!(!assignment.answered(now, Err("refused".to_owned())));
        assert_eq!(assignment.failure(), None, "nobody wants it any more");
        now += INTERVAL;
        assert_eq!(assignment.ask(now), Some(one.clone()), "half of the other may have been done");
        assert!(!assignment.answered(now, Ok(())));
        assert_eq!((assignment.ask(now + INTERVAL), assignment.due()), (None, None));
        // An answer that nobody asked for.
        assert!(!assignment.answered(now, Ok(())));
    }

    #[test]
    fn a_server_that_changes_its_mind_does_not_say_how_much_the_parent_works() {
        let start = Instant::now();
        let both = [nets("100.64.0.1/32"), nets("100.64.0.2/32")];
        for outcome in [Ok(()), Err("refused".to_owned())] {
            let mut assignment = Assignment::default();
            let mut asked = 0;
            // Ten maps a second, for ten seconds.
            for (round, wanted) in (0..100).zip(both.iter().cycle()) {
                let now = start + Duration::from_millis(100 * round);
                assignment.want(wanted);
                if assignment.ask(now).is_some() {
                    asked += 1;
                    assignment.answered(now, outcome.clone());
                }
            }
            assert_eq!(asked, 10);
            // What holds in the end is asked for all the same.
            assignment.want(&nets("100.64.0.3/32"));
            let due = assignment.due().unwrap();
            assert!(due <= start + Duration::from_secs(11), "{:?}", due - start);
            assert_eq!(assignment.ask(due), Some(nets("100.64.0.3/32")));
        }
    }
}
