//! What a derivation says of the references that its outputs may have.

use std::collections::{BTreeSet, HashMap};

use drover_store::derivation::Derivation;
use drover_store::path::StorePath;

use super::environment::words;

/// A rule: which variable has it, whether it allows or forbids, and whether it is about all that an output needs or about
/// what it refers to itself.
const RULES: [(&str, bool, bool); 4] = [
    ("allowedReferences", true, false),
    ("allowedRequisites", true, true),
    ("disallowedReferences", false, false),
    ("disallowedRequisites", false, true),
];

/// A derivation's rules, with its outputs' names replaced by their paths.
#[derive(Debug)]
pub(super) struct Restrictions(Vec<Rule>);

#[derive(Debug)]
struct Rule {
    variable: &'static str,
    allows: bool,
    deep: bool,
    paths: BTreeSet<StorePath>,
}

impl Restrictions {
    /// Reads them.
    ///
    /// # Errors
    /// What is wrong with one, in words.
    pub(super) fn of(derivation: &Derivation) -> Result<Self, String> {
        let mut rules = Vec::new();
        for (variable, allows, deep) in RULES {
            let Some(list) = derivation.env(variable.as_bytes()) else { continue };
            let paths =
                words(list).map(|word| specifier(derivation, variable, word)).collect::<Result<_, _>>()?;
            rules.push(Rule { variable, allows, deep, paths });
        }
        Ok(Self(rules))
    }

    /// Whether some rule is about all that an output needs.
    pub(super) fn are_deep(&self) -> bool {
        self.0.iter().any(|rule| rule.deep)
    }

    /// Checks an output: its references, and all that it needs, itself left out unless something else needs it.
    ///
    /// # Errors
    /// Which reference is against which rule.
    pub(super) fn check(
        &self,
        output: &StorePath,
        references: &[StorePath],
        requisites: &BTreeSet<StorePath>,
    ) -> Result<(), String> {
        for Rule { variable, allows, deep, paths } in &self.0 {
            let mut used: Box<dyn Iterator<Item = &StorePath>> =
                if *deep { Box::new(requisites.iter()) } else { Box::new(references.iter()) };
            if let Some(bad) = used.find(|path| paths.contains(path) != *allows) {
                return Err(format!(
                    "the output {output} must not {} {bad}: the derivation's {variable} says so",
                    if *deep { "need" } else { "refer to" }
                ));
            }
        }
        Ok(())
    }
}

fn specifier(derivation: &Derivation, variable: &str, word: &[u8]) -> Result<StorePath, String> {
    let text = std::str::from_utf8(word).ok();
    let path = text.and_then(|text| StorePath::parse(text).ok());
    path.or_else(|| text.and_then(|text| derivation.output(text)).map(|output| output.path.clone())).ok_or_else(|| {
        let word = String::from_utf8_lossy(word);
        format!("the derivation's {variable} has '{word}', which is neither a store path nor one of its outputs")
    })
}

/// All that an output needs: the closures of what it refers to. `siblings` are the references of the outputs that were built
/// with it, `closure` gives those of what is in the store.
///
/// # Errors
/// Those of `closure`.
pub(super) fn requisites<E>(
    output: &StorePath,
    siblings: &HashMap<StorePath, Vec<StorePath>>,
    closure: impl FnOnce(&[StorePath]) -> Result<Vec<StorePath>, E>,
) -> Result<BTreeSet<StorePath>, E> {
    let mut found = BTreeSet::new();
    let mut stored = Vec::new();
    let own = siblings.get(output).into_iter().flatten().filter(|path| *path != output);
    let mut next: Vec<&StorePath> = own.collect();
    while let Some(path) = next.pop() {
        if !found.insert(path.clone()) {
            continue;
        }
        match siblings.get(path) {
            Some(references) => next.extend(references),
            None => stored.push(path.clone()),
        }
    }
    found.extend(closure(&stored)?);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use drover_store::Sha256Hash;
    use drover_store::derivation::Output;

    use super::*;

    fn item(name: &str) -> StorePath {
        drover_store::path::source(name, &Sha256Hash::of(name.as_bytes())).unwrap()
    }

    fn restrictions(env: &[(&str, String)]) -> Result<Restrictions, String> {
        let mut env: Vec<_> =
            env.iter().map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
        env.sort();
        let output = |name: &str| Output { name: name.into(), path: item(name), fixed: None };
        Restrictions::of(&Derivation {
            outputs: vec![output("lib"), output("out")],
            inputs: Vec::new(),
            sources: Vec::new(),
            system: "x86_64-linux".into(),
            builder: b"/x".to_vec(),
            args: Vec::new(),
            env,
        })
    }

    /// Whether an output `out` with these references may be, if `a` refers to `b`.
    fn check(variable: &str, list: &str, references: &[&str]) -> Result<(), String> {
        let rules = restrictions(&[(variable, list.to_owned())]).unwrap();
        let references: Vec<_> = references.iter().map(|name| item(name)).collect();
        let siblings = HashMap::from([(item("out"), references.clone()), (item("lib"), vec![item("a")])]);
        let closure = |paths: &[StorePath]| {
            let more = paths.contains(&item("a")).then(|| item("b"));
            Ok::<_, String>(paths.iter().cloned().chain(more).collect())
        };
        rules.check(&item("out"), &references, &requisites(&item("out"), &siblings, closure).unwrap())
    }

    #[test]
    fn each_rule_finds_what_is_against_it() {
        let (a, b) = (item("a"), item("b"));
        check("allowedReferences", &format!("{a} out"), &["a", "out"]).unwrap();
        assert!(check("allowedReferences", a.as_str(), &["a", "out"]).unwrap_err().contains("-out"));
        assert!(check("allowedReferences", "", &["a"]).unwrap_err().contains("allowedReferences"));
        check("allowedRequisites", &format!("{a} {b}"), &["a", "out"]).unwrap();
        assert!(check("allowedRequisites", a.as_str(), &["a"]).unwrap_err().contains(b.as_str()));
        check("disallowedReferences", b.as_str(), &["a"]).unwrap();
        assert!(check("disallowedReferences", a.as_str(), &["a"]).is_err());
        assert!(check("disallowedRequisites", b.as_str(), &["a"]).is_err());
        // Through an output that was built with it.
        assert!(check("disallowedRequisites", b.as_str(), &["lib"]).is_err());
        check("disallowedRequisites", "out", &["lib", "out"]).unwrap();
    }

    #[test]
    fn a_word_that_is_neither_path_nor_output_is_refused() {
        assert!(restrictions(&[("allowedReferences", "doc".into())]).unwrap_err().contains("'doc'"));
        assert!(!restrictions(&[]).unwrap().are_deep());
    }
}
