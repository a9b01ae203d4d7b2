//! A kernel of our own making, with recorded contents: it counts generations, may be busy, may lie.

mod agent;
mod boot_log;
mod extending;
mod quotes;
mod registers;
mod tree;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use casemate_verify::quote::{HEADER_LEN, TD_REPORT_LEN};
use serde::Deserialize;

use super::*;

/// A dstack VM's quote, with the event log that leads to its registers.
const REPORT: &str = include_str!("../../../tests/fixtures/dstack_quote_report.json");
/// Another machine's.
const OTHER_QUOTE: &[u8] = include_bytes!("../../../tests/fixtures/go_tdx_guest_quote.dat");

#[derive(Deserialize)]
struct Recorded {
    #[serde(with = "hex::serde")]
    quote: Vec<u8>,
    event_log: Vec<RecordedEvent>,
}

#[derive(Deserialize)]
struct RecordedEvent {
    imr: u8,
    event_type: u32,
    digest: Register,
    event: String,
    #[serde(with = "hex::serde")]
    event_payload: Vec<u8>,
}

fn recorded() -> Recorded {
    serde_json::from_str(REPORT).unwrap()
}

fn report_of(quote: &[u8]) -> TdReport {
    TdReport::of_quote(quote).unwrap()
}

/// A TDREPORT (Intel TDX Module ABI Specification) of what a quote says.
fn tdreport(of: &TdReport, asked: &[u8; 64]) -> [u8; TDREPORT_LEN] {
    let [rtmr0, rtmr1, rtmr2, rtmr3] = of.rtmr;
    let parts: [&[u8]; 14] = [
        &[0x81, 0, 0, 0],
        &[0; 124],
        asked,
        &[0; 320],
        &of.td_attributes,
        &of.xfam,
        &of.mrtd.0,
        &of.mr_config_id.0,
        &of.mr_owner.0,
        &of.mr_owner_config.0,
        &rtmr0.0,
        &rtmr1.0,
        &rtmr2.0,
        &rtmr3.0,
    ];
    let mut report = [0; TDREPORT_LEN];
    let bytes = parts.concat();
    assert_eq!(bytes.len(), 912);
    report[..912].copy_from_slice(&bytes);
    report
}

/// What happens instead of the right thing, once for each time it is in the list.
enum Instead {
    Fails(i32),
    Answers(Vec<u8>),
    /// Of a write.
    Takes(usize),
    /// Somebody else writes at the same moment.
    Overtaken,
    /// The right thing after all.
    Nothing,
}

struct State {
    td: TdReport,
    quote: Vec<u8>,
    provider: String,
    generation: u64,
    inblob: Vec<u8>,
    instead: HashMap<&'static str, VecDeque<Instead>>,
    calls: Vec<String>,
    extends: bool,
}

/// The kernel, shared with the test.
#[derive(Clone)]
struct Fake(Arc<Mutex<State>>);

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    /// A machine that shows and quotes what this quote says.
    fn of(quote: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(State {
            td: report_of(quote),
            quote: quote.to_vec(),
            provider: "tdx_guest\n".into(),
            generation: 7,
            inblob: Vec::new(),
            instead: HashMap::new(),
            calls: Vec::new(),
            extends: true,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn instead(&self, of: &'static str, list: impl IntoIterator<Item = Instead>) -> &Self {
        self.state().instead.entry(of).or_default().extend(list);
        self
    }

    fn device(&self) -> Device {
        Device::with(Paths::under("/"), Box::new(self.clone()))
    }

    fn open(&self) -> TdxTee {
        TdxTee::open(self.device(), &[]).unwrap()
    }

    /// How often this was done: `read outblob`, `write inblob`, `pause`.
    fn count(&self, call: &str) -> usize {
        self.state().calls.iter().filter(|called| *called == call).count()
    }
}

impl State {
    fn next(&mut self, verb: &str, path: &Path) -> (String, Option<Instead>) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        self.calls.push(format!("{verb} {name}"));
        let instead = self.instead.get_mut(name.as_str()).and_then(VecDeque::pop_front);
        (name, instead)
    }

    /// The recorded quote over these registers; only its signature is not made anew.
    fn quoted(&self) -> Vec<u8> {
        let report_data = self.inblob.clone().try_into().unwrap();
        let report = TdReport { report_data, ..self.td };
        let mut quote = self.quote.clone();
        quote[HEADER_LEN..HEADER_LEN + TD_REPORT_LEN].copy_from_slice(&report.encode());
        quote
    }
}

impl Kernel for Fake {
    fn read(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let mut state = self.state();
        let (name, instead) = state.next("read", path);
        let mut bytes = match (name.as_str(), instead) {
            (_, Some(Instead::Fails(errno))) => return Err(io::Error::from_raw_os_error(errno)),
            (_, Some(Instead::Answers(bytes))) => bytes,
            ("outblob", Some(Instead::Overtaken)) => {
                state.generation += 1;
                state.quoted()
            }
            ("provider", _) => state.provider.clone().into_bytes(),
            ("generation", _) => format!("{}\n", state.generation).into_bytes(),
            // As the driver does: no inblob of 64 bytes, no report.
            ("outblob", _) if state.inblob.len() != 64 => {
                return Err(io::Error::from_raw_os_error(libc::EINVAL));
            }
            ("outblob", _) => state.quoted(),
            ("rtmr0:sha384", _) => state.td.rtmr[0].0.to_vec(),
            ("rtmr3:sha384", _) => state.td.rtmr[3].0.to_vec(),
            _ => return Err(io::Error::from_raw_os_error(libc::ENOENT)),
        };
        bytes.truncate(limit + 1);
        Ok(bytes)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.state();
        let (name, instead) = state.next("write", path);
        match (name.as_str(), instead) {
            (_, Some(Instead::Fails(errno))) => return Err(io::Error::from_raw_os_error(errno)),
            (_, Some(Instead::Takes(taken))) => return Ok(taken),
            ("inblob", _) => {
                state.inblob = bytes.to_vec();
                state.generation += 1;
            }
            ("rtmr3:sha384", _) => {
                // As tsm-mr.c does.
                let Ok(digest) = bytes.try_into() else {
                    return Err(io::Error::from_raw_os_error(libc::EINVAL));
                };
                if state.extends {
                    state.td.rtmr[3] = state.td.rtmr[3].extended(&Register(digest));
                }
            }
            _ => return Err(io::Error::from_raw_os_error(libc::EACCES)),
        }
        Ok(bytes.len())
    }

    fn report(&self, device: &Path, report_data: &[u8; 64]) -> io::Result<[u8; TDREPORT_LEN]> {
        let mut state = self.state();
        match state.next("report", device) {
            (_, Some(Instead::Fails(errno))) => Err(io::Error::from_raw_os_error(errno)),
            (_, Some(Instead::Answers(bytes))) => Ok(bytes.try_into().unwrap()),
            _ => Ok(tdreport(&state.td, report_data)),
        }
    }

    fn pause(&self, _: Duration) {
        self.state().calls.push("pause".into());
    }
}
