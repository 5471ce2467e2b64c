"""The ComfyUI nodes: thin layers over the library. `host.py` is the only file that knows ComfyUI."""
