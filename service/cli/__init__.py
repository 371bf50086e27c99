"""The command line, `supple`."""
