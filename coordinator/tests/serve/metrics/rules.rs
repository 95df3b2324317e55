//! Alerts and the dashboard ask for numbers that there are, in words that Prometheus understands.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use drover_wire::route;
use serde_json::Value;

use super::of_a_farm_at_work;

const ALERTS: &str = include_str!("../../../metrics/alerts.yml");
const DASHBOARD: &str = include_str!("../../../metrics/dashboard.json");

/// The labels of samples, and their values, by the samples' names.
type Samples<'t> = BTreeMap<&'t str, BTreeMap<&'t str, BTreeSet<&'t str>>>;

fn samples(text: &str) -> Samples<'_> {
    let mut samples = Samples::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).unwrap());
        let labels = samples.entry(name).or_default();
        for (label, value) in matchers(rest).into_iter().map(|(label, _, value)| (label, value)) {
            labels.entry(label).or_default().insert(value);
        }
    }
    samples
}

/// What stands in the braces at the beginning of a text, if there are any: labels, how they are compared, and values.
fn matchers(text: &str) -> Vec<(&str, &str, &str)> {
    let mut all = Vec::new();
    let Some(mut rest) = text.strip_prefix('{') else { return all };
    while let Some((head, quoted)) = rest.split_once('"') {
        let label = head.find(['=', '!']).unwrap();
        let (value, after) = quoted.split_once('"').unwrap();
        all.push((head[..label].trim(), head[label..].trim(), value));
        if after.starts_with('}') {
            break;
        }
        rest = after.trim_start_matches([',', ' ']);
    }
    all
}

/// The numbers that an expression asks for, each with what follows its name.
fn selectors(expression: &str) -> Vec<(&str, &str)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let starts = expression.match_indices("drover_").map(|(at, _)| &expression[at..]);
    starts.map(|rest| rest.split_at(rest.find(|c| !is_name(c)).unwrap_or(rest.len()))).collect()
}

/// The labels that an expression joins or sums by.
fn groups(expression: &str) -> Vec<&str> {
    let lists = ["by (", "on ("].into_iter().flat_map(|word| expression.split(word).skip(1));
    lists.flat_map(|list| list.split(')').next().unwrap().split(',')).map(str::trim).collect()
}

/// The labels that a text for people shows, between these.
fn shown<'t>(text: &'t str, before: &'t str) -> Vec<&'t str> {
    let pieces = text.split(before).skip(1);
    pieces
        .map(|piece| piece.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap())
        .collect()
}

/// What Prometheus itself adds.
const ADDED: [&str; 2] = ["job", "instance"];

/// What is wrong with an expression, and with the labels that are shown of it.
fn wrong(expression: &str, shown: &[&str], samples: &Samples<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut known: BTreeSet<&str> = ADDED.into();
    for (name, rest) in selectors(expression) {
        let Some(labels) = samples.get(name) else {
            wrong.push(format!("there is no {name}"));
            continue;
        };
        known.extend(labels.keys());
        for (label, comparison, value) in matchers(rest) {
            let Some(values) = labels.get(label) else {
                if !ADDED.contains(&label) {
                    wrong.push(format!("{name} has no label {label}"));
                }
                continue;
            };
            // What matches nothing in a farm that did everything matches nothing ever; but for errors, of which it has none.
            let simple = comparison == "=" || comparison == "=~" && !value.contains(['(', '.', '*']);
            let unknown = |one: &&str| *one != "5xx" && !values.contains(one);
            if let Some(one) = value.split('|').filter(|_| simple).find(unknown) {
                wrong.push(format!("{name} has no {label} {one}, but {values:?}"));
            }
        }
    }
    let named = groups(expression).into_iter().chain(shown.iter().copied());
    wrong.extend(named.filter(|label| !known.contains(label)).map(|label| format!("no label {label}")));
    wrong
}

/// The titles of panels, their expressions, and how what these tell is called.
fn panels() -> Vec<(String, String, String)> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            all.push((text(&panel["title"]), text(&target["expr"]), text(&target["legendFormat"])));
        }
    }
    assert!(all.len() > 40, "{all:?}");
    all
}

/// The alerts: each with the text that it is.
fn alerts() -> Vec<&'static str> {
    let all: Vec<_> = ALERTS.split("- alert: ").skip(1).collect();
    assert!(all.len() > 15, "{all:?}");
    all
}

/// The expression of an alert.
fn expression(alert: &str) -> &str {
    let (_, rest) = alert.split_once("expr: ").unwrap();
    let end = ["\n        for: ", "\n        labels: "].into_iter().filter_map(|next| rest.find(next)).min();
    &rest[..end.unwrap()]
}

#[test]
fn alerts_and_dashboard_ask_only_for_numbers_and_labels_that_there_are() {
    let text = of_a_farm_at_work();
    let samples = samples(&text);
    for alert in alerts() {
        let wrong = wrong(expression(alert), &shown(alert, "$labels."), &samples);
        assert!(wrong.is_empty(), "{wrong:?} in {alert}\n{text}");
    }
    for (title, expression, legend) in panels() {
        let wrong = wrong(&expression, &shown(&legend, "{{"), &samples);
        assert!(wrong.is_empty(), "{title}: {wrong:?} in {expression}\n{text}");
        // What is held open, and left out of what is slow.
        if let Some((_, open)) = expression.split_once("route!~\"") {
            let routes: BTreeSet<&str> =
                route::TABLES.iter().copied().flatten().map(|route| route.pattern).collect();
            assert_eq!(open.split('"').next(), Some("/v1/(poll|wait)|/events|none"));
            assert!(
                ["/v1/poll", "/v1/wait", "/events"].iter().all(|open| routes.contains(open)),
                "{routes:?}"
            );
        }
    }
    // What is wrong is seen.
    for (expression, shown) in [
        ("sum(drover_build)", ""),
        ("drover_builds{status=\"ready\"}", ""),
        ("drover_builds{state=~\"ready|steady\"}", ""),
        ("sum by (agent) (drover_builds)", ""),
        ("drover_builds{state=\"ready\"}", "place"),
    ] {
        let shown: Vec<&str> = shown.split_whitespace().collect();
        assert_eq!(wrong(expression, &shown, &samples).len(), 1, "{expression}");
    }
}

/// Prometheus' own checker, if there is one.
fn promtool(arguments: &[&str], folder: &Path, input: &str) -> Option<(bool, String)> {
    let Some(promtool) = std::env::var_os("DROVER_PROMTOOL") else {
        println!(
            "SKIPPED: promtool about {arguments:?}: DROVER_PROMTOOL does not name that program of Prometheus"
        );
        return None;
    };
    let mut checking = Command::new(&promtool)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    checking.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let checked = checking.wait_with_output().unwrap();
    let said = String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap();
    Some((checked.status.success(), said))
}

#[test]
fn promtool_finds_nothing_wrong_with_the_numbers() {
    let text = of_a_farm_at_work();
    let checked = promtool(&["check", "metrics"], Path::new("/"), &text);
    assert!(checked.is_none_or(|(well, said)| well && said.is_empty() || panic!("{said}\n{text}")));
}

#[test]
fn promtool_finds_nothing_wrong_with_the_alerts_and_made_up_numbers_raise_those_that_they_should() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("metrics");
    for (what, file) in [("check", "alerts.yml"), ("test", "alerts.test.yml")] {
        let Some((well, said)) = promtool(&[what, "rules", file], &folder, "") else { return };
        assert!(well && said.contains("SUCCESS"), "promtool {what} rules: {said}");
    }
}

#[test]
fn promtool_understands_what_the_dashboard_asks() {
    let folder = tempfile::tempdir().unwrap();
    let check = |expressions: &[String]| {
        let rules: Vec<Value> = expressions
            .iter()
            .enumerate()
            .map(|(n, asked)| serde_json::json!({"record": format!("panel:{n}"), "expr": asked}))
            .collect();
        // JSON is YAML.
        let rules = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
        std::fs::write(folder.path().join("rules.yml"), rules.to_string()).unwrap();
        promtool(&["check", "rules", "rules.yml"], folder.path(), "")
    };
    let asked = panels().into_iter().map(|(_, asked, _)| {
        // What Grafana puts there.
        asked.replace("$__rate_interval", "2m").replace("$job", "drover")
    });
    let asked: Vec<String> = asked.collect();
    assert!(asked.iter().all(|asked| !asked.contains('$')), "{asked:?}");
    let Some((well, said)) = check(&asked) else { return };
    assert!(well && said.contains(&format!("{} rules found", asked.len())), "{said}");
    let (well, said) = check(&["sum by (drover_builds".to_owned()]).unwrap();
    assert!(!well, "{said}");
}
