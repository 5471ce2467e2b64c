"""LatentSync lip-sync nodes for ComfyUI.

Light on purpose: nothing of ComfyUI, torch or the library is imported before ComfyUI asks for the nodes, so this file
can be imported without any of them.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """ComfyUI's V3 entry: the extension that lists the nodes."""
    from .nodes.extension import LatentSyncExtension

    return LatentSyncExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
