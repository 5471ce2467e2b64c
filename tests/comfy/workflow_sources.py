"""What the workflows in workflows/ consist of: graphs in the API's form, where each node stands, and what is said.

`save_workflows` lets the front end make the files from this; nothing is changed in the files themselves.
"""

from dataclasses import dataclass

from latentsync.samples import SECOND_SPEECH, SPEECH, TWO_PEOPLE, VIDEO
from tests.comfy.graphs import model, node

Place = tuple[int, int, int, int]  # x, y, width, height in the canvas's px; y is where the node's body begins

# Words that people look for: the template browser knows file names alone, and searches their first 40 letters.
SEARCHED = "lip_sync_dub_speech_LatentSync"


def first_time(button: str) -> str:
    """The way to the sample files, in large print. button: the node that offers it."""
    return f"""# First time? Two clicks

# 1. *Write the sample files*
on the node *{button}*

# 2. *Run*

(Or, in this pack's folder: `python install.py --samples`, then **R** here.)
"""


SAMPLES, SAMPLES_AT_BLEND = first_time("LatentSync Lip Sync"), first_time("LatentSync Blend")
SAMPLER = {"seed": 1247, "guidance_scale": 1.5}
STEPS = 25  # main.py's own; a preset other than "custom" has its own number where this is not changed
PRESET = "fast"  # enough for a drawn face
FAST = {"steps": 8, "scheduler": "dpmpp_2m", "chunk_overlap": 2, "cache_interval": 2, "guidance_end": 0.5}  # the same
TURN = 1.5  # s that each of two people speaks
BUNDLED = "tiny (bundled)"
FACES = {"face": "largest", "smoothing": "temporal", "mask": "mask", "missing_faces": "keep"}
INPUT, MODEL, WORK, RESULT = "#8AA", "#8A8", "#b58b2a", "#3f789e"  # colours of groups, of the front end's own palette


@dataclass(frozen=True)
class Placed:
    """A node of the API's form with where it stands and what its title is, if not its usual one."""

    node: dict
    place: Place
    title: str | None = None


@dataclass(frozen=True)
class Group:
    title: str
    colour: str
    nodes: tuple[str, ...]  # ids; the group is drawn around them


@dataclass(frozen=True)
class Workflow:
    nodes: dict[str, Placed]
    groups: tuple[Group, ...]
    note: str  # Markdown
    note_place: Place = (0, 0, 380, 390)

    def prompt(self) -> dict:
        return {key: placed.node for key, placed in self.nodes.items()}


def load_video(place: Place, name: str = VIDEO) -> Placed:
    return Placed(node("LoadVideo", file=name), place, "Load Video: who is to speak")


def load_audio(place: Place, name: str = SPEECH, title: str = "Load Audio: what is said") -> Placed:
    return Placed(node("LoadAudio", audio=name), place, title)


def lip_sync(place: Place, video: str, audio: str, model_: str, **more) -> Placed:
    knobs = {
        **SAMPLER,
        "steps": STEPS,
        "preset": PRESET,
        "mask_smooth": 0.5,
        "face": "largest",
        "start": 0.0,
        "duration": 0.0,
        **more,
    }
    return Placed(node("LatentSyncLipSync", video=[video, 0], audio=[audio, 0], model=[model_, 0], **knobs), place)


def face_prepare(place: Place, parts: str, model_: str) -> Placed:
    links = {"frames": [parts, 0], "model": [model_, 0], "fps": [parts, 2]}
    return Placed(node("LatentSyncFacePrepare", **links, **FACES), place)


def audio_encode(place: Place, parts: str, model_: str, audio: str) -> Placed:
    return Placed(node("LatentSyncAudioEncode", model=[model_, 0], audio=[audio, 0], fps=[parts, 2]), place)


def sampler(place: Place, model_: str, faces: str, audio: str) -> Placed:
    links = {"model": [model_, 0], "faces": [faces, 0], "audio": [audio, 0]}
    return Placed(node("LatentSyncSampler", **links, **SAMPLER, **FAST), place)


def blend(place: Place, parts: str, faces: str, **links) -> Placed:
    return Placed(node("LatentSyncBlend", frames=[parts, 0], faces=[faces, 0], mask_smooth=0.5, **links), place)


def create_video(place: Place, images: str, parts: str, audio: str) -> Placed:
    return Placed(node("CreateVideo", images=[images, 0], fps=[parts, 2], audio=[audio, 0]), place)


def save_video(place: Place, video: str, prefix: str, title: str | None = None) -> Placed:
    saved = node("SaveVideo", video=[video, 0], filename_prefix=f"video/{prefix}", format="auto", codec="auto")
    return Placed(saved, place, title)


def sync_score(place: Place, frames: str, title: str, **links) -> Placed:
    knobs = {"syncnet": BUNDLED, "face": "largest", "fps": 25.0}
    return Placed(node("LatentSyncSyncScore", frames=[frames, 0], **knobs, **links), place, title)


def few(place: Place, images: str, output: int) -> Placed:
    """Nine of many pictures: a preview writes every picture it is given."""
    return Placed(node("ImageFromBatch", image=[images, output], batch_index=0, length=9), place, "first 9 of")


def preview(place: Place, images: str, title: str, output: int = 0) -> Placed:
    return Placed(node("PreviewImage", images=[images, output]), place, title)


# What several graphs begin with, at the same places.
TO_LIP_SYNC = {
    "1": load_video((440, 0, 290, 400)),
    "2": load_audio((440, 560, 290, 140)),
    "3": Placed(model(), (0, 470, 380, 160)),
}
TO_SAMPLER = {
    "1": load_video((440, 0, 280, 400)),
    "2": load_audio((440, 540, 280, 140)),
    "3": Placed(model(), (0, 470, 380, 160)),
    "4": Placed(node("GetVideoComponents", video=["1", 0]), (780, 0, 290, 70)),
    "5": face_prepare((780, 160, 290, 340), "4", "3"),
    "6": audio_encode((780, 600, 290, 120), "4", "3", "2"),
    "7": sampler((1130, 0, 300, 500), "3", "5", "6"),
}

QUICK_START = Workflow(
    nodes={
        **TO_LIP_SYNC,
        "4": lip_sync((790, 0, 440, 1220), "1", "2", "3"),
        "5": save_video((1290, 0, 400, 520), "4", "latentsync"),
    },
    groups=(
        Group("Model", MODEL, ("3",)),
        Group("Clip and speech", INPUT, ("1", "2")),
        Group("Lip sync", WORK, ("4",)),
        Group("Result", RESULT, ("5",)),
    ),
    note=f"""## Quick start

{SAMPLES}
The person in the video says what is in the audio. Press **Run**; the player on *LatentSync Lip Sync* then shows
source and result side by side, with sound, and the video is saved in ComfyUI's output folder.

**Change:** the clip, the speech. The bundled model is small and made for drawn faces; put a released LatentSync
model into `models/latentsync` for real ones, choose it in *Load LatentSync Model*, and set *preset* to *balanced*.
""",
)

REPORT = Workflow(
    nodes={
        **TO_LIP_SYNC,
        "4": lip_sync((790, 0, 440, 1220), "1", "2", "3"),
        "5": Placed(node("LatentSyncReport", report=["4", 1]), (1290, 0, 460, 740)),
        "6": preview((1800, 0, 480, 260), "5", "Picture, to save or to send"),
        "7": Placed(node("PreviewAny", source=["5", 1]), (1800, 360, 480, 200), "In words"),
    },
    groups=(
        Group("Model", MODEL, ("3",)),
        Group("Clip and speech", INPUT, ("1", "2")),
        Group("Lip sync", WORK, ("4",)),
        Group("What happened in each frame", RESULT, ("5", "6", "7")),
    ),
    note=f"""## Report

{SAMPLES}
What the run did, frame by frame: the sound, where a face was found, and how far the mouth is open in the source
(blue) and in the result (orange). Click a time on the timeline to see that frame.

**Change:** clip and speech. Where no face is found the frame stays as it was; the words name the longest such
stretch. Swap *Preview Image* for *Save Image* to keep the picture.
""",
)

STAGES = Workflow(
    nodes={
        **TO_SAMPLER,
        "8": blend((1490, 0, 320, 560), "4", "7"),
        "9": create_video((1870, 0, 360, 80), "8", "4", "2"),
        "10": save_video((1870, 170, 360, 470), "9", "latentsync_stages"),
        "11": few((440, 860, 210, 80), "5", 1),
        "12": preview((670, 860, 270, 320), "11", "Aligned: what is found"),
        "13": few((980, 860, 210, 80), "5", 2),
        "14": preview((1210, 860, 270, 320), "13", "Masked: grey is made anew"),
        "15": few((1520, 860, 210, 80), "7", 1),
        "16": preview((1750, 860, 270, 320), "15", "Crops: the new faces"),
    },
    groups=(
        Group("Model", MODEL, ("3",)),
        Group("Clip and speech", INPUT, ("1", "2")),
        Group("Prepare", WORK, ("4", "5", "6")),
        Group("Generate and put back", WORK, ("7", "8")),
        Group("Result", RESULT, ("9", "10")),
        Group("To look at; delete what you do not need", INPUT, ("11", "12", "13", "14", "15", "16")),
    ),
    note=f"""## Every stage, wired

{SAMPLES_AT_BLEND}
The same as the quick start, one node a stage, to change something between them: other frames, another crop, a
mask in front of a microphone. Frame rate and sound pass through unchanged; *fps* comes by a link, so it is never
wrong.

**Mind:** all frames are in memory here (25 MB each at 1080p). For long clips use *LatentSync Lip Sync*. The
result is as long as the clip, not as the speech.
""",
)

SECOND_SPEECH_ON_SAME_FACES = Workflow(
    nodes={
        "1": load_video((440, 0, 280, 400)),
        "2": Placed(model(), (0, 470, 380, 160)),
        "3": Placed(node("GetVideoComponents", video=["1", 0]), (440, 520, 280, 70)),
        "4": face_prepare((440, 680, 280, 340), "3", "2"),
        "5": load_audio((800, 0, 280, 140), SPEECH, "First speech"),
        "6": audio_encode((800, 240, 280, 120), "3", "2", "5"),
        "7": sampler((1130, 0, 300, 500), "2", "4", "6"),
        "8": blend((1480, 0, 320, 560), "3", "7"),
        "9": create_video((1850, 0, 360, 80), "8", "3", "5"),
        "10": save_video((1850, 170, 360, 470), "9", "latentsync_first", "Save Video: first speech"),
        "11": load_audio((800, 800, 280, 140), SECOND_SPEECH, "Second speech"),
        "12": audio_encode((800, 1040, 280, 120), "3", "2", "11"),
        "13": sampler((1130, 800, 300, 500), "2", "4", "12"),
        "14": blend((1480, 800, 320, 560), "3", "13"),
        "15": create_video((1850, 800, 360, 80), "14", "3", "11"),
        "16": save_video((1850, 970, 360, 470), "15", "latentsync_second", "Save Video: second speech"),
    },
    groups=(
        Group("Model", MODEL, ("2",)),
        Group("Faces, found once", INPUT, ("1", "3", "4")),
        Group("First speech", WORK, ("5", "6", "7", "8", "9", "10")),
        Group("Second speech", RESULT, ("11", "12", "13", "14", "15", "16")),
    ),
    note=f"""## A second speech on the same faces

{SAMPLES_AT_BLEND}
*Face Prepare* runs once; each speech has its own *Audio Encode*, *Sampler* and *Blend*. Change one speech and run
again: only that half is computed, ComfyUI keeps the rest. Good for another take or another language.

**Change:** the two sounds; copy a group for a third one. All frames are in memory (25 MB each at 1080p, once more
for each result).
""",
)

IMAGE_ROUTE = Workflow(
    nodes={
        **TO_SAMPLER,
        "8": Placed(
            node("ImageScale", image=["7", 1], upscale_method="lanczos", width=256, height=256, crop="disabled"),
            (1130, 680, 300, 170),
            "Upscale: any upscaler will do",
        ),
        "9": Placed(
            node("ImageSharpen", image=["8", 0], sharpen_radius=1, sigma=1.0, alpha=0.3), (1130, 950, 300, 110)
        ),
        "10": blend((1490, 0, 320, 560), "4", "7", crops=["9", 0]),
        "11": create_video((1870, 0, 360, 80), "10", "4", "2"),
        "12": save_video((1870, 170, 360, 470), "11", "latentsync_images"),
        "13": few((1490, 680, 320, 80), "9", 0),
        "14": preview((1490, 860, 320, 360), "13", "Crops as they are put back"),
    },
    groups=(
        Group("Model", MODEL, ("3",)),
        Group("Or another pack's loader", INPUT, ("1", "2")),
        Group("Prepare", WORK, ("4", "5", "6")),
        Group("Generate", WORK, ("7",)),
        Group("Your own image nodes, on the crops alone", INPUT, ("8", "9", "13", "14")),
        Group("Put back", WORK, ("10",)),
        Group("Or another pack's writer", RESULT, ("11", "12")),
    ),
    note=f"""## Frames as IMAGE, for other packs' nodes

{SAMPLES_AT_BLEND}
Everything between clip and result is a batch of pictures, so any loader and any writer of frames fits: link
another pack's *frames* and *fps* in place of *Get Video Components*, and give *LatentSync Blend*'s images to its
*Video Combine*.

Between *Sampler* and *Blend* stand ordinary image nodes that change the small face crops only. They may be of any
size, but must stay square and as many.

**Mind:** all frames are in memory, 25 MB each at 1080p.
""",
)

RESTORED = Workflow(
    nodes={
        **TO_SAMPLER,
        "8": Placed(node("LatentSyncRestoreLoader", restorer=BUNDLED, codeformer_fidelity=0.5), (1490, 0, 300, 90)),
        "9": Placed(
            node(
                "LatentSyncFaceRestore",
                **{"frames": ["4", 0], "faces": ["7", 0], "restorer": ["8", 0], "sr_ratio": 2, "sr_strength": 1.0},
            ),
            (1490, 180, 300, 150),
        ),
        "10": blend((1860, 0, 320, 560), "4", "9"),
        "11": create_video((2250, 0, 360, 80), "10", "4", "2"),
        "12": save_video((2250, 170, 360, 470), "11", "latentsync_restored"),
        "13": few((1130, 760, 210, 80), "7", 1),
        "14": preview((1360, 760, 340, 340), "13", "Crops: as the model drew them"),
        "15": few((1750, 760, 210, 80), "9", 1),
        "16": preview((1980, 760, 340, 340), "15", "Crops: restored"),
    },
    groups=(
        Group("Model", MODEL, ("3",)),
        Group("Clip and speech", INPUT, ("1", "2")),
        Group("Prepare", WORK, ("4", "5", "6")),
        Group("Generate", WORK, ("7",)),
        Group("Restore", RESULT, ("8", "9")),
        Group("Put back", WORK, ("10",)),
        Group("Result", RESULT, ("11", "12")),
        Group("To look at; delete what you do not need", INPUT, ("13", "14", "15", "16")),
    ),
    note=f"""## Restored faces

{SAMPLES_AT_BLEND}
*Face Restore* makes the generated part of the face sharper before it is put back: only what was generated, steady from
frame to frame, and not sharper than the source is. Faces that the frame shows no larger than they were generated are
left alone; the node's *restored* says how many were not.

**Change:** for real faces put `GFPGANv1.4.pth` or `codeformer.pth` into `models/facerestore_models` and choose it in
*Load LatentSync Restorer* (the bundled one is made for drawn faces), or link *Load Upscale Model* in its place.
Nothing is downloaded by itself. CodeFormer is for non-commercial use only.
""",
)

TWO_SPEAKERS = Workflow(
    nodes={
        "1": load_video((440, 0, 300, 400), TWO_PEOPLE),
        "2": Placed(model(), (0, 470, 380, 160)),
        "3": load_audio((440, 560, 300, 140), SPEECH, "Load Audio: what the left one says"),
        "4": Placed(node("TrimAudioDuration", audio=["3", 0], start_index=0.0, duration=TURN), (790, 560, 270, 90)),
        "5": load_audio((440, 810, 300, 140), SECOND_SPEECH, "Load Audio: what the right one says"),
        "6": Placed(node("TrimAudioDuration", audio=["5", 0], start_index=0.0, duration=TURN), (790, 810, 270, 90)),
        "7": Placed(
            node("EmptyAudio", duration=TURN, sample_rate=16000, channels=1), (790, 1000, 270, 110), "Waits so long"
        ),
        "8": Placed(node("AudioConcat", audio1=["7", 0], audio2=["6", 0], direction="after"), (1110, 810, 270, 90)),
        "9": Placed(
            node("LatentSyncSpeaker", audio=["8", 0], face="right"),
            (1110, 990, 270, 170),
            "LatentSync Speaker: the right one",
        ),
        "10": lip_sync((1440, 0, 480, 1220), "1", "4", "2", face="left", speakers=["9", 0]),
        "11": save_video((1980, 0, 420, 470), "10", "latentsync_two_speakers"),
    },
    groups=(
        Group("Model", MODEL, ("2",)),
        Group("Clip", INPUT, ("1",)),
        Group("The left one", INPUT, ("3", "4")),
        Group("The right one, after the other", WORK, ("5", "6", "7", "8", "9")),
        Group("Lip sync", WORK, ("10",)),
        Group("Result", RESULT, ("11",)),
    ),
    note=f"""## Two speakers

{SAMPLES}
Two people in one clip, each with a speech of their own. The left one's goes straight into *LatentSync Lip Sync*, the
right one's through a *LatentSync Speaker*. Both are heard; silence before a speech makes a person wait for their turn,
with the mouth shut.

**Change:** clip, speeches, turns. A third person: another *LatentSync Speaker*, linked to *speakers* of the first.
Where left and right do not do, choose by number, by a point in the picture, or link a picture of the person.
""",
)

SYNC_SCORE = Workflow(
    nodes={
        **TO_LIP_SYNC,
        "4": lip_sync((790, 0, 440, 1220), "1", "2", "3"),
        "5": sync_score((1290, 0, 400, 560), "4", "Sync Score: the result"),
        "6": Placed(node("PreviewAny", source=["5", 3]), (1290, 640, 400, 160), "In words"),
        "7": sync_score((1750, 0, 400, 560), "1", "Sync Score: the source with the new speech", audio=["2", 0]),
        "8": Placed(node("PreviewAny", source=["7", 3]), (1750, 640, 400, 160), "In words"),
        "9": save_video((1290, 880, 400, 400), "4", "latentsync_scored"),
    },
    groups=(
        Group("Model", MODEL, ("3",)),
        Group("Clip and speech", INPUT, ("1", "2")),
        Group("Lip sync", WORK, ("4",)),
        Group("Result", RESULT, ("5", "6", "9")),
        Group("For comparison: before", INPUT, ("7", "8")),
    ),
    note=f"""## Sync score

{SAMPLES}
Do the lips go with the sound? A SyncNet tells, for the result and for the source with the new speech. The curve shows
how well each shift of the sound fits: one clear peak at 0 is a clip in sync, and the score is its height over the
usual. Where the lips speak other words there is no peak at 0, and the score is low.

**Change:** link any video to *frames*; its own sound is then judged. For real faces put `stable_syncnet.pt` into
`models/latentsync` and choose it as *syncnet*: the bundled one knows drawn faces only. An *offset_ms* that is the same
in all clips of a camera goes, with the other sign, into *audio_offset_ms*.
""",
)

WORKFLOWS = {
    "quick_start": QUICK_START,
    "wireable_stages": STAGES,
    "second_speech": SECOND_SPEECH_ON_SAME_FACES,
    "image_route": IMAGE_ROUTE,
    "report": REPORT,
    "restored": RESTORED,
    "two_speakers": TWO_SPEAKERS,
    "sync_score": SYNC_SCORE,
}


def file_name(workflow: str) -> str:
    """Of a workflow's files, without their ends; a link may name it, so it has no spaces."""
    return f"{workflow}-{SEARCHED}"
