//! What is not found any more, and whose turn it is to be asked for.

use super::*;
use crate::farm::tests::wanting;

impl World {
    /// As it is with other servers in its configuration.
    fn with_servers(mut self, servers: &[&str]) -> Self {
        self.config.retention.elsewhere.servers = servers.iter().map(|server| (*server).to_owned()).collect();
        self.restart()
    }

    fn fails(&self, n: usize) {
        let narinfo = format!("/{}.narinfo", item(n).hash_part());
        self.other.page(&narinfo, Page(500, String::new(), Vec::new()));
    }

    /// An item that only the other server has.
    fn away(&self, n: usize, references: &[usize]) {
        self.comes(n, references, nar_hash(n));
        self.other.has(n, references);
        self.sweep();
        self.sweep();
        assert!(!self.is_here(n) && self.is_published(n));
    }

    fn not_found(&self) -> u64 {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.farm.retention()).unwrap().not_found
    }
}

#[test]
fn what_was_never_asked_for_has_its_turn_before_what_no_server_had() {
    let world = World::new();
    let count = AT_ONE_LOOK + 10;
    for n in 0..count {
        world.comes(n, &[], nar_hash(n));
    }
    let oldest = || {
        let select = "SELECT checked_at FROM elsewhere_misses WHERE path > ?1 ORDER BY 1";
        let all = world.write(|tx| paths::numbers(tx, select, 0));
        (all.len(), all.first().copied().unwrap())
    };
    assert_eq!(world.sweep().asked, AT_ONE_LOOK as u64);
    assert_eq!(oldest().0, AT_ONE_LOOK);
    world.days(8);
    world.sweep();
    assert_eq!(oldest().0, count);
    // Those that were asked for longest ago are the next.
    world.days(8);
    let before = sql(now() - 9 * DAY_MS);
    assert!(oldest().1 < before);
    world.sweep();
    assert!(oldest().1 > before);
}

#[test]
fn what_a_server_that_is_down_for_long_had_counts_as_lost() {
    let world = World::new();
    for n in 0..6 {
        world.away(n, &[]);
    }
    world.comes(6, &[5], nar_hash(6));
    (0..6).for_each(|n| world.fails(n));
    assert_eq!(world.not_found(), 0);
    for _ in 0..3 {
        world.days(8);
        assert_eq!(world.sweep().lost, 0);
        assert_eq!(world.not_found(), 6);
    }
    world.days(8);
    assert_eq!(world.sweep().lost, 6);
    assert!((0..7).all(|n| !world.is_published(n)) && world.is_here(6));
    assert_eq!((world.not_found(), world.provided(0)), (0, Provided::No as i64));
}

#[test]
fn what_was_not_looked_for_for_long_is_not_lost_by_the_first_failure() {
    let world = World::new();
    world.away(0, &[]);
    world.fails(0);
    world.days(60);
    assert_eq!(world.sweep().lost, 0);
    // It is looked again a day later.
    world.days(1);
    world.other.has(0, &[]);
    assert_eq!(world.sweep().lost, 0);
    assert!(world.is_published(0));
    assert_eq!(world.not_found(), 0);
}

#[test]
fn what_a_server_had_that_is_not_named_any_more_counts_as_lost_in_the_end() {
    for servers in [&[][..], &["http://127.0.0.1:1"]] {
        let world = World::new();
        world.away(0, &[]);
        let world = world.with_servers(servers);
        world.days(8);
        assert_eq!(world.sweep().lost, 0);
        assert!(world.is_published(0) && world.not_found() == 1);
        world.days(25);
        assert_eq!(world.sweep().lost, 1);
        assert!(!world.is_published(0));
    }
}

#[test]
fn what_is_about_to_go_for_the_sake_of_a_server_that_is_not_named_any_more_stays() {
    for servers in [&[][..], &["http://127.0.0.1:1"]] {
        let world = World::new();
        world.comes(0, &[], nar_hash(0));
        world.other.has(0, &[]);
        assert_eq!(world.sweep().announced_elsewhere, 1);
        let world = world.with_servers(servers);
        world.sweep();
        assert!(world.is_here(0) && !world.is_announced(0));
        assert_eq!(world.narinfo(0).urls[0].compression, "zstd");
    }
}

#[test]
fn what_is_lost_and_wanted_by_a_set_is_built_again() {
    let world = World::new();
    world.away(0, &[]);
    world.away(1, &[]);
    world.write(|tx| {
        for n in 0..2 {
            let (output, id) = (paths::number(tx, &item(n))?, paths::number(tx, &item(10 + n))?);
            wanting::derivation_of(tx, output, id)?;
            if n == 0 {
                wanting::set_of(tx, id)?;
            }
        }
        Ok(())
    });
    world.other.loses(0);
    world.other.loses(1);
    world.days(8);
    assert_eq!(world.sweep().lost, 2);
    let builds = world.write(|tx| {
        let select = "SELECT priority FROM builds WHERE id > ?1 AND state = 'ready'";
        paths::numbers(tx, select, 0)
    });
    assert_eq!(builds, [3]);
}

#[test]
fn what_waited_while_it_was_found_to_be_lost_goes_on_when_it_is_found_again() {
    let world = World::new();
    world.away(0, &[]);
    world.comes(1, &[0], nar_hash(1));
    // Half of what is done about something that is lost.
    world.write(|tx| {
        let (item, above) = (paths::number(tx, &item(0))?, paths::number(tx, &item(1))?);
        tx.execute("INSERT INTO withheld VALUES (?1, ?2)", [above, item])?;
        Ok(tx.execute("DELETE FROM published WHERE path = ?1", [above])?)
    });
    world.days(8);
    world.sweep();
    assert!(world.number("SELECT id FROM hook_runs WHERE path = ?1 AND state = 'waiting'", 0).is_some());
    world.publish_all();
    assert!(world.is_published(1));
    world.check();
}
