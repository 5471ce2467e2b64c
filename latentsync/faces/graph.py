"""Runs the small convolutional nets whose operator list travels inside their safetensors file.

The face nets were published as TFLite graphs. Their weights (float16, already in torch's channel order) and the list
of operators are stored together: tensor names are `c<id>`, the header field `graph` is JSON with
  ops       [[name, input ids, output ids, attributes], ...] in execution order
  ints      integer constants (paddings, sizes) by id
  inputs, outputs, in_shape (1, H, W, C)
Everything that can be decided once is decided at load time: ReLUs and zero-channel pads are fused into their
neighbours, paddings are resolved to numbers, values are dropped after their last use.
"""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import DamagedCheckpointError, ModelNotFoundError

PAD_SAME = 0  # TFLite's enumeration: 0 "SAME", 1 "VALID"
ACTIVATION_RELU = 1


class TensorGraph(nn.Module):
    """A feed-forward graph of float tensors.

    `forward` takes (B, C, H, W) float32 and returns the list of outputs in the graph's own order: feature maps as
    (B, C, H, W), reshaped ones as (B, ...) in TFLite's channels-last element order.
    """

    def __init__(self, ops: list, constants: dict[int, list], tensors: dict[str, Tensor], inputs: list, outputs: list):
        super().__init__()
        self.input_id, self.output_ids = inputs[0], list(outputs)
        self._num_slots = 1 + max(max([*op[1], *op[2]]) for op in ops)
        weights = {int(name[1:]): tensor.float() for name, tensor in tensors.items()}
        for index, tensor in weights.items():
            layout = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
            self.register_buffer(f"c{index}", tensor.contiguous(memory_format=layout), persistent=False)
        self._steps = self._plan(_fuse(ops, constants, outputs), constants, weights)

    def _plan(self, ops: list, constants: dict[int, list], weights: dict[int, Tensor]) -> list[tuple]:
        """(function, value inputs, constant names, output, values to drop) per operator."""
        last_use = {value: step for step, op in enumerate(ops) for value in op[1] if value not in weights}
        steps = []
        for step, (name, inputs, outputs, attributes) in enumerate(ops):
            values = [i for i in inputs if i not in weights and i not in constants]
            buffers = [f"c{i}" for i in inputs if i in weights]
            dead = [i for i in values if last_use[i] == step and i not in self.output_ids]
            steps.append((_operator(name, inputs, attributes, weights), values, buffers, outputs[0], dead))
        return steps

    def forward(self, pixels: Tensor) -> list[Tensor]:
        slots: list[Tensor | None] = [None] * self._num_slots
        slots[self.input_id] = pixels.contiguous(memory_format=torch.channels_last)
        buffers = self._buffers
        for function, values, names, output, dead in self._steps:
            slots[output] = function(*[slots[i] for i in values], *[buffers[name] for name in names])
            for i in dead:
                slots[i] = None
        return [slots[i] for i in self.output_ids]


def _fuse(ops: list, constants: dict[int, list], outputs: list) -> list:
    """Fold RELU into its producer and a zero-channel PAD into the ADD that uses it.

    Order of operations is kept, so an in-place ReLU or addition only ever touches a tensor nobody else has read yet.
    """
    uses = Counter(i for op in ops for i in op[1]) + Counter(outputs)
    producers, fused, padded = {}, [], {}
    for name, inputs, results, attributes in ops:
        op = [name, list(inputs), list(results), dict(attributes)]
        if name == "PAD" and uses[results[0]] == 1 and not any(any(pair) for pair in constants[inputs[1]][:3]):
            padded[results[0]] = inputs[0]  # adding zeros to the extra channels changes nothing
            continue
        if name == "ADD" and inputs[0] in padded:
            op[:2] = ["ADD_FEWER_CHANNELS", [padded[inputs[0]], inputs[1]]]
            if uses[inputs[1]] != 1:
                raise NotImplementedError("in-place addition to a value that is read again")
        producer = producers.get(inputs[0]) if name == "RELU" and uses[inputs[0]] == 1 else None
        if producer is not None and producer[3].get("act") == 0:
            producer[3]["act"] = ACTIVATION_RELU
            producer[2] = list(results)
            producers[results[0]] = producer
            continue
        producers[results[0]] = op
        fused.append(op)
    return fused


def _operator(name: str, inputs: list[int], attributes: dict, weights: dict[int, Tensor]) -> Callable[..., Tensor]:
    activation = torch.relu_ if attributes.get("act") == ACTIVATION_RELU else None
    if name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        function = _convolution(weights[inputs[1]].shape, attributes, depthwise=name[0] == "D")
    elif name == "MAX_POOL_2D":
        kernel, stride = attributes["k"], attributes["s"]
        return lambda x: F.max_pool2d(x, kernel, stride, ceil_mode=attributes["pad"] == PAD_SAME)
    elif name == "ADD":
        function = torch.add
    elif name == "ADD_FEWER_CHANNELS":

        def function(few: Tensor, many: Tensor) -> Tensor:
            many[:, : few.shape[1]].add_(few)
            return many

    elif name == "RELU":
        return torch.relu
    elif name == "PRELU":
        return F.prelu
    elif name == "RESIZE_BILINEAR":
        size = attributes["oshape"][1:3]
        return lambda x: F.interpolate(x, size=size, mode="bilinear", align_corners=attributes["ac"])
    elif name == "RESHAPE":
        shape = attributes["oshape"][1:]
        return lambda x: rearrange(x, "b c h w -> b h w c").reshape(x.shape[0], *shape)
    else:
        raise NotImplementedError(f"operator {name} is not known to this runtime")
    if activation is None:
        return function
    return lambda *tensors: activation(function(*tensors))


def _convolution(weight_shape: torch.Size, attributes: dict, depthwise: bool) -> Callable[..., Tensor]:
    stride = attributes["s"]
    groups = weight_shape[0] if depthwise else 1
    kernel = weight_shape[-2:]
    if attributes["pad"] != PAD_SAME:
        padding = [0, 0]
    elif stride == [1, 1]:
        padding = [(k - 1) // 2 for k in kernel]
    else:
        # TFLite pads the far side more: the input size, hence the amount, is known from the output size
        def strided(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
            top, bottom = _same_padding(x.shape[-2], kernel[0], stride[0])
            left, right = _same_padding(x.shape[-1], kernel[1], stride[1])
            return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, bias, stride, 0, 1, groups)

        return strided
    return lambda x, weight, bias: F.conv2d(x, weight, bias, stride, padding, 1, groups)


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def load_graph(path: str | Path, device: torch.device | str = "cpu") -> TensorGraph:
    """Read a graph file (see the module's text) into an evaluation-mode module on `device`.

    Raises ModelNotFoundError if the file is absent, DamagedCheckpointError if it is not such a file.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelNotFoundError(f"no face model at {path}: the file belongs to the package, reinstall it")
    try:
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["graph"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamagedCheckpointError(f"{path} is not a face model of this package ({error}): reinstall it") from error
    constants = {int(index): value for index, value in header["ints"].items()}
    graph = TensorGraph(header["ops"], constants, tensors, header["inputs"], header["outputs"])
    return graph.eval().requires_grad_(False).to(device)
