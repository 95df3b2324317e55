//! What was published until a moment ago.

use drover_store::Compression;

use super::*;

impl World {
    fn is_shown(&self, n: usize) -> (bool, bool) {
        let part = item(n).hash_part().parse().unwrap();
        let nar = self.farm.shown_nar(&item(n), Compression::Zstd).unwrap();
        (self.farm.shown_narinfo(part).unwrap().is_some(), nar.is_some())
    }

    /// It is looked what may go when the next step of every removal is due.
    fn sweep(&self) {
        self.write(|tx| Ok(tx.execute("UPDATE removals SET due = 0", [])?));
        self.farm.sweep_items().unwrap();
    }
}

#[test]
fn who_was_just_told_of_a_nar_can_still_have_it_when_its_narinfo_is_withdrawn() {
    // The second waits for something, and was never published.
    let world = World::new(vec![output(&[]), output(&[4]), output(&[]), output(&[])]);
    (0..4).for_each(|n| world.comes(n));
    world.run_all();
    assert_eq!(world.published(), HashSet::from([0, 2, 3]));
    world.sweep();
    assert_eq!([0, 1].map(|n| world.is_shown(n)), [(true, true), (false, false)], "announced");
    world.sweep();
    assert_eq!([0, 1].map(|n| world.is_shown(n)), [(false, true), (false, false)], "withdrawn");
    let nar = world.farm.shown_nar(&item(0), Compression::Zstd).unwrap().unwrap();
    assert!(nar.what.is_leaving && nar.fresh <= std::time::Duration::from_secs(600), "{nar:?}");
    // What is forbidden now goes at once.
    world.row(2, false);
    assert_eq!(world.is_shown(2), (false, false));
    world.sweep();
    assert_eq!(world.is_shown(0), (false, false), "removed");
}
