//! Derivations of every kind that a store knows, the same ones each time for the same salt.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use drover_store::hash::{HashingWriter, Sha256Hash};
use drover_store::nar;
use drover_tests::graph::{Graph, Made, Recipe};

/// What each kind does with its outputs. The number of the derivation is in `n`, what it takes is in `inputs`.
const KINDS: [(&str, &str); 10] = [
    ("file", r#"for input in $inputs; do echo "$input"; done >$out; seq 1 $n >>$out"#),
    ("program", r##"printf '#!%s/sh\necho %s\n' "$PATH" "$n" >$out; chmod 711 $out"##),
    (
        "link",
        r#"set -- $inputs
           case $((n / 10 % 3)) in
               0) ln -s nowhere/$n $out ;;
               1) ln -s ${1:-/etc/passwd} $out ;;
               2) ln -s ../${n}/$(printf '\303\244\377') $out ;;
           esac"#,
    ),
    (
        "folder",
        r#"mkdir -p $out/a/b/c $out/empty $out/z
           for name in A B a.b a-b a+b 'a b' .hidden "$(printf 'caf\351')" "$(head -c 255 /dev/zero | tr '\0' x)"; do
               echo "$name $n" >"$out/z/$name"
           done
           : >$out/a/nothing
           chmod 600 $out/z/A; chmod 755 $out/z/B; chmod 700 $out/a/b
           for input in $inputs; do ln -s $input $out/a/b/${input##*/}; done"#,
    ),
    (
        "outputs",
        r#"mkdir -p $lib/lib $out/bin
           echo "$inputs $n" >$doc
           echo "$doc" >$lib/lib/doc; seq 1 $((n * 7)) >$lib/lib/data
           ln -s $lib/lib $out/lib; echo "$out $lib" >$out/bin/both; chmod 755 $out/bin/both"#,
    ),
    (
        // Whole names and bare hashes, across the edges of blocks, in targets and in names; and what only looks like them.
        "references",
        r#"mkdir $out
           set -- $inputs
           for size in 0 1 4080 65500 65535 131050; do
               { head -c $size /dev/zero; printf '%s' "${1:-none}"; head -c $size /dev/zero; } >$out/at-$size
           done
           [ $# -lt 2 ] || { hash=${2#/gnu/store/}; : >"$out/${hash%%-*}"; }
           [ $# -lt 3 ] || { echo "$3" | cut -c 1-42; echo "$3" | tr a-d A-D; } >$out/not-one"#,
    ),
    ("flat", "printf 'the bytes of %s\\n' $n >$out"),
    (
        "recursive",
        r#"if [ $((n / 10 % 2)) = 0 ]; then
               printf 'runs %s\n' $n >$out; chmod 755 $out
           else
               mkdir -p $out/bin; printf 'runs %s\n' $n >$out/bin/run; chmod 755 $out/bin/run; ln -s bin/run $out/run
           fi"#,
    ),
    (
        // Files of several names, and modes and times that no store keeps.
        "modes",
        r#"mkdir -p $out/locked $out/open
           seq 1 $n >$out/one; ln $out/one $out/two; ln $out/one $out/open/three
           echo secret >$out/locked/file; chmod 400 $out/locked/file; chmod 500 $out/locked
           echo all >$out/open/file; chmod 666 $out/open/file; chmod 1777 $out/open
           echo run >$out/run; chmod 4 $out/two || true; chmod 101 $out/run
           touch -d '2001-02-03 04:05' $out/one; ln -s one $out/link"#,
    ),
    (
        "self",
        r#"mkdir $out
           echo "$out $inputs" >$out/names; ln -s $out/names $out/link
           dd if=/dev/zero of=$out/sparse bs=1 count=1 seek=$((200000 + n)) 2>/dev/null
           seq 1 20000 >$out/bulk"#,
    ),
];

/// Adds so many derivations, of all kinds by turns; most of them take earlier ones.
pub(crate) fn add(graph: &mut Graph, count: usize) -> io::Result<Vec<Made>> {
    let mut all: Vec<Made> = Vec::new();
    for n in 0..count {
        let (kind, script) = KINDS[n % KINDS.len()];
        let mut recipe = Recipe::new(&format!("{kind}-{n}"), script).env("n", n.to_string());
        match kind {
            "flat" => recipe.fixed = Some(format!("the bytes of {n}\n").into_bytes()),
            "recursive" => recipe.recursive = Some(recursive(n)?),
            _ => {
                for back in [1, n / 3 + 2, n / 2 + 3] {
                    if let Some(input) = n.checked_sub(back).and_then(|n| all.get(n)) {
                        recipe = recipe.input(input);
                    }
                }
            }
        }
        if kind == "outputs" {
            recipe = recipe.outputs(&["out", "lib", "doc"]);
        }
        all.push(graph.add(recipe)?);
    }
    Ok(all)
}

/// The hash that the derivation of the kind `recursive` with this number says its output has.
fn recursive(n: usize) -> io::Result<Sha256Hash> {
    let scratch = tempfile::tempdir()?;
    let out = scratch.path().join("out");
    let program = |file: &Path| {
        fs::write(file, format!("runs {n}\n"))?;
        fs::set_permissions(file, fs::Permissions::from_mode(0o755))
    };
    if n / 10 % 2 == 0 {
        program(&out)?;
    } else {
        fs::create_dir_all(out.join("bin"))?;
        program(&out.join("bin/run"))?;
        symlink("bin/run", out.join("run"))?;
    }
    let mut hash = HashingWriter::new(io::sink());
    nar::pack(&out, &mut hash).map_err(io::Error::other)?;
    Ok(hash.finish().1)
}
