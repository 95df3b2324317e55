//! Sources that were imported: agents get them, whatever they are compressed with.

use std::io::Read;

use drover_wire::agent::BundleRequest;
use drover_wire::bundle::Reader;

use super::*;
use crate::farm::press::Press;
use crate::farm::sources::{self, NewSource};

/// A text that is the one of its name; by the narinfo the output of something, if it is said so.
fn script(deriver: Option<StorePath>) -> Made {
    let nar = Node::file("a script").to_nar();
    let info = NarInfo {
        store_path: path::text("script", b"a script", &[]).unwrap(),
        nar_hash: Sha256Hash::of(&nar),
        nar_size: nar.len() as u64,
        deriver,
        ..made("script", &[]).info
    };
    Made { info, nar }
}

/// What an agent gets that asks for a source.
fn bundled(ground: &Ground, made: &Made) -> Vec<u8> {
    let mut bundle = Vec::new();
    let request = BundleRequest { paths: vec![made.info.store_path.clone()] };
    ground.farm.bundle(&request, &mut bundle).unwrap();
    let mut reader = Reader::new(&bundle[..]);
    let entry = reader.next_entry().unwrap().unwrap();
    assert_eq!(entry.path, made.info.store_path);
    let mut nar = Vec::new();
    reader.contents().read_to_end(&mut nar).unwrap();
    assert!(reader.next_entry().unwrap().is_none());
    nar
}

#[test]
fn agents_get_an_imported_source_in_whatever_compression_it_is_here() {
    for compression in Compression::ALL {
        let ground = Ground::new();
        let made = script(None);
        ground.put(&made, compression);
        assert_eq!(ground.import(ground.terms()).summary.taken, 1);
        assert_eq!(ground.files(&made), [compression]);
        assert_eq!(bundled(&ground, &made), made.nar, "{compression}");
    }
}

#[test]
fn agents_get_a_source_that_was_imported_as_an_output_before_it_was_uploaded() {
    let ground = Ground::new();
    let made = script(Some(item("script.drv")));
    ground.put(&made, Compression::Lzip);
    assert_eq!(ground.import(ground.terms()).summary.taken, 1);
    let (mut press, path) = (Press::new().unwrap(), made.info.store_path.clone());
    let new =
        NewSource::read(&ground.farm.storage, &mut press, path, made.info.nar_size, &made.nar[..], |_| {
            Ok(Vec::new())
        });
    let mut new = new.unwrap();
    new.place(&ground.farm).unwrap();
    ground.farm.database.write_blocking::<_, Error>(move |tx| sources::keep(tx, &new)).unwrap();
    assert_eq!(bundled(&ground, &made), made.nar);
}
