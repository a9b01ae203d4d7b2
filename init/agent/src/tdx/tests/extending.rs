use super::*;

const DIGEST: Register = Register([0xd1; 48]);

#[test]
fn extending_is_one_write_of_48_bytes_and_is_read_back() {
    let fake = Fake::of(OTHER_QUOTE);
    let device = fake.device();
    let before = device.rtmr(3).unwrap();
    assert_eq!(before, report_of(OTHER_QUOTE).rtmr3());
    let after = device.extend_rtmr3(&DIGEST).unwrap();
    assert_eq!(after, before.extended(&DIGEST));
    assert_eq!(device.rtmr(3).unwrap(), after);
    assert_eq!(fake.count("write rtmr3:sha384"), 1);
    // The recorded boot: eight events, from zero to the quote's register.
    let recorded = recorded();
    let fake = Fake::of(&recorded.quote);
    fake.state().td.rtmr[3] = Register::ZERO;
    let ours = recorded.event_log.iter().filter(|event| event.imr == 3);
    let last = ours.fold(Register::ZERO, |_, event| fake.device().extend_rtmr3(&event.digest).unwrap());
    assert_eq!(last, report_of(&recorded.quote).rtmr3());
}

#[test]
fn a_register_that_was_not_extended_is_noticed() {
    let fake = Fake::of(OTHER_QUOTE);
    fake.state().extends = false;
    let error = fake.device().extend_rtmr3(&DIGEST).unwrap_err().to_string();
    let place = "/sys/devices/virtual/misc/tdx_guest/measurements/rtmr3:sha384";
    let (old, new) = (report_of(OTHER_QUOTE).rtmr3(), report_of(OTHER_QUOTE).rtmr3().extended(&DIGEST));
    assert_eq!(error, format!("{place}: after extending it: expected {new}, found {old}"));
}

#[test]
fn a_write_that_fails_or_is_short_is_not_repeated() {
    let errnos = [libc::EINVAL, libc::EINTR, libc::EBUSY, libc::EACCES, libc::EIO];
    for instead in errnos.map(Instead::Fails).into_iter().chain([0, 47].map(Instead::Takes)) {
        let expected = match &instead {
            Instead::Fails(errno) => format!("extend: {}", io::Error::from_raw_os_error(*errno)),
            Instead::Takes(taken) => format!("bytes taken of one write: expected 48, found {taken}"),
            _ => unreachable!(),
        };
        let fake = Fake::of(OTHER_QUOTE);
        fake.instead("rtmr3:sha384", [Instead::Nothing, instead]);
        let error = fake.device().extend_rtmr3(&DIGEST).unwrap_err().to_string();
        assert!(error.ends_with(&expected), "{error}");
        assert_eq!(fake.count("write rtmr3:sha384"), 1);
        assert_eq!(fake.count("pause"), 0);
    }
}

#[test]
fn a_register_has_48_bytes() {
    for length in [0, 47, 49, 4096] {
        let fake = Fake::of(OTHER_QUOTE);
        fake.instead("rtmr3:sha384", [Instead::Answers(vec![1; length])]);
        let error = fake.device().rtmr(3).unwrap_err().to_string();
        let expected = if length > 48 { "at most 48 bytes, found more" } else { "48 bytes, found" };
        assert!(error.contains(&format!("rtmr3:sha384: expected {expected}")), "{error}");
        // Nothing is extended that cannot be read.
        fake.instead("rtmr3:sha384", [Instead::Answers(vec![1; length])]);
        fake.device().extend_rtmr3(&DIGEST).unwrap_err();
        assert_eq!(fake.count("write rtmr3:sha384"), 0);
    }
}
