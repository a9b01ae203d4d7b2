//! What the guest reads of the host's disk.

use casemate_init::share::answer::{Answer, MAX_LEN};
use casemate_init::share::files;

use crate::Verdict;

/// What is read fits into one answer, and into the disk, whatever its clusters lead to.
pub(crate) fn image(disk: &[u8]) -> Verdict {
    let answer = match casemate_init::share::read_image(disk) {
        Ok(answer) => answer,
        Err(error) => {
            check_words(&error.to_string());
            return Verdict::Refused;
        }
    };
    assert!(
        answer.document.len() <= disk.len(),
        "{} bytes of a disk of {}",
        answer.document.len(),
        disk.len()
    );
    let message = answer.encode();
    assert!(message.len() as u64 <= MAX_LEN);
    assert_eq!(Answer::decode(&message), Ok(answer));
    Verdict::Accepted
}

/// The host's words reach a console.
fn check_words(text: &str) {
    assert!(!text.chars().any(char::is_control), "control characters: {text:?}");
    assert!(text.len() <= 4096, "{} bytes of message", text.len());
}

/// The first byte says which file the rest is.
pub(crate) fn fields(input: &[u8]) -> Verdict {
    let Some((which, json)) = input.split_first() else { return Verdict::Refused };
    let refused = if which & 1 == 0 {
        match files::sys_config(json) {
            Ok(found) => {
                let length = found.mr_config.map_or(0, |text| text.len());
                assert!(length <= json.len());
                None
            }
            Err(error) => Some(error),
        }
    } else {
        files::instance_info(json).err()
    };
    if let Some(error) = &refused {
        check_words(&error.to_string());
    }
    Verdict::accepted(refused.is_none())
}

/// PID 1's side: one spelling.
pub(crate) fn answer(message: &[u8]) -> Verdict {
    let Ok(answer) = Answer::decode(message) else { return Verdict::Refused };
    assert_eq!(answer.encode(), message);
    Verdict::Accepted
}
