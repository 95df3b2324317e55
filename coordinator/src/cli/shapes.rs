//! What `--json` prints, for the help.

/// `drover build`
pub(super) const BUILD: &str = r#"Lines of JSON:
  {"event": "submitted", "build", "derivation", "state", "new"} for each build,
  {"event": "summary", "uploaded", "for_inputs", "missing_sources", "missing_sources_count"} once,
  {"event": "ended", "build", "derivation", "state", "why"} for each build, with --wait"#;
/// `drover builds`
pub(super) const BUILDS: &str = r#"Lines of JSON: {"build", "derivation", "system", "state", "phase", "priority", "tags", "agent",
  "submitted_at", "started_at", "ended_at"}; times are milliseconds since 1970"#;
/// `drover show`
pub(super) const SHOW: &str = r#"JSON: {"summary" (as builds has it), "why", "wanted", "timeout", "max_silent_time",
  "waits_for", "waits_for_count", "outputs", "attempts"}; each of outputs has "publication": {"state"} with
  "since" and "until" if published, "waits_for" and "count" if waiting, "why" if never; or pending"#;
/// `drover set submit`
pub(super) const SET_SUBMIT: &str = r#"JSON: {"set", "revision", "superseded", "new", "rows", "rows_new", "rows_gone", "not_evaluated", "builds",
  "for_inputs", "canceled", "missing_sources" (at most 100), "missing_sources_count",
  "uploaded": {"derivations", "sources", "known"}}"#;
/// `drover set list`
pub(super) const SET_LIST: &str = r#"Lines of JSON: {"set", "revision", "submitted_at", "revisions", "keep", "dropped_at", "total"}; times are milliseconds
  since 1970; total is {"wanted", "done", "failed", "dependency_failed", "running", "waiting", "canceled",
  "not_evaluated"}, in rows"#;
/// `drover set show`
pub(super) const SET_SHOW: &str = r#"JSON: {"set", "revision", "current", "submitted_at", "keep", "parts", "total", "estimate", "revisions"}; each of
  parts is {"system", "target", "tally" (as list has total), "estimate"}; an estimate is {"seconds" from now,
  "ended" rows, "within" seconds} or null; each of revisions is {"revision", "submitted_at", "rows"}"#;
/// `drover set diff`
pub(super) const SET_DIFF: &str = r#"JSON: {"a", "b", "changes", "counts" by kind, "same"}; each of changes is {"kind", "package", "system", "target",
  "before", "after"}; before and after are {"version", "derivation", "build", "state", "error" (why it was not
  evaluated)} or null"#;
/// `drover set blockers`
pub(super) const SET_BLOCKERS: &str = r#"JSON: {"set", "revision", "blockers", "count", "rows"}; each of blockers is {"derivation", "system", "build",
  "state", "missing_source", "holds_up" rows}"#;
/// `drover set drop`
pub(super) const SET_DROP: &str = r#"JSON: {"set", "revisions", "canceled"}"#;
/// `drover events`
pub(super) const EVENTS: &str = r#"Lines of JSON: {"id", "at", "kind"} and, as far as there is: "build", "derivation", "system", "tags", "agent",
  "attempt", "item", "state", "phase", "hook", "place", "room", "missing", "text"; ids grow, and --since takes one;
  an event of the kind reset says that events before it are missing: take the state (GET /state) again"#;
/// `drover cancel`
pub(super) const CANCEL: &str = "Lines of JSON: for each build what show has";
/// `drover fetch`
pub(super) const FETCH: &str = r#"JSON: {"path", "to", "nar_hash", "nar_size"}"#;
/// `drover agent`
pub(super) const AGENT: &str = r#"JSON: of new {"agent", "name", …}, of list a line of that for each, of passwords and tokens {"secret"}"#;
/// `drover import`, `drover mirror`
pub(super) const IMPORT: &str = r#"JSON: {"summary", "refusals" (at most 1,000)}; of list lines of summary: {"import", "source", "state" (running,
  done, failed, stopped), "in_place", "every_minutes", "taken", "bytes", "known", "refused", "waits_for" (in
  words), "error", "started_at", "ended_at"}, of mirrors and with --detach one of them; each of refusals is {"item",
  "why"}; times are milliseconds since 1970"#;
/// `drover derivation check`
pub(super) const CHECK: &str = r#"Lines of JSON: {"event": "problem", "path", "problem"} for each, then
  {"event": "summary", "given", "inputs", "parsed", "byte_exact", "name_right", "outputs_right", "problems"}"#;
/// `drover hooks`
pub(super) const HOOKS: &str = r#"Lines of JSON: {"hook", "kind" (null: not configured any more), "on", "enabled", "waiting" (with those that run),
  "running", "failed", "last_error"}; of failed {"failed", "runs"}, each of runs {"event", "build" or "item", "tries",
  "queued_at", "error"}; of retry {"runs"}"#;
/// `drover retention`
pub(super) const RETENTION: &str = r#"JSON: {"removes", "kept", "others", "fixed_outputs", "unless_elsewhere", "leaving", "elsewhere", "revisions", "why"};
  each of kept is {"reason", "items", "bytes"}; each of why {"path", "fate" (kept, goes, elsewhere, not-held), "ground",
  "way", "row", "build", "due", "unless_elsewhere", "other_server": {"server", "found_at"}, "missed_at"}; of run and status
  {"removes", "running", "runs", "last", "announced", "withdrawn", "leaving", "elsewhere", "next_due"}; of --estimate {"builds_a_day",
  "measured", "parts"}, each of parts {"what" (logs, failed-logs, history, events, hook-runs, derivations, paths),
  "days" (0: never goes), "now", "a_day", "bytes_each", "measured", "steady" (null: grows), "bytes" (of what grows: of
  a year)}"#;
/// `drover key`
pub(super) const KEY: &str = r#"JSON: of show {"public_key"}; of list lines of {"key", "public_key", "state" ("signs", "next", "signed" or
  "retired"), "made_at", "signs_from", "signed" narinfos that are published, "may_go_at", "retired_at"}; of rotate
  {"old", "new", "ttl"} and of retire one of these; of generate
  {"secret", "public", "public_key"}; of tls {"key"}"#;
/// `drover storage`
pub(super) const STORAGE: &str = r#"Lines of JSON, one for each place: {"name", "kind" (folder, bucket, adopted), "location", "files", "bytes",
  "capacity", "reserve", "disk_free", "room", "growth_7_days", "growth_30_days" (bytes a day), "full_in_days", "open",
  "moving": {"to", "started_at", "moved", "moved_bytes", "failed", "error", "ended_at"} or null}; amounts are bytes,
  null where there is no limit; times are milliseconds since 1970"#;

/// `drover sources`
pub(super) const SOURCES: &str = r#"Lines of JSON, one for each source: {"path", "held", "hash" (sha256:…, r:sha256:… of a nar), "urls",
  "state" (unchecked, there, vanished, changed, unknown), "checked_at", "detail"}; times are milliseconds since 1970"#;
