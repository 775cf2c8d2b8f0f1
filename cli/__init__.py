"""The command line: turns options into configurations and results into text."""
