"""What a run leaves on disk: whose a directory is, files of JSON and of JSON lines, versions."""
