-- How long builds wait, and how many there are of each kind.

-- Since when an agent could have had it; none: it never could, or became ready before this was noted.
ALTER TABLE builds ADD COLUMN ready_at INTEGER;

-- How many builds are in each state for each platform, kept by the triggers below; one statement for each change, as before
-- there were platforms in it.
DROP TRIGGER builds_counted_in;
DROP TRIGGER builds_counted_over;
DROP TRIGGER builds_counted_out;
DROP TABLE state_counts;
CREATE TABLE platform_counts (
    state    TEXT NOT NULL,
    platform INTEGER NOT NULL,
    count    INTEGER NOT NULL,
    PRIMARY KEY (state, platform)
) STRICT, WITHOUT ROWID;
INSERT INTO platform_counts SELECT state, platform, count(*) FROM builds GROUP BY state, platform;
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
CREATE VIEW state_counts AS SELECT state, sum(count) AS count FROM platform_counts GROUP BY state;

-- Written now and then, to see whether the database can be.
CREATE TABLE probe (at INTEGER NOT NULL) STRICT;
INSERT INTO probe VALUES (0);
