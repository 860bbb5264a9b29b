"""The command line: flags from dataclasses of settings, one line an error, an exit code a reason. Loads torch only to work."""

from sparring.cli.main import COMMANDS, main

__all__ = ["COMMANDS", "main"]
