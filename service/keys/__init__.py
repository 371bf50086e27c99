"""Keys and browser sessions: who may call, and for what. Keys are made on the command line alone."""
