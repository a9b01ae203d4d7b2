//! What sealing and opening one packet takes, our own way beside ring's, in turn.
//!
//! ```sh
//! cargo bench -p casemate-tests --bench aead               # 9 rounds
//! cargo test -p casemate-tests --bench aead                # smoke: one round, and short
//! ```

use std::hint::black_box;
use std::time::Instant;

use anyhow::Context as _;
use casemate_aead::{Key, TAG, Way};

/// Packets: an empty acknowledgement of TCP, what fills a tailnet's MTU, what fills WireGuard's usual one.
const LENGTHS: [usize; 3] = [52, 1280, 1420];

fn main() -> anyhow::Result<()> {
    let bench = std::env::args().any(|argument| argument == "--bench");
    let (rounds, packets) = if bench { (9, 100_000) } else { (1, 100) };
    let key = [0x42; 32];
    let ring = Key::by(Way::Ring, &key).context("ring takes no key")?;
    let Some(wide) = Key::by(Way::Wide, &key) else {
        println!("SKIPPED: this processor has no AVX-512 IFMA, so both ways are ring's");
        return Ok(());
    };
    for length in LENGTHS {
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..rounds {
            let [ring_seals, ring_opens] = nanoseconds(&ring, length, packets)?;
            let [wide_seals, wide_opens] = nanoseconds(&wide, length, packets)?;
            for (times, time) in times.iter_mut().zip([wide_seals, ring_seals, wide_opens, ring_opens]) {
                times.push(time);
            }
        }
        let [wide_seals, ring_seals, wide_opens, ring_opens] = times.map(median);
        println!(
            "ratio: {length} bytes: seal {wide_seals:.0} ns, ring {ring_seals:.0} ns, {:.2} times its speed; \
             open {wide_opens:.0} ns, ring {ring_opens:.0} ns, {:.2} times its speed",
            ring_seals / wide_seals,
            ring_opens / wide_opens,
        );
    }
    Ok(())
}

/// What one packet takes to be sealed and to be opened.
fn nanoseconds(key: &Key, length: usize, packets: u32) -> anyhow::Result<[f64; 2]> {
    let mut text = vec![0x5a; length];
    let mut sealed = vec![0; length + TAG];
    let started = Instant::now();
    for packet in 0..packets {
        key.seal(u64::from(packet), black_box(&text), black_box(&mut sealed))?;
    }
    let seals = started.elapsed();
    let last = u64::from(packets - 1);
    let started = Instant::now();
    for _ in 0..packets {
        key.open(last, black_box(&sealed), black_box(&mut text))?;
    }
    let opens = started.elapsed();
    Ok([seals, opens].map(|time| time.as_secs_f64() * 1e9 / f64::from(packets)))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}
