//! What rules of retention keep, case by case; random walks are in `retention`.

use super::*;
use crate::config::RetentionConfig;

/// Nodes of the graph: what needs `c`, and what needs only a fixed output.
const G: usize = 7;
const H: usize = 8;

impl World {
    /// Builds all that can be.
    fn build_all(&mut self) {
        loop {
            self.give(0, 4);
            if self.held.is_empty() {
                return;
            }
            while !self.held.is_empty() {
                self.end(0, &How::Succeeded);
            }
        }
    }

    fn wants(&mut self, nodes: &[usize]) {
        let nodes = nodes.iter().fold(0, |bits, node| bits | 1 << node);
        self.submit_set(0, nodes, 0, None);
    }

    /// Whether the output of a node is here, and whether it is to go.
    fn stands(&self, node: usize) -> (bool, bool) {
        let path = self.nodes[node].outputs[0].1.clone();
        let found = self.farm().database.read_blocking::<_, Error>(|sql| {
            let id = paths::find(sql, &path)?.unwrap();
            let is_in =
                |table: &str| paths::numbers(sql, &format!("SELECT path FROM {table} WHERE path = ?1"), id);
            Ok((!is_in("items")?.is_empty(), !is_in("removals")?.is_empty()))
        });
        found.unwrap()
    }

    /// Looks at what may go, when all that was announced is due.
    fn look(&self) {
        self.write(|tx| Ok(tx.execute("UPDATE removals SET due = 0", []).map(drop)?));
        self.farm().sweep_items().unwrap();
    }
}

#[test]
fn an_output_that_was_built_for_an_old_revision_and_is_wanted_by_a_new_one_is_kept() {
    let rules = "[[sets]]\nnames = '*'\nkeep-days = 0\n[others]\ndays = 0\n";
    let mut world = World::with(|config| {
        config.retention = toml::from_str::<RetentionConfig>(rules).unwrap();
        config.narinfo_ttl_seconds = 3600;
    });
    (0..2).for_each(|source| world.take(&Step::Source(source)));
    world.wants(&[G, H]);
    world.build_all();
    assert_eq!((world.stands(G), world.stands(H)), ((true, false), (true, false)));
    // It stays for as long as there is a revision that wants it, and that only.
    world.wants(&[G]);
    world.farm().sweep_items().unwrap();
    assert_eq!((world.stands(G), world.stands(H)), ((true, false), (true, true)));
    // Announced already, and wanted again: it is not built anew.
    world.wants(&[H]);
    assert_eq!(world.stands(H), (true, false));
    world.give(0, 4);
    assert!(world.held.is_empty(), "it is built again");
    for _ in 0..4 {
        world.look();
    }
    assert_eq!((world.stands(G), world.stands(H)), ((false, false), (true, false)));
}
