"""Measurements of the product: what a frame costs, and how much memory a clip takes."""
