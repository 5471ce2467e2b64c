"""Measures of lip-sync quality: of pictures, of mouths, and of how lips and sound go together."""
