"""The model loader."""

from functools import partial

from . import host, model_choices
from .host import io
from .knobs import CATEGORY, check_choices
from .sockets import Model

# Number format and how the U-Net's weights are kept; None is the format that suits the device.
PRECISIONS = {
    "auto": (None, "none"),
    "fp32": ("float32", "none"),
    "bf16": ("bfloat16", "none"),
    "fp16": ("float16", "none"),
    "fp8": (None, "fp8"),
}
RESOLUTIONS = ["auto", "128", "256", "512"]


class LatentSyncModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        names = model_choices.unet_names()
        return io.Schema(
            node_id="LatentSyncModelLoader",
            display_name="Load LatentSync Model",
            category=CATEGORY,
            description="Loads a lip-sync model with the VAE and the Whisper audio encoder that belong to it.",
            inputs=[
                io.Combo.Input(
                    "model",
                    options=names,
                    default=names[0],
                    tooltip="The lip-sync model: from models/latentsync, from the pack's checkpoints folder, or the "
                    "small bundled one, which is made for drawn faces and needs no download.",
                ),
                io.Combo.Input(
                    "vae",
                    options=model_choices.vae_names(),
                    default=model_choices.AUTO,
                    tooltip="The VAE the model was trained with. auto takes the one beside the model or in "
                    "checkpoints/vae, else sd-vae-ft-mse from models/vae. Released models need sd-vae-ft-mse, the "
                    "bundled model its own.",
                ),
                io.Combo.Input(
                    "whisper",
                    options=model_choices.whisper_names(),
                    default=model_choices.AUTO,
                    tooltip="The audio encoder. auto takes OpenAI's tiny.pt or small.pt, as the model needs, from a "
                    "whisper folder beside the model, in checkpoints or in models/latentsync.",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default="auto",
                    tooltip="Number format of the networks. auto is fp16 where the GPU is fast with it, fp32 on the "
                    "CPU. fp16 and bf16 take half the memory; fp32 is the safe choice where faces come out broken. fp8 "
                    "keeps the U-Net's weights in 8 bits, half of fp16's memory again, and computes as auto does, for "
                    "GPUs where the model does not fit: slower, with slightly other pictures.",
                ),
                io.Combo.Input(
                    "resolution",
                    options=RESOLUTIONS,
                    default="auto",
                    tooltip="Side in pixels of the face the model works on. auto reads it from the model; another "
                    "value than the one it was trained with gives blurred or broken faces.",
                ),
                io.Combo.Input(  # optional, both: graphs made before they were there lack them
                    "lora",
                    options=model_choices.lora_names(),
                    default=model_choices.NO_LORA,
                    optional=True,
                    tooltip="An adapter of one speaker, made by training_scripts/train_lora.py: from models/loras or "
                    "the pack's checkpoints/loras folder. Adapters of other models are refused.",
                ),
                io.Float.Input(
                    "lora_strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="How much of the adapter is used: 0 is the model without it, 1 as it was trained.",
                ),
            ],
            outputs=[Model.Output(display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, model=None, vae=None, whisper=None, precision=None, resolution=None, lora=None):
        """Also a clear message for a file that was moved or deleted since the graph was saved."""
        looks = (
            (model_choices.unet_path, model),
            (model_choices.vae_path, vae),
            (model_choices.whisper_path, whisper),
            (model_choices.lora_path, lora),
        )
        try:
            for look, name in looks:
                if name is not None:  # None where it comes by a link
                    look(name)
        except model_choices.ModelNotFoundError as gone:
            return str(gone)
        return check_choices(precision=(precision, list(PRECISIONS)), resolution=(resolution, RESOLUTIONS))

    @classmethod
    def execute(
        cls, model, vae, whisper, precision, resolution, lora=model_choices.NO_LORA, lora_strength=1.0
    ) -> io.NodeOutput:
        with host.plain_errors():
            from ..latentsync.model.loading import DTYPES, load_model
            from ..latentsync.model.vae import load_draft_decoder
            from .hosted_model import HostedModel

            name, low_memory = PRECISIONS[precision]
            files, device = model_choices.model_files(model, vae, whisper), host.offload_device()
            load = partial(
                load_model,
                files,
                device=device,
                resolution=None if resolution == "auto" else int(resolution),
                lora=model_choices.lora_path(lora),
                lora_strength=lora_strength,
                low_memory=low_memory,
            )
            loaded = load(dtype=host.auto_dtype() if name is None else DTYPES[name])
            has_draft = files.draft_decoder is not None and files.draft_decoder.is_dir()
            is_open = precision == "auto" and not host.is_format_told()
            hosted = HostedModel.of(
                loaded,
                in_full=partial(load, dtype=DTYPES["float32"]) if is_open else None,
                draft_decoder=partial(load_draft_decoder, files.draft_decoder, device=device, dtype=loaded.dtype)
                if has_draft
                else None,
            )
            return io.NodeOutput(hosted)
