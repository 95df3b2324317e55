//! What was announced at different times, and goes in the order of the graph for all that.

use super::*;
use crate::farm::retention::{Look, removal};

/// A world in which clients keep narinfos for an hour.
fn patient() -> World {
    World::with(|config| config.narinfo_ttl_seconds = 3600)
}

impl World {
    fn id(&self, n: usize) -> u32 {
        self.number("SELECT id FROM paths WHERE id = ?1", n).unwrap().try_into().unwrap()
    }

    /// Nothing keeps what is here any more.
    fn expire(&self) {
        self.write(|tx| {
            tx.execute("UPDATE items SET added_at = 0", [])?;
            Ok(tx.execute("UPDATE redirects SET added_at = 0", [])?)
        });
    }

    /// So many minutes pass for what was announced.
    fn minutes(&self, minutes: i64) {
        self.write(move |tx| {
            tx.execute("UPDATE removals SET due = due - ?1", [minutes * 60_000])?;
            Ok(tx.execute("UPDATE published SET until = until - ?1", [minutes * 60_000])?)
        });
    }

    fn go(&self, numbers: &[usize]) {
        for _ in 0..40 {
            self.minutes(30);
            self.sweep();
        }
        for n in numbers {
            assert!(!self.is_here(*n) && !self.is_published(*n), "item-{n}");
        }
    }
}

#[test]
fn what_was_announced_before_that_which_refers_to_it_waits_for_it() {
    let world = patient();
    world.comes(0, &[], nar_hash(0));
    world.comes(1, &[0], nar_hash(1));
    world.comes(2, &[1], nar_hash(2));
    world.expire();
    // A look that got no further.
    removal::announce(&world.farm, &[world.id(0), world.id(1)]).unwrap();
    world.minutes(50);
    assert_eq!(world.sweep().announced, 1);
    world.minutes(50);
    assert_eq!(world.sweep().withdrawn, 0);
    assert!((0..3).all(|n| world.is_here(n) && world.is_published(n)));
    world.go(&[0, 1, 2]);
}

#[test]
fn what_was_announced_for_the_sake_of_another_server_and_is_not_kept_any_more_goes_before_what_it_refers_to()
{
    let world = patient();
    world.comes(0, &[], nar_hash(0));
    world.comes(1, &[0], nar_hash(1));
    world.other.has(1, &[0]);
    assert_eq!(world.sweep().announced_elsewhere, 1);
    world.expire();
    for _ in 0..8 {
        world.minutes(20);
        world.sweep();
        assert!(!world.is_published(1) || world.is_published(0));
    }
    world.go(&[0, 1]);
}

#[test]
fn a_look_at_what_is_due_announces_nothing_and_is_not_one_at_everything() {
    let world = patient();
    world.comes(0, &[], nar_hash(0));
    world.expire();
    world.sweep();
    world.comes(1, &[], nar_hash(1));
    world.expire();
    world.minutes(120);
    let run = world.farm.sweep_for(Look::Due).unwrap();
    assert_eq!((run.withdrawn, run.announced), (1, 0));
    assert!(!world.is_published(0) && world.is_published(1) && !world.is_announced(1));
    assert_eq!(world.farm.sweeps.change(|state| state.runs), 1);
    assert_eq!(world.sweep().announced, 1);
}

#[test]
fn what_is_announced_late_is_due_no_sooner_than_it_was_promised() {
    let world = patient();
    for n in 0..3 {
        world.comes(n, &[], nar_hash(n));
    }
    world.expire();
    // While it is announced, clients are told to keep it for longer.
    let farm = Arc::clone(&world.farm);
    let mut jobs = 0;
    *world.farm.sweeps.between_jobs.0.lock().unwrap() = Some(Box::new(move || {
        jobs += 1;
        if jobs == 2 {
            let longer = |tx: &mut Tx<'_>| retention::promise(tx, 100_000);
            farm.database.write_blocking::<_, Error>(longer).unwrap();
        }
        false
    }));
    let (start, run) = (now(), world.sweep());
    assert_eq!(run.announced, 3);
    let due = |n| world.number("SELECT due FROM removals WHERE path = ?1", n).unwrap() as u64;
    let late: Vec<_> = (0..3).map(|n| due(n) >= start + 100_000_000).collect();
    assert_eq!(late, [false, true, true]);
    assert_eq!(due(1), due(2), "one look is enough for both");
}

#[test]
fn what_is_forgotten_is_not_about_to_go() {
    let world = patient();
    world.comes(0, &[], nar_hash(0));
    world.expire();
    world.sweep();
    let until = |world: &World| world.number("SELECT coalesce(until, 0) FROM published WHERE path = ?1", 0);
    assert_ne!(until(&world), Some(0));
    let id = i64::from(world.id(0));
    world.write(move |tx| retention::forget(tx, id));
    assert_eq!(until(&world), Some(0));
}

#[test]
fn what_turns_out_to_be_a_source_while_it_is_removed_stays() {
    let world = World::new();
    world.comes(0, &[], nar_hash(0));
    let id = world.id(0);
    removal::announce(&world.farm, &[id]).unwrap();
    removal::withdraw(&world.farm, &[id], 1).unwrap();
    world.write(|tx| Ok(tx.execute("UPDATE items SET kind = 'source'", [])?));
    assert_eq!(removal::remove(&world.farm, &[id], 1).unwrap().items, 0);
    assert!(world.is_here(0) && !world.is_announced(0));
}
