-- The durable job queue. Times are milliseconds since 1970; a task is a JSON array of strings, and its digest the
-- SHA-256 of that.
CREATE TABLE IF NOT EXISTS botsctl_job (
    number BIGINT NOT NULL PRIMARY KEY,
    state VARCHAR(8) NOT NULL,
    priority BIGINT NOT NULL,
    task TEXT NOT NULL,
    digest VARCHAR(64) NOT NULL,
    submitted BIGINT NOT NULL,
    started BIGINT,
    ended BIGINT,
    attempts BIGINT NOT NULL,
    exit_code BIGINT,
    output TEXT,
    owner VARCHAR(100)
);
CREATE INDEX IF NOT EXISTS botsctl_job_state_priority ON botsctl_job (state, priority, number);
CREATE INDEX IF NOT EXISTS botsctl_job_digest ON botsctl_job (digest, state);
