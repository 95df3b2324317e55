-- What events have told of is known after a restart, too, so that it is not told again.

-- What the agent did with it last, as an event told.
ALTER TABLE attempts ADD COLUMN phase TEXT;
-- low: an event said that there is little room, and none since that there is enough.
ALTER TABLE places ADD COLUMN low INTEGER NOT NULL DEFAULT 0;
