use super::*;

const DATA: [u8; 64] = [0x5a; 64];

/// What a quote over [`DATA`] fails with.
fn error(fake: &Fake) -> String {
    fake.open().quote(&DATA).unwrap_err().to_string()
}

#[test]
fn a_recorded_quote_comes_back_byte_for_byte() {
    for quote in [&recorded().quote, OTHER_QUOTE] {
        let fake = Fake::of(quote);
        let report = report_of(quote);
        let tee = fake.open();
        assert_eq!(tee.kind(), TeeKind::Tdx);
        assert_eq!((tee.launch(), tee.rtmr3()), (report.launch(), report.rtmr3()));
        assert_eq!(tee.quote(&report.report_data).unwrap(), *quote);
        assert_eq!(fake.state().inblob, report.report_data);
        assert_eq!(report_of(&tee.quote(&DATA).unwrap()).report_data, DATA);
        assert_eq!((fake.count("write inblob"), fake.count("pause")), (2, 0));
    }
}

#[test]
fn a_busy_or_interrupted_kernel_is_asked_again_within_bounds() {
    for errno in [libc::EBUSY, libc::EINTR, libc::EAGAIN] {
        for attribute in ["outblob", "inblob", "generation"] {
            let fake = Fake::of(OTHER_QUOTE);
            fake.instead(attribute, (0..4).map(|_| Instead::Fails(errno)));
            fake.open().quote(&DATA).unwrap();
            assert_eq!(fake.count("pause"), 4, "{attribute}");

            let fake = Fake::of(OTHER_QUOTE);
            fake.instead(attribute, (0..100).map(|_| Instead::Fails(errno)));
            let error = fake.open().quote(&DATA).unwrap_err();
            let TeeError::Tdx(TdxError::Io { path, source, .. }) = &error else { panic!("{error}") };
            assert!(path.ends_with(attribute), "{error}");
            assert_eq!(source.raw_os_error(), Some(errno));
            assert_eq!(fake.count("pause"), 4, "{attribute}");
        }
    }
}

#[test]
fn other_failures_are_final() {
    let cases = [
        ("outblob", "read", libc::EIO),
        ("outblob", "read", libc::ETIMEDOUT),
        ("outblob", "read", libc::ENXIO),
        ("inblob", "write", libc::EACCES),
        ("inblob", "write", libc::ENOENT),
        ("generation", "read", libc::ENOENT),
    ];
    for (attribute, action, errno) in cases {
        let fake = Fake::of(OTHER_QUOTE);
        fake.instead(attribute, [Instead::Fails(errno)]);
        let expected = format!(
            "/sys/kernel/config/tsm/report/casemate/{attribute}: {action}: {}",
            io::Error::from_raw_os_error(errno)
        );
        assert_eq!(error(&fake), expected);
        assert_eq!(fake.count("pause"), 0);
    }
}

#[test]
fn a_quote_that_somebody_overtook_is_made_anew() {
    let fake = Fake::of(OTHER_QUOTE);
    fake.instead("outblob", [Instead::Overtaken, Instead::Overtaken]);
    assert_eq!(report_of(&fake.open().quote(&DATA).unwrap()).report_data, DATA);
    assert_eq!((fake.count("write inblob"), fake.count("read outblob")), (3, 3));

    let fake = Fake::of(OTHER_QUOTE);
    fake.instead("outblob", (0..100).map(|_| Instead::Overtaken));
    assert_eq!(
        error(&fake),
        "/sys/kernel/config/tsm/report/casemate/generation: after one write: expected 12, found 13"
    );
    assert_eq!(fake.count("read outblob"), 3);
}

/// configfs acts on a write when the file is closed and drops the verdict: only the generation shows it.
#[test]
fn a_write_that_had_no_effect_is_noticed() {
    let fake = Fake::of(OTHER_QUOTE);
    let tee = fake.open();
    tee.quote(&[1; 64]).unwrap();
    fake.instead("inblob", (0..100).map(|_| Instead::Takes(64)));
    let error = tee.quote(&DATA).unwrap_err().to_string();
    assert_eq!(
        error,
        "/sys/kernel/config/tsm/report/casemate/generation: after one write: expected 9, found 8"
    );
}

#[test]
fn a_short_write_is_no_write() {
    for taken in [0, 63, 65] {
        let fake = Fake::of(OTHER_QUOTE);
        fake.instead("inblob", [Instead::Takes(taken)]);
        assert_eq!(
            error(&fake),
            format!(
                "/sys/kernel/config/tsm/report/casemate/inblob: bytes taken of one write: expected 64, found {taken}"
            )
        );
        assert_eq!(fake.count("read outblob"), 0);
    }
}

#[test]
fn quotes_of_a_wrong_size_are_refused() {
    let cases = [
        (Vec::new(), "/outblob: expected a quote, found nothing"),
        (OTHER_QUOTE[..631].to_vec(), "the TEE's quote: "),
        (OTHER_QUOTE[..47].to_vec(), "the TEE's quote: "),
        (vec![0; 64 << 10], "the TEE's quote: "),
        (vec![0; (64 << 10) + 1], "/outblob: expected at most 65536 bytes, found more"),
        (vec![0; 1 << 20], "/outblob: expected at most 65536 bytes, found more"),
    ];
    for (outblob, expected) in cases {
        let fake = Fake::of(OTHER_QUOTE);
        fake.instead("outblob", [Instead::Answers(outblob)]);
        let error = error(&fake);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn only_the_tdx_driver_may_answer() {
    for provider in ["sev_guest\n", "tdx_guest2\n", "tdx_guest\n\n", " tdx_guest", ""] {
        let fake = Fake::of(OTHER_QUOTE);
        fake.state().provider = provider.into();
        let error = TdxTee::open(fake.device(), &[]).unwrap_err().to_string();
        let place = "/sys/kernel/config/tsm/report/casemate/provider: expected tdx_guest, found ";
        assert!(error.starts_with(place), "{error}");
    }
    // Also when it changed after the start.
    let fake = Fake::of(OTHER_QUOTE);
    let tee = fake.open();
    fake.state().provider = "sev_guest\n".into();
    assert!(tee.quote(&DATA).unwrap_err().to_string().ends_with("expected tdx_guest, found sev_guest"));
    assert_eq!(fake.count("write inblob"), 0);
    // Longer than any name.
    fake.state().provider = "x".repeat(1000);
    assert!(tee.quote(&DATA).unwrap_err().to_string().ends_with("expected at most 64 bytes, found more"));
}

#[test]
fn a_generation_is_a_number() {
    for (text, expected) in [
        ("-1\n", "a number, found \"-1\""),
        ("", "a number, found \"\""),
        ("18446744073709551616\n", "a number, found \"18446744073709551616\""),
        ("\u{fffd}", "a number, found \"\u{fffd}\""),
    ] {
        let fake = Fake::of(OTHER_QUOTE);
        fake.instead("generation", [Instead::Answers(text.into())]);
        let error = error(&fake);
        assert!(error.ends_with(&format!("casemate/generation: expected {expected}")), "{error}");
    }
    let fake = Fake::of(OTHER_QUOTE);
    fake.instead("generation", [Instead::Answers(vec![0xff])]);
    assert!(error(&fake).ends_with("expected text, found bytes that are none"));
    // The kernel's counter wraps.
    let fake = Fake::of(OTHER_QUOTE);
    let wrapped = [Instead::Answers(b"18446744073709551615\n".to_vec()), Instead::Answers(b"0\n".to_vec())];
    fake.instead("generation", wrapped).open().quote(&DATA).unwrap();
    assert_eq!(fake.count("read outblob"), 1);
}

#[test]
fn a_quote_over_other_data_or_registers_is_not_handed_on() {
    let ours = report_of(OTHER_QUOTE);
    let mut cases: Vec<(&str, TdReport)> = vec![
        ("report data", TdReport { report_data: [0x5b; 64], ..ours }),
        ("MRTD", TdReport { mrtd: Register([1; 48]), ..ours }),
        ("MRCONFIGID", TdReport { mr_config_id: casemate_measure::MrConfigId([1; 48]), ..ours }),
        ("MROWNER", TdReport { mr_owner: Register([1; 48]), ..ours }),
        ("MROWNERCONFIG", TdReport { mr_owner_config: Register([1; 48]), ..ours }),
    ];
    for (index, name) in ["RTMR0", "RTMR1", "RTMR2", "RTMR3"].into_iter().enumerate() {
        let mut report = ours;
        report.rtmr[index].0[47] ^= 1;
        cases.push((name, report));
    }
    for (field, report) in cases {
        let report_data = if field == "report data" { report.report_data } else { DATA };
        let mut quote = OTHER_QUOTE.to_vec();
        let report = TdReport { report_data, ..report };
        quote[HEADER_LEN..HEADER_LEN + TD_REPORT_LEN].copy_from_slice(&report.encode());
        let fake = Fake::of(OTHER_QUOTE);
        fake.instead("outblob", [Instead::Answers(quote)]);
        let error = error(&fake);
        assert!(error.starts_with(&format!("the TEE's quote: {field}: expected ")), "{field}: {error}");
    }
}
