-- The step that init-db is at, in one row: the next run finds out that this one was interrupted.

CREATE TABLE IF NOT EXISTS botsctl_init (
    id INTEGER PRIMARY KEY NOT NULL,
    step VARCHAR(32) NOT NULL DEFAULT '',
    first_run INTEGER NOT NULL DEFAULT 0,
    finished INTEGER NOT NULL DEFAULT 0,
    holder VARCHAR(255) NOT NULL DEFAULT '',
    ts TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);
