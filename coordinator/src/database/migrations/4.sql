-- Machines that enrol themselves: each is one agent, and has a password that it asked for with a token.

-- hardware: what tells its machine from others, by the machine's own word, whichever token it comes with.
ALTER TABLE agents ADD COLUMN hardware TEXT;
CREATE UNIQUE INDEX agents_by_hardware ON agents (hardware) WHERE hardware IS NOT NULL;

-- enrolled: the machine's own, which the next enrolment of the same machine takes back.
ALTER TABLE agent_passwords ADD COLUMN enrolled INTEGER NOT NULL DEFAULT 0;
