//! Another key comes to sign, and old ones go.

use drover_store::key::{PublicKey, SecretKey};
use drover_wire::hook::HookKind;
use drover_wire::key::{KeyInfo, KeyRetirement, KeyRotation, KeyState};

use super::*;
use crate::config::{HookConfig, LocationConfig};

fn block<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

impl World {
    fn rotate(&self, after: u64, secret: Option<String>) -> Result<drover_wire::key::KeyRotated, Error> {
        block(self.farm.rotate_key(KeyRotation { after, secret }))
    }

    fn retire(&self, key: u64, now: bool) -> Result<KeyInfo, Error> {
        block(self.farm.retire_key(key, KeyRetirement { now }))
    }

    fn states(&self) -> Vec<(u64, KeyState)> {
        block(self.farm.keys()).unwrap().iter().map(|key| (key.key, key.state)).collect()
    }

    fn signing(&self) -> PublicKey {
        *self.farm.keys.signing().public()
    }

    /// The keys that what is published is signed by.
    fn signers(&self) -> HashSet<PublicKey> {
        let signer = |n: usize| *self.narinfo(n).signature.unwrap().signature.public();
        self.published().into_iter().map(signer).collect()
    }

    /// All that was asked for is done before the process ends, or starts again.
    pub(super) fn restarts(&mut self) {
        self.restarts_with(|_| {});
    }

    /// It starts again with another configuration.
    fn restarts_with(&mut self, change: impl Fn(&mut Config)) {
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap());
        self.farm = Farm::open(config(&self.folder)).unwrap();
        // A thread of the farm may hold it for a moment longer.
        self.farm = loop {
            let mut config = config(&folder);
            change(&mut config);
            match Farm::open(config) {
                Ok(farm) => break farm,
                Err(crate::farm::OpenError::Storage(_)) => std::thread::yield_now(),
                Err(error) => panic!("{error}"),
            }
        };
        self.folder = folder;
    }
}

fn many(count: usize) -> World {
    let world = World::new(vec![output(&[]); count]);
    (0..count).for_each(|n| world.comes(n));
    world.run_all();
    assert_eq!(world.published().len(), count);
    world
}

#[test]
fn what_is_published_is_signed_anew_and_the_old_key_may_go_when_nobody_keeps_what_it_signed() {
    let mut world = many(3);
    let old = world.signing();
    let rotated = world.rotate(0, None).unwrap();
    assert_eq!((rotated.old.key, rotated.old.signed, rotated.new.state), (1, 3, KeyState::Signs));
    let new = world.signing();
    assert_ne!(new, old);
    assert_eq!(world.signers(), HashSet::from([old]));
    let text = world.narinfo(1).signed_part();
    assert!(matches!(world.retire(1, false), Err(Error::Conflict(_))), "it is signed anew first");
    while world.farm.sign_anew().unwrap() {}
    assert_eq!(world.signers(), HashSet::from([new]));
    assert_eq!(world.narinfo(1).signed_part(), text);
    world.narinfo(1).verify(&[new].into_iter().collect::<Acl>()).unwrap();
    // Clients keep what they have for an hour.
    assert!(matches!(world.retire(1, false), Err(Error::Conflict(_))));
    world.write(|tx| Ok(tx.execute("UPDATE keys SET may_go_at = may_go_at - 3600 * 1000 WHERE id = 1", [])?));
    assert_eq!(world.retire(1, false).unwrap().state, KeyState::Retired);
    world.restarts();
    assert_eq!(world.states(), [(2, KeyState::Signs), (1, KeyState::Retired)]);
    assert_eq!(world.signing(), new);
    assert!(!world.farm.sign_anew().unwrap());
}

#[test]
fn signing_anew_goes_on_where_it_was_interrupted() {
    let mut world = many(450);
    world.rotate(0, None).unwrap();
    let new = world.signing();
    world.farm.sign_anew().unwrap();
    assert_eq!(world.signers().len(), 2);
    world.restarts();
    while world.farm.sign_anew().unwrap() {}
    assert_eq!(world.signers(), HashSet::from([new]));
}

#[test]
fn a_key_that_was_announced_signs_when_its_time_has_come() {
    let mut world = many(1);
    let (old, next) = (world.signing(), SecretKey::generate().unwrap());
    let rotated = world.rotate(7 * 86_400, Some(next.to_text())).unwrap();
    assert_eq!(rotated.new.state, KeyState::Next);
    assert!(!world.farm.sign_anew().unwrap());
    assert_eq!((world.signing(), world.signers()), (old, HashSet::from([old])));
    world.restarts();
    assert_eq!(world.states(), [(2, KeyState::Next), (1, KeyState::Signs)]);
    world.write(|tx| {
        Ok(tx.execute("UPDATE keys SET signs_from = signs_from - 7 * 86400 * 1000 WHERE id = 2", [])?)
    });
    world.restarts();
    while world.farm.sign_anew().unwrap() {}
    assert_eq!((world.signing(), world.signers()), (*next.public(), HashSet::from([*next.public()])));
    let shown = std::fs::read_to_string(world.folder.path().join(crate::key::PUBLIC_FILE)).unwrap();
    assert_eq!(PublicKey::parse(&shown).unwrap(), *next.public());
}

#[test]
fn a_rotation_that_makes_no_sense_changes_nothing() {
    let world = many(1);
    let old = world.signing();
    let secret = SecretKey::parse(
        &std::fs::read_to_string(world.folder.path().join(crate::key::FOLDER).join("1.sec")).unwrap(),
    );
    let own = secret.unwrap().to_text();
    for (secret, after, word) in [
        (Some(old.to_text()), 0, "public half"),
        (Some("(nothing)".to_owned()), 0, "no secret key"),
        (Some(own), 0, "is here already"),
        (None, u64::MAX, "ten years"),
    ] {
        let error = world.rotate(after, secret).unwrap_err().to_string();
        assert!(error.contains(word), "{error}");
    }
    assert!(world.retire(1, true).unwrap_err().to_string().contains("signs"));
    assert!(matches!(world.retire(7, true), Err(Error::NotFound { .. })));
    assert_eq!(world.states(), [(1, KeyState::Signs)]);
    // One after the other.
    let next = SecretKey::generate().unwrap();
    world.rotate(60, Some(next.to_text())).unwrap();
    assert!(world.rotate(0, None).unwrap_err().to_string().contains("retire 2"));
    assert_eq!(world.retire(2, false).unwrap().state, KeyState::Retired);
    assert!(world.rotate(0, Some(next.to_text())).unwrap_err().to_string().contains("does not come back"));
    assert_eq!(world.signing(), old);
}

#[test]
fn a_compromised_key_goes_at_once_and_nothing_stays_signed_by_it() {
    let world = many(2);
    world.rotate(0, None).unwrap();
    assert_eq!(world.retire(1, true).unwrap().state, KeyState::Retired);
    while world.farm.sign_anew().unwrap() {}
    assert_eq!(world.signers(), HashSet::from([world.signing()]));
}

/// The narinfo of an item that is held, as another server has it, signed with this key.
fn narinfo_elsewhere(world: &World, n: usize, key: &SecretKey) -> String {
    let mut info =
        world.farm.database.read_blocking(|sql| draft::unsigned(sql, id(n))).unwrap().unwrap().info;
    info.sign("elsewhere", key);
    info.urls.push(drover_store::narinfo::Url {
        url: "https://elsewhere.example/nar/x".to_owned(),
        compression: "lzip".to_owned(),
        file_size: None,
    });
    info.print()
}

#[test]
fn what_others_signed_stays_as_it_is() {
    let world = World::new(vec![output(&[])]);
    world.comes(0);
    let theirs = SecretKey::generate().unwrap();
    let text = narinfo_elsewhere(&world, 0, &theirs);
    assert_eq!(world.write(move |tx| adopt(tx, id(0), &text)), Publication::Published);
    world.rotate(0, None).unwrap();
    while world.farm.sign_anew().unwrap() {}
    assert_eq!(world.signers(), HashSet::from([*theirs.public()]));
    assert_eq!(world.narinfo(0).urls[0].url, format!("nar/zstd/{}", item(0).base_name()));
}

#[test]
fn what_is_taken_over_with_a_signature_of_our_own_is_signed_anew() {
    let world = World::new(vec![output(&[])]);
    world.comes(0);
    let ours = world.farm.keys.signing();
    let text = narinfo_elsewhere(&world, 0, &ours);
    assert_eq!(world.write(move |tx| adopt(tx, id(0), &text)), Publication::Published);
    assert_eq!(world.signers(), HashSet::from([*ours.public()]));
    world.rotate(0, None).unwrap();
    assert!(world.retire(1, false).unwrap_err().to_string().contains("1 narinfos"));
    while world.farm.sign_anew().unwrap() {}
    assert_eq!(world.signers(), HashSet::from([world.signing()]));
    world.narinfo(0).verify(&[world.signing()].into_iter().collect::<Acl>()).unwrap();
}

#[test]
fn all_is_pushed_when_a_rotation_is_over_and_afterwards_only_what_came_with_an_old_signature() {
    let mut world = many(2);
    let mirror = tempfile::tempdir().unwrap();
    world.restarts_with(|config| {
        let to = LocationConfig { folder: Some(mirror.path().to_owned()), ..LocationConfig::default() };
        let push = HookConfig { kind: Some(HookKind::Push), to, ..HookConfig::default() };
        config.hooks.insert("mirror".to_owned(), push);
    });
    let left = |world: &World| {
        world.read(|sql| {
            let all = "SELECT (SELECT count(*) FROM backlog WHERE hook = 'mirror'), \
                       (SELECT group_concat(path) FROM hook_runs WHERE hook = 'mirror' AND state = 'waiting')";
            sql.query_row(all, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, Option<String>>(1)?))).unwrap()
        })
    };
    world.write(|tx| {
        tx.execute("DELETE FROM backlog", [])?;
        Ok(tx.execute("DELETE FROM hook_runs", [])?)
    });
    let old = world.farm.keys.signing();
    world.rotate(0, None).unwrap();
    while world.farm.sign_anew().unwrap() {}
    assert_eq!(left(&world), (1, None));

    world.write(|tx| Ok(tx.execute("DELETE FROM backlog", [])?));
    world.write(|tx| withdraw(tx, id(1)).map(drop));
    let text = narinfo_elsewhere(&world, 1, &old);
    assert_eq!(world.write(move |tx| adopt(tx, id(1), &text)), Publication::Published);
    world.write(|tx| Ok(tx.execute("DELETE FROM hook_runs", [])?));
    while world.farm.sign_anew().unwrap() {}
    assert_eq!(world.signers(), HashSet::from([world.signing()]));
    assert_eq!(left(&world), (0, Some(id(1).to_string())));
}
