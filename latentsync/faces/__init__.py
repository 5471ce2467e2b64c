"""Faces in frames: detection, landmarks, tracking, alignment to the model's square, and pasting back."""
