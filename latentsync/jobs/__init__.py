"""Interrupted runs go on: what the U-Net made is kept until the result is complete. See docs/architecture.md."""
