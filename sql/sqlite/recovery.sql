-- One row. `run` is the run that Bots recovers (0: none), `failures` counts its failed recoveries. The engine that wrote the
-- row `engine` of `mutex` is watched: `changed` is when the rows of its run last changed, in milliseconds since 1970. Earlier
-- versions kept the same in two rows of botsctl_lease.

CREATE TABLE IF NOT EXISTS botsctl_recovery (
    id INTEGER PRIMARY KEY NOT NULL,
    run BIGINT NOT NULL,
    failures INTEGER NOT NULL,
    engine VARCHAR(64) NOT NULL,
    snapshot VARCHAR(255) NOT NULL,
    changed BIGINT NOT NULL,
    has_changed INTEGER NOT NULL
);
INSERT INTO botsctl_recovery (id, run, failures, engine, snapshot, changed, has_changed) SELECT 1,
    COALESCE((SELECT CAST(owner AS INTEGER) FROM botsctl_lease WHERE name = 'recovery' AND owner <> ''), 0),
    COALESCE((SELECT CAST(holder AS INTEGER) FROM botsctl_lease WHERE name = 'recovery' AND holder <> ''), 0),
    COALESCE((SELECT owner FROM botsctl_lease WHERE name = 'watched'), ''),
    COALESCE((SELECT holder FROM botsctl_lease WHERE name = 'watched'), ''),
    COALESCE((SELECT acquired FROM botsctl_lease WHERE name = 'watched'), 0),
    COALESCE((SELECT released FROM botsctl_lease WHERE name = 'watched'), 0);
DELETE FROM botsctl_lease WHERE name IN ('recovery', 'watched');
