"""Another author's pack, as the tests meet it: frames as IMAGE, sound that is decoded only when asked for.

In the old form of node classes and with a Mapping for AUDIO that is no dict, as the most used video pack has it. Two
nodes more make what no native node makes (a batch of no frames) and write down exactly what arrives. Its batch manager
is but a name on a link: that is all that nodes further down the graph can see of one.
"""

import json
import os
from collections.abc import Mapping
from fractions import Fraction

import av
import folder_paths
import numpy as np
import torch

CATEGORY = "other pack"


class LazySound(Mapping):
    """AUDIO that opens its file at the first look."""

    def __init__(self, path: str):
        self._path, self._content = path, None

    def _loaded(self) -> dict:
        if self._content is None:
            with av.open(self._path) as container:
                stream = container.streams.audio[0]
                blocks = [frame.to_ndarray() for frame in container.decode(stream)]
            samples = np.concatenate(blocks, axis=1).astype(np.float32)
            if blocks[0].dtype == np.int16:  # packed: (1, samples * channels)
                samples = samples.reshape(-1, stream.channels).T / 32768
            self._content = {"waveform": torch.from_numpy(samples.copy())[None], "sample_rate": stream.sample_rate}
        return self._content

    def __getitem__(self, key):
        return self._loaded()[key]

    def __iter__(self):
        return iter(self._loaded())

    def __len__(self):
        return len(self._loaded())


class OtherBatchManager:
    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "manage", ("VHS_BatchManager",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"frames_per_batch": ("INT", {"default": 16})}}

    def manage(self, frames_per_batch):
        return (frames_per_batch,)


class OtherLoadVideo:
    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "INT", "AUDIO", "FLOAT"), ("frames", "frame_count", "audio", "fps")

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - the host's name
        files = sorted(os.listdir(folder_paths.get_input_directory()))
        return {
            "required": {"video": (files,), "frame_load_cap": ("INT", {"default": 0, "min": 0})},
            "optional": {"meta_batch": ("VHS_BatchManager",)},
        }

    def load(self, video, frame_load_cap, meta_batch=None):
        path = folder_paths.get_annotated_filepath(video)
        frames = []
        with av.open(path) as container:
            rate = container.streams.video[0].average_rate
            for frame in container.decode(video=0):
                if frame_load_cap and len(frames) == frame_load_cap:
                    break
                frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")).float() / 255)
        return torch.stack(frames), len(frames), LazySound(path), float(rate)


class OtherCombineVideo:
    CATEGORY, FUNCTION, OUTPUT_NODE, RETURN_TYPES = CATEGORY, "combine", True, ()

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {
                "images": ("IMAGE",),
                "frame_rate": ("FLOAT", {"default": 25.0, "min": 1.0, "step": 0.001}),
                "filename_prefix": ("STRING", {"default": "combined"}),
            },
            "optional": {"audio": ("AUDIO",)},
        }

    def combine(self, images, frame_rate, filename_prefix, audio=None):
        height, width = images.shape[1:3]
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory(), width, height
        )
        file = f"{name}_{counter:05}_.mp4"
        with av.open(os.path.join(folder, file), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1001))
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            sound = container.add_stream("aac", rate=audio["sample_rate"], layout="mono") if audio is not None else None
            for image in images:
                pixels = (image * 255).round().clamp(0, 255).byte().cpu().numpy()
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            container.mux(stream.encode())
            if sound is not None:
                samples = audio["waveform"][0].mean(0, keepdim=True).contiguous().cpu().numpy()
                frame = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
                frame.sample_rate = audio["sample_rate"]
                container.mux(sound.encode(frame))
                container.mux(sound.encode())
        return {"ui": {"videos": [{"filename": file, "subfolder": subfolder, "type": "output"}]}}


class OtherNoFrames:
    """A batch of no frames, as a loader gives one whose range lies behind the clip's end."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "make", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {"required": {"side": ("INT", {"default": 256})}}

    def make(self, side):
        return (torch.zeros(0, side, side, 3),)


class OtherWriteArrays:
    """Everything that arrives, to the last bit, as one .npz in output/."""

    CATEGORY, FUNCTION, OUTPUT_NODE, RETURN_TYPES = CATEGORY, "write", True, ()

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802
        return {
            "required": {"name": ("STRING", {"default": "arrays"})},
            "optional": {
                "images": ("IMAGE",),
                "masks": ("MASK",),
                "audio": ("AUDIO",),
                "number": ("FLOAT", {"forceInput": True}),
                "text": ("STRING", {"forceInput": True}),
                "boxes": ("BOUNDING_BOX", {"forceInput": True}),
            },
        }

    def write(self, name, images=None, masks=None, audio=None, number=None, text=None, boxes=None):
        arrays = {"images": images, "masks": masks, "number": number, "text": text}
        arrays["boxes"] = None if boxes is None else json.dumps(boxes)
        if audio is not None:
            arrays |= {"waveform": audio["waveform"], "sample_rate": audio["sample_rate"]}
        kept = {key: np.asarray(value) for key, value in arrays.items() if value is not None}
        np.savez(os.path.join(folder_paths.get_output_directory(), f"{name}.npz"), **kept)
        return {"ui": {"arrays": [{"filename": f"{name}.npz", "subfolder": "", "type": "output"}]}}


NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (OtherBatchManager, OtherLoadVideo, OtherCombineVideo, OtherNoFrames, OtherWriteArrays)
}
