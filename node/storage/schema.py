"""The tables of the ledger, as numbered migrations: entry n of the list leads from schema n to n + 1. Entries are never changed."""

from __future__ import annotations

MIGRATIONS = (
    """
    CREATE TABLE instances (
        id INTEGER PRIMARY KEY AUTOINCREMENT, sop_instance_uid TEXT NOT NULL UNIQUE, sop_class_uid TEXT NOT NULL,
        transfer_syntax_uid TEXT NOT NULL, series_instance_uid TEXT NOT NULL, study_instance_uid TEXT NOT NULL,
        calling_ae_title TEXT NOT NULL, sha256 TEXT NOT NULL, received_at REAL NOT NULL);
    CREATE INDEX instances_by_study ON instances (study_instance_uid);
    CREATE TABLE studies (
        study_instance_uid TEXT PRIMARY KEY, calling_ae_title TEXT NOT NULL, last_received_at REAL NOT NULL,
        last_instance_id INTEGER NOT NULL, planned_instance_id INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX studies_unplanned ON studies (study_instance_uid) WHERE last_instance_id > planned_instance_id;
    CREATE TABLE jobs (
        job_id TEXT PRIMARY KEY, key TEXT NOT NULL, study_instance_uid TEXT NOT NULL, system TEXT NOT NULL, version INTEGER NOT NULL,
        state TEXT NOT NULL, order_json TEXT NOT NULL, destinations_json TEXT NOT NULL, outcome_json TEXT,
        dispatches INTEGER NOT NULL DEFAULT 0, detail TEXT NOT NULL DEFAULT '', created_at REAL NOT NULL, changed_at REAL NOT NULL,
        UNIQUE (study_instance_uid, system, version));
    CREATE INDEX jobs_by_state ON jobs (state);
    CREATE TABLE deliveries (
        job_id TEXT NOT NULL REFERENCES jobs, destination TEXT NOT NULL, position INTEGER NOT NULL, path TEXT NOT NULL,
        sop_instance_uid TEXT NOT NULL, state TEXT NOT NULL, rejections INTEGER NOT NULL DEFAULT 0, detail TEXT NOT NULL DEFAULT '',
        changed_at REAL NOT NULL, PRIMARY KEY (job_id, destination, position));
    CREATE INDEX deliveries_by_state ON deliveries (state);
    CREATE TABLE audit (
        id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, event TEXT NOT NULL, actor TEXT NOT NULL,
        study_instance_uid TEXT NOT NULL, job_id TEXT NOT NULL, detail TEXT NOT NULL);
    """,
    """
    ALTER TABLE jobs ADD COLUMN waits_until REAL;
    ALTER TABLE studies ADD COLUMN checked_instance_id INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE studies ADD COLUMN completeness TEXT NOT NULL DEFAULT '';
    ALTER TABLE studies ADD COLUMN n_missing INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE studies ADD COLUMN last_clinical_id INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE studies ADD COLUMN planned_clinical_id INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX studies_new_values ON studies (study_instance_uid) WHERE last_clinical_id > planned_clinical_id;
    CREATE TABLE clinical (
        id INTEGER PRIMARY KEY AUTOINCREMENT, study_instance_uid TEXT NOT NULL, name TEXT NOT NULL, value REAL, words TEXT NOT NULL,
        source TEXT NOT NULL, entered_at REAL NOT NULL);
    CREATE INDEX clinical_by_study ON clinical (study_instance_uid, name);
    """,
    """
    CREATE TABLE destinations (ae_title TEXT PRIMARY KEY, profile_json TEXT NOT NULL, answered_at REAL NOT NULL);
    """,
    """
    ALTER TABLE studies ADD COLUMN overview_due INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX studies_overview_due ON studies (study_instance_uid) WHERE overview_due;
    """,
)
