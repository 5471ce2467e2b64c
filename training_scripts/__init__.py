"""Training of LatentSync models. Each script reads top to bottom; the maths stands in functions beside it."""
