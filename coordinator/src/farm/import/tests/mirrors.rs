//! Mirrors: what they refuse is met again, and where they go on.

use drover_wire::import::{PublishedItem, PublishedPage};

use super::rows::{Cursor, Kind};
use super::servers::{Reply, Site, whole};
use super::*;

impl Ground {
    fn mirror(&self, site: &Site) -> NewImport {
        NewImport { every_minutes: Some(600), source: site.url.clone(), ..self.terms() }
    }

    /// One pass of a mirror, as after a start of the coordinator.
    fn pass(&self, id: i64) -> ImportDetails {
        let begin = move |tx: &mut Tx<'_>| rows::begin(tx, id);
        self.farm.database.write_blocking::<_, Error>(begin).unwrap();
        let rests = || {
            let select = "SELECT rests FROM imports WHERE id = ?1";
            let rests = self.farm.database.read_blocking::<_, Error>(|sql| {
                Ok(sql.query_row(select, [id], |row| row.get::<_, bool>(0))?)
            });
            rests.unwrap()
        };
        let halt = self.halt();
        thread::scope(|scope| {
            scope.spawn(|| self.go_on(id, &halt));
            until("the mirror should rest", rests);
            self.farm.stop();
        });
        self.farm.stopping.send_replace(false);
        self.show(id)
    }

    fn cursor(&self, id: i64) -> Cursor {
        self.farm.database.read_blocking(|sql| rows::cursor(sql, id)).unwrap()
    }
}

impl Site {
    /// Says that it published these, with these numbers, when it is asked for what came after `after`.
    fn published(&self, after: u64, items: &[(u64, &Made)], last: u64) {
        let all = items
            .iter()
            .map(|(number, made)| PublishedItem { number: *number, path: made.info.store_path.clone() });
        let items: Vec<PublishedItem> = all.collect();
        for limit in [1, 1000] {
            let items = items.iter().take(limit).cloned().collect();
            let page = serde_json::to_vec(&PublishedPage { items, last: Some(last) }).unwrap();
            self.on(&format!("/drover/published?after={after}&limit={limit}"), [Reply::Whole(page)]);
        }
    }

    fn narinfos_asked(&self, made: &Made) -> usize {
        let path = format!("/{}.narinfo", made.info.store_path.hash_part());
        self.all_asked().iter().filter(|asked| **asked == path).count()
    }
}

#[test]
fn an_item_that_keeps_failing_stops_no_mirror_and_comes_when_it_is_mended() {
    let ground = Ground::new();
    let site = Site::start();
    let [first, bad, last] = ["first", "bad", "last"].map(|name| made(name, &[]));
    let above = made("above", &[&bad]);
    for made in [&first, &bad, &last, &above] {
        site.has(made, &ground.key, [whole(made)]);
    }
    site.has(&bad, &ground.key, [Reply::Status("500 Oops")]);
    site.published(0, &[(1, &first), (2, &bad), (3, &above), (4, &last)], 4);
    site.published(4, &[], 4);
    let id = ground.begin(ground.mirror(&site));
    let once = ground.pass(id);
    assert_eq!((once.summary.taken, once.summary.refused), (2, 2), "{once:?}");
    assert!(once.summary.error.is_none() && why(&once.refusals, &bad).contains("500"), "{once:?}");
    assert_eq!(ground.cursor(id), Cursor::at(Kind::Published, 4));
    site.has(&bad, &ground.key, [whole(&bad)]);
    let again = ground.pass(id);
    assert_eq!((again.summary.taken, again.summary.refused), (4, 0), "{again:?}");
    assert!(ground.is_published(&bad) && ground.is_published(&above));
}

#[test]
fn what_a_mirror_refused_since_a_server_did_not_answer_comes_when_it_does() {
    let (site, elsewhere) = (Site::start(), Site::start());
    let config = Config { substitute_servers: vec![elsewhere.url.clone()], ..Config::default() };
    let ground = Ground::with(config);
    let lost = made("lost", &[]);
    let all: Vec<Made> = (0..9).map(|n| made(&format!("item-{n}"), &[&lost])).collect();
    for made in &all {
        site.has(made, &ground.key, [whole(made)]);
    }
    let numbered: Vec<(u64, &Made)> = (1..).zip(&all).collect();
    site.published(0, &numbered, 9);
    site.published(9, &[], 9);
    let narinfo = format!("/{}.narinfo", lost.info.store_path.hash_part());
    elsewhere.on(&narinfo, [Reply::Status("500 Oops")]);
    let id = ground.begin(ground.mirror(&site));
    let once = ground.pass(id);
    assert_eq!((once.summary.taken, once.summary.refused), (0, 9), "{once:?}");
    assert!(why(&once.refusals, &all[0]).contains("did not say"), "{once:?}");
    // One that is down is left out, and what is not there is asked for once.
    assert_eq!((elsewhere.narinfos_asked(&lost), site.narinfos_asked(&lost)), (3, 1));
    elsewhere.on(&narinfo, [Reply::Whole(format!("StorePath: {}\n", lost.info.store_path).into_bytes())]);
    let again = ground.pass(id);
    assert_eq!((again.summary.taken, again.summary.refused), (9, 0), "{again:?}");
}

#[test]
fn what_is_refused_is_looked_at_once_however_much_refers_to_it() {
    let ground = Ground::new();
    let site = Site::start();
    let below = made("below", &[]);
    let bad = made("bad", &[&below]);
    let all: Vec<Made> = (0..9).map(|n| made(&format!("item-{n}"), &[&bad])).collect();
    for made in all.iter().chain([&below]) {
        site.has(made, &ground.key, [whole(made)]);
    }
    site.has(&bad, &SecretKey::generate().unwrap(), [whole(&bad)]);
    let import = ground.import(ground.of_site(&site, &all.iter().collect::<Vec<_>>()));
    assert_eq!(
        (import.summary.taken, import.summary.refused, import.summary.known),
        (0, 10, 0),
        "{import:?}"
    );
    assert_eq!(site.narinfos_asked(&bad), 1);
    // What is held and cannot be published is known, and that once.
    let unsigned = NewImport { unsigned: true, keys: Vec::new(), ..ground.of_site(&site, &[&below]) };
    assert_eq!(ground.import(unsigned.clone()).summary.taken, 1);
    site.has(&bad, &ground.key, [Reply::Status("403 No")]);
    let paths = all.iter().map(|made| made.info.store_path.clone()).collect();
    let import = ground.import(NewImport { paths, ..unsigned });
    assert_eq!((import.summary.known, import.summary.refused), (1, 10), "{import:?}");
    assert_eq!(site.narinfos_asked(&below), 2);
}

#[test]
fn a_mirror_begins_anew_where_its_numbers_are_of_another_kind_or_a_server_counts_anew() {
    let ground = Ground::new();
    let site = Site::start();
    let all: Vec<Made> = (0..3).map(|n| made(&format!("item-{n}"), &[])).collect();
    for made in &all {
        site.has(made, &ground.key, [whole(made)]);
    }
    let id = ground.begin(ground.mirror(&site));
    let wanted = move |tx: &mut Tx<'_>| rows::advance(tx, id, Cursor::at(Kind::Wanted, 7), 0);
    ground.farm.database.write_blocking::<_, Error>(wanted).unwrap();
    site.published(0, &[(8, &all[0])], 8);
    site.published(8, &[], 8);
    assert_eq!(ground.pass(id).summary.taken, 1);
    // It lost its state.
    site.published(0, &[(1, &all[1]), (2, &all[2])], 2);
    site.published(8, &[], 2);
    site.published(2, &[], 2);
    assert_eq!(ground.pass(id).summary.taken, 3);
    assert_eq!(ground.cursor(id), Cursor::at(Kind::Published, 2));
}
