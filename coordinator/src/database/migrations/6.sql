-- Pages: who looks at them, and what they show at a glance.

-- Browsers that somebody logged in with a client's token. hash: of what is in the cookie. Without its token, a session is
-- none.
CREATE TABLE sessions (
    hash       BLOB PRIMARY KEY,
    token      INTEGER NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    ends_at    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX sessions_by_token ON sessions (token, created_at);
CREATE INDEX sessions_by_end ON sessions (ends_at);

-- How many builds are in each state and can go to each platform, kept by the triggers below. It takes the place of
-- state_counts, which is its sum.
CREATE TABLE platform_counts (
    state    TEXT NOT NULL,
    platform INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    PRIMARY KEY (state, platform)
) STRICT, WITHOUT ROWID;
INSERT INTO platform_counts SELECT state, platform, count(*) FROM builds GROUP BY state, platform;
DROP TRIGGER builds_counted_in;
DROP TRIGGER builds_counted_over;
DROP TRIGGER builds_counted_out;
DROP TABLE state_counts;
CREATE VIEW state_counts (state, count) AS SELECT state, sum(count) FROM platform_counts GROUP BY state;
CREATE TRIGGER builds_counted_in AFTER INSERT ON builds BEGIN
    INSERT INTO platform_counts VALUES (NEW.state, NEW.platform, 1)
        ON CONFLICT (state, platform) DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER builds_counted_over AFTER UPDATE OF state ON builds WHEN OLD.state <> NEW.state BEGIN
    UPDATE platform_counts SET count = count - 1 WHERE state = OLD.state AND platform = OLD.platform;
    INSERT INTO platform_counts VALUES (NEW.state, NEW.platform, 1)
        ON CONFLICT (state, platform) DO UPDATE SET count = count + 1;
END;
CREATE TRIGGER builds_counted_out AFTER DELETE ON builds BEGIN
    UPDATE platform_counts SET count = count - 1 WHERE state = OLD.state AND platform = OLD.platform;
END;

-- What just ended. Those whose dependency failed have not: there may be thousands of them at once.
CREATE INDEX builds_by_end ON builds (ended_at) WHERE ended_at IS NOT NULL AND state <> 'dependency-failed';
