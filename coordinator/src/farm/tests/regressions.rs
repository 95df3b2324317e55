//! Single cases: uploads and leases that end in the midst of each other, extreme priorities, inputs that cannot be.

use drover_store::Compression;
use drover_wire::agent::Received;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::*;
use crate::storage::Storage;

/// An upload whose bytes are sent by hand.
struct Slow {
    bytes: mpsc::UnboundedSender<Bytes>,
    upload: JoinHandle<Result<Received, Error>>,
}

impl World {
    fn start_upload(&self, held: &Held, output: &Output) -> Slow {
        let (farm, agent) = (Arc::clone(self.farm()), self.agents[held.agent].clone());
        let (lease, output) = (held.lease, output.clone());
        let declared = self.runtime.block_on(farm.declare(&agent, lease, output.clone())).unwrap();
        assert_eq!(declared, Received { received: 0, complete: false });
        let (bytes, mut coming) = mpsc::unbounded_channel();
        let body = stream::poll_fn(move |context| coming.poll_recv(context).map(|piece| piece.map(Ok)));
        let upload = self
            .runtime
            .spawn(async move { farm.upload(&agent, lease, output.path, 0, Box::pin(body)).await });
        Slow { bytes, upload }
    }

    fn kept(&self, output: &Output) -> Vec<u8> {
        let farm = self.farm();
        let name = farm.database.read_blocking::<_, Error>(|sql| {
            let select = "SELECT name FROM files f JOIN paths p ON p.id = f.item WHERE p.base = ?1 UNION ALL \
                          SELECT name FROM uploads u JOIN paths p ON p.id = u.path WHERE p.base = ?1 AND complete = 1";
            Ok(sql.query_row(select, [output.path.base_name()], |row| row.get::<_, Option<String>>(0))?)
        });
        let usual = || Storage::usual_name(&output.path, Compression::Zstd);
        std::fs::read(farm.storage.nars().join(name.unwrap().unwrap_or_else(usual))).unwrap()
    }
}

#[test]
fn an_upload_for_a_lease_that_was_lost_does_not_touch_what_the_next_holder_uploaded() {
    let mut world = World::new();
    world.submit(0, 0);
    world.give(0, 1);
    let first = world.held[0].clone();
    let (output, bytes) = world.nodes[0].built().remove(0);
    let other = zstd::encode_all(&zstd::decode_all(&bytes[..]).unwrap()[..], 19).unwrap();
    // An empty frame before it: other bytes of the same nar.
    let skipped = [0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4];
    let other = [&skipped[..], &other].concat();

    let slow = world.start_upload(&first, &output);
    slow.bytes.send(Bytes::from(other)).unwrap();
    world.come_back(0, 0);
    world.give(1, 1);
    let second = world.held[0].clone();
    assert_ne!(second.lease, first.lease);
    world.upload_outputs(&second);
    assert_eq!(world.kept(&output), bytes);

    // Its end comes only now, and it is whole.
    drop(slow.bytes);
    let refused = world.runtime.block_on(slow.upload).unwrap();
    assert!(matches!(refused, Err(Error::LeaseNotHeld(_) | Error::CutOff { .. })), "{refused:?}");
    assert_eq!(world.kept(&output), bytes);
    world.end(0, &How::Succeeded);
    invariants::check(world.farm(), "the end");
    assert_eq!(world.kept(&output), bytes);
}

#[test]
fn the_most_urgent_build_goes_first_whatever_the_numbers_are() {
    let mut world = World::new();
    for source in 0..2 {
        world.take(&Step::Source(source));
    }
    for (node, priority) in [(0, 0), (2, i64::MIN), (3, i64::MAX)] {
        world.elsewhere(0);
        world.submit(node, priority);
    }
    world.give(0, 3);
    let given: Vec<usize> = world.held.iter().map(|held| held.node).collect();
    assert_eq!(given, [3, 0, 2]);
}

#[test]
fn an_input_that_nothing_makes_is_a_failed_setup_and_not_an_endless_wait() {
    let mut world = World::new();
    world.submit(0, 0);
    world.give(0, 1);
    let held = world.held[0].clone();
    let unknown = drover_store::StorePath::parse_base(&format!("{}-unknown", "1".repeat(32))).unwrap();
    // Neither what nobody knows, nor what only comes after the build, nor its own output.
    for path in [unknown, world.nodes[9].outputs[0].1.clone(), world.nodes[0].outputs[0].1.clone()] {
        let report = Report::MissingInputs { paths: vec![path] };
        let reported = world.farm().report(&world.agents[0], world.held[0].lease, report);
        let state = world.runtime.block_on(reported).unwrap().state;
        world.held.clear();
        invariants::check(world.farm(), "the report");
        if state == BuildState::Failed {
            return;
        }
        assert_eq!(state, BuildState::Ready);
        world.take(&Step::Forgive);
        world.give(0, 1);
        assert_eq!(world.held[0].node, held.node);
    }
    panic!("the build was not given up after three setups that failed");
}

#[test]
fn what_lost_an_input_lifts_the_build_of_it_that_was_there_already() {
    let mut world = World::new();
    for source in 0..2 {
        world.take(&Step::Source(source));
    }
    // A server has `c`; a client asks for it all the same, but not as urgently as another asks for `d`, which needs it.
    world.take(&Step::Elsewhere(3));
    for (node, priority) in [(3, 0), (7, 1), (4, 5)] {
        world.take(&Step::Submit { node, priority });
    }
    world.take(&Step::Give { agent: 0, accepting: 2 });
    let lease = world.held.iter().position(|held| held.node == 7).unwrap();
    // The agent that is to build `g` finds that the server does not have `c` any more.
    world.take(&Step::End { lease, how: How::Missing(3) });
}

#[test]
fn a_build_that_runs_for_nobody_has_the_priority_of_the_next_who_wants_it() {
    let mut world = World::new();
    world.take(&Step::Set { set: 0, nodes: 1, priority: 2, keep: None });
    world.take(&Step::Give { agent: 0, accepting: 1 });
    world.write(|tx| {
        Ok(tx.execute_batch(
            "UPDATE builds SET state = 'running'; \
             INSERT INTO events (at, kind, build) SELECT 1, 'build-started', id FROM builds;",
        )?)
    });
    world.take(&Step::Drop(0));
    world.take(&Step::Submit { node: 0, priority: -1 });
    world.take(&Step::End { lease: 0, how: How::HandedBack });
}

#[test]
fn what_is_tried_again_has_the_time_that_a_row_gives_it() {
    let mut world = World::new();
    world.take(&Step::Source(0));
    let mut long = row(&world.nodes[0].path, 0);
    (long.timeout, long.max_silent_time) = (Some(216_000), Some(72_000));
    let coming = Coming {
        set: SETS[0].parse().unwrap(),
        revision: "1".parse().unwrap(),
        terms: SetSubmission { rows: 1, keep: None },
    };
    let rows = std::io::Cursor::new(lines(&[long]));
    world.runtime.block_on(world.farm().submit_set(coming, rows)).unwrap();
    world.give(0, 1);
    world.end(0, &How::Failed);
    // As `drover build` asks for it, without a word about time.
    world.submit(0, 0);
    let times = world.farm().database.read_blocking::<_, Error>(|sql| {
        let select = "SELECT timeout, max_silent_time FROM builds ORDER BY id";
        let mut select = sql.prepare(select)?;
        let times = select.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))?;
        Ok(times.collect::<rusqlite::Result<Vec<_>>>()?)
    });
    assert_eq!(times.unwrap(), [(216_000, 72_000); 2]);
}

#[test]
fn whether_a_set_keeps_can_be_said_with_the_revision_that_is_there() {
    let world = World::new();
    let submit = |revision: &str, node: usize, keep: Option<bool>| {
        let coming = Coming {
            set: SETS[0].parse().unwrap(),
            revision: revision.parse().unwrap(),
            terms: SetSubmission { rows: 1, keep },
        };
        let rows = std::io::Cursor::new(lines(&[row(&world.nodes[node].path, 0)]));
        let submitted = world.runtime.block_on(world.farm().submit_set(coming, rows)).unwrap();
        invariants::check(world.farm(), revision);
        (submitted.new, submitted.canceled > 0)
    };
    submit("1", 9, None);
    assert_eq!(submit("1", 9, Some(true)), (false, false));
    assert_eq!(submit("2", 0, None), (true, false));
    assert_eq!(submit("2", 0, None), (false, false));
    assert_eq!(submit("2", 0, Some(false)), (false, true));
}

#[test]
fn a_build_that_was_over_before_anybody_saw_it_run_has_started_once_all_the_same() {
    for how in [How::Succeeded, How::Failed, How::TimedOut] {
        for seen in [false, true] {
            let mut world = World::new();
            world.submit(0, 0);
            world.give(0, 1);
            if seen {
                world.building(0);
            }
            world.end(0, &how);
            let kinds = world.farm().database.read_blocking::<_, Error>(|sql| {
                let mut select = sql.prepare(
                    "SELECT kind FROM events WHERE kind <> 'build-phase' AND build IS NOT NULL ORDER BY id",
                )?;
                let kinds = select.query_map([], |row| row.get(0))?;
                Ok(kinds.collect::<rusqlite::Result<Vec<String>>>()?)
            });
            let kinds = kinds.unwrap();
            let end = if matches!(how, How::Succeeded) { "build-success" } else { "build-failure" };
            let told = ["build-submitted", "build-allocated", "build-started", end];
            assert_eq!(kinds, told, "{how:?}, seen: {seen}");
        }
    }
}

#[test]
fn a_download_that_fails_somewhere_is_not_believed_more_than_a_look_at_the_upstream() {
    let mut world = World::new();
    world.submit(0, 0);
    let build: i64 = world
        .farm()
        .database
        .read_blocking::<_, Error>(|sql| Ok(sql.query_row("SELECT id FROM builds", [], |row| row.get(0))?))
        .unwrap();
    let path = world.nodes[0].outputs[0].1.clone();
    let fails = |why: &'static str| {
        let path = path.clone();
        let noted = world.farm().database.write_blocking::<_, Error>(move |tx| {
            super::super::upstreams::failed(tx, build, why)?;
            let id = paths::number(tx, &path)?;
            let select = "SELECT state FROM upstreams WHERE path = ?1";
            Ok((id, tx.query_row(select, [id], |row| row.get::<_, String>(0))?))
        });
        noted.unwrap()
    };
    let (id, state) = fails("download of the file failed");
    assert_eq!(state, "unknown");
    for known in ["vanished", "changed"] {
        let note = move |tx: &mut super::super::Tx<'_>| {
            tx.execute("UPDATE upstreams SET state = ?2 WHERE path = ?1", (id, known))?;
            Ok::<_, Error>(())
        };
        world.farm().database.write_blocking(note).unwrap();
        assert_eq!(fails("download of the file failed").1, known);
    }
    assert_eq!(fails("hash mismatch for the file").1, "changed");
}
