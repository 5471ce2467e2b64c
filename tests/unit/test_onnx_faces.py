"""The ONNX detector on models built here: the real ones are not free, their inputs and outputs are known."""

import builtins

import cv2
import numpy as np
import pytest

from latentsync.errors import ForeignCheckpointError, ModelNotFoundError, OptionError
from latentsync.faces.detectors import DETECTORS, load_detector
from latentsync.faces.finder import FaceObservation, FaceTracker
from latentsync.faces.insightface import (
    DETECTION_SIDE,
    STRIDES,
    InsightFaceDetector,
    ScoredBoxes,
    acceptable,
    decode_scrfd,
    letterbox,
    points_of_106,
    suppress,
)
from latentsync.options import LipSyncOptions
from latentsync.run.engine import lip_sync

onnx = pytest.importorskip("onnx", reason="building the test models needs the onnx package")
onnxruntime = pytest.importorskip("onnxruntime", reason="running them needs onnxruntime")


def write_model(path, nodes, inputs, outputs, constants):
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "test",
        [value(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs],
        [value(name, onnx.TensorProto.FLOAT, [None, None]) for name in outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def detection_model(path, distances=(3.0, 4.0, 3.0, 4.0)):
    """Score 0..1 by how bright the net's first channel is in a cell of stride 32; the box by `distances`, in strides.

    The first of the two anchors of a cell fires, the second and the finer strides never do.
    """
    node = onnx.helper.make_node
    constants = {"shape": np.array([-1, 1]), "half": np.full((1, 10), 0.5, np.float32)}
    nodes, scores, boxes = [], [], []
    for stride in STRIDES:
        count = (DETECTION_SIDE // stride) ** 2 * 2
        constants[f"box{stride}"] = np.tile(np.array(distances, np.float32), (count, 1))
        constants[f"gain{stride}"] = np.array([[0.5, 0.0]], np.float32) * (stride == 32)
        nodes += [
            node("Slice", ["image", "zero", "one", "axis"], [f"red{stride}"]),
            node("AveragePool", [f"red{stride}"], [f"pool{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2),
            node("Reshape", [f"pool{stride}", "shape"], [f"cell{stride}"]),
            node("Add", [f"cell{stride}", "unit"], [f"lit{stride}"]),  # -1..1 to 0..2
            node("Mul", [f"lit{stride}", f"gain{stride}"], [f"pair{stride}"]),
            node("Reshape", [f"pair{stride}", "shape"], [f"score{stride}"]),
            node("Identity", [f"box{stride}"], [f"out{stride}"]),
        ]
        scores.append(f"score{stride}")
        boxes.append(f"out{stride}")
    constants |= {"zero": np.array([0]), "one": np.array([1]), "axis": np.array([1])}
    constants["unit"] = np.ones((1, 1), np.float32)
    nodes += [node("Identity", ["half"], [f"points{stride}"]) for stride in STRIDES]
    outputs = [*scores, *boxes, *[f"points{stride}" for stride in STRIDES]]
    return write_model(path, nodes, [("image", [1, 3, None, None])], outputs, constants)


def landmark_model(path):
    """All 106 points where the net's first channel has its centre of mass, in -1..1 of the crop."""
    node = onnx.helper.make_node
    grid = ((np.arange(192, dtype=np.float32) + 0.5) / 96 - 1) * np.ones((1, 1, 192, 1), np.float32)
    constants = {"across": grid, "down": grid.swapaxes(2, 3).copy(), "repeat": np.array([1, 106])}
    constants |= {"zero": np.array([0]), "one": np.array([1]), "axis": np.array([1]), "row": np.array([1, 1])}
    nodes = [
        node("Slice", ["data", "zero", "one", "axis"], ["red"]),
        node("ReduceSum", ["red"], ["mass"], keepdims=1),
    ]
    for name in ("across", "down"):
        nodes += [
            node("Mul", ["red", name], [f"{name}_moment"]),
            node("ReduceSum", [f"{name}_moment"], [f"{name}_sum"], keepdims=1),
            node("Div", [f"{name}_sum", "mass"], [f"{name}_mean"]),
            node("Reshape", [f"{name}_mean", "row"], [f"{name}_row"]),
        ]
    nodes += [
        node("Concat", ["across_row", "down_row"], ["pair"], axis=1),
        node("Tile", ["pair", "repeat"], ["fc1"]),
    ]
    return write_model(path, nodes, [("data", [1, 3, 192, 192])], ["fc1"], constants)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return detection_model(folder / "det.onnx"), landmark_model(folder / "landmarks.onnx")


def frame_with(*blocks, shape=(512, 512, 3), channel=2):
    """Black frame with squares (x, y, side) of one bright channel; the nets' first channel is the frame's last."""
    frame = np.zeros(shape, np.uint8)
    for x, y, side in blocks:
        frame[y : y + side, x : x + side, channel] = 255
    return frame


def test_a_real_session_finds_the_block(models):
    detector = InsightFaceDetector(*models)
    observation = detector(frame_with((192, 256, 32)))
    # cell (6, 8) of stride 32: its corner is the anchor
    np.testing.assert_allclose(observation.box, [192 - 96, 256 - 128, 192 + 96, 256 + 128])
    assert observation.confidence == pytest.approx(1, abs=0.01)
    assert observation.landmarks is None
    np.testing.assert_allclose(observation.points, np.tile([208, 272], (3, 1)), atol=1)
    assert np.array_equal(observation.points, np.round(observation.points))
    smooth = InsightFaceDetector(*models, rounded=False)(frame_with((192, 256, 32))).points
    assert np.abs(smooth - observation.points).max() <= 1


def test_a_detector_is_chosen_by_its_files(models):
    detection, landmarks = models
    assert isinstance(load_detector(det_model=detection, landmark_model=landmarks), InsightFaceDetector)
    assert isinstance(load_detector(det_model=None, landmark_model=None), FaceTracker)
    with pytest.raises(OptionError, match="--det_model make no face detector; give --det_model and --landmark_model"):
        load_detector(det_model=detection, landmark_model=None)
    assert [row.origin.licence for row in DETECTORS.values()] == ["Apache-2.0", "non-commercial research only"]


def test_frames_are_passed_as_rgb_like_the_reference(models):
    """Both nets are given the channels in reverse: a block in the frame's first channel is in their last."""
    detector = InsightFaceDetector(*models)
    assert detector(frame_with((192, 256, 32), channel=0)) is None
    assert detector(frame_with((192, 256, 32), channel=1)) is None


def test_boxes_return_to_the_frame(models):
    detector = InsightFaceDetector(*models)
    small = frame_with((192, 96, 32), shape=(256, 512, 3))
    large = cv2.resize(small, (1024, 512), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_allclose(detector(large).box, detector(small).box * 2)
    tall = frame_with((64, 384, 64), shape=(1024, 400, 3))
    np.testing.assert_allclose(detector(tall).box, np.array([32 - 96, 192 - 128, 32 + 96, 192 + 128]) * 2)


def test_previous_face_is_kept_unless_told_otherwise(tmp_path, models):
    both = frame_with((64, 128, 32), (384, 352, 32))
    first = InsightFaceDetector(*models)(frame_with((64, 128, 32)))
    second = InsightFaceDetector(*models)(frame_with((384, 352, 32)))
    follow = InsightFaceDetector(*models)
    assert np.array_equal(follow(both, first).box, first.box)
    assert np.array_equal(follow(both, second).box, second.box)
    largest = InsightFaceDetector(*models, follow=False)
    assert np.array_equal(largest(both, first).box, largest(both, second).box)


def test_all_faces_are_found_and_each_is_followed(models):
    detector, both = InsightFaceDetector(*models), frame_with((64, 128, 32), (384, 352, 32))
    faces = detector.detect(both)
    assert len(faces) == 2
    for face in faces:
        assert np.array_equal(detector.follow(both, face).box, face.box)
    assert len(detector.detect(both, faces[:1])) == 1
    assert detector.follow(frame_with((64, 128, 32)), faces[0]) is not None
    assert detector.follow(np.zeros((512, 512, 3), np.uint8), faces[0]) is None


def test_no_face(models):
    assert InsightFaceDetector(*models)(np.zeros((300, 400, 3), np.uint8)) is None


def test_decoding_of_every_stride():
    outputs = []
    for stride in STRIDES:
        scores = np.zeros(((DETECTION_SIDE // stride) ** 2 * 2, 1), np.float32)
        scores[2 * (3 * (DETECTION_SIDE // stride) + 5) + 1] = 0.5 + stride / 100  # row 3, column 5, second anchor
        outputs.append(scores)
    outputs += [np.tile(np.float32([1, 2, 3, 4]), (len(scores), 1)) for scores in outputs]
    found = decode_scrfd(outputs, DETECTION_SIDE)
    expected = [[4 * s, 1 * s, 8 * s, 7 * s] for s in STRIDES]
    np.testing.assert_allclose(found.boxes, expected)
    np.testing.assert_allclose(found.scores, [0.58, 0.66, 0.82])
    batched = decode_scrfd([output[None] for output in outputs], DETECTION_SIDE)
    assert np.array_equal(batched.boxes, found.boxes)
    with pytest.raises(ForeignCheckpointError, match="stride 8"):
        decode_scrfd(outputs[3:] + outputs, DETECTION_SIDE)


def test_suppression_keeps_the_best_of_overlapping_boxes():
    boxes = np.float32([[0, 0, 100, 100], [10, 0, 110, 100], [60, 0, 160, 100], [300, 300, 360, 400]])
    found = suppress(ScoredBoxes(boxes, np.float32([0.7, 0.9, 0.6, 0.8])))
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.6])
    empty = suppress(ScoredBoxes(np.zeros((0, 4), np.float32), np.zeros(0, np.float32)))
    assert len(empty.boxes) == 0


@pytest.mark.parametrize(
    ("box", "fine"),
    [
        ((0, 0, 50, 80), True),
        ((0, 0, 49.9, 80), False),  # truncated to 49
        ((0, 0, 60, 79), False),
        ((0, 0, 121, 80), False),  # wider than 1.5 heights
        ((0, 0, 120, 80), True),
        ((0, 0, 50, 251), False),  # narrower than a fifth
        ((0.9, 0, 50.1, 80), True),  # 0 to 50
    ],
)
def test_filters_of_the_reference(box, fine):
    assert acceptable(np.float32(box)) is fine


def test_three_points_are_rounded_twice():
    landmarks = np.zeros((106, 2), np.float32)
    landmarks[[43, 48, 49, 51, 50]] = [[10, 4], [11, 4], [11, 4], [11, 4], [12, 6]]
    landmarks[[101, 102, 103, 104, 105]] = 30
    landmarks[[74, 77, 83, 86]] = [[20, 20], [20, 20], [21, 20], [21, 23]]
    np.testing.assert_allclose(points_of_106(landmarks), [[11, 4], [30, 30], [20, 21]])
    np.testing.assert_allclose(points_of_106(landmarks, rounded=False)[0], [11, 4.4], rtol=1e-6)


def test_letterbox_keeps_the_proportions():
    canvas, scale = letterbox(np.full((1920, 1080, 3), 9, np.uint8))
    assert scale == pytest.approx(512 / 1920)
    assert (canvas[:, :288] == 9).all()
    assert (canvas[:, 288:] == 0).all()
    assert letterbox(np.zeros((1, 3000, 3), np.uint8))[0].shape == (512, 512, 3)


def test_errors_say_what_to_do(tmp_path, models, monkeypatch):
    with pytest.raises(ModelNotFoundError, match=r"absent\.onnx"):
        InsightFaceDetector(tmp_path / "absent.onnx", models[1])
    (tmp_path / "text.onnx").write_text("not a model " * 50)
    with pytest.raises(ForeignCheckpointError, match=r"text\.onnx"):
        InsightFaceDetector(tmp_path / "text.onnx", models[1])
    with pytest.raises(ForeignCheckpointError, match="1 outputs, expected 9"):
        InsightFaceDetector(models[1], models[0])
    imported = builtins.__import__

    def without_onnxruntime(name, *arguments, **keywords):
        if name == "onnxruntime":
            raise ImportError(name)
        return imported(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without_onnxruntime)
    with pytest.raises(OptionError, match="pip install onnxruntime"):
        InsightFaceDetector(*models)


def test_the_gpu_is_asked_for_only_where_the_networks_run_there(models, monkeypatch):
    """This onnxruntime has no GPU: asked for one it works on the CPU and says so, whatever it believes it has."""
    frame = frame_with((192, 256, 32))
    plain = InsightFaceDetector(*models)
    assert plain.notices == ()
    told = []
    for available in (["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda available=available: available)
        assert InsightFaceDetector(*models, device="cpu").notices == ()
        detector = InsightFaceDetector(*models, device="cuda:0")
        assert np.array_equal(detector(frame).box, plain(frame).box)
        told.append(detector.notices)
    assert [len(notices) for notices in told] == [1, 1]  # not one for each of the two models
    assert "pip install onnxruntime-gpu" in told[0][0]
    assert "could not use the GPU" in told[1][0]


def test_a_session_that_cuda_refuses_is_opened_on_the_cpu(models, monkeypatch):
    """As of a driver that is too old, which is an error with some versions of onnxruntime."""
    opened, real = [], onnxruntime.InferenceSession

    def open_session(path, providers):
        opened.append(providers[0] if isinstance(providers[0], str) else providers[0][0])
        if opened[-1] == "CUDAExecutionProvider":
            raise RuntimeError("CUDA failure 35: CUDA driver version is insufficient")
        return real(path, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", open_session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    detector = InsightFaceDetector(*models, device="cuda")
    assert opened == ["CUDAExecutionProvider", "CPUExecutionProvider"] * 2
    assert detector(frame_with((192, 256, 32))) is not None
    assert "could not use the GPU" in detector.notices[0]


def test_observation_is_the_common_one(models):
    assert isinstance(InsightFaceDetector(*models)(frame_with((192, 256, 32))), FaceObservation)


def test_the_report_of_a_run_carries_the_notice(small_model, avatar_video, speech, tmp_path):
    class Finder(FaceTracker):
        notices = ("InsightFace's models run on the CPU",)

    options = LipSyncOptions(num_inference_steps=1, guidance_scale=1.0)
    report = lip_sync(avatar_video, speech(0.2), tmp_path / "out.mp4", small_model, options, finder=Finder())
    assert Finder.notices[0] in report.warnings
