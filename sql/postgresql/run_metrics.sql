-- What runs leave behind for whoever exports metrics: the last runs of the engine, one row each, and sums that only grow, so
-- that removing old rows takes nothing from them. Times are milliseconds since 1970, spans milliseconds.

CREATE TABLE IF NOT EXISTS botsctl_run (
    id VARCHAR(32) PRIMARY KEY NOT NULL,
    holder VARCHAR(255) NOT NULL,
    started BIGINT NOT NULL,
    ended BIGINT,
    outcome VARCHAR(16),
    exit_code BIGINT,
    took BIGINT,
    lease_wait BIGINT NOT NULL,
    recovered INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS botsctl_total (
    name VARCHAR(32) PRIMARY KEY NOT NULL,
    value BIGINT NOT NULL
);
