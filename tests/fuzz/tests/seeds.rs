//! Every target on every seed, without a fuzzer: what was once found stays found.

use casemate_fuzz::{PLANTED, TARGETS, Target, Verdict, seeds};

#[test]
fn every_target_accepts_a_seed() {
    for target in TARGETS {
        let mut accepted = 0;
        for (path, content) in seeds::files(target).expect("seeds") {
            // As libFuzzer does with the longest of other tests' files.
            let content = &content[..content.len().min(target.max_len)];
            // Under its name, so that a panic says which.
            println!("{}: {}", target.name, path.display());
            if (target.run)(content) == Verdict::Accepted {
                accepted += 1;
            }
        }
        assert!(accepted > 0, "{}: no seed is accepted: its properties were not judged", target.name);
    }
}

#[test]
fn nothing_and_noise_are_refused_everywhere() {
    let noise: Vec<u8> = (0_u32..5000).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    for target in TARGETS {
        for bytes in [&[][..], &[0; 3000], &[0xff; 3000], &noise] {
            let bytes = &bytes[..bytes.len().min(target.max_len)];
            assert_eq!((target.run)(bytes), Verdict::Refused, "{}: {} bytes", target.name, bytes.len());
        }
    }
}

#[test]
fn targets_have_names_of_their_own_and_folders_of_seeds() {
    let mut names: Vec<_> = TARGETS.iter().chain([&PLANTED]).map(|target| target.name).collect();
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    let folders = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/seeds")).expect("seeds");
    for folder in folders {
        let name = folder.expect("seeds").file_name().into_string().expect("a name in ASCII");
        assert!(Target::of_name(&name).is_some(), "seeds/{name}: no such target");
    }
}

#[test]
fn the_planted_bug_is_there() {
    assert_eq!((PLANTED.run)(b"CAST"), Verdict::Accepted);
    assert!(std::panic::catch_unwind(|| (PLANTED.run)(b"CASEMATE")).is_err());
}
