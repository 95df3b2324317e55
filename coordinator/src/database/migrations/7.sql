-- How long builds wait, and whether the database can be written.

-- Since when an agent could have had it; none: it never could, or became ready before this was noted.
ALTER TABLE builds ADD COLUMN ready_at INTEGER;

-- Written now and then, to see whether the database can be.
CREATE TABLE probe (at INTEGER NOT NULL) STRICT;
INSERT INTO probe VALUES (0);
