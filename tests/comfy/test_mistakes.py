"""What users get wrong, and whether they are told so that they can mend it: by the node, in one message."""

import shutil

import pytest

from latentsync.model.loading import BUNDLED
from tests.comfy import graphs
from tests.comfy.graphs import all_in_one, node, stages, write


def staged(clips, **changes) -> dict:
    """The stages with other inputs: `staged(clips, hear={"fps": ["zero", 0]})`."""
    graph = stages(clips.talk, clips.speech)
    for name, inputs in changes.items():
        graph[name] = node(graph[name]["class_type"], **{**graph[name]["inputs"], **inputs})
    graph["write"] = write("mistake", images=["put", 0])
    return graph


def refused(server, graph: dict, at: str, *said: str, **extra: dict) -> None:
    """The host takes no such graph, and says so of this node."""
    run = server.run(graph | extra)
    assert run.status == "invalid", run.message
    assert at in run.node_errors
    for part in said:
        assert part in run.message


def failed(server, graph: dict, at: str, *said: str, **extra: dict) -> None:
    """The run ends at this node with a message for people."""
    run = server.run(graph | extra)
    assert run.status == "error", run.message
    assert run.error["node_id"] == at
    assert run.error["exception_type"] in ("ValueError", "FileNotFoundError")  # none of the library's inner failures
    for part in said:
        assert part in run.message
    assert len(run.message) < 500
    assert str(server.base) not in f"{run.message} {run.error['current_inputs']}"  # nobody's business
    assert "\n  File " not in run.message


def number(value: float) -> dict:
    return node("PrimitiveFloat", value=value)


@pytest.mark.parametrize(("at", "name"), [("hear", "hear"), ("find", "find")])
def test_no_frames_per_second(server, clips, at, name):
    refused(server, staged(clips, **{name: {"fps": 0}}), at, "Value 0", "1.0")
    failed(server, staged(clips, **{name: {"fps": ["zero", 0]}}), at, "fps", "0", zero=number(0.0))


def test_no_frames_at_all(server, clips):
    none = node("OtherNoFrames", side=256)
    failed(server, staged(clips, find={"frames": ["none", 0]}), "find", "empty", none=none)
    failed(server, staged(clips, put={"frames": ["none", 0]}), "put", "empty", none=none)


def test_frames_and_faces_of_different_numbers(server, clips):
    short = node("ImageFromBatch", image=["cut", 0], batch_index=0, length=12)
    failed(server, staged(clips, put={"frames": ["short", 0]}), "put", "12", str(graphs.FRAMES), short=short)


def test_crops_and_faces_of_different_numbers(server, clips):
    short = node("ImageFromBatch", image=["make", 1], batch_index=0, length=7)
    failed(server, staged(clips, put={"crops": ["short", 0]}), "put", "7", str(graphs.FRAMES), short=short)


def test_frames_of_another_size(server, clips):
    small = node("ImageScaleBy", image=["cut", 0], upscale_method="bilinear", scale_by=0.5)
    failed(server, staged(clips, put={"frames": ["small", 0]}), "put", "128", "256", small=small)


def test_a_mask_of_another_size(server, clips):
    mask = node("SolidMask", value=1.0, width=64, height=64)
    failed(server, staged(clips, put={"protect": ["mask", 0]}), "put", "64", "256", mask=mask)


def test_faces_that_were_not_sampled(server, clips):
    failed(server, staged(clips, put={"faces": ["find", 0]}), "put", "sampl")


def test_the_sound_of_a_silent_video(server, clips):
    silent = {
        "silent": node("LoadVideo", file=clips.silent),
        "silent_parts": node("GetVideoComponents", video=["silent", 0]),
    }
    failed(server, staged(clips, hear={"audio": ["silent_parts", 1]}), "hear", "silent", "Load Audio", **silent)
    graph = all_in_one(clips.talk, clips.speech)
    graph["sync"]["inputs"]["audio"] = ["silent_parts", 1]
    failed(server, graph, "sync", "silent", "Load Audio", **silent)


def test_frames_that_come_in_batches(server, clips):
    """Of another pack's batch manager, far above the node; sound from a loader that has one may be used."""
    batches = {
        "manager": node("OtherBatchManager", frames_per_batch=16),
        "load": node("OtherLoadVideo", video=clips.talk, frame_load_cap=16, meta_batch=["manager", 0]),
        "small": node("ImageScaleBy", image=["load", 0], upscale_method="bilinear", scale_by=0.5),
        "create": node("CreateVideo", images=["small", 0], fps=25.0),
    }
    said = ("Meta Batch Manager (node manager)", "begin the speech anew", "Unlink meta_batch")
    failed(server, staged(clips, find={"frames": ["small", 0]}), "find", *said, **batches)
    graph = all_in_one(clips.talk, clips.speech)
    graph["sync"]["inputs"]["video"] = ["create", 0]
    failed(server, graph, "sync", *said, **batches)
    heard = staged(clips, hear={"audio": ["load", 2]}, cut={"length": 1})
    run = server.run(heard | batches)
    assert run.status == "success", run.message


def test_empty_sound(server, clips):
    nothing = node("EmptyAudio", duration=0.0, sample_rate=16000, channels=1)
    failed(server, staged(clips, hear={"audio": ["nothing", 0]}), "hear", "empty", nothing=nothing)


def test_nobody_in_the_picture(server, clips):
    graph = staged(clips)
    graph["clip"] = node("LoadVideo", file=clips.nobody)
    failed(server, graph, "find", "no face")
    failed(server, all_in_one(clips.nobody, clips.speech, duration=0.4), "sync", "no face")


def test_a_frame_without_a_face_where_all_must_have_one(server, clips):
    graph = staged(clips, find={"frames": ["both", 0], "missing_faces": "error"})
    graph |= {
        "blank": node("EmptyImage", width=256, height=256, batch_size=3, color=0x806040),
        "both": node("ImageBatch", image1=["cut", 0], image2=["blank", 0]),
    }
    failed(server, graph, "find", f"frame {graphs.FRAMES}")


def test_a_saved_graph_with_a_model_that_is_gone(server, clips):
    for name, value in (("model", "gone.safetensors"), ("vae", "gone_vae.pt"), ("whisper", "whisper/gone.pt")):
        refused(server, staged(clips, model={name: value}), "model", value, "not there any more")


def test_a_mask_that_does_not_fit_the_video(server, clips):
    for mask, said in (
        (node("SolidMask", value=1.0, width=64, height=64), ("64 x 64", "256 x 256")),
        (node("ImageToMask", image=["three", 0], channel="red"), ("3 masks", "50 frames")),
    ):
        graph = all_in_one(clips.talk, clips.speech, protect=["mask", 0]) | {"mask": mask}
        failed(server, graph, "sync", *said, three=node("EmptyImage", width=256, height=256, batch_size=3, color=0))


def test_a_face_that_is_not_there(server, clips):
    failed(server, staged(clips, find={"face": "number", "face_number": 3}), "find", "no face 3", "1 face")
    point = {"face": "point", "face_x": 0.02, "face_y": 0.02}
    failed(server, staged(clips, find=point), "find", "no face comes to the point", "1 face")
    nobody = node("EmptyImage", width=256, height=256, batch_size=1, color=0x806040)
    failed(server, staged(clips, find={"face_picture": ["nobody", 0]}), "find", "in face_picture", nobody=nobody)


def test_two_speakers_with_one_face(server, clips):
    graph = all_in_one(clips.talk, clips.speech, speakers=["other", 0])
    other = node("LatentSyncSpeaker", audio=["speech", 0], face="left")
    failed(server, graph, "sync", "the same", "number 0 of 1", other=other)


def test_a_restorer_that_is_gone(server, clips):
    gone = {"restorer": "facerestore_models/gone.pth", "codeformer_fidelity": 0.5}
    restore = {
        "load": node("LatentSyncRestoreLoader", **gone),
        "restore": node(
            "LatentSyncFaceRestore",
            **{"frames": ["cut", 0], "faces": ["make", 0], "restorer": ["load", 0], "sr_ratio": 2, "sr_strength": 1.0},
        ),
    }
    refused(server, staged(clips, put={"faces": ["restore", 0]}), "load", "gone.pth", "not there any more", **restore)


@pytest.mark.parametrize(
    ("at", "changes"),
    [
        ("find", {"face": "the_tall_one"}),
        ("hear", {"silence": "hush"}),
        ("put", {"blend_method": "magic"}),
        ("make", {"scheduler": "renamed"}),
        ("make", {"steps": 0}),
        ("put", {"mask_smooth": 3.0}),
        ("model", {"precision": "fp64"}),
    ],
)
def test_a_saved_graph_with_a_value_that_is_gone(server, clips, at, changes):
    ((name, value),) = changes.items()
    refused(server, staged(clips, **{at: changes}), at, name, str(value))


@pytest.mark.parametrize(("at", "name"), [("make", "steps"), ("find", "smoothing"), ("put", "frames")])
def test_a_saved_graph_that_lacks_an_input(server, clips, at, name):
    graph = staged(clips)
    del graph[at]["inputs"][name]
    refused(server, graph, at, name)


def test_a_damaged_model_file(server, clips):
    """As a download that was cut leaves it."""
    folder = server.base / "models" / "latentsync" / "cut"
    shutil.copytree(BUNDLED, folder)
    unet = folder / "unet.safetensors"
    unet.write_bytes(unet.read_bytes()[:-1000])
    try:
        failed(server, staged(clips, model={"model": "cut/"}), "model", "unet.safetensors")
    finally:
        shutil.rmtree(folder)


def test_a_file_that_is_no_model(server, clips):
    path = server.base / "models" / "latentsync" / "page.pt"
    path.write_text("<!doctype html>404")
    try:
        failed(server, staged(clips, model={"model": "page.pt"}), "model", "page.pt")
    finally:
        path.unlink()


def test_a_vae_of_another_kind(server, clips):
    foreign = node("VAELoader", vae_name="pixel_space")
    failed(server, staged(clips, make={"vae": ["foreign", 0]}), "make", "VAE", "sd-vae-ft-mse", foreign=foreign)


def test_faces_prepared_for_another_model(server, clips):
    other = graphs.model(resolution="256")
    failed(server, staged(clips, make={"model": ["other", 0]}), "make", "128", "256", other=other)


def test_a_wire_of_another_kind(server, clips):
    refused(server, staged(clips, make={"audio": ["speech", 0]}), "make", "AUDIO", "LATENTSYNC_AUDIO")
