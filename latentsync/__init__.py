"""LatentSync: audio-conditioned latent diffusion for lip synchronisation, independent of any host program."""

__version__ = "0.1.0"
