"""The command line of main.py."""
