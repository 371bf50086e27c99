"""Jobs in the database: the queue, the locks, and the runner that executes them."""
