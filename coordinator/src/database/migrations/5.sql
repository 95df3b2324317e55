-- Everything that happens is an event, not only what hooks start from.

-- agent: whom it is about, or who holds the build or ended it. attempt: which try at the build it is about.
ALTER TABLE events ADD COLUMN agent INTEGER;
ALTER TABLE events ADD COLUMN attempt INTEGER;

-- here: an event said that it is there, and none since that it is not.
ALTER TABLE agents ADD COLUMN here INTEGER NOT NULL DEFAULT 0;
