-- The last runs of the engine, one row each, and counters over all runs, which only grow: removing old rows takes nothing
-- from them. Metrics show both. Times are milliseconds since 1970, durations milliseconds.

CREATE TABLE IF NOT EXISTS botsctl_engine_run (
    id VARCHAR(32) PRIMARY KEY NOT NULL,
    holder VARCHAR(255) NOT NULL,
    started BIGINT NOT NULL,
    ended BIGINT,
    outcome VARCHAR(16),
    exit_code BIGINT,
    took BIGINT,
    lease_wait BIGINT NOT NULL,
    recovered INTEGER NOT NULL
) ENGINE=InnoDB CHARACTER SET utf8mb4;
CREATE TABLE IF NOT EXISTS botsctl_counter (
    name VARCHAR(32) PRIMARY KEY NOT NULL,
    value BIGINT NOT NULL
) ENGINE=InnoDB CHARACTER SET utf8mb4;
