use super::*;

#[test]
fn a_tdreport_holds_the_registers_of_the_quote() {
    for quote in [&recorded().quote, OTHER_QUOTE] {
        let report = report_of(quote);
        let found = Fake::of(quote).device().registers().unwrap();
        assert_eq!(found.launch, report.launch());
        assert_eq!(found.rtmr3, report.rtmr3());
        assert_eq!(found.owner, Owner { id: report.mr_owner, config: report.mr_owner_config });
        assert_eq!(found.attributes, report.td_attributes);
        assert_eq!(found.is_debug(), report.is_debug());
    }
}

#[test]
fn each_register_has_its_place() {
    let mut report = [0; TDREPORT_LEN];
    report[0] = 0x81;
    // MRTD is the first of eight.
    for (index, chunk) in (1..).zip(report[528..912].chunks_exact_mut(48)) {
        chunk.fill(index);
    }
    report[512] = 1;
    let found = Registers::of_report(&report, &[0; 64]).unwrap();
    let LaunchRegisters { mrtd, rtmr0, rtmr1, rtmr2, mrconfigid } = found.launch;
    let all = [mrtd.0, mrconfigid.0, found.owner.id.0, found.owner.config.0, rtmr0.0, rtmr1.0, rtmr2.0];
    for (index, register) in (1..).zip(all) {
        assert_eq!(register, [index; 48]);
    }
    assert_eq!(found.rtmr3.0, [8; 48]);
    assert!(found.is_debug());
}

#[test]
fn the_report_must_be_a_tds_and_the_one_that_was_asked_for() {
    let td = report_of(OTHER_QUOTE);
    let asked = [3; 64];
    let good = tdreport(&td, &asked);
    Registers::of_report(&good, &asked).unwrap();
    let mut sgx = good;
    sgx[0] = 0;
    let error = Registers::of_report(&sgx, &asked).unwrap_err().to_string();
    assert_eq!(error, "TDREPORT: type: expected 0x81 (TDX), found 0x00");
    for byte in 128..192 {
        let mut other = good;
        other[byte] ^= 0x80;
        let error = Registers::of_report(&other, &asked).unwrap_err().to_string();
        assert!(error.starts_with("TDREPORT: report data: expected 0303"), "{error}");
    }
    // Through the device: the data are drawn anew each time, so that an old report is seen.
    let fake = Fake::of(OTHER_QUOTE);
    fake.instead("tdx_guest", [Instead::Answers(good.to_vec())]);
    assert!(fake.device().registers().unwrap_err().to_string().starts_with("TDREPORT: report data: "));
}

#[test]
fn a_tee_that_does_not_answer_is_none() {
    for (errno, pauses) in
        [(libc::ENOENT, 0), (libc::EIO, 0), (libc::ENOTTY, 0), (libc::EBUSY, 4), (libc::EINTR, 4)]
    {
        let fake = Fake::of(OTHER_QUOTE);
        fake.instead("tdx_guest", (0..100).map(|_| Instead::Fails(errno)));
        let error = TdxTee::open(fake.device(), &[]).unwrap_err();
        assert_eq!(error.errno(), Some(errno));
        assert!(error.to_string().starts_with("/dev/tdx_guest: TDX_CMD_GET_REPORT0: "), "{error}");
        assert_eq!(fake.count("pause"), pauses);
    }
}
