use std::time::Duration;

use drover_wire::route::Listener;

use super::*;
use crate::farm::change::Change;

fn written(numbers: &Numbers, format: Format) -> String {
    format.write(&[numbers.registry()]).unwrap()
}

#[test]
fn what_was_measured_is_counted_by_system_and_outcome() {
    let numbers = Numbers::default();
    let waited = Waited {
        system: "x86_64-linux".to_owned(),
        since_submission: Some(Duration::from_secs(40)),
        since_ready: Some(Duration::from_millis(20)),
    };
    let built =
        Fact::Built { system: "x86_64-linux".to_owned(), outcome: "failed", time: Duration::from_secs(400) };
    let facts = [Fact::Allocated(waited), Fact::Closed { outcome: "failed" }, built];
    numbers.follow(&facts.map(Change::Measured));
    let text = written(&numbers, Format::Prometheus);
    for line in [
        "drover_build_wait_seconds_bucket{system=\"x86_64-linux\",le=\"15\"} 0",
        "drover_build_wait_seconds_bucket{system=\"x86_64-linux\",le=\"60\"} 1",
        "drover_build_dispatch_seconds_bucket{system=\"x86_64-linux\",le=\"0.05\"} 1",
        "drover_build_duration_seconds_sum{system=\"x86_64-linux\",outcome=\"failed\"} 400.0",
        "drover_leases_opened_total 1",
        "drover_leases_closed_total{outcome=\"failed\"} 1",
        "drover_leases_closed_total{outcome=\"lease-lost\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
    }
}

#[test]
fn names_that_mean_something_in_the_format_are_only_names() {
    let numbers = Numbers::default();
    let waited = Waited {
        system: "a\"} 1\nevil{b=\"\\".to_owned(),
        since_submission: Some(Duration::ZERO),
        since_ready: None,
    };
    numbers.follow(&[Change::Measured(Fact::Allocated(waited))]);
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let text = written(&numbers, format);
        assert!(!text.lines().any(|line| line.starts_with("evil")), "{text}");
        assert!(text.contains(r#"system="a\"} 1\nevil{b=\"\\""#), "{text}");
    }
}

#[test]
fn systems_that_somebody_makes_up_have_only_so_many_rows() {
    let numbers = Numbers::default();
    for n in 0..1000 {
        let system = if n % 2 == 0 { "x86_64-linux".to_owned() } else { format!("made-up-{n}") };
        let built = Fact::Built { system: system.clone(), outcome: "failed", time: Duration::ZERO };
        let waited = Waited { system, since_submission: None, since_ready: Some(Duration::ZERO) };
        numbers.follow(&[built, Fact::Allocated(waited)].map(Change::Measured));
    }
    let text = written(&numbers, Format::Prometheus);
    let rows = text.lines().filter(|line| line.starts_with("drover_build_dispatch_seconds_count{")).count();
    assert_eq!(rows, 65, "{text}");
    assert!(text.contains("drover_build_dispatch_seconds_count{system=\"x86_64-linux\"} 500"), "{text}");
    assert!(
        text.contains("drover_build_duration_seconds_count{system=\"other\",outcome=\"failed\"} 437"),
        "{text}"
    );
}

#[test]
fn requests_are_counted_by_what_the_table_has_of_them() {
    let numbers = Numbers::default();
    let (method, route) = ("GET", "/v1/builds/{build}");
    for status in [Some(200), Some(204), Some(404), Some(500), Some(999), None] {
        let time = Duration::from_millis(3);
        let listener = Listener::Clients;
        numbers.request(&Request { listener, method, route, status, time });
    }
    let text = written(&numbers, Format::Prometheus);
    for (class, count) in [("2xx", 2), ("4xx", 1), ("5xx", 2), ("left", 1)] {
        let line = format!(
            "drover_requests_total{{listener=\"clients\",method=\"GET\",route=\"{route}\",status=\"{class}\"}} {count}"
        );
        assert!(text.contains(&line), "no {line} in\n{text}");
    }
    let labels = format!("listener=\"clients\",method=\"GET\",route=\"{route}\"");
    assert!(text.contains(&format!("drover_request_duration_seconds_count{{{labels}}} 5")), "{text}");
}

#[test]
fn an_upload_is_under_way_until_it_ends_however_that_is() {
    let numbers = std::sync::Arc::new(Numbers::default());
    let open = || written(&numbers, Format::Prometheus);
    let mut whole = numbers.upload();
    let cut = numbers.upload();
    whole.came(7);
    assert!(open().contains("drover_uploads_open 2\n"));
    whole.ends(UploadEnd::Complete);
    drop((whole, cut));
    let text = open();
    for line in [
        "drover_uploads_open 0",
        "drover_upload_bytes_total 7",
        "drover_uploads_total{end=\"complete\"} 1",
        "drover_uploads_total{end=\"cut-off\"} 1",
        "drover_uploads_total{end=\"refused\"} 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
    }
}

#[test]
fn all_metrics_have_a_name_of_ours_a_help_text_and_are_there_once() {
    for format in [Format::Prometheus, Format::OpenMetrics] {
        let text = written(&Numbers::default(), format);
        let mut types: Vec<&str> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let count = types.len();
        assert!(count > 15, "{text}");
        types.sort_unstable();
        types.dedup();
        assert_eq!(types.len(), count, "{text}");
        for name in types {
            assert!(name.starts_with("drover_"), "{name}");
            let help = format!("# HELP {name} ");
            assert!(
                text.lines().any(|line| line.starts_with(&help) && line.len() > help.len() + 10),
                "{name}"
            );
        }
        assert_eq!(text.ends_with("# EOF\n"), format == Format::OpenMetrics);
    }
}
