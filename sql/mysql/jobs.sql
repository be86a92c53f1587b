-- The durable job queue. Times are milliseconds since 1970; a task is a JSON array of strings, and its digest the
-- SHA-256 of that.
CREATE TABLE IF NOT EXISTS botsctl_job (
    number BIGINT NOT NULL PRIMARY KEY,
    state VARCHAR(8) NOT NULL,
    priority BIGINT NOT NULL,
    task MEDIUMTEXT NOT NULL,
    digest VARCHAR(64) NOT NULL,
    submitted BIGINT NOT NULL,
    started BIGINT,
    ended BIGINT,
    attempts BIGINT NOT NULL,
    exit_code BIGINT,
    output MEDIUMTEXT,
    owner VARCHAR(100),
    KEY botsctl_job_state_priority (state, priority, number),
    KEY botsctl_job_digest (digest, state)
) ENGINE = InnoDB DEFAULT CHARACTER SET = utf8mb4;
