//! The rule, case by case and for all.

use proptest::prelude::*;

use super::*;

/// 2026-11-01.
const EPOCH: Duration = Duration::from_secs(1_793_491_200);
const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(31_556_952);
const UP: Duration = Duration::from_secs(100);
const ERROR: Duration = Duration::from_millis(20);

fn sample(time: Duration) -> Sample {
    Sample { at: UP, time, error: ERROR }
}

/// What happens to a clock that says `now` while it is `time`.
fn judged(phase: Phase, now: Duration, time: Duration) -> Result<Change, TimeError> {
    Clock::new(EPOCH).judge(&sample(time), phase, now, UP)
}

#[test]
fn a_host_of_the_past_is_brought_to_the_epoch_and_one_of_the_future_is_left_alone() {
    let clock = Clock::new(EPOCH);
    assert_eq!(clock.at_least_the_floor(Duration::from_secs(978_307_200)), Change::Step(EPOCH));
    assert_eq!(clock.at_least_the_floor(EPOCH), Change::Keep);
    assert_eq!(clock.at_least_the_floor(EPOCH + 80 * YEAR), Change::Keep);
}

#[test]
fn before_anything_runs_it_is_set_in_either_direction() {
    let time = EPOCH + 30 * DAY;
    for now in [EPOCH, time - DAY, time + DAY, EPOCH + 73 * YEAR, time + 5 * ERROR] {
        assert_eq!(judged(Phase::Starting, now, time).unwrap(), Change::Step(time));
    }
    assert_eq!(judged(Phase::Starting, time + ERROR, time).unwrap(), Change::Keep);
}

#[test]
fn afterwards_it_steps_forward_slews_a_little_and_never_steps_back() {
    let time = EPOCH + 30 * DAY;
    let ms = Duration::from_millis;
    for (now, expected) in [
        (time - ERROR, Change::Keep),
        (time + ERROR, Change::Keep),
        (time - ms(21), Change::Slew(21_000_000)),
        (time - STEP_THRESHOLD, Change::Slew(128_000_000)),
        (time - STEP_THRESHOLD - ms(1), Change::Step(time)),
        (EPOCH, Change::Step(time)),
        (time + ms(21), Change::Slew(-21_000_000)),
        // A leap second.
        (time + ms(1000), Change::Slew(-1_000_000_000)),
        (time + SLEW_LIMIT, Change::Slew(-2_000_000_000)),
        (time + SLEW_LIMIT + ms(1), Change::Skewed),
        (time + 73 * YEAR, Change::Skewed),
    ] {
        assert_eq!(judged(Phase::Running, now, time).unwrap(), expected, "{now:?}");
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let good = sample(EPOCH + DAY);
    let cases = [
        (Sample { time: EPOCH - ERROR - Duration::from_nanos(1), ..good }, "BelowFloor"),
        (Sample { time: Duration::ZERO, ..good }, "BelowFloor"),
        (Sample { time: EPOCH + HORIZON + 2 * ERROR, ..good }, "BeyondHorizon"),
        (Sample { time: Duration::MAX, ..good }, "BeyondHorizon"),
        (Sample { error: LARGEST_ERROR + Duration::from_nanos(1), ..good }, "TooVague"),
        (Sample { error: Duration::MAX, ..good }, "TooVague"),
        (Sample { at: UP + Duration::from_nanos(1), ..good }, "Stale"),
        (Sample { at: UP - Duration::from_secs(61), ..good }, "Stale"),
    ];
    for phase in [Phase::Starting, Phase::Running] {
        for (sample, name) in cases {
            let mut clock = Clock::new(EPOCH);
            let error = clock.judge(&sample, phase, EPOCH, UP + Duration::ZERO).unwrap_err();
            assert!(format!("{error:?}").starts_with(name), "{error:?} and not {name}");
            assert_eq!((clock.floor(), clock.floor_from()), (EPOCH, Proof::Image));
        }
    }
    // A sample whose interval reaches the floor is no lie, and the clock still does not go below the floor.
    let edge = judged(Phase::Starting, EPOCH + DAY, EPOCH - ERROR).unwrap();
    assert_eq!(edge, Change::Step(EPOCH));
}

#[test]
fn a_sample_ages_on_the_way() {
    let mut clock = Clock::new(EPOCH);
    let late = UP + Duration::from_secs(7);
    let change = clock.judge(&sample(EPOCH + DAY), Phase::Starting, EPOCH, late).unwrap();
    assert_eq!(change, Change::Step(EPOCH + DAY + Duration::from_secs(7)));
}

#[test]
fn what_is_proved_stays_proved() {
    let mut clock = Clock::new(EPOCH);
    let issued = EPOCH + 40 * DAY;
    assert_eq!(clock.prove_at_least(issued, Proof::Collateral, EPOCH).unwrap(), Change::Step(issued));
    assert_eq!((clock.floor(), clock.floor_from()), (issued, Proof::Collateral));
    // Older collateral proves nothing new.
    assert_eq!(clock.prove_at_least(EPOCH, Proof::Collateral, issued + DAY).unwrap(), Change::Keep);
    assert_eq!(clock.floor(), issued);
    // A server that says less is refused, also before anything runs.
    assert!(clock.judge(&sample(issued - DAY), Phase::Starting, issued, UP).is_err());
    assert!(clock.prove_at_least(EPOCH + HORIZON + DAY, Proof::Collateral, EPOCH).is_err());
    assert_eq!(clock.floor(), issued);
    // One that says more raises the floor by what is certain.
    clock.judge(&sample(issued + DAY), Phase::Running, issued, UP).unwrap();
    assert_eq!((clock.floor(), clock.floor_from()), (issued + DAY - ERROR, Proof::Nts));
}

prop_compose! {
    fn times()(seconds in 0_u64..8_000_000_000, nanos in 0_u32..1_000_000_000) -> Duration {
        Duration::new(seconds, nanos)
    }
}

proptest! {
    /// Whatever servers and the host say, in whatever order: the floor never falls, no step goes below it, nothing is
    /// believed beyond the horizon, and once something runs no step goes back.
    #[test]
    fn it_only_moves_forward(
        host in times(),
        events in proptest::collection::vec((times(), times(), any::<bool>(), 0_u64..3_000_000_000), 1..20),
    ) {
        let mut clock = Clock::new(EPOCH);
        let mut now = host;
        if let Change::Step(to) = clock.at_least_the_floor(now) {
            now = to;
        }
        let mut running = false;
        for (time, at, starts_running, error) in events {
            running |= starts_running;
            let phase = if running { Phase::Running } else { Phase::Starting };
            let sample = Sample { at, time, error: Duration::from_nanos(error) };
            let floor = clock.floor();
            let judged = clock.judge(&sample, phase, now, at);
            prop_assert!(clock.floor() >= floor);
            if judged.is_err() {
                prop_assert_eq!(clock.floor(), floor);
            }
            if let Ok(Change::Step(to)) = judged {
                prop_assert!(to >= clock.floor() && to <= clock.horizon() + LARGEST_ERROR);
                prop_assert!(!running || to > now);
                now = to;
            }
            prop_assert!(now >= clock.floor());
        }
    }
}
