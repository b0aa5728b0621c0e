//! Tables and their migrations. A migration is never edited; a change is a new one at the end.

/// Statements of each version, the first for an empty database. `{int}`, `{blob}` and `{by_key}` stand
/// for what differs between the two databases.
const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE leaves (
    idx {int} PRIMARY KEY,
    request_id TEXT,
    kind TEXT NOT NULL,
    body {blob} NOT NULL,
    hash {blob} NOT NULL
);
CREATE INDEX leaves_authority ON leaves (idx) WHERE request_id IS NULL;
CREATE TABLE head (
    id {int} PRIMARY KEY CHECK (id = 1),
    size {int} NOT NULL,
    frontier {blob} NOT NULL,
    epoch {int} NOT NULL,
    chain {blob} NOT NULL,
    open_tag {blob} NOT NULL,
    mac {blob} NOT NULL
);
CREATE TABLE checkpoints (size {int} PRIMARY KEY, note TEXT NOT NULL);
CREATE TABLE tiles (
    level {int} NOT NULL,
    idx {int} NOT NULL,
    hashes {blob} NOT NULL,
    PRIMARY KEY (level, idx)
) {by_key};
CREATE TABLE requests (
    first_index {int} PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    agent TEXT NOT NULL,
    instance TEXT NOT NULL,
    scope TEXT NOT NULL,
    phase TEXT NOT NULL,
    version {int} NOT NULL,
    last_index {int} NOT NULL,
    leaf_list TEXT NOT NULL,
    created_ms {int} NOT NULL,
    due_ms {int},
    identity {blob},
    lease_id TEXT,
    lease_state TEXT,
    lease_expires_ms {int},
    revocable {int}
);
CREATE INDEX requests_agent ON requests (agent, first_index);
CREATE INDEX requests_due ON requests (due_ms) WHERE due_ms IS NOT NULL;
CREATE UNIQUE INDEX requests_identity ON requests (identity) WHERE identity IS NOT NULL;
CREATE INDEX requests_lease ON requests (lease_id) WHERE lease_id IS NOT NULL;
CREATE INDEX requests_intended ON requests (first_index) WHERE phase = 'intended';
CREATE TABLE keys (
    agent TEXT NOT NULL,
    key TEXT NOT NULL,
    request_id TEXT NOT NULL,
    instance TEXT NOT NULL,
    body {blob} NOT NULL,
    PRIMARY KEY (agent, key)
) {by_key};
CREATE TABLE texts (
    request_id TEXT NOT NULL,
    name TEXT NOT NULL,
    salt {blob} NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (request_id, name)
) {by_key};
CREATE TABLE blobs (digest {blob} PRIMARY KEY, body {blob} NOT NULL) {by_key};
CREATE TABLE sealed (
    request_id TEXT PRIMARY KEY,
    instance TEXT NOT NULL,
    body {blob} NOT NULL,
    until_ms {int} NOT NULL
) {by_key};
",
    "
CREATE TABLE side (
    kind TEXT NOT NULL,
    key {blob} NOT NULL,
    value {blob} NOT NULL,
    expires_ms {int},
    PRIMARY KEY (kind, key)
) {by_key};
CREATE INDEX side_expires ON side (expires_ms) WHERE expires_ms IS NOT NULL;
",
    // What people did, for searches by person.
    "
CREATE INDEX leaves_people ON leaves (idx)
    WHERE kind IN ('voted', 'questioned', 'narrowed', 'withdrawn');
",
    // What sticks after a restart.
    "
CREATE INDEX requests_denied ON requests (last_index) WHERE phase = 'denied';
",
    // What ended early and would still live: published by its issuer until it has expired.
    "
CREATE INDEX requests_ended ON requests (lease_expires_ms)
    WHERE lease_state IN ('revoked', 'withdrawn');
",
    // Searches by scope.
    "
CREATE INDEX requests_scope ON requests (scope, first_index);
",
    // Lists and counts of what is open, which cost as much as is open and not as ever was. What is
    // routine is never in them: its row is made when it is over.
    "
CREATE INDEX requests_open_due ON requests (due_ms, first_index) WHERE identity IS NOT NULL;
CREATE INDEX requests_open_agent ON requests (agent, first_index) WHERE identity IS NOT NULL;
",
    // Few credentials live at a time, however many there were.
    "
CREATE INDEX requests_live ON requests (first_index)
    WHERE lease_state IN ('live', 'withdrawn');
",
    // A lease is named after its request, and found by that.
    "
DROP INDEX requests_lease;
",
];

/// Which database the statements are for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dialect {
    Postgres,
    Sqlite,
}

impl Dialect {
    /// The statements that lead from each version to the next, first the one after `version`.
    pub(crate) fn after(self, version: u64) -> impl Iterator<Item = (u64, String)> {
        let (int, blob, by_key) = match self {
            Self::Postgres => ("BIGINT", "BYTEA", ""),
            Self::Sqlite => ("INTEGER", "BLOB", "WITHOUT ROWID"),
        };
        (1u64..).zip(MIGRATIONS).filter(move |(to, _)| *to > version).map(move |(to, sql)| {
            let sql = sql.replace("{int}", int).replace("{blob}", blob);
            (to, sql.replace("{by_key}", by_key))
        })
    }
}

/// The newest version this code knows.
pub(crate) const NEWEST: u64 = MIGRATIONS.len() as u64;
