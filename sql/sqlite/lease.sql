-- One row for the process that runs the engine, or ran it last, and one for the active job queue. Times are milliseconds
-- since 1970.

CREATE TABLE IF NOT EXISTS botsctl_lease (
    name VARCHAR(32) PRIMARY KEY NOT NULL,
    owner VARCHAR(64) NOT NULL,
    holder VARCHAR(255) NOT NULL,
    acquired BIGINT NOT NULL,
    renewed BIGINT NOT NULL,
    released INTEGER NOT NULL
);
