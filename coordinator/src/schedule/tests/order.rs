//! The order, rule by rule.

use std::collections::BTreeMap;

use super::super::{Allocated, Build, Facts, Fit, Schedule, Weights, Why};

const LINUX: i64 = 1;

fn build(number: i64) -> Build {
    Build { number, platform: LINUX, package: format!("p{number}"), ..Build::default() }
}

fn fast(speed: f64) -> Facts {
    Facts { platforms: [(LINUX, Fit::Native)].into(), speed: Some(speed), ..Facts::default() }
}

fn put(schedule: &mut Schedule, build: &Build) {
    schedule.add(build);
    schedule.ready(build.number);
}

fn come(schedule: &mut Schedule, agent: i64, facts: Facts) {
    schedule.agent(agent, facts);
    schedule.accepting(agent, 1);
    schedule.asking(agent, true);
}

/// All builds in the order in which one agent gets them.
fn order(schedule: &mut Schedule, agent: i64) -> Vec<i64> {
    let mut all = Vec::new();
    loop {
        let decided = schedule.decide();
        let [Allocated { build, .. }] = decided[..] else { return all };
        all.push(build);
        schedule.at(schedule.now + 1000);
        schedule.ran(build, agent, 1000);
        schedule.remove(build);
    }
}

#[test]
fn the_priority_comes_first_then_the_longest_way_and_then_age() {
    let mut schedule = Schedule::new(Weights::default());
    for number in 1..=6 {
        schedule.add(&Build { priority: i64::from(number == 4), ..build(number) });
    }
    // 6 waits for 5, and 5 for 3.
    schedule.link(6, 5);
    schedule.link(5, 3);
    for number in 1..=4 {
        schedule.ready(number);
    }
    come(&mut schedule, 10, fast(1.0));
    let decided = schedule.decide();
    assert_eq!(decided, [Allocated { build: 4, agent: 10 }]);
    schedule.remove(4);
    assert_eq!(order(&mut schedule, 10)[..3], [3, 1, 2]);
}

#[test]
fn shares_take_turns_by_their_weights_and_one_that_was_away_has_saved_nothing() {
    let mut schedule = Schedule::new(Weights([("heavy".to_owned(), 3)].into()));
    for number in 1..=300 {
        let share = if number <= 200 { "light" } else { "heavy" };
        put(
            &mut schedule,
            &Build { share: Some(share.to_owned()), package: "same".to_owned(), ..build(number) },
        );
    }
    come(&mut schedule, 10, fast(1.0));
    let all = order(&mut schedule, 10);
    assert_eq!(all.len(), 300);
    for most in [8, 40, 100] {
        let heavy = all[..most].iter().filter(|number| **number > 200).count();
        assert!(heavy.abs_diff(most * 3 / 4) <= 3, "{heavy} of {most}");
    }
    // Only `light` was served for a long time: it does not have to wait until another one has had as much.
    for number in 301..=340 {
        let share = if number <= 320 { "light" } else { "new" };
        put(
            &mut schedule,
            &Build { share: Some(share.to_owned()), package: "same".to_owned(), ..build(number) },
        );
    }
    let all = order(&mut schedule, 10);
    let new = all[..20].iter().filter(|number| **number > 320).count();
    assert!(new.abs_diff(10) <= 2, "{new} of 20");
}

#[test]
fn what_a_build_waits_for_belongs_to_its_share() {
    let mut schedule = Schedule::new(Weights::default());
    for number in 1..=20 {
        put(
            &mut schedule,
            &Build { share: Some("big".to_owned()), package: "same".to_owned(), ..build(number) },
        );
    }
    for number in 21..=30 {
        schedule.add(&Build { package: "same".to_owned(), ..build(number) });
        schedule.add(&Build {
            share: Some("small".to_owned()),
            package: "same".to_owned(),
            ..build(number + 100)
        });
        schedule.link(number + 100, number);
        schedule.ready(number);
    }
    come(&mut schedule, 10, fast(1.0));
    let all = order(&mut schedule, 10);
    let small = all[..10].iter().filter(|number| **number > 20).count();
    assert_eq!(small, 5, "{all:?}");
}

#[test]
fn a_slow_agent_leaves_a_build_to_a_fast_one_and_takes_it_when_that_does_not_come() {
    let mut schedule = Schedule::new(Weights::default());
    schedule.took("long", LINUX, 3_600_000);
    schedule.took("long", LINUX, 3_600_000);
    schedule.took("short", LINUX, 10_000);
    come(&mut schedule, 1, fast(1.0));
    come(&mut schedule, 2, fast(0.1));
    // The fast one is busy with something short.
    put(&mut schedule, &Build { package: "short".to_owned(), ..build(1) });
    assert_eq!(schedule.decide(), [Allocated { build: 1, agent: 1 }]);
    put(&mut schedule, &Build { package: "long".to_owned(), ..build(2) });
    put(&mut schedule, &Build { package: "long".to_owned(), ..build(3) });
    assert_eq!(schedule.decide(), []);
    assert!(matches!(schedule.why(2), Some(Why::Behind(0))));
    schedule.at(10_000);
    schedule.remove(1);
    assert_eq!(schedule.decide(), [Allocated { build: 2, agent: 1 }]);
    // It goes away: nobody is faster any more.
    schedule.asking(1, false);
    schedule.accepting(1, 0);
    assert_eq!(schedule.decide(), [Allocated { build: 3, agent: 2 }]);
}

#[test]
fn no_build_waits_for_a_fast_agent_longer_than_it_would_gain() {
    let mut schedule = Schedule::new(Weights::default());
    schedule.took("one", LINUX, 60_000);
    come(&mut schedule, 1, fast(1.0));
    come(&mut schedule, 2, fast(0.5));
    put(&mut schedule, &Build { package: "one".to_owned(), ..build(1) });
    assert_eq!(schedule.decide(), [Allocated { build: 1, agent: 1 }]);
    put(&mut schedule, &Build { package: "one".to_owned(), ..build(2) });
    let mut now = 0;
    loop {
        let decided = schedule.decide();
        if !decided.is_empty() {
            assert_eq!(decided, [Allocated { build: 2, agent: 2 }]);
            break;
        }
        now = schedule.next_time().unwrap();
        schedule.at(now);
    }
    assert!(now <= 60_000 * 2 - 60_000, "{now}");
}

#[test]
fn what_an_agent_is_asked_for_it_must_have() {
    let mut schedule = Schedule::new(Weights::default());
    put(&mut schedule, &Build { needs: vec!["kvm".to_owned()], ..build(1) });
    put(&mut schedule, &Build { platform: 2, ..build(2) });
    put(&mut schedule, &Build { platform: 2, may_be_emulated: true, ..build(3) });
    assert_eq!(schedule.why(1), Some(Why::NobodyFits));
    let platforms = BTreeMap::from([(LINUX, Fit::Native), (2, Fit::Emulated)]);
    come(&mut schedule, 10, Facts { platforms: platforms.clone(), ..Facts::default() });
    assert_eq!(schedule.decide(), [Allocated { build: 3, agent: 10 }]);
    assert_eq!((schedule.why(2), schedule.why(3)), (Some(Why::NobodyFits), Some(Why::Taken(10))));
    come(&mut schedule, 11, Facts { platforms, tags: ["kvm".to_owned()].into(), ..Facts::default() });
    assert_eq!(schedule.decide(), [Allocated { build: 1, agent: 11 }]);
}

#[test]
fn an_agent_that_is_set_aside_comes_back_when_it_is_time() {
    let mut schedule = Schedule::new(Weights::default());
    put(&mut schedule, &build(1));
    come(&mut schedule, 10, Facts { set_aside: Some(5_000), ..fast(1.0) });
    assert_eq!(schedule.decide(), []);
    assert_eq!(schedule.next_time(), Some(5_000));
    schedule.at(4_999);
    assert_eq!(schedule.decide(), []);
    schedule.at(5_000);
    assert_eq!(schedule.decide(), [Allocated { build: 1, agent: 10 }]);
}

#[test]
fn speeds_are_learnt_from_builds_that_others_did_too() {
    let mut schedule = Schedule::new(Weights::default());
    let platforms = Facts { platforms: [(LINUX, Fit::Native)].into(), ..Facts::default() };
    schedule.agent(1, platforms.clone());
    schedule.agent(2, platforms);
    for number in 1..=400 {
        put(&mut schedule, &Build { package: format!("p{}", number % 40), ..build(number) });
        let agent = 1 + number % 2;
        schedule.take(number, agent);
        schedule.ran(number, agent, if agent == 1 { 10_000 } else { 40_000 });
        schedule.remove(number);
        // Both build everything.
        put(&mut schedule, &Build { package: format!("p{}", number % 40), ..build(number + 1000) });
        let agent = 2 - number % 2;
        schedule.take(number + 1000, agent);
        schedule.ran(number + 1000, agent, if agent == 1 { 10_000 } else { 40_000 });
        schedule.remove(number + 1000);
    }
    let ratio = schedule.speed_of(1) / schedule.speed_of(2);
    assert!((3.0..5.0).contains(&ratio), "{ratio}");
}
