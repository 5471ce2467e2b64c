"""The page that gradio_app.py serves: a thin layer over the library, as nodes/ is for ComfyUI."""
