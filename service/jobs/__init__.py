"""Jobs: the queue in the database, the locks on worker ids, and the runner that executes jobs."""
