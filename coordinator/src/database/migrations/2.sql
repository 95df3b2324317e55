-- Sets: what branches, patches and releases ask of the farm.

-- current: its newest revision. keep: whether builds of superseded revisions go on.
CREATE TABLE sets (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    name    TEXT NOT NULL UNIQUE,
    keep    INTEGER NOT NULL,
    current INTEGER NOT NULL
) STRICT;

-- Later revisions have higher numbers. rows: each row that came twice counted once.
CREATE TABLE revisions (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    in_set       INTEGER NOT NULL,
    name         TEXT NOT NULL,
    submitted_at INTEGER NOT NULL,
    rows         INTEGER NOT NULL,
    UNIQUE (in_set, name)
) STRICT;

-- The rows of all revisions. Most stay the same from one revision to the next, so a row is kept once, with the
-- first and the last revision that have it: a revision R of its set has it if first <= R <= last. last is
-- 9223372036854775807 as long as the current revision has it.
-- digest: of all that the row says; no two rows of one revision have the same. target: that of the derivation.
-- derivation and target are none where a package could not be evaluated, and error says why.
-- wanting: whether the build is (still) wanted for its sake: true of current rows, and of superseded ones of a set
-- that keeps.
CREATE TABLE set_rows (
    in_set          INTEGER NOT NULL,
    last            INTEGER NOT NULL,
    digest          BLOB NOT NULL,
    first           INTEGER NOT NULL,
    derivation      INTEGER,
    target          INTEGER,
    package         TEXT NOT NULL,
    version         TEXT NOT NULL,
    system          TEXT NOT NULL,
    cross           TEXT,
    error           TEXT,
    priority        INTEGER NOT NULL,
    timeout         INTEGER,
    max_silent_time INTEGER,
    publish         INTEGER NOT NULL,
    tags            TEXT,
    wanting         INTEGER NOT NULL,
    PRIMARY KEY (in_set, last, digest)
) STRICT, WITHOUT ROWID;
CREATE INDEX set_rows_wanting ON set_rows (target, priority) WHERE wanting = 1 AND target IS NOT NULL;

-- asked: the highest priority with which a client asked for the build itself; none: nobody did. priority is that, or
-- that of a row, or of something that needs it, whichever is highest.
ALTER TABLE builds ADD COLUMN asked INTEGER;
UPDATE builds SET asked = priority WHERE wanted = 1;
ALTER TABLE builds DROP COLUMN wanted;
DROP INDEX builds_by_target;
CREATE INDEX builds_by_target ON builds (target, id, state);

-- makers: the numbers of all input derivations, for walks through large parts of the graph; see farm/makers.rs.
-- derivation_inputs has the same with the outputs.
ALTER TABLE derivations ADD COLUMN makers BLOB NOT NULL DEFAULT x'';

-- Sources that derivations name (derivation_sources) and nobody has uploaded.
CREATE TABLE missing_sources (
    path INTEGER PRIMARY KEY
) STRICT;
INSERT INTO missing_sources SELECT DISTINCT s.path FROM derivation_sources s
    WHERE NOT EXISTS (SELECT 1 FROM items i WHERE i.path = s.path AND i.kind = 'source');
