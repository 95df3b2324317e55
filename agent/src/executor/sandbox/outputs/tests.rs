use drover_store::derivation::{Derivation, Output};
use drover_store::nar::{Limits, Node};
use drover_store::path;

use super::*;

#[test]
fn what_came_from_elsewhere_during_a_build_is_not_told_to_be_built_here() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("root"), &folder.path().join("roots")).unwrap();
    let [out, drv] =
        ["out", "out.drv"].map(|name| path::source(name, &Sha256Hash::of(name.as_bytes())).unwrap());
    let derivation = Derivation {
        outputs: vec![Output { name: "out".into(), path: out.clone(), fixed: None }],
        inputs: Vec::new(),
        sources: Vec::new(),
        system: "riscv64-linux".into(),
        builder: b"/bin/sh".to_vec(),
        args: Vec::new(),
        env: Vec::new(),
    };
    let plan = Plan { path: drv, derivation };
    let stop = Stopping::new().unwrap();
    let place = |contents: &str| {
        let making = store.making().unwrap();
        fs::write(making.path().join(out.base_name()), contents).unwrap();
        let outputs = Outputs {
            store: &store,
            plan: &plan,
            inputs: &[],
            folder: making.path(),
            copies: None,
            owner: None,
            limits: OutputLimits::NONE,
            stop: &stop,
        };
        outputs.place()
    };
    let nar = Node::file("theirs").to_nar();
    let item = Item {
        path: out.clone(),
        nar_hash: Sha256Hash::of(&nar),
        nar_size: nar.len() as u64,
        references: Vec::new(),
        deriver: None,
    };
    store.add_nar(&item, &mut &nar[..], Limits::default()).unwrap();
    let other = place("ours").unwrap_err();
    assert!(matches!(&other, OutputError::NotBuiltHere(why) if why.contains(out.as_str())), "{other}");
    assert_eq!(store.item(&out).unwrap(), Some(item));
    // What is the same was built here as well.
    place("theirs").unwrap();
    // Nothing is begun any more once it is stopped.
    store.remove(std::slice::from_ref(&out)).unwrap();
    stop.stop();
    let stopped = place("theirs").unwrap_err();
    assert!(matches!(stopped, OutputError::Step(Error::Away(_))), "{stopped}");
    assert_eq!(store.item(&out).unwrap(), None);
}
