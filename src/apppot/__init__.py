"""AppPot: run a program, with its whole Linux system, as one command."""

__version__ = "1.0.0.dev0"
