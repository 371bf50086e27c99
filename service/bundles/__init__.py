"""What is done without a server, one file per command."""
