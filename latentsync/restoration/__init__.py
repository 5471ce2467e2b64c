"""Restoration of generated faces: sharper and larger than the model draws them, without flicker."""
