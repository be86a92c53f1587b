-- One row. `change_id` is that of the last change of Bots's configuration by bots-ctl, written in the same transaction.

CREATE TABLE IF NOT EXISTS botsctl_plugin (
    name VARCHAR(32) PRIMARY KEY NOT NULL,
    change_id VARCHAR(64) NOT NULL
) ENGINE=InnoDB CHARACTER SET utf8mb4;
