"""Evaluation of lip-sync models."""
