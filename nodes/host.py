"""Every contact with ComfyUI: its node API, folders, memory management, progress, interruption and videos.

The other node files import ComfyUI's names from here, so a change of the host is mended in one place.
"""

import contextlib
import dataclasses
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.model_management as management
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import ComfyExtension, InputImpl, io
from comfy_execution.utils import get_executing_context
from torch import nn

from ..latentsync.errors import LatentSyncError, dependency_error, is_out_of_memory

if TYPE_CHECKING:
    from ..latentsync.model.vae import LatentSpace

__all__ = [
    "HIDDEN",
    "RESTORER_FOLDERS",
    "Carried",
    "ComfyExtension",
    "InputImpl",
    "ManagedModule",
    "ModelPatcher",
    "Progress",
    "auto_dtype",
    "compute_device",
    "file_reference",
    "found_by",
    "input_folder",
    "interruptible",
    "io",
    "is_format_told",
    "load",
    "model_file",
    "model_names",
    "model_roots",
    "native_vae",
    "offload_device",
    "on_device",
    "plain_errors",
    "refuse_batches",
    "register_model_folders",
    "routes",
    "stop_if_interrupted",
    "temp_path",
    "unload",
    "without_folders",
]

RESTORER_FOLDERS = ("facerestore_models", "upscale_models")  # the former is not ComfyUI's own, but usual
MODEL_FOLDER = "latentsync"  # below ComfyUI's models folder, and the name in extra_model_paths.yaml
OUT_OF_MEMORY = (
    "Not enough memory. In Load LatentSync Model choose the precision fp8, or close other programs. In LatentSync Lip "
    "Sync a shorter clip needs no less; the other nodes hold all frames that they are given."
)
FOLDERS = ("temp", "output", "input")  # from which the front end fetches files
PREVIEW_SIDE = 512  # px, the longer side of a live preview


def register_model_folders() -> None:
    """Make models/latentsync and models/facerestore_models known to ComfyUI.

    Folders from extra_model_paths.yaml, or those that another pack told of, come first and stay.
    """
    for name in (MODEL_FOLDER, RESTORER_FOLDERS[0]):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
    folder_paths.folder_names_and_paths[MODEL_FOLDER][1].update(folder_paths.supported_pt_extensions)


def model_roots(folder: str = MODEL_FOLDER) -> list[Path]:
    """The folders in which ComfyUI looks for one kind of model; not all of them need exist."""
    return [Path(path) for path in folder_paths.get_folder_paths(folder)]


def model_names(folder: str = MODEL_FOLDER) -> list[str]:
    """Model files below `model_roots(folder)`, with / between folders."""
    return [name.replace(os.sep, "/") for name in folder_paths.get_filename_list(folder)]


def model_file(name: str, folder: str = MODEL_FOLDER) -> Path | None:
    """Where a file of `model_names` lies; None if it is not there any more."""
    path = folder_paths.get_full_path(folder, name)
    return None if path is None else Path(path)


def found_by(*words: str, essentials: str | None = None) -> dict[str, object]:
    """Arguments of io.Schema for people who look for a node; {} where the host is older than they are.

    words: other names of what it does. essentials: of the host's short list of nodes to begin with, the heading.
    """
    told = {"search_aliases": list(words), "essentials_category": essentials}
    return {field.name: told[field.name] for field in dataclasses.fields(io.Schema) if told.get(field.name)}


def input_folder() -> Path:
    """Where Load Video and Load Audio look for files."""
    return Path(folder_paths.get_input_directory())


def routes():
    """ComfyUI's table of addresses, aiohttp's RouteTableDef; None where it runs without a server."""
    return getattr(_server(), "routes", None)


def _server():
    """ComfyUI's server; None where it runs without one."""
    module = sys.modules.get("server")  # not imported for this alone
    return getattr(getattr(module, "PromptServer", None), "instance", None)


def temp_path(suffix: str) -> Path:
    """A new name in ComfyUI's temp folder, which ComfyUI empties when it starts and ends."""
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"latentsync_{uuid.uuid4().hex[:12]}{suffix}"


def file_reference(path: str | os.PathLike | None) -> dict[str, str] | None:
    """{"filename", "subfolder", "type"} by which the front end fetches a file; None outside ComfyUI's folders."""
    if path is None:
        return None
    file = Path(path).absolute()
    for kind in FOLDERS:
        root = Path(folder_paths.get_directory_by_type(kind)).absolute()
        if file.is_relative_to(root):
            subfolder = file.parent.relative_to(root).as_posix()
            return {"filename": file.name, "subfolder": "" if subfolder == "." else subfolder, "type": kind}
    return None


class Carried:
    """What travels between the pack's own sockets. With --cache-ram ComfyUI asks for its `get_ram_usage`, in bytes.

    ComfyUI sends its text to the browser with every error of a node that has it as an input: the name alone, since the
    usual text of an object has all its contents, or the folder that its class was loaded from.
    """

    def __repr__(self) -> str:
        return type(self).__name__


def compute_device() -> torch.device:
    """Where ComfyUI runs models."""
    return management.get_torch_device()


def offload_device() -> torch.device:
    """Where models wait: the CPU, unless ComfyUI was told to keep everything on the GPU."""
    return management.unet_offload_device()


# Options of ComfyUI's command line by which a user decides the number format of models.
FORMAT_OPTIONS = ("force_fp16", "force_fp32", "fp16_unet", "bf16_unet", "fp32_unet", "fp64_unet")


def auto_dtype() -> torch.dtype:
    """The number format that suits the device: what the user or ComfyUI decides, on CUDA what the card is fast with.

    There ComfyUI takes float16 for cards that are slow with it too (GTX 10), as its own layers keep weights in one
    format and compute in another; ours are plain ones.
    """
    supported, device = [torch.float16, torch.bfloat16, torch.float32], compute_device()
    dtype = management.unet_dtype(device, supported_dtypes=supported)
    if dtype not in supported:
        dtype = torch.float32  # an 8-bit format may have been forced for other models
    if device.type == "cuda" and dtype != torch.float32 and not is_format_told():
        from ..latentsync.model.device import cuda_dtype

        return cuda_dtype(device)
    return dtype


def is_format_told() -> bool:
    """Whether the user decided the number format of all models."""
    return any(getattr(args, option, False) for option in FORMAT_OPTIONS)


class ManagedModule(nn.Module):
    """A network in ComfyUI's memory management.

    ComfyUI writes to `.device` of what it manages, which is read-only in diffusers' models: hence this shell around
    it. Keep the object as long as the network is wanted: ComfyUI itself holds it weakly.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self.device = offload_device()

    @classmethod
    def patcher(cls, module: nn.Module) -> ModelPatcher:
        """The handle by which ComfyUI moves, counts and evicts the network."""
        return ModelPatcher(cls(module), load_device=compute_device(), offload_device=offload_device())


@contextlib.contextmanager
def on_device(patchers: Iterable[ModelPatcher], memory_required: float = 0) -> Iterator[torch.device]:
    """Inside, the networks are whole on the compute device.

    memory_required: bytes for what they compute with, beside their weights. Others' models are evicted for both.
    """
    patchers = list(patchers)
    load(patchers, memory_required)
    try:
        yield compute_device()
    finally:
        for patcher in patchers:
            if not patcher.loaded_size():  # moved by `load`, which ComfyUI does not know of and so would never undo
                patcher.model.to(patcher.offload_device)


def load(patchers: list[ModelPatcher], memory_required: float = 0) -> None:
    """Have ComfyUI load the networks; costs nothing where they are loaded already.

    Their layers are plain ones, which ComfyUI cannot stream: without `force_full_load` it would leave a network where
    it is when memory is short, and with --novram it does so all the same, and says nothing.
    """
    management.load_models_gpu(patchers, memory_required=memory_required, force_full_load=True)
    for patcher in patchers:
        if not all(_is_on(tensor, patcher.load_device) for tensor in patcher.model.parameters()):
            patcher.model.to(patcher.load_device)


def _is_on(tensor: torch.Tensor, device: torch.device) -> bool:
    """Whether the tensor is there; a device without a number ("mps") is any of its type."""
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)


def unload(patcher: ModelPatcher) -> None:
    """Have ComfyUI forget a network, which goes where it waits: for one that other nodes move by themselves."""
    for loaded in [loaded for loaded in management.current_loaded_models if loaded.model is patcher]:
        management.current_loaded_models.remove(loaded)
        loaded.model_unload()
    patcher.model.to(patcher.offload_device)


def stop_if_interrupted(*_: object) -> bool:
    """Raises ComfyUI's own exception when the user has pressed Cancel; else False. Fits every hook of the library."""
    management.throw_exception_if_processing_interrupted()
    return False


@contextlib.contextmanager
def interruptible(module: nn.Module) -> Iterator[None]:
    """Inside, the network looks for a cancellation before each of its runs."""

    def before(*_: object) -> None:  # a hook that returned something would replace the network's input
        stop_if_interrupted()

    handle = module.register_forward_pre_hook(before)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """The library's errors, those of files and packages that do not load as short messages: what is wrong, what to do.

    Full memory becomes the host's own error, at which it frees all models: it knows that of CUDA alone.
    """
    try:
        yield
    except LatentSyncError as error:
        raise ValueError(without_folders(str(error))) from error
    except Exception as error:
        if is_out_of_memory(error):
            raise torch.cuda.OutOfMemoryError(f"{OUT_OF_MEMORY}\n\n{without_folders(str(error))}") from error
        if broken := dependency_error(error):
            raise ImportError(without_folders(str(broken))) from error
        if isinstance(error, OSError):
            raise ValueError(without_folders(str(error))) from error
        raise


def refuse_batches(hidden, name: str) -> None:
    """Raises ValueError where what is linked to the input `name` comes through VideoHelperSuite's Meta Batch Manager.

    It runs the graph once for every few frames, and each time the speech would begin anew. All that a node can see of
    it is the graph. hidden: of a node that asks for HIDDEN.
    """
    prompt, waiting, seen = hidden.prompt or {}, [str(hidden.unique_id)], set()
    while waiting:
        number = waiting.pop()
        inputs = prompt.get(number, {}).get("inputs", {})
        links = {key: value for key, value in inputs.items() if isinstance(value, list) and len(value) == 2}
        if "meta_batch" in links:
            raise ValueError(
                f"{name} comes in batches from a Meta Batch Manager (node {links['meta_batch'][0]}), and each batch "
                "would begin the speech anew. Unlink meta_batch; LatentSync Lip Sync with ComfyUI's own Load Video "
                "needs no more memory for a long clip than for a short one"
            )
        sources = links.items() if seen else [(name, links[name])] if name in links else []
        seen.add(number)
        waiting += [str(source) for _, (source, _) in sources if str(source) not in seen]


HIDDEN = (io.Hidden.prompt, io.Hidden.unique_id)
QUOTED_PATH = re.compile(r"""(['"])(?:/|[A-Za-z]:[\\/]|\\\\)[^'"\n]*[\\/]([^'"\n]*)\1""")
BARE_PATH = re.compile(r"""(?<![\w./:\\-])(?:/|[A-Za-z]:[\\/]|\\\\)(?:[^\s'"/\\]+[/\\])+""")


def without_folders(text: str) -> str:
    """A message with the names of files, not where this machine keeps them: it is shown in a browser anywhere."""
    known = [folder_paths.base_path, folder_paths.models_dir, *map(folder_paths.get_directory_by_type, FOLDERS)]
    known += [Path(__file__).parents[1], Path(tempfile.gettempdir()), Path.home()]
    text = QUOTED_PATH.sub(r"\1\2\1", text)
    for folder in sorted({str(path) for path in known if path}, key=len, reverse=True):  # may have spaces in them
        text = re.sub(re.escape(folder) + r"[/\\](?:[^\s'\"/\\]+[/\\])*", "", text)
    return BARE_PATH.sub("", text)


class Progress:
    """The bar on the running node, with pictures of the work. Every update also raises where the user cancelled."""

    STEPS = 1000

    def __init__(self):
        self._bar = comfy.utils.ProgressBar(self.STEPS)
        self._value, self._said = 0, ""

    def update(self, fraction: float, preview=None) -> None:
        """fraction: 0..1 of the node's work, never shown falling. preview: (H, W, 3) uint8 RGB or None."""
        self._value = max(self._value, min(self.STEPS, int(fraction * self.STEPS)))
        self._bar.update_absolute(self._value, self.STEPS, None if preview is None else _jpeg(preview))

    def show(self, preview) -> None:
        """A new picture, no further."""
        self.update(0.0, preview)

    def say(self, text: str) -> None:
        """A line on the running node, in place of the last; nothing where the host cannot show one."""
        context, send = get_executing_context(), getattr(_server(), "send_progress_text", None)
        if text != self._said and context is not None and send is not None:
            send(text, context.node_id)
            self._said = text


def _jpeg(picture):
    from PIL import Image

    return "JPEG", Image.fromarray(picture), PREVIEW_SIDE


def native_vae(vae, latents: "LatentSpace", reload: Callable[[], None]) -> "NativeAutoencoder":
    """ComfyUI's VAE for the library. Raises ValueError for one that cannot work here.

    latents: those that the U-Net knows; reload: brings the other networks back, see NativeAutoencoder.
    """
    channels, ratio = getattr(vae, "latent_channels", None), getattr(vae, "downscale_ratio", None)
    if (channels, ratio) != (latents.channels, latents.ratio):
        ratio = "another scale" if callable(ratio) or ratio is None else f"1/{ratio}"
        raise ValueError(
            f"the linked VAE gives {channels} channels at {ratio} of the size; the model works on {latents}. Load the "
            "VAE that it was trained with (sd-vae-ft-mse for released models), or leave the socket empty to use the "
            "model's own"
        )
    return NativeAutoencoder(vae, latents, reload)


class NativeAutoencoder:
    """ComfyUI's VAE as the library's ImageAutoencoder.

    ComfyUI's gives latents without their scale, takes channels last and 0..1, encodes to the mean, and loads itself,
    for which it may evict the other networks: `reload` is called after each use to have them back.
    """

    def __init__(self, vae, latents: "LatentSpace", reload: Callable[[], None]):
        self._vae, self._latents, self._reload = vae, latents, reload

    def encode_mean(self, pixels: torch.Tensor) -> torch.Tensor:
        """(F, 3, S, S) in [-1, 1] -> scaled latents (F, C, h, w) float32."""
        latents = self._vae.encode(pixels.movedim(1, -1).add(1).div(2).clamp(0, 1).cpu())
        self._reload()
        return self._latents.scaled(latents.to(pixels.device).float())

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Scaled latents (F, C, h, w) -> (F, 3, S, S) float32 in [-1, 1]."""
        pixels = self._vae.decode(self._latents.raw(latents).float().cpu())
        self._reload()
        return pixels.movedim(-1, 1).mul(2).sub(1)
