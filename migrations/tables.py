"""The job engine's tables, which our migrations leave alone."""

# PostgreSQL holds them in a separate schema; SQLite holds them beside our tables.
JOB_ENGINE_TABLES = frozenset(
    {
        "application_versions",
        "dbos_migrations",
        "notifications",
        "operation_outputs",
        "queues",
        "streams",
        "workflow_events",
        "workflow_events_history",
        "workflow_input",
        "workflow_output",
        "workflow_schedules",
        "workflow_status",
    }
)
