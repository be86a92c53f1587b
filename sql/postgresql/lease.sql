-- The process that runs the engine, or ran it last, and the job queue that is active, or was last: one row each. Times are milliseconds since 1970.

CREATE TABLE IF NOT EXISTS botsctl_lease (
    name VARCHAR(32) PRIMARY KEY NOT NULL,
    owner VARCHAR(64) NOT NULL,
    holder VARCHAR(255) NOT NULL,
    acquired BIGINT NOT NULL,
    renewed BIGINT NOT NULL,
    released INTEGER NOT NULL
);
