//! `drover build`.

use std::collections::HashSet;
use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use drover_store::{Derivation, StorePath};
use serde_json::json;

use crate::double::{BUILD, Double, Farm, Reply};
use crate::{HELLO, bare, drover, hello, named, run, text};

fn farm_double(farm: &Arc<Mutex<Farm>>) -> Double {
    let farm = Arc::clone(farm);
    Double::new(move |request| farm.lock().unwrap().answer(request))
}

/// Base names of everything that hello's derivation needs, itself among it, read in the plainest way.
fn needed(folder: &std::path::Path) -> HashSet<String> {
    let mut needed = HashSet::new();
    let mut open = vec![HELLO.to_owned()];
    while let Some(name) = open.pop() {
        if needed.insert(name.clone()) {
            let derivation = Derivation::parse(&fs::read(folder.join(&name)).unwrap()).unwrap();
            needed.extend(derivation.sources.iter().map(|s| s.base_name().to_owned()));
            open.extend(derivation.inputs.iter().map(|i| i.derivation.base_name().to_owned()));
        }
    }
    needed
}

#[test]
fn everything_that_lacks_is_uploaded_once_and_what_is_referred_to_goes_first() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let double = farm_double(&farm);
    let file = folder.path().join(HELLO);
    let arguments =
        ["build", text(&file), "--store", "/nonexistent", "--json", "--priority", "-2", "--tag", "a=b"];
    let ran = run(drover(&double, &arguments)).ended(0);

    let uploaded = farm.lock().unwrap().uploaded.clone();
    assert_eq!(uploaded.iter().cloned().collect::<HashSet<_>>(), needed(folder.path()));
    assert_eq!(uploaded.len(), needed(folder.path()).len(), "something was sent twice");
    let [submitted, summary] = ran.json().try_into().unwrap();
    assert_eq!(
        submitted,
        json!({"event": "submitted", "build": BUILD, "state": "waiting", "new": true,
        "derivation": format!("/gnu/store/{HELLO}")})
    );
    assert_eq!((&summary["event"], &summary["for_inputs"]), (&json!("summary"), &json!(3)));
    let submission = double.requests().iter().find(|r| r.is("POST", "/v1/builds")).unwrap().json();
    assert_eq!(submission["builds"][0]["priority"], -2);
    assert_eq!(submission["builds"][0]["tags"], json!({"a": "b"}));

    assert_eq!(double.count("POST", "/v1/missing"), 3, "itself, what it needs, everything below");

    // The second time there is nothing to send.
    run(drover(&double, &arguments)).ended(0);
    assert_eq!(double.count("POST", "/v1/bundle"), 1);
    assert_eq!(double.count("POST", "/v1/missing"), 3 + 1, "it has itself, so it has everything");
}

#[test]
fn below_what_the_coordinator_has_nothing_is_read_or_asked_about() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let double = farm_double(&farm);
    farm.lock().unwrap().known = needed(folder.path());
    let new = format!(
        "Derive([(\"out\",\"/gnu/store/{}-new\",\"\",\"\")],[(\"/gnu/store/{HELLO}\",[\"out\"])],[],\"x86_64-linux\",\"/bin/sh\",[],[])",
        "0".repeat(32)
    );
    let path = drover_store::derivation::text_path("new.drv", new.as_bytes()).unwrap();
    for item in needed(folder.path()) {
        let _ = fs::remove_file(folder.path().join(item));
    }
    let file = folder.path().join(path.base_name());
    fs::write(&file, new).unwrap();
    run(drover(&double, &["build", text(&file), "--store", "/nonexistent"])).ended(0);
    assert_eq!(farm.lock().unwrap().uploaded, [path.base_name()]);
    let asked = double.requests().into_iter().filter(|request| request.is("POST", "/v1/missing"));
    let asked: Vec<_> = asked.map(|request| request.json()["paths"].clone()).collect();
    assert_eq!(asked, [json!([path]), json!([format!("/gnu/store/{HELLO}")])]);
}

#[test]
fn sources_that_earlier_submissions_lack_are_sent_when_they_are_here() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let double = farm_double(&farm);
    let sources: Vec<String> =
        needed(folder.path()).into_iter().filter(|name| !name.ends_with(".drv")).collect();
    let (here, lost) = (sources[0].clone(), sources[1].clone());
    fs::remove_file(folder.path().join(&lost)).unwrap();
    let foreign = format!("{}-foreign", "0".repeat(32));
    {
        let mut farm = farm.lock().unwrap();
        farm.lacking = vec![here.clone(), lost.clone(), foreign.clone()];
        farm.known = needed(folder.path());
        farm.known.remove(&here);
        farm.known.remove(&lost);
    }
    let file = folder.path().join(HELLO);
    let ran = run(drover(&double, &["build", text(&file), "--store", "/nonexistent"])).ended(0);
    assert_eq!(farm.lock().unwrap().uploaded, [here]);
    // Of those that are nowhere only its own are its business.
    assert!(ran.stderr.contains(&lost) && !ran.stderr.contains(&foreign), "{}", ran.stderr);
}

#[test]
fn a_refusal_of_what_somebody_else_lacks_is_no_failure() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let here = needed(folder.path()).into_iter().find(|name| !name.ends_with(".drv")).unwrap();
    {
        let mut farm = farm.lock().unwrap();
        farm.lacking = vec![here.clone()];
        farm.known = needed(folder.path());
        farm.known.remove(&here);
    }
    let double = Double::new(move |request| {
        if request.is("POST", "/v1/bundle") {
            return Reply::problem(422, "bad-source", "its contents do not belong to its name");
        }
        farm.lock().unwrap().answer(request)
    });
    let file = folder.path().join(HELLO);
    let ran = run(drover(&double, &["build", text(&file), "--store", "/nonexistent"])).ended(0);
    assert!(ran.stderr.contains("its contents do not belong"), "{}", ran.stderr);
}

#[test]
fn only_what_the_coordinator_lacks_is_sent() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let source = needed(folder.path()).into_iter().find(|name| !name.ends_with(".drv")).unwrap();
    {
        let mut farm = farm.lock().unwrap();
        farm.lacking = vec![source.clone()];
        farm.known =
            needed(folder.path()).into_iter().filter(|name| *name != HELLO && *name != source).collect();
    }
    let file = folder.path().join(HELLO);
    run(drover(&farm_double(&farm), &["build", text(&file), "--store", "/nonexistent"])).ended(0);
    assert_eq!(farm.lock().unwrap().uploaded.len(), 2);
    assert!(farm.lock().unwrap().uploaded.contains(&source));
}

#[test]
fn a_source_that_is_nowhere_is_named_and_refuses_nothing() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let lost = needed(folder.path()).into_iter().find(|name| name.ends_with("-builder")).unwrap();
    fs::remove_file(folder.path().join(&lost)).unwrap();
    let file = folder.path().join(HELLO);
    let ran = run(drover(&farm_double(&farm), &["build", text(&file), "--store", "/nonexistent"])).ended(0);
    assert!(ran.stderr.contains(&lost), "{}", ran.stderr);
    assert_eq!(farm.lock().unwrap().uploaded.len() + 1, needed(folder.path()).len());
}

#[test]
fn an_input_that_is_nowhere_is_refused_and_one_that_the_coordinator_has_is_not() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let whole = needed(folder.path());
    let lost = named(folder.path(), "-hello-2.12.2.tar.gz.drv");
    let lost = lost.file_name().unwrap().to_str().unwrap().to_owned();
    let lost = if whole.contains(&lost) {
        lost
    } else {
        whole.iter().find(|n| n.ends_with(".drv") && *n != HELLO).unwrap().clone()
    };
    fs::remove_file(folder.path().join(&lost)).unwrap();
    let file = folder.path().join(HELLO);
    let arguments = ["build", text(&file), "--store", "/nonexistent"];
    let double = farm_double(&farm);
    let ran = run(drover(&double, &arguments)).ended(2);
    assert!(ran.stderr.contains(&lost), "{}", ran.stderr);
    assert_eq!(double.count("POST", "/v1/bundle"), 0);

    farm.lock().unwrap().known = whole;
    run(drover(&double, &arguments)).ended(0);
}

#[test]
fn a_derivation_that_only_the_coordinator_has_can_be_built() {
    let farm = Farm::shared("ready");
    let double = farm_double(&farm);
    let path = format!("/nonexistent/{HELLO}");
    run(drover(&double, &["build", &path])).ended(2);
    farm.lock().unwrap().known.insert(HELLO.to_owned());
    run(drover(&double, &["build", &path])).ended(0);
}

#[test]
fn what_is_no_derivation_or_has_the_wrong_name_is_refused_before_anything_is_sent() {
    let (folder, double) = (hello(false), farm_double(&Farm::shared("waiting")));
    let bytes = fs::read(folder.path().join(HELLO)).unwrap();
    let cases = [
        (HELLO.to_owned(), bytes[..bytes.len() - 1].to_vec()),
        (HELLO.replace("2nfg", "3nfg"), bytes.clone()),
        ("hello.drv".to_owned(), bytes.clone()),
        (HELLO.replace(".drv", ""), bytes),
    ];
    for (name, bytes) in cases {
        let file = folder.path().join(&name);
        fs::write(&file, bytes).unwrap();
        let ran = run(drover(&double, &["build", text(&file)])).ended(2);
        assert!(ran.stderr.contains(&name) && ran.stderr.lines().count() == 1, "{}", ran.stderr);
    }
    assert!(double.requests().is_empty());
}

#[test]
fn paths_are_read_from_standard_input_and_links_are_followed() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let double = farm_double(&farm);
    let link = folder.path().join("my-hello");
    std::os::unix::fs::symlink(folder.path().join(HELLO), &link).unwrap();
    let mut command = drover(&double, &["build", "-", "--store", "/nonexistent", "--json"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{}\n\n{}", text(&folder.path().join(HELLO)), text(&link)).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Named twice, submitted once.
    assert_eq!(String::from_utf8(output.stdout).unwrap().matches("submitted").count(), 1);
}

#[test]
fn waiting_ends_with_the_code_of_the_build_and_survives_a_coordinator_that_goes_away() {
    let codes =
        [("succeeded", 0), ("failed", 1), ("timed-out", 6), ("dependency-failed", 7), ("canceled", 8)];
    for (state, code) in codes {
        let (folder, farm, asked) = (hello(true), Farm::shared("waiting"), AtomicUsize::new(0));
        let double = Double::new(move |request| {
            if !request.is("POST", "/v1/wait") {
                return farm.lock().unwrap().answer(request);
            }
            assert_eq!(request.json()["builds"], json!([BUILD]));
            let ended = json!([{"build": BUILD, "derivation": format!("/gnu/store/{HELLO}"),
                "state": state, "why": "because \u{1b}[31m"}]);
            match asked.fetch_add(1, Ordering::Relaxed) {
                0 => Reply::none(),
                1 => Reply::problem(503, "unavailable", "the coordinator is stopping"),
                2 => Reply::json(&json!({"ended": [], "counts": {"running": 2}})),
                _ => Reply::json(&json!({"ended": ended, "counts": {}})),
            }
        });
        let file = folder.path().join(HELLO);
        let ran = run(drover(&double, &["build", text(&file), "--wait"])).ended(code);
        assert!(
            ran.text().contains(&format!("{state:17}  hello-2.12.2: because \\u{{1b}}")),
            "{}",
            ran.text()
        );
    }
}

#[test]
fn the_exit_code_is_that_of_the_build_though_nobody_reads() {
    let (folder, farm) = (hello(true), Farm::shared("waiting"));
    let (gone, wait_for_it) = std::sync::mpsc::channel();
    let wait_for_it = Mutex::new(wait_for_it);
    let double = Double::new(move |request| {
        if !request.is("POST", "/v1/wait") {
            return farm.lock().unwrap().answer(request);
        }
        wait_for_it.lock().unwrap().recv().unwrap();
        let ended = json!([{"build": BUILD, "derivation": format!("/gnu/store/{HELLO}"), "state": "failed", "why": null}]);
        Reply::json(&json!({"ended": ended, "counts": {}}))
    });
    let file = folder.path().join(HELLO);
    let mut child = drover(&double, &["build", text(&file), "--wait"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    gone.send(()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
}

#[test]
fn an_upload_that_breaks_is_made_again() {
    let (folder, farm, broke) = (hello(true), Farm::shared("waiting"), AtomicUsize::new(0));
    let shared = Arc::clone(&farm);
    let double = Double::new(move |request| {
        if request.is("POST", "/v1/bundle") && broke.fetch_add(1, Ordering::Relaxed) == 0 {
            // It was taken, and the answer was lost.
            shared.lock().unwrap().answer(request);
            return Reply::none();
        }
        shared.lock().unwrap().answer(request)
    });
    let file = folder.path().join(HELLO);
    run(drover(&double, &["build", text(&file), "--store", "/nonexistent"])).ended(0);
    assert_eq!(double.count("POST", "/v1/bundle"), 1, "what arrived is not sent again");
    assert_eq!(farm.lock().unwrap().uploaded.len(), needed(folder.path()).len());
}

#[test]
fn large_sources_and_folders_travel_as_their_nars() {
    let store = tempfile::tempdir().unwrap();
    let source = "00a3xasf5iyzfv23danwy7pilf2yyxjz-tree";
    fs::create_dir_all(store.path().join(source).join("sub")).unwrap();
    let large: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(store.path().join(source).join("sub/large"), &large).unwrap();
    let mut nar = Vec::new();
    drover_store::nar::pack(&store.path().join(source), &mut nar).unwrap();

    let source = StorePath::parse_base(source).unwrap();
    let text_of = format!(
        "Derive([(\"out\",\"/gnu/store/{}-x\",\"\",\"\")],[],[\"{source}\"],\"x86_64-linux\",\"/bin/sh\",[],[])",
        "0".repeat(32)
    );
    let derivation = drover_store::derivation::text_path("x.drv", text_of.as_bytes()).unwrap();
    let file = store.path().join(derivation.base_name());
    fs::write(&file, &text_of).unwrap();

    let got = Arc::new(Mutex::new(Vec::new()));
    let (farm, shared) = (Farm::shared("ready"), Arc::clone(&got));
    let double = Double::new(move |request| {
        if request.is("POST", "/v1/bundle") {
            let mut reader = drover_wire::bundle::Reader::new(zstd::Decoder::new(&request.body[..]).unwrap());
            reader.next_entry().unwrap().unwrap();
            std::io::Read::read_to_end(&mut reader.contents(), &mut shared.lock().unwrap()).unwrap();
        }
        farm.lock().unwrap().answer(request)
    });
    run(drover(&double, &["build", text(&file)])).ended(0);
    assert!(*got.lock().unwrap() == nar);
}

#[test]
fn usage_that_makes_no_sense_ends_with_two() {
    for arguments in [
        &["build"][..],
        &["build", "x.drv", "--tag", "novalue"],
        &["build", "x.drv", "--timeout", "soon"],
        &["show", "hello"],
        &["agent", "password", "new"],
        &["agent", BUILD, "list"],
        &["frobnicate"],
    ] {
        run(bare(arguments)).ended(2);
    }
}
