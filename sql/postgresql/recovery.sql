-- One row. `run` is the run that Bots recovers (0: none), `attempts` counts its recoveries, and `failures` those that failed.
-- `finished` is the newest run that needs no recovery any more. The engine that wrote the row `engine` of `mutex` is watched:
-- `changed` is when the rows of its run last changed, in milliseconds since 1970.

CREATE TABLE IF NOT EXISTS botsctl_recovery (
    id INTEGER PRIMARY KEY NOT NULL,
    run BIGINT NOT NULL,
    attempts INTEGER NOT NULL,
    failures INTEGER NOT NULL,
    finished BIGINT NOT NULL,
    engine VARCHAR(64) NOT NULL,
    snapshot VARCHAR(255) NOT NULL,
    changed BIGINT NOT NULL,
    has_changed INTEGER NOT NULL
);
INSERT INTO botsctl_recovery (id, run, attempts, failures, finished, engine, snapshot, changed, has_changed)
    VALUES (1, 0, 0, 0, 0, '', '', 0, 0);
