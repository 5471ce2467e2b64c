"""Stages that make a store of clips of raw videos; see prepare_data.py. One stage a function, one subject a file."""
