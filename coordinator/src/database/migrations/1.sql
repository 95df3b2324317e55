-- Every store path that is named anywhere, once; all else refers to it by number.
-- provided: 0 nobody has it, 1 it is held here, 2 a substitute server has it.
CREATE TABLE paths (
    id       INTEGER PRIMARY KEY,
    base     TEXT NOT NULL UNIQUE,
    provided INTEGER NOT NULL DEFAULT 0 CHECK (provided IN (0, 1, 2))
) STRICT;

-- Small things are kept here, zstd-compressed, and not in files of their own: the texts of derivations, and the
-- nars of most sources. The path of a source that is not here has a file.
CREATE TABLE contents (
    path  INTEGER PRIMARY KEY,
    bytes BLOB NOT NULL
) STRICT;

-- What is held: sources and outputs. method: how a source gets into a store (text, recursive, flat).
-- export_hash: what a signature for import-paths is made over.
CREATE TABLE items (
    path        INTEGER PRIMARY KEY,
    kind        TEXT NOT NULL CHECK (kind IN ('source', 'output')),
    method      TEXT,
    nar_hash    BLOB NOT NULL,
    nar_size    INTEGER NOT NULL,
    file_size   INTEGER NOT NULL,
    deriver     INTEGER,
    export_hash BLOB NOT NULL,
    added_at    INTEGER NOT NULL
) STRICT;

CREATE TABLE item_references (
    item      INTEGER NOT NULL,
    reference INTEGER NOT NULL,
    PRIMARY KEY (item, reference)
) STRICT, WITHOUT ROWID;

-- Systems (x86_64-linux) and builtin builders (builtin:download): where a build can go.
CREATE TABLE platforms (
    id   INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
) STRICT;

-- The graph. Its tables refer to paths without foreign keys: what they name is put there in the same transaction,
-- and a key would want an index of its own for every direction.
-- platform: where it is built, which is its system or its builtin. target: the path of its first output; derivations
-- that make the same outputs have the same one. modulo: its hash as an input of others. lacking: how many of its own
-- sources nobody has uploaded, and how many of its input derivations have such a lack; not 0: it cannot be added to
-- a store.
CREATE TABLE derivations (
    id       INTEGER PRIMARY KEY,
    system   INTEGER NOT NULL,
    platform INTEGER NOT NULL,
    target   INTEGER NOT NULL,
    modulo   BLOB NOT NULL,
    lacking  INTEGER NOT NULL CHECK (lacking >= 0)
) STRICT;

CREATE TABLE derivation_outputs (
    derivation INTEGER NOT NULL,
    name       TEXT NOT NULL,
    path       INTEGER NOT NULL,
    PRIMARY KEY (derivation, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX derivations_by_output ON derivation_outputs (path);

CREATE TABLE derivation_inputs (
    derivation INTEGER NOT NULL,
    output     INTEGER NOT NULL,
    maker      INTEGER NOT NULL,
    PRIMARY KEY (derivation, output, maker)
) STRICT, WITHOUT ROWID;
CREATE INDEX derivations_by_input ON derivation_inputs (output, maker, derivation);

-- Its sources, and what texts among them refer to, as far as that is known.
CREATE TABLE derivation_sources (
    derivation INTEGER NOT NULL,
    path       INTEGER NOT NULL,
    PRIMARY KEY (derivation, path)
) STRICT, WITHOUT ROWID;
CREATE INDEX derivations_by_source ON derivation_sources (path, derivation);

-- Who may speak.
CREATE TABLE tokens (
    id         INTEGER PRIMARY KEY,
    hash       BLOB NOT NULL UNIQUE,
    kind       TEXT NOT NULL CHECK (kind IN ('client', 'agent')),
    note       TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

-- systems, builtins: JSON lists. token: the dynamic token that it enrolled itself with.
CREATE TABLE agents (
    id         INTEGER PRIMARY KEY,
    uuid       BLOB NOT NULL UNIQUE,
    name       TEXT NOT NULL UNIQUE,
    token      INTEGER REFERENCES tokens (id),
    created_at INTEGER NOT NULL,
    seen_at    INTEGER,
    version    TEXT,
    systems    TEXT NOT NULL DEFAULT '[]',
    builtins   TEXT NOT NULL DEFAULT '[]'
) STRICT;

CREATE TABLE agent_passwords (
    hash       BLOB PRIMARY KEY,
    agent      INTEGER NOT NULL REFERENCES agents (id),
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- missing: how many distinct inputs nobody provides, one more if the derivation is lacking sources, and one for each
-- row of awaited. It is kept right for every build that is open (see builds_open).
-- failed_dependency: with dependency-failed, the build at the root of it.
CREATE TABLE builds (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid              BLOB NOT NULL UNIQUE,
    derivation        INTEGER NOT NULL REFERENCES derivations (id),
    target            INTEGER NOT NULL,
    platform          INTEGER NOT NULL,
    state             TEXT NOT NULL CHECK (state IN ('waiting', 'ready', 'allocated', 'running', 'succeeded', 'failed',
                                                     'timed-out', 'dependency-failed', 'canceled')),
    wanted            INTEGER NOT NULL,
    priority          INTEGER NOT NULL,
    timeout           INTEGER,
    max_silent_time   INTEGER,
    missing           INTEGER NOT NULL CHECK (missing >= 0),
    setup_failures    INTEGER NOT NULL DEFAULT 0,
    submitted_at      INTEGER NOT NULL,
    started_at        INTEGER,
    ended_at          INTEGER,
    agent             INTEGER REFERENCES agents (id),
    why               TEXT,
    failed_dependency INTEGER REFERENCES builds (id)
) STRICT;
-- Nothing is built twice at a time: one open build for each target. One whose dependency failed is open, too, for it
-- goes on when the dependency comes after all.
CREATE UNIQUE INDEX builds_open ON builds (target)
    WHERE state IN ('waiting', 'ready', 'allocated', 'running', 'dependency-failed');
CREATE INDEX builds_open_by_derivation ON builds (derivation)
    WHERE state IN ('waiting', 'ready', 'allocated', 'running', 'dependency-failed');
CREATE INDEX builds_ready ON builds (platform, priority DESC, id) WHERE state = 'ready';
CREATE INDEX builds_by_target ON builds (target, id);
CREATE INDEX builds_by_state ON builds (state, id);
CREATE INDEX builds_by_agent ON builds (agent, id) WHERE agent IS NOT NULL;
CREATE INDEX builds_by_failed_dependency ON builds (failed_dependency) WHERE failed_dependency IS NOT NULL;

CREATE TABLE build_tags (
    build INTEGER NOT NULL REFERENCES builds (id),
    key   TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (build, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX builds_by_tag ON build_tags (key, value, build);

-- What a build waits for although its derivation does not name it: what its inputs refer to and nobody has any more.
CREATE TABLE awaited (
    path  INTEGER NOT NULL,
    build INTEGER NOT NULL REFERENCES builds (id),
    PRIMARY KEY (path, build)
) STRICT, WITHOUT ROWID;
CREATE INDEX awaited_by_build ON awaited (build);

-- Which agents are not to have a build again before a time, and how often that was.
CREATE TABLE avoided (
    build INTEGER NOT NULL REFERENCES builds (id),
    agent INTEGER NOT NULL REFERENCES agents (id),
    until INTEGER NOT NULL,
    times INTEGER NOT NULL,
    PRIMARY KEY (build, agent)
) STRICT, WITHOUT ROWID;

-- How many builds are in each state, kept by the triggers below.
CREATE TABLE state_counts (
    state TEXT PRIMARY KEY,
    count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TRIGGER builds_counted_in AFTER INSERT ON builds BEGIN
    INSERT INTO state_counts VALUES (NEW.state, 1) ON CONFLICT (state) DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER builds_counted_over AFTER UPDATE OF state ON builds WHEN OLD.state <> NEW.state BEGIN
    UPDATE state_counts SET count = count - 1 WHERE state = OLD.state;
    INSERT INTO state_counts VALUES (NEW.state, 1) ON CONFLICT (state) DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER builds_counted_out AFTER DELETE ON builds BEGIN
    UPDATE state_counts SET count = count - 1 WHERE state = OLD.state;
END;

-- A try at a build by one agent, which is a lease while it is open. answer: the build's state as it was answered to
-- the report. log_packed: 0 the log is raw, or there is none yet; 1 it is compressed.
CREATE TABLE attempts (
    lease        INTEGER PRIMARY KEY AUTOINCREMENT,
    build        INTEGER NOT NULL REFERENCES builds (id),
    number       INTEGER NOT NULL,
    agent        INTEGER NOT NULL REFERENCES agents (id),
    allocated_at INTEGER NOT NULL,
    started_at   INTEGER,
    ended_at     INTEGER,
    outcome      TEXT,
    step         TEXT,
    message      TEXT,
    answer       TEXT,
    log_size     INTEGER NOT NULL DEFAULT 0,
    log_packed   INTEGER NOT NULL DEFAULT 0,
    UNIQUE (build, number)
) STRICT;
CREATE UNIQUE INDEX attempts_open ON attempts (build) WHERE ended_at IS NULL;
CREATE INDEX attempts_open_by_agent ON attempts (agent) WHERE ended_at IS NULL;
CREATE INDEX attempts_unpacked ON attempts (lease) WHERE ended_at IS NOT NULL AND log_packed = 0;
CREATE INDEX attempts_by_agent ON attempts (agent, lease);

-- Outputs on their way from an agent. A file of this path in the folder of nars belongs to this row until the path
-- is an item. refs: base names, a line each.
CREATE TABLE uploads (
    lease       INTEGER NOT NULL REFERENCES attempts (lease),
    path        INTEGER NOT NULL,
    nar_hash    BLOB NOT NULL,
    nar_size    INTEGER NOT NULL,
    refs        TEXT NOT NULL,
    complete    INTEGER NOT NULL DEFAULT 0,
    file_size   INTEGER,
    export_hash BLOB,
    PRIMARY KEY (lease, path)
) STRICT, WITHOUT ROWID;

-- What the substitute servers answered.
CREATE TABLE substitutes (
    path       INTEGER NOT NULL,
    server     TEXT NOT NULL,
    found      INTEGER NOT NULL,
    checked_at INTEGER NOT NULL,
    PRIMARY KEY (path, server)
) STRICT, WITHOUT ROWID;
