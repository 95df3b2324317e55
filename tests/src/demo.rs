//! The demonstration graph: as many derivations as hello has below it, with their names, edges and outputs, each with
//! a builder that does a little real work. Downloads become fixed outputs that are copied from a small source.

use std::collections::HashMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use drover_store::derivation::Derivation;
use drover_store::path::StorePath;

use crate::graph::{Graph, Made, Recipe};

/// What every builder of the graph runs.
const SCRIPT: &str = r#"
echo "building $name ($salt)"
set -- $inputs
echo "it takes $# inputs"
for input; do
    if [ -f "$input" ]; then sha256sum "$input"; else sha256sum "$input/share/digest"; fi
done | sort >digest
step=0
while [ $step -lt $work ]; do
    step=$((step + 1))
    seq 1 2000 | sed "s/$/ $name $step/" | sort -r | sha256sum >>digest
    echo "step $step of $work: $(tail -n 1 digest)"
done
if [ "$seconds" != 0 ]; then
    echo "resting for $seconds s"
    sleep "$seconds"
fi
if [ "$noise" = yes ]; then
    printf 'caf\351 \377\376 \300\200 \355\240\200 no text in any encoding of Unicode\n'
fi
if [ "$fails" = yes ]; then
    echo "failing, as asked" >&2
    exit 1
fi
for output in $outputs; do
    eval "place=\$$output"
    mkdir -p "$place/bin" "$place/share"
    cp digest "$place/share/digest"
    for input in $inputs; do echo "$input"; done >"$place/share/inputs"
    printf '#!%s\necho %s\n' "$(readlink -f /proc/self/exe)" "$name" >"$place/bin/$name"
    chmod 755 "$place/bin/$name"
    ln -s "../bin/$name" "$place/share/program"
    seq 1 1000000 | head -c "$size" >"$place/share/bulk"
done
echo "built $name"
"#;

/// How the graph is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Goes into every derivation, so that each run is new.
    pub salt: String,
    /// Rounds of work for each builder; a round takes about 10 ms.
    pub work: u32,
    /// Bytes beside the little files in each output.
    pub size: u64,
    /// Every how many-th builder fails, counted from the first that has inputs; 0: none.
    pub failing: usize,
    /// Every how many-th builder rests for a second; 0: none.
    pub slow: usize,
    /// Every how many-th builder prints what is not UTF-8; 0: none.
    pub noisy: usize,
    /// At most this many derivations, those that need least first; 0: all.
    pub most: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { salt: String::new(), work: 3, size: 4096, failing: 0, slow: 0, noisy: 0, most: 0 }
    }
}

/// One derivation of a graph's shape.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its path, by which others refer to it.
    pub path: StorePath,
    /// What it is.
    pub derivation: Derivation,
}

/// Where the fixture is.
#[must_use]
pub fn fixture(name: &str) -> PathBuf {
    crate::top().join("tests/fixtures").join(name)
}

/// The derivations of hello for a system, inputs before what needs them.
///
/// # Errors
/// When the fixture cannot be read or is not what it should be.
pub fn hello(system: &str) -> io::Result<Vec<Node>> {
    let mut all = HashMap::new();
    let file = fixture("hello-drvs.tar.zst");
    for (name, bytes) in untar(&file)? {
        let path = StorePath::parse_base(&name).map_err(io::Error::other)?;
        let derivation = Derivation::parse(&bytes).map_err(io::Error::other)?;
        all.insert(path, derivation);
    }
    let top = all
        .iter()
        .find(|(path, derivation)| {
            path.name().starts_with("hello-2") && derivation.system == system && !derivation.is_fixed_output()
        })
        .map(|(path, _)| path.clone())
        .ok_or_else(|| io::Error::other(format!("there is no hello for {system} in {}", file.display())))?;
    let mut order = Vec::new();
    let mut open = vec![(top, false)];
    while let Some((path, done)) = open.pop() {
        let Some(derivation) = all.get(&path) else { continue };
        if done {
            if let Some(derivation) = all.remove(&path) {
                order.push(Node { path, derivation });
            }
            continue;
        }
        let inputs: Vec<_> =
            derivation.inputs.iter().map(|input| (input.derivation.clone(), false)).collect();
        open.push((path, true));
        open.extend(inputs);
    }
    Ok(order)
}

/// Adds the demonstration graph; its derivations in an order in which inputs come first, so the last is the top.
///
/// # Errors
/// When the fixture cannot be read.
pub fn add(graph: &mut Graph, options: &Options) -> io::Result<Vec<Made>> {
    let mut nodes = hello("x86_64-linux")?;
    if options.most > 0 {
        nodes.truncate(options.most);
    }
    let every = |n: usize, number: usize| n > 0 && number % n == n - 1;
    let word = |yes: bool| if yes { "yes" } else { "no" };
    let mut made: HashMap<StorePath, Made> = HashMap::new();
    let mut order = Vec::new();
    let mut builders = 0;
    for Node { path, derivation } in nodes {
        let name = path.derivation_name();
        let recipe = if derivation.is_fixed_output() {
            let bytes = format!("{name}\nas it was downloaded for {}\n", options.salt).into_bytes();
            let source = graph.add_flat(&format!("{name}-mirror"), &bytes)?;
            Recipe {
                fixed: Some(bytes),
                sources: vec![source.clone()],
                ..Recipe::new(name, "echo \"copying $mirror\"\ncat \"$mirror\" >\"$out\"\n")
            }
            .env("mirror", source.full())
        } else {
            builders += 1;
            let outputs: Vec<&str> = derivation.outputs.iter().map(|output| output.name.as_str()).collect();
            Recipe::new(name, SCRIPT)
                .outputs(&outputs)
                .env("outputs", outputs.join(" "))
                .env("work", options.work.to_string())
                .env("size", options.size.to_string())
                .env("seconds", if every(options.slow, builders) { "1" } else { "0" })
                .env("noise", word(every(options.noisy, builders)))
                .env("fails", word(every(options.failing, builders)))
        };
        let mut recipe = recipe.env("shape", path.hash_part());
        for input in &derivation.inputs {
            if let Some(made) = made.get(&input.derivation) {
                recipe.inputs.push((made.clone(), input.outputs.clone()));
            }
        }
        let new = graph.add(recipe)?;
        order.push(new.clone());
        made.insert(path, new);
    }
    Ok(order)
}

/// The files of a tar archive, zstd-compressed, by their base names. Enough of the format for the fixtures: plain files
/// with names of at most 100 bytes.
///
/// # Errors
/// When the archive cannot be read or has something else in it.
pub fn untar(archive: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let file = std::fs::File::open(archive)
        .map_err(|e| io::Error::new(e.kind(), format!("opening {} failed: {e}", archive.display())))?;
    let mut stream = zstd::Decoder::new(file)?;
    stream.window_log_max(27)?;
    let mut files = Vec::new();
    let mut head = [0; 512];
    loop {
        stream.read_exact(&mut head)?;
        if head.iter().all(|byte| *byte == 0) {
            return Ok(files);
        }
        let text = |from: usize, len: usize| {
            let field = &head[from..from + len];
            let end = field.iter().position(|byte| *byte == 0).unwrap_or(len);
            String::from_utf8_lossy(&field[..end]).into_owned()
        };
        let size = u64::from_str_radix(text(124, 12).trim(), 8).map_err(io::Error::other)?;
        let name = text(0, 100);
        let mut bytes = Vec::new();
        stream.by_ref().take(size).read_to_end(&mut bytes)?;
        io::copy(&mut stream.by_ref().take(size.next_multiple_of(512) - size), &mut io::sink())?;
        match head[156] {
            b'0' | 0 => files.push((name.rsplit('/').next().unwrap_or_default().to_owned(), bytes)),
            b'5' => {}
            other => {
                return Err(io::Error::other(format!("{name} in {} is of kind {other}", archive.display())));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demonstration_graph_has_the_shape_of_hello_and_is_new_with_each_salt() {
        let shape = hello("x86_64-linux").unwrap();
        let make = |salt: &str| {
            let mut graph = Graph::new(salt).unwrap();
            let options = Options { salt: salt.to_owned(), ..Options::default() };
            add(&mut graph, &options).unwrap()
        };
        let (one, two) = (make("one"), make("two"));
        assert_eq!(one.len(), shape.len());
        assert!(one.iter().zip(&shape).all(|(made, node)| {
            made.path.name() == node.path.name() && made.outputs.len() == node.derivation.outputs.len()
        }));
        assert!(one.iter().zip(&two).all(|(one, two)| one.out() != two.out()));
        assert_eq!(one, make("one"));
    }
}
