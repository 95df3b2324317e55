-- Results: where nars lie, what is published, what hooks are to do, and what is removed when.

-- Where nars are kept. Those of the configuration are noted here at the start, by name; the first is the folder
-- `nars` of the state folder. kind: a folder, a bucket, or one that an import took over as it was, to which nothing is
-- added. location: the folder, or the bucket's address. mark: what stands beside its name in the file drover-place in a
-- bucket. bytes, files: what lies there, kept by the triggers below.
CREATE TABLE places (
    id       INTEGER PRIMARY KEY,
    name     TEXT NOT NULL UNIQUE,
    kind     TEXT NOT NULL CHECK (kind IN ('folder', 'bucket', 'adopted')),
    location TEXT NOT NULL,
    mark     TEXT NOT NULL DEFAULT (lower(hex(randomblob(8)))),
    drained  INTEGER NOT NULL DEFAULT 0,
    bytes    INTEGER NOT NULL DEFAULT 0,
    files    INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO places (id, name, kind, location) VALUES (1, 'state', 'folder', '');

-- The nars of items, as files; the item of a small source has its nar in contents instead. compression: 0 none, 1 gzip,
-- 2 lzip, 3 zstd. name: relative to the place, where it is not the usual one (see Storage::usual_name). checked_at:
-- when its bytes were last found to be what the item says; none for what was adopted and not read yet.
CREATE TABLE files (
    item        INTEGER NOT NULL,
    compression INTEGER NOT NULL CHECK (compression BETWEEN 0 AND 3),
    place       INTEGER NOT NULL,
    name        TEXT,
    size        INTEGER NOT NULL,
    checked_at  INTEGER,
    PRIMARY KEY (item, compression)
) STRICT, WITHOUT ROWID;
CREATE INDEX files_unchecked ON files (item) WHERE checked_at IS NULL;
CREATE INDEX files_by_place ON files (place);

-- Bytes that came and went in each place, by days since 1970.
CREATE TABLE place_days (
    place   INTEGER NOT NULL,
    day     INTEGER NOT NULL,
    added   INTEGER NOT NULL DEFAULT 0,
    removed INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (place, day)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER files_counted_in AFTER INSERT ON files BEGIN
    UPDATE places SET bytes = bytes + NEW.size, files = files + 1 WHERE id = NEW.place;
    INSERT INTO place_days (place, day, added) VALUES (NEW.place, unixepoch() / 86400, NEW.size)
        ON CONFLICT (place, day) DO UPDATE SET added = added + NEW.size;
END;
CREATE TRIGGER files_counted_out AFTER DELETE ON files BEGIN
    UPDATE places SET bytes = bytes - OLD.size, files = files - 1 WHERE id = OLD.place;
    INSERT INTO place_days (place, day, removed) VALUES (OLD.place, unixepoch() / 86400, OLD.size)
        ON CONFLICT (place, day) DO UPDATE SET removed = removed + OLD.size;
END;
CREATE TRIGGER files_counted_over AFTER UPDATE OF place, size ON files BEGIN
    UPDATE places SET bytes = bytes - OLD.size, files = files - 1 WHERE id = OLD.place;
    UPDATE places SET bytes = bytes + NEW.size, files = files + 1 WHERE id = NEW.place;
    INSERT INTO place_days (place, day, removed) VALUES (OLD.place, unixepoch() / 86400, OLD.size)
        ON CONFLICT (place, day) DO UPDATE SET removed = removed + OLD.size;
    INSERT INTO place_days (place, day, added) VALUES (NEW.place, unixepoch() / 86400, NEW.size)
        ON CONFLICT (place, day) DO UPDATE SET added = added + NEW.size;
END;

INSERT INTO files (item, compression, place, size, checked_at)
    SELECT i.path, 3, 1, i.file_size, i.added_at FROM items i
    WHERE NOT EXISTS (SELECT 1 FROM contents c WHERE c.path = i.path);
DELETE FROM place_days;

-- Files that may exist and belong to no row: one that is about to be made is noted here first, and the note goes when
-- the file gets its row; one whose row is deleted is noted here in the same transaction, and the note goes when the
-- file is gone. since: it is not removed before.
CREATE TABLE leftovers (
    place INTEGER NOT NULL,
    name  TEXT NOT NULL,
    since INTEGER NOT NULL,
    PRIMARY KEY (place, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX leftovers_by_time ON leftovers (since);

-- Places that are being emptied, or were. target: where to; none if that is left to the policy. moved, bytes: what went.
-- failed: files that could not be moved at the last look, and error: why the last of them could not.
CREATE TABLE moves (
    place      INTEGER PRIMARY KEY,
    target     INTEGER,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    moved      INTEGER NOT NULL DEFAULT 0,
    bytes      INTEGER NOT NULL DEFAULT 0,
    failed     INTEGER NOT NULL DEFAULT 0,
    error      TEXT
) STRICT;

-- Where the file of an output is that is complete, and no item yet; its name as in files.
ALTER TABLE uploads ADD COLUMN place INTEGER;
ALTER TABLE uploads ADD COLUMN name TEXT;
UPDATE uploads SET place = 1 WHERE complete = 1;

-- The coordinator's keys: their public halves as text. One signs: that with the latest signs_from that has come.
-- may_go_at: when nobody keeps anything any more that it signed; none as long as it signs, or something that is
-- published is signed by it. retired_at: since when it is not ours any more.
CREATE TABLE keys (
    id         INTEGER PRIMARY KEY,
    public     TEXT NOT NULL UNIQUE,
    made_at    INTEGER NOT NULL,
    signs_from INTEGER NOT NULL,
    may_go_at  INTEGER,
    retired_at INTEGER
) STRICT;

-- What the public listener shows: the narinfo as it is sent. key: which of ours signed it; none: somebody else did. until:
-- when it is to be withdrawn, if that was announced: nobody may be told to keep it for longer.
-- elsewhere: the nars that it names are those of another server (see redirects), not those in files.
CREATE TABLE published (
    path         INTEGER PRIMARY KEY,
    narinfo      BLOB NOT NULL,
    key          INTEGER,
    published_at INTEGER NOT NULL,
    until        INTEGER,
    elsewhere    INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX published_by_key ON published (key) WHERE key IS NOT NULL;

-- In which order things were published, for mirrors, which ask for what came after a number; kept by the triggers. A
-- number is never given twice.
CREATE TABLE publications (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    path   INTEGER NOT NULL UNIQUE
) STRICT;
CREATE TRIGGER published_numbered AFTER INSERT ON published BEGIN
    INSERT OR IGNORE INTO publications (path) VALUES (NEW.path);
END;
CREATE TRIGGER published_forgotten AFTER DELETE ON published BEGIN
    DELETE FROM publications WHERE path = OLD.path;
END;

-- What is held back from the public, and what it waits for.
CREATE TABLE withheld (
    path      INTEGER NOT NULL,
    reference INTEGER NOT NULL,
    PRIMARY KEY (path, reference)
) STRICT, WITHOUT ROWID;
CREATE INDEX withheld_by_reference ON withheld (reference);

-- What is never published, and why, as far as it is known.
CREATE TABLE unpublishable (
    path INTEGER PRIMARY KEY,
    why  TEXT NOT NULL
) STRICT;
-- What there was before a hook was switched on, or pushed to where it does, and it is given all the same: outputs that
-- are held, for the one that publishes, in the order of their numbers; what is published, for those that push, in the
-- order of its publication. What has a number up to `last` is given, and what has one up to `given` was. No row: all was.
CREATE TABLE backlog (
    hook  TEXT PRIMARY KEY,
    given INTEGER NOT NULL,
    last  INTEGER NOT NULL
) STRICT;
-- Those hooks, as far as they were switched on at the last start, and where they push to.
CREATE TABLE hooks_on (
    hook   TEXT PRIMARY KEY,
    target TEXT NOT NULL
) STRICT;
CREATE INDEX set_rows_private ON set_rows (target) WHERE publish = 0;
CREATE INDEX set_rows_by_target ON set_rows (target, in_set, last) WHERE target IS NOT NULL;
CREATE INDEX item_references_backwards ON item_references (reference);

-- The longest time that clients may keep a narinfo, in seconds, as it was promised last; and until when (in
-- milliseconds) an earlier, longer promise may be believed.
CREATE TABLE promises (
    ttl   INTEGER NOT NULL,
    until INTEGER NOT NULL
) STRICT;

-- Fixed outputs that are held, by what fixes them.
CREATE TABLE fixed_outputs (
    path      INTEGER PRIMARY KEY,
    algorithm TEXT NOT NULL,
    recursive INTEGER NOT NULL,
    hash      BLOB NOT NULL
) STRICT;
CREATE INDEX fixed_outputs_by_hash ON fixed_outputs (hash);

-- How the upstream of a fixed output was found at the last look.
CREATE TABLE upstreams (
    path       INTEGER PRIMARY KEY,
    checked_at INTEGER NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('there', 'vanished', 'changed', 'unknown')),
    detail     TEXT
) STRICT;

-- What happened. build: its number; path: of a store item, for what is about one. detail: JSON.
CREATE TABLE events (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    at     INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    build  INTEGER,
    path   INTEGER,
    detail TEXT
) STRICT;

-- What hooks are to do, are doing, or gave up. event: the event's number, where it came from one. due: when it may run.
-- asked: how often it was asked for while it waited; what was asked for again while it ran runs again.
CREATE TABLE hook_runs (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    hook      TEXT NOT NULL,
    event     INTEGER,
    kind      TEXT NOT NULL,
    build     INTEGER,
    path      INTEGER,
    detail    TEXT,
    state     TEXT NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'failed')),
    asked     INTEGER NOT NULL DEFAULT 1,
    tries     INTEGER NOT NULL DEFAULT 0,
    queued_at INTEGER NOT NULL,
    due       INTEGER NOT NULL,
    error     TEXT
) STRICT;
CREATE INDEX hook_runs_waiting ON hook_runs (hook, due, id) WHERE state = 'waiting';
CREATE INDEX hook_runs_failed ON hook_runs (hook, id) WHERE state = 'failed';
CREATE INDEX hook_runs_by_build ON hook_runs (build) WHERE build IS NOT NULL;
CREATE INDEX hook_runs_by_path ON hook_runs (path) WHERE path IS NOT NULL;

-- How often the hook retry has had the same built before.
ALTER TABLE builds ADD COLUMN retries INTEGER NOT NULL DEFAULT 0;

-- The last event that was given to the hooks.
CREATE TABLE hook_cursor (
    event INTEGER NOT NULL
) STRICT;
INSERT INTO hook_cursor VALUES (0);

-- What another server verifiably has, to which requests for its nar are redirected as far as it is not here. It is no
-- item any more, but for one that is being removed for the sake of it (whose row in removals says 'elsewhere'), and one
-- that is held again (until: how long somebody may come for a nar of the other server's). found_at: when it was found there
-- last, asked_at: when it was looked for there last. added_at: when the item came. file: whether the server has the
-- contents of a fixed output by their hash. narinfo, key: as they were published, while they are not.
CREATE TABLE redirects (
    path       INTEGER PRIMARY KEY,
    server     TEXT NOT NULL,
    found_at   INTEGER NOT NULL,
    asked_at   INTEGER NOT NULL,
    added_at   INTEGER NOT NULL,
    file       INTEGER NOT NULL DEFAULT 0,
    until      INTEGER,
    narinfo    BLOB,
    key        INTEGER
) STRICT;
CREATE INDEX redirects_by_question ON redirects (asked_at) WHERE until IS NULL;
CREATE INDEX redirects_by_end ON redirects (until) WHERE until IS NOT NULL;

-- Where the nars of these are there; compression as in files, url: whole.
CREATE TABLE redirect_nars (
    path        INTEGER NOT NULL,
    compression INTEGER NOT NULL CHECK (compression BETWEEN 0 AND 3),
    url         TEXT NOT NULL,
    PRIMARY KEY (path, compression)
) STRICT, WITHOUT ROWID;

-- What no server had when they were all asked, and when that was.
CREATE TABLE elsewhere_misses (
    path       INTEGER PRIMARY KEY,
    checked_at INTEGER NOT NULL
) STRICT;
CREATE INDEX elsewhere_misses_by_time ON elsewhere_misses (checked_at);

-- What retention takes away. reason: 'not kept', or 'elsewhere': another server has it (see redirects). step: announced
-- (served with a shorter time to live until due), withdrawn (no narinfo of it is served any more; its files go when it is
-- due). shown: whether it was published when it was withdrawn: its nar can be had until its files go.
CREATE TABLE removals (
    path   INTEGER PRIMARY KEY,
    reason TEXT NOT NULL,
    step   TEXT NOT NULL CHECK (step IN ('announced', 'withdrawn')),
    due    INTEGER NOT NULL,
    shown  INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX removals_due ON removals (step, due);

-- A set that was dropped keeps its rows for as long as retention says.
ALTER TABLE sets ADD COLUMN dropped_at INTEGER;
ALTER TABLE revisions ADD COLUMN superseded_at INTEGER;
UPDATE revisions SET superseded_at = (SELECT min(n.submitted_at) FROM revisions n
                                      WHERE n.in_set = revisions.in_set AND n.id > revisions.id);

-- When a client asked for the build last.
ALTER TABLE builds ADD COLUMN asked_at INTEGER;
UPDATE builds SET asked_at = submitted_at WHERE asked IS NOT NULL;
CREATE INDEX builds_asked ON builds (asked_at) WHERE asked_at IS NOT NULL;

-- When something that is kept was last found to need a fixed output.
CREATE TABLE needed (
    path INTEGER PRIMARY KEY,
    at   INTEGER NOT NULL
) STRICT;

-- What is taken over from elsewhere. options: JSON. cursor: where to go on, in the importer's own words. rests: it has
-- ended, or is a mirror that waits for its next time.
CREATE TABLE imports (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    source     TEXT NOT NULL,
    options    TEXT NOT NULL,
    state      TEXT NOT NULL CHECK (state IN ('running', 'done', 'failed', 'stopped')),
    cursor     TEXT,
    taken      INTEGER NOT NULL DEFAULT 0,
    bytes      INTEGER NOT NULL DEFAULT 0,
    known      INTEGER NOT NULL DEFAULT 0,
    refused    INTEGER NOT NULL DEFAULT 0,
    error      TEXT,
    started_at INTEGER NOT NULL,
    ended_at   INTEGER,
    rests      INTEGER NOT NULL DEFAULT 0
) STRICT;
-- The base names of what an import is to take, where it was told.
CREATE TABLE import_paths (
    import INTEGER NOT NULL,
    number INTEGER NOT NULL,
    base   TEXT NOT NULL,
    PRIMARY KEY (import, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE import_refusals (
    import INTEGER NOT NULL,
    item   TEXT NOT NULL,
    why    TEXT NOT NULL,
    PRIMARY KEY (import, item)
) STRICT, WITHOUT ROWID;

-- Logs go by their age.
ALTER TABLE attempts ADD COLUMN log_removed_at INTEGER;
CREATE INDEX attempts_with_logs ON attempts (outcome, ended_at) WHERE log_packed = 1 AND log_removed_at IS NULL;

-- Derivations and sources that nothing needs, and since when. For those who ask what they have to upload they are not
-- here, for they may soon not be.
CREATE TABLE idle (
    path  INTEGER PRIMARY KEY,
    since INTEGER NOT NULL
) STRICT;
-- Without it, all builds would be looked through whenever a derivation goes.
CREATE INDEX builds_by_derivation ON builds (derivation);
