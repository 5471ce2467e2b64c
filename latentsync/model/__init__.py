"""The networks, their files and the diffusion between them."""
