//! Registering at a VPC server, where that is where the key to join with comes from: who the login server is may be known only after it.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::settings::Settings;
use super::{Node, NodeError};
use crate::control::client::ServerUrl;
use crate::control::harmless;
use crate::control::join::Phase;
use crate::control::session::{SessionConfig, SessionError};
use crate::dial::Dial;
use crate::key::{Machine, Public, fill_random};
use crate::parent::{Config, Keys};
use crate::registration::{Answer, Asker, Login, Registrar, Registration, RegistrationError, Rules, Trouble};
use crate::state::Kept;

/// Whom the session talks to.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) url: ServerUrl,
    pub(super) pin: Option<Public<Machine>>,
}

pub(super) type Answers = mpsc::Receiver<Result<Answer, RegistrationError>>;

/// The login server, as far as it is known without asking: by the configuration, or by an earlier registration at the same place.
pub(super) fn server(
    settings: &Settings,
    registration: Option<&Registration>,
    kept: &Kept,
) -> Option<Server> {
    let configured = settings.server.clone();
    let Some(registration) = registration else {
        return configured.map(|url| Server { url, pin: settings.pin });
    };
    if let (Some(url), Some(pin)) = (&configured, settings.pin) {
        return Some(Server { url: url.clone(), pin: Some(pin) });
    }
    let login = kept.login.as_ref().filter(|login| login.registered_at == registration.url)?;
    let url: ServerUrl = login.url.parse().ok()?;
    let contradicted = configured.is_some_and(|configured| configured != url)
        || settings.pin.is_some_and(|pin| pin != login.noise_key);
    (!contradicted).then_some(Server { url, pin: Some(login.noise_key) })
}

/// Runs the session when it is known with whom.
pub(super) async fn session<Run>(
    settings: Arc<Settings>,
    mut server: watch::Receiver<Option<Server>>,
    run: impl FnOnce(SessionConfig) -> Run,
) -> Result<(), SessionError>
where
    Run: Future<Output = Result<(), SessionError>>,
{
    let known = match server.wait_for(Option::is_some).await {
        Ok(known) => known.clone(),
        Err(_) => None,
    };
    let Some(known) = known else { return Ok(()) };
    run(settings.session(known)).await
}

/// The node's side of it.
pub(super) struct Registering {
    at: String,
    wanted: watch::Sender<bool>,
    server: watch::Sender<Option<Server>>,
    /// Why the last request gave no key: its kind, and the words for people.
    trouble: Option<(Trouble, String)>,
}

impl Registering {
    /// Begins to ask as soon as it is wanted.
    pub(super) fn start(
        registration: &Registration,
        config: &Config,
        settings: &Settings,
        kept: &Kept,
        server: watch::Sender<Option<Server>>,
        dial: Arc<dyn Dial>,
    ) -> Result<(Self, Answers), NodeError> {
        let mut seed = [0; 8];
        fill_random(&mut seed)?;
        let known = server.borrow().clone();
        let rules = Rules {
            server: settings.server.clone(),
            noise_key: known.as_ref().and_then(|known| known.pin).or(settings.pin),
            plain_http: registration.plain_http,
            prefixes: config.prefixes.clone(),
            derp_pins: config
                .derp_pins
                .iter()
                .map(|(host, pin)| (host.to_ascii_lowercase(), pin.clone()))
                .collect(),
        };
        // Where there is no instance, the machine's public key says which machine this is.
        let instance = match &config.keys {
            Keys::Agent { instance_id, .. } => instance_id.clone(),
            Keys::Random => hex::encode(kept.machine.public().bytes()),
        };
        let asker = Asker { instance: &instance, name: &config.hostname };
        let registrar = Registrar::new(registration, asker, rules, Arc::clone(&settings.roots), dial)
            .map_err(|error| NodeError::Config(format!("registration: {error}")))?;
        let (wanted, wants) = watch::channel(known.is_none());
        let (answers, answered) = mpsc::channel(1);
        tokio::spawn(registrar.run(u64::from_ne_bytes(seed), wants, answers));
        Ok((Self { at: registration.url.clone(), wanted, server, trouble: None }, answered))
    }

    /// A key is needed, or not any more.
    pub(super) fn look_at(&mut self, phase: Phase) {
        let needed = phase == Phase::KeyNeeded;
        if !needed {
            self.trouble = None;
        }
        self.wanted.send_if_modified(|wanted| std::mem::replace(wanted, needed) != needed);
    }

    /// Why no key comes, while one is needed.
    pub(super) fn trouble(&self) -> Option<(Trouble, &str)> {
        self.trouble.as_ref().map(|(kind, text)| (*kind, text.as_str()))
    }
}

impl Node {
    pub(super) fn on_registered(&mut self, now: Instant, answer: Result<Answer, RegistrationError>) {
        let Some(registering) = &mut self.registering else { return };
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let text = match &error {
                    // Ours but for hosts, which are harmless: it names public keys, which would pass for others.
                    RegistrationError::Answer(_) => error.to_string(),
                    _ => harmless(&error.to_string()),
                };
                warn!(kind = error.kind().name(), text, "the registration gave no key");
                registering.trouble = Some((error.kind(), text));
                return;
            }
        };
        info!(server = answer.server.authority(), key = %answer.noise_key, "registered");
        registering.trouble = None;
        self.keeper.kept.login = Some(Login {
            registered_at: registering.at.clone(),
            url: answer.url,
            noise_key: answer.noise_key,
        });
        if let Err(error) = self.keeper.write(now, &self.parent) {
            // A restart then registers again.
            warn!(%error, "who the login server is is not kept yet");
            self.keeper.touch(now);
        }
        let Some(registering) = &self.registering else { return };
        // Before the key: it is for this server. A session that runs goes on; another URL of the same server is the next run's.
        registering.server.send_if_modified(|server| {
            let first = server.is_none();
            if first {
                *server = Some(Server { url: answer.server, pin: Some(answer.noise_key) });
            }
            first
        });
        self.auth.send_replace(Some(answer.key));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

    use super::super::tests;
    use super::*;
    use crate::parent::LoginServer;

    const AT: &str = "http://127.0.0.1:8000/api/register";

    fn config(url: &str, noise_key: Option<Public<Machine>>) -> Config {
        let config = tests::config();
        Config {
            login_server: LoginServer { url: url.to_owned(), noise_key, ..config.login_server.clone() },
            ..config
        }
    }

    fn kept(login: Option<Login>) -> Kept {
        Kept { login, map: None, ..tests::kept(0) }
    }

    #[test]
    fn the_login_server_is_the_configured_one_or_the_one_that_was_kept_for_this_registration() {
        let (pin, other) = (Public::new([1; 32]), Public::new([2; 32]));
        let registration = Registration {
            url: AT.to_owned(),
            plain_http: false,
            node_type: None,
            document: Some("{}".to_owned()),
        };
        let login = |at: &str| {
            Some(Login { registered_at: at.to_owned(), url: "https://kept.example".into(), noise_key: pin })
        };
        let known = |url: &str, noise_key, registers: bool, login| {
            let settings = Settings::new(&config(url, noise_key), registers).unwrap();
            let found = server(&settings, registers.then_some(&registration), &kept(login));
            found.map(|server| (server.url.host, server.pin))
        };
        let own = |pin| Some(("own.example".to_owned(), pin));
        let from_kept = Some(("kept.example".to_owned(), Some(pin)));
        // Without a registration nothing that was kept counts.
        assert_eq!(known("https://own.example", None, false, login(AT)), own(None));
        assert_eq!(known("https://own.example", Some(pin), true, None), own(Some(pin)));
        // Not pinned yet: that takes a registration.
        assert_eq!(known("https://own.example", None, true, None), None);
        assert_eq!(known("https://kept.example", None, true, login(AT)), from_kept);
        assert_eq!(known("", None, true, login(AT)), from_kept);
        assert_eq!(known("", None, true, None), None);
        // What the configuration contradicts, or another registration said, does not.
        assert_eq!(known("https://own.example", None, true, login(AT)), None);
        assert_eq!(known("", Some(other), true, login(AT)), None);
        assert_eq!(known("", None, true, login("http://127.0.0.1:8000/other")), None);
        assert!(Settings::new(&config("", None), false).is_err());
        assert!(!format!("{registration:?}").contains("{}"), "the document");
    }
}
