"""MediaPipe's face networks: BlazeFace finds faces in a whole frame, FaceMesh gives a face's 468 landmarks."""

import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import DamagedCheckpointError, ModelNotFoundError
from ..model_files import ASSETS, Framing

# Runs the small convolutional nets whose operator list travels inside their safetensors file.
#
# The face nets were published as TFLite graphs. Their weights (float16, already in torch's channel order) and the list
# of operators are stored together: tensor names are `c<id>`, the header field `graph` is JSON with
#   ops       [[name, input ids, output ids, attributes], ...] in execution order
#   ints      integer constants (paddings, sizes) by id
#   inputs, outputs, in_shape (1, H, W, C)
# Everything that can be decided once is decided at load time: ReLUs and zero-channel pads are fused into their
# neighbours, paddings are resolved to numbers, values are dropped after their last use.

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


# BlazeFace, full range: faces and six key points in a whole frame (Bazarevsky et al., 2019; MediaPipe's model).

BLAZEFACE_WEIGHTS = ASSETS / "face" / "blazeface_full192.safetensors"
INPUT_SIDE = 192  # px
ANCHOR_GRID = 48  # cells a side, one anchor each
DECIMATED_SIDE = 1536  # px; larger frames are thinned towards it before averaging
MIN_SCORE = 0.5
MERGE_IOU = 0.3
MIN_SQUARE = 64  # px; in a frame with a shorter side no small face could be told
MIN_EXCESS = 0.2  # of the short side, by which the long side must be longer for squares to see more than the whole
MIDDLE = 0.2  # of the side of a picture of one face, within which its middle lies
FILL_SCALES = (1.0, 0.5)  # share of the net's input the frame's long side takes: first try, second try


@dataclass(frozen=True)
class FaceDetection:
    """One face in a frame.

    box        (4,) px: x0 y0 x1 y1
    keypoints  (6, 2) px: eyes, nose, mouth, ears; of a pair the left one in the image first
    score      0..1
    """

    box: np.ndarray
    keypoints: np.ndarray
    score: float

    @property
    def area(self) -> float:
        return float(np.prod(np.maximum(self.box[2:] - self.box[:2], 0)))


class BlazeFace:
    """`detector(frame)` with `frame` (H, W, 3) uint8 RGB of any size gives the detections, largest first.

    The frame is shrunk to 192 px on its long side, so only the shrinking costs more for a larger one. A face that fills
    the frame is larger than the net was trained for: where nothing is found, the frame is tried again at half scale,
    with a border. A face narrower than a seventeenth of the frame's long side is too small for that: a frame that is
    not square is searched in overlapping squares, which brings a whole person in a 16:9 frame into reach. Last, the
    frame is turned by 180 degrees: the left keypoint of a pair is then the left one of the turned frame.
    """

    def __init__(self, device: torch.device | str = "cpu", min_score: float = MIN_SCORE):
        self.device, self.min_score = torch.device(device), min_score
        self._graph = load_graph(BLAZEFACE_WEIGHTS, device)
        cell = (torch.arange(ANCHOR_GRID) + 0.5) * (INPUT_SIDE / ANCHOR_GRID)
        rows, columns = torch.meshgrid(cell, cell, indexing="ij")
        self._anchors = torch.stack([columns, rows], -1).reshape(-1, 2)

    def __call__(self, frame: np.ndarray) -> list[FaceDetection]:
        for fill in FILL_SCALES:
            found = self._detect(frame, fill)
            if found:
                return found
        return self._detect_in_squares(frame) or self._detect(frame, 1.0, is_turned=True)

    def sees_face(self, picture: np.ndarray) -> bool:
        """Whether an upright face fills the middle of a picture (192, 192, 3) uint8 RGB."""
        middles = [(face.box[:2] + face.box[2:]) / 2 for face in self._detect(picture, 1.0)]
        return any((np.abs(middle / INPUT_SIDE - 0.5) < MIDDLE).all() for middle in middles)

    def _detect_in_squares(self, frame: np.ndarray) -> list[FaceDetection]:
        """Faces in squares of the frame's short side that overlap by half; one in two squares may come twice."""
        height, width = frame.shape[:2]
        side, excess = min(height, width), abs(width - height)
        if side < MIN_SQUARE or excess < side * MIN_EXCESS:
            return []
        found = []
        for place in np.linspace(0, excess, 1 + -(-2 * excess // side)).round().astype(int):
            x, y = (int(place), 0) if width > height else (0, int(place))
            corner = np.array([x, y])
            found += [
                FaceDetection((face.box.reshape(2, 2) + corner).reshape(4), face.keypoints + corner, face.score)
                for face in self._detect(frame[y : y + side, x : x + side], 1.0)
            ]
        return sorted(found, key=lambda face: -face.area)

    @torch.inference_mode()
    def _detect(self, frame: np.ndarray, fill: float, is_turned: bool = False) -> list[FaceDetection]:
        canvas, scale, offset = _letterbox(frame, fill)
        if is_turned:
            canvas = np.ascontiguousarray(canvas[::-1, ::-1])
        pixels = torch.from_numpy(canvas).to(self.device).permute(2, 0, 1)[None].float() / 127.5 - 1
        regressions, logits = (output[0].cpu() for output in self._graph(pixels))
        scores = logits[:, 0].clamp(-100, 100).sigmoid()
        keep = scores > self.min_score
        boxes, keypoints = _decode(regressions[keep], self._anchors[keep])
        merged = _merge(boxes, keypoints, scores[keep])
        if is_turned:  # both corners of the box change places
            turned = [(box.reshape(2, 2)[::-1].reshape(4), points, score) for box, points, score in merged]
            merged = [(INPUT_SIDE - box, INPUT_SIDE - points, score) for box, points, score in turned]
        to_frame = [
            FaceDetection(
                ((box.reshape(2, 2) - offset) / scale - 0.5).reshape(4), (points - offset) / scale - 0.5, score
            )
            for box, points, score in merged
        ]
        return sorted(to_frame, key=lambda face: -face.area)


def _letterbox(frame: np.ndarray, fill: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frame shrunk into the middle of a black (192, 192, 3) uint8 canvas; then scale (2,) and offset (2,) of it."""
    height, width = frame.shape[:2]
    step = max(1, max(height, width) // DECIMATED_SIDE)
    frame = frame[::step, ::step]  # averaging all of an 8K frame would cost 0.1 s
    factor = INPUT_SIDE * fill / max(height, width)
    size = np.maximum(np.rint([width * factor, height * factor]).astype(int), 1)
    offset = (INPUT_SIDE - size) // 2
    shrinking = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    canvas = np.zeros((INPUT_SIDE, INPUT_SIDE, 3), np.uint8)
    canvas[offset[1] : offset[1] + size[1], offset[0] : offset[0] + size[0]] = cv2.resize(
        frame, (int(size[0]), int(size[1])), interpolation=shrinking
    )
    return canvas, size / np.array([width, height]), offset


def _decode(regressions: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """(N, 16) centre, size and six points, in px from the anchor -> corner boxes (N, 4), keypoints (N, 6, 2) in px."""
    centre = regressions[:, :2] + anchors
    half = regressions[:, 2:4] / 2
    keypoints = regressions[:, 4:].reshape(-1, 6, 2) + anchors[:, None]
    return torch.cat([centre - half, centre + half], 1), keypoints


def _merge(boxes: Tensor, keypoints: Tensor, scores: Tensor) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Non-maximum suppression that averages overlapping candidates by score, as BlazeFace's authors do: less jitter."""
    merged = []
    while len(scores):
        best = int(scores.argmax())
        group = _iou(boxes[best], boxes) > MERGE_IOU
        group[best] = True
        weights = scores[group, None] / scores[group].sum()
        box = (boxes[group] * weights).sum(0)
        points = (keypoints[group] * weights[..., None]).sum(0)
        merged.append((box.numpy().astype(np.float64), points.numpy().astype(np.float64), float(scores[best])))
        boxes, keypoints, scores = boxes[~group], keypoints[~group], scores[~group]
    return merged


def _iou(box: Tensor, boxes: Tensor) -> Tensor:
    """(4,) against (N, 4) corner boxes -> (N,) intersection over union."""
    size = (torch.minimum(box[2:], boxes[:, 2:]) - torch.maximum(box[:2], boxes[:, :2])).clamp(min=0)
    intersection = size.prod(1)
    return intersection / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - intersection).clamp(
        min=1e-9
    )


# FaceMesh: 468 landmarks from a rotated square around a face (Kartynnik et al., 2019; MediaPipe's model).

FACEMESH_WEIGHTS = ASSETS / "face" / "facemesh468.safetensors"
# px
NUM_LANDMARKS = 468
MARGIN = 1.5  # side of the region over the longest side of the face
EYE_CORNERS = (33, 263)  # outer, image left and right
INNER_LIPS = (13, 14)  # middle of the upper and of the lower

# left and right of the face as seen in the image: corners of eyes and mouth, ends of brows, sides of face and jaw
MIRRORED = ((33, 263), (61, 291), (70, 300), (127, 356), (234, 454), (172, 397))

# The mesh flattens a turned face: faces turned by a known angle measure two thirds of it, from 10 to 70 degrees.
YAW_GAIN = 1.5

# The three points of the alignment template; this is the one place that says which mesh points make them. What differs
# between models is the nose. The released U-Nets were trained on crops from InsightFace's 106 points, whose nose the
# points around the nostrils give without bias. The upper ones lie 7 % of the distance of the eyes higher, so that crops
# come out 4 % larger and the mouth 4.7 px lower at 256 px: models that were trained on such crops keep them.
NOSES = {"insightface": (5, 4, 129, 358), "mesh": (195, 5, 4, 1)}
LEFT_BROW = (70, 63, 105, 66, 107, 46, 53, 52, 65, 55)  # left in the image
RIGHT_BROW = (300, 293, 334, 296, 336, 276, 283, 282, 295, 285)
# A closed polygon around what speech moves: along the jaw from ear to ear, and back over the cheeks and below the nose.
LOWER_FACE = (
    *(93, 132, 58, 172, 136, 150, 149, 176, 148, 152, 377, 400, 378, 379, 365, 397, 288, 361, 323),
    *(411, 425, 327, 2, 98, 205, 187),
)


@dataclass(frozen=True)
class FaceRegion:
    """A rotated square in frame px: `centre` (2,), `side`, `angle` in radians (positive turns x towards y)."""

    centre: np.ndarray
    side: float
    angle: float

    def to_frame(self) -> np.ndarray:
        """(2, 3) matrix from unit coordinates (0..1 in the square) to frame px, pixel centres at whole numbers."""
        cosine, sine = math.cos(self.angle) * self.side, math.sin(self.angle) * self.side
        turn = np.array([[cosine, -sine], [sine, cosine]])
        return np.concatenate([turn, (self.centre - turn @ [0.5, 0.5])[:, None]], 1)


def region_of_keypoints(box: np.ndarray, keypoints: np.ndarray) -> FaceRegion:
    """Region from a detection: box (4,) corners px, keypoints (6, 2) px whose first two are the eyes."""
    size = box[2:] - box[:2]
    return FaceRegion((box[:2] + box[2:]) / 2, float(size.max()) * MARGIN, _angle(keypoints[0], keypoints[1]))


def region_of_landmarks(landmarks: np.ndarray) -> FaceRegion:
    """Region from an earlier result: (468, 2) px."""
    angle = _angle(landmarks[EYE_CORNERS[0]], landmarks[EYE_CORNERS[1]])
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    upright = landmarks @ turn
    low, high = upright.min(0), upright.max(0)
    return FaceRegion(turn @ ((low + high) / 2), float((high - low).max()) * MARGIN, angle)


def _angle(left_eye: np.ndarray, right_eye: np.ndarray) -> float:
    return math.atan2(right_eye[1] - left_eye[1], right_eye[0] - left_eye[0])


class FaceMesh:
    """`mesh(frame, region)` with `frame` (H, W, 3) uint8 RGB gives landmarks (468, 3) float32 px and confidence 0..1.

    The third coordinate is depth, growing away from the viewer, from a zero of its own. Landmarks may lie outside the
    frame. Reads only the pixels of the region; outside the frame it is black.
    """

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        self._graph = load_graph(FACEMESH_WEIGHTS, device)

    @torch.inference_mode()
    def __call__(self, frame: np.ndarray, region: FaceRegion) -> tuple[np.ndarray, float]:
        crop = region_picture(frame, region)
        pixels = torch.from_numpy(crop).to(self.device).permute(2, 0, 1)[None].float() / 255
        points, logit = (output.flatten().float().cpu() for output in self._graph(pixels))
        unit = points.reshape(NUM_LANDMARKS, 3).double().numpy() / INPUT_SIDE
        matrix = region.to_frame()
        flat = unit[:, :2] @ matrix[:, :2].T + matrix[:, 2]
        landmarks = np.concatenate([flat, unit[:, 2:] * region.side], 1)
        return landmarks.astype(np.float32), float(logit.sigmoid())


def region_picture(frame: np.ndarray, region: FaceRegion) -> np.ndarray:
    """The region as (192, 192, 3) uint8; a region much larger than that is first shrunk by averaging (no aliasing)."""
    height, width = frame.shape[:2]
    matrix = region.to_frame()
    corners = np.array([[0, 0, 1], [1, 0, 1], [0, 1, 1], [1, 1, 1]]) @ matrix.T
    low = np.clip(np.floor(corners.min(0)).astype(int) - 1, 0, [width, height])
    high = np.clip(np.ceil(corners.max(0)).astype(int) + 2, 0, [width, height])
    if (high <= low).any():
        return np.zeros((INPUT_SIDE, INPUT_SIDE, 3), np.uint8)
    patch = frame[low[1] : high[1], low[0] : high[0]]
    scale = np.ones(2)
    shrink = region.side / INPUT_SIDE
    if shrink > 1.5:
        size = np.maximum(np.rint((high - low) / shrink).astype(int), 1)
        patch = cv2.resize(patch, (int(size[0]), int(size[1])), interpolation=cv2.INTER_AREA)
        scale = size / (high - low)
    # unit -> crop px is (p + .5) / 192; frame px -> patch px is (p - low + .5) * scale - .5
    inverse = np.empty((2, 3))
    inverse[:, :2] = matrix[:, :2] / INPUT_SIDE
    inverse[:, 2] = matrix[:, :2].sum(1) * (0.5 / INPUT_SIDE) + matrix[:, 2] - low
    inverse[:, :2] *= scale[:, None]
    inverse[:, 2] = (inverse[:, 2] + 0.5) * scale - 0.5
    return cv2.warpAffine(patch, inverse, (INPUT_SIDE, INPUT_SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)


def alignment_points(landmarks: np.ndarray, framing: Framing = "mesh") -> np.ndarray:
    """(468, 2) px -> (3, 2) float32 px: left brow, right brow (in the image) and nose, in the template's order."""
    parts = (LEFT_BROW, RIGHT_BROW, NOSES[framing])
    return np.stack([landmarks[list(part)].mean(0) for part in parts]).astype(np.float32)


def mouth_opening(landmarks: np.ndarray) -> float:
    """Distance of the inner lips over the distance of the outer eye corners: about 0 closed, 0.3 and more wide open."""
    upper, lower = landmarks[INNER_LIPS[0]], landmarks[INNER_LIPS[1]]
    left, right = landmarks[EYE_CORNERS[0]], landmarks[EYE_CORNERS[1]]
    return float(np.linalg.norm(upper - lower) / max(float(np.linalg.norm(left - right)), 1e-6))


def head_yaw(landmarks: np.ndarray) -> float:
    """Degrees by which the face (468, 3) px turns to the picture's right, negative to its left; 0 is frontal.

    The direction in depth of what lies straight across a face, made up for what the mesh flattens. Beyond some 70
    degrees there is no mesh.
    """
    left, right = (landmarks[[pair[side] for pair in MIRRORED]].astype(np.float64) for side in (0, 1))
    across = (right - left).sum(0)
    return YAW_GAIN * math.degrees(math.atan2(across[2], math.hypot(across[0], across[1])))
