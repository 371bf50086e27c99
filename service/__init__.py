"""The HTTP API, the pages, the workers and the command line, over a database and a store of files."""
