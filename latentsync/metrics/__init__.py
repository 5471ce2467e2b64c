"""Measures of lip-sync quality: of pictures, of mouths, and of how lips and sound go together."""

from .opening import correlation, opening_track
from .pictures import psnr_of, region_psnr

__all__ = ["correlation", "opening_track", "psnr_of", "region_psnr"]
