-- Tables that Bots 4.x uses with its own SQL. Times are those of the session's zone.

CREATE TABLE ta (
    idta SERIAL PRIMARY KEY,
    statust INTEGER DEFAULT 0,
    status INTEGER DEFAULT 0,
    parent INTEGER DEFAULT 0,
    child INTEGER DEFAULT 0,
    script INTEGER DEFAULT 0,
    idroute VARCHAR(35) DEFAULT '',
    filename VARCHAR(256) DEFAULT '',
    frompartner VARCHAR(35) DEFAULT '',
    topartner VARCHAR(35) DEFAULT '',
    fromchannel VARCHAR(35) DEFAULT '',
    tochannel VARCHAR(35) DEFAULT '',
    editype VARCHAR(35) DEFAULT '',
    messagetype VARCHAR(35) DEFAULT '',
    alt VARCHAR(35) DEFAULT '',
    divtext VARCHAR(128) DEFAULT '',
    merge BOOLEAN DEFAULT false,
    nrmessages INTEGER DEFAULT 1,
    testindicator VARCHAR(10) DEFAULT '',
    reference VARCHAR(256) DEFAULT '',
    frommail VARCHAR(256) DEFAULT '',
    tomail VARCHAR(256) DEFAULT '',
    charset VARCHAR(35) DEFAULT '',
    retransmit BOOLEAN DEFAULT false,
    contenttype VARCHAR(35) DEFAULT 'text/plain',
    errortext TEXT,
    ts TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    confirmasked BOOLEAN DEFAULT false,
    confirmed BOOLEAN DEFAULT false,
    confirmtype VARCHAR(35) DEFAULT '',
    confirmidta INTEGER DEFAULT 0,
    envelope VARCHAR(35) DEFAULT '',
    botskey VARCHAR(64) DEFAULT '',
    cc VARCHAR(512) DEFAULT '',
    rsrv1 VARCHAR(128) DEFAULT '',
    rsrv2 INTEGER DEFAULT 0,
    rsrv3 VARCHAR(35) DEFAULT '',
    rsrv4 INTEGER DEFAULT 0,
    filesize INTEGER DEFAULT 0,
    numberofresends INTEGER DEFAULT 0,
    rsrv5 VARCHAR(256) DEFAULT ''
);

CREATE INDEX ta_parent ON ta (parent);
CREATE INDEX ta_reference ON ta (reference);

CREATE TABLE mutex (
    mutexk INTEGER PRIMARY KEY NOT NULL,
    mutexer INTEGER DEFAULT 0,
    ts TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE TABLE persist (
    domein VARCHAR(35),
    botskey VARCHAR(35),
    content TEXT,
    ts TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (domein, botskey)
);

CREATE TABLE uniek (
    domein VARCHAR(70) PRIMARY KEY NOT NULL,
    nummer INTEGER NOT NULL DEFAULT 1
);
