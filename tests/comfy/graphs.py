"""Graphs in the API's form, put together node by node."""

FRAMES = 20  # of the clip's 50: two chunks of 16 that overlap by 4, the second completed backwards
STEPS = 2


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def model(**changes) -> dict:
    chosen = {"model": "tiny (bundled)", "vae": "auto", "whisper": "auto", "precision": "auto", "resolution": "auto"}
    return node("LatentSyncModelLoader", **(chosen | changes))


def speech(name: str) -> dict:
    return node("LoadAudio", audio=name)


def write(name: str, **inputs) -> dict:
    """To the last bit, into output/<name>.npz."""
    return node("OtherWriteArrays", name=name, **inputs)


def save_video(video: list, name: str) -> dict:
    return node("SaveVideo", video=video, filename_prefix=name, format="auto", codec="auto")


def stages(video: str, sound: str, *, count: int = FRAMES, steps: int = STEPS, seed: int = 1, **blend) -> dict:
    """Every stage on native nodes: clip, parts, cut, model, hear, find, make, put; nothing is written yet."""
    return {
        "clip": node("LoadVideo", file=video),
        "parts": node("GetVideoComponents", video=["clip", 0]),
        "cut": node("ImageFromBatch", image=["parts", 0], batch_index=0, length=count),
        "speech": speech(sound),
        "model": model(),
        "hear": node("LatentSyncAudioEncode", model=["model", 0], audio=["speech", 0], fps=["parts", 2]),
        "find": node(
            "LatentSyncFacePrepare",
            frames=["cut", 0],
            model=["model", 0],
            face="largest",
            smoothing="temporal",
            mask="mask",
            missing_faces="keep",
            fps=["parts", 2],
        ),
        "make": node(
            "LatentSyncSampler",
            model=["model", 0],
            faces=["find", 0],
            audio=["hear", 0],
            seed=seed,
            steps=steps,
            guidance_scale=1.0,
            scheduler="ddim",
            chunk_overlap=4,
        ),
        "put": node("LatentSyncBlend", **({"frames": ["cut", 0], "faces": ["make", 0], "mask_smooth": 0.5} | blend)),
    }


def all_in_one(video: str, sound: str, **changes) -> dict:
    """The one node on files, with a video saved and the report written."""
    knobs = {"seed": 1, "steps": STEPS, "guidance_scale": 1.0, "mask_smooth": 0.5, "face": "largest"}
    knobs |= {"start": 0.0, "duration": 0.0, **changes}
    return {
        "clip": node("LoadVideo", file=video),
        "speech": speech(sound),
        "model": model(),
        "sync": node("LatentSyncLipSync", video=["clip", 0], audio=["speech", 0], model=["model", 0], **knobs),
        "save": save_video(["sync", 0], "synced"),
    }
