"""The command line: one command a file, its arguments a dataclass."""
