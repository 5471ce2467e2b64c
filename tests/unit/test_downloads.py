"""Fetching one file, against a server of the tests' own that cuts, lies, redirects and changes its mind."""

import errno
import hashlib
import json
import os
import re
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from latentsync import model_files, transfer
from latentsync.errors import DamagedCheckpointError, DownloadError, OptionError, OutputError
from latentsync.faces.detectors import DETECTORS
from latentsync.model_files import MANIFEST, choose_place, read_manifest, wanted_models
from latentsync.transfer import Part, Patience, _Redirects, fetch, mirrored
from tests.unit.download_server import CONTENT, Behaviour, serving

SHA = hashlib.sha256(CONTENT).hexdigest()
QUICK = Patience(timeout=30, failures=3, pause=0.01, gain=10_000)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def get(address: str, target: Path, **options):
    return fetch(f"{address}/m.pt", target, **{"size": len(CONTENT), "sha256": SHA, "patience": QUICK, **options})


def assert_only(target: Path) -> None:
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_file_arrives_with_its_progress(tmp_path):
    seen = []
    with serving(Behaviour()) as address:
        assert get(address, tmp_path / "new" / "m.pt", on_bytes=lambda *now: seen.append(now)) == SHA
    assert_only(tmp_path / "new" / "m.pt")
    assert seen[-1] == (len(CONTENT), len(CONTENT))


@pytest.mark.parametrize("cuts", [[1], [100_000, 100_000], [299_999], [20_000, 40_000, 60_000, 80_000], [0, 0]])
def test_cut_connections_are_resumed_where_they_broke(tmp_path, cuts):
    behaviour, told = Behaviour(cuts=list(cuts)), []
    with serving(behaviour) as address:
        get(address, tmp_path / "m.pt", say=told.append)
    assert_only(tmp_path / "m.pt")
    begins = [sum(cuts[:number]) for number in range(len(cuts) + 1)]
    assert [wanted for _, wanted in behaviour.requests] == [f"bytes={at}-" if at else None for at in begins]
    assert len(told) == len(cuts)


def test_it_gives_up_in_the_end_and_goes_on_the_next_time(tmp_path):
    behaviour = Behaviour(cuts=[50_000] + [0] * 3)
    with serving(behaviour) as address:
        with pytest.raises(DownloadError, match=r"given up after 3 failures.*50,000 bytes.*same command"):
            get(address, tmp_path / "m.pt")
        assert Part(tmp_path / "m.pt").size() == 50_000
        assert not (tmp_path / "m.pt").exists()
        get(address, tmp_path / "m.pt")
    assert behaviour.requests[-1][1] == "bytes=50000-"
    assert_only(tmp_path / "m.pt")


def test_without_ranges_it_begins_anew(tmp_path):
    with serving(Behaviour(ranges=False, cuts=[100_000])) as address:
        get(address, tmp_path / "m.pt")
    assert_only(tmp_path / "m.pt")


def test_without_ranges_it_does_not_try_for_ever(tmp_path):
    behaviour = Behaviour(ranges=False, cuts=[100_000] * 50)
    with serving(behaviour) as address, pytest.raises(DownloadError, match="given up"):
        get(address, tmp_path / "m.pt")
    assert len(behaviour.requests) == 3


@pytest.mark.parametrize("obeys", [True, False])
@pytest.mark.parametrize("sha256", [SHA, None])
def test_versions_are_never_joined(tmp_path, obeys, sha256):
    """What is there is of an older version, of the same length: not even the hash need be known."""
    old = Behaviour(content=bytes(len(CONTENT)), etag='"old"', cuts=[100_000] + [0] * 2)
    with serving(old) as address:
        with pytest.raises(DownloadError):
            get(address, tmp_path / "m.pt", sha256=None)
        old.content, old.etag, old.obeys_if_range = CONTENT, '"new"', obeys
        old.cuts.clear()
        get(address, tmp_path / "m.pt", sha256=sha256)
    assert_only(tmp_path / "m.pt")


def test_what_no_mark_tells_of_is_not_continued(tmp_path):
    behaviour = Behaviour(etag=None, cuts=[100_000])
    with serving(behaviour) as address:
        get(address, tmp_path / "m.pt")
    assert [wanted for _, wanted in behaviour.requests] == [None, None]
    assert_only(tmp_path / "m.pt")


def test_a_part_of_unknown_origin_is_thrown_away(tmp_path):
    (tmp_path / "m.pt.part").write_bytes(b"x" * 1000)
    with serving(Behaviour()) as address:
        get(address, tmp_path / "m.pt")
    assert_only(tmp_path / "m.pt")


def test_a_whole_part_is_only_checked_and_renamed(tmp_path):
    behaviour = Behaviour()
    with serving(behaviour) as address:
        (tmp_path / "m.pt.part").write_bytes(CONTENT)
        facts = {"url": f"{address}/m.pt", "etag": '"one"', "total": len(CONTENT)}
        (tmp_path / "m.pt.part.json").write_text(json.dumps(facts))
        get(address, tmp_path / "m.pt")
    assert behaviour.requests == []
    assert_only(tmp_path / "m.pt")


def test_the_wrong_length_is_refused_at_once(tmp_path):
    behaviour = Behaviour(content=CONTENT + b"more")
    with serving(behaviour) as address, pytest.raises(DownloadError, match=r"300,004 bytes, expected 300,000"):
        get(address, tmp_path / "m.pt")
    assert len(behaviour.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_length_that_lies_is_not_believed(tmp_path):
    with serving(Behaviour(content=CONTENT[:1000], length=300_000)) as address, pytest.raises(DownloadError):
        get(address, tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()


def test_no_length_and_none_known_is_refused(tmp_path):
    with serving(Behaviour(length=-1)) as address:
        with pytest.raises(DownloadError, match="does not say how long"):
            get(address, tmp_path / "m.pt", size=None)
        get(address, tmp_path / "m.pt")  # known from the manifest
    assert_only(tmp_path / "m.pt")


def test_the_wrong_content_is_deleted(tmp_path):
    behaviour = Behaviour(content=bytes(len(CONTENT)))
    with serving(behaviour) as address, pytest.raises(DamagedCheckpointError, match=f"expected {SHA}"):
        get(address, tmp_path / "m.pt")
    assert len(behaviour.requests) == 1  # it came in one piece: another try would bring the same
    assert list(tmp_path.iterdir()) == []


def test_damaged_pieces_are_fetched_once_more(tmp_path):
    behaviour = Behaviour(cuts=[100_000, 0, 0])
    with serving(behaviour) as address:
        with pytest.raises(DownloadError, match="given up"):
            get(address, tmp_path / "m.pt")
        with (tmp_path / "m.pt.part").open("r+b") as file:
            file.write(b"damaged")
        get(address, tmp_path / "m.pt")
    assert_only(tmp_path / "m.pt")


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_to_another_server_are_followed_with_the_range(tmp_path, code):
    behaviour = Behaviour(cuts=[100_000])
    with serving(behaviour) as address, serving(Behaviour(redirect=address, redirect_code=code)) as first:
        get(first, tmp_path / "m.pt")
    assert behaviour.requests == [("/m.pt", None), ("/m.pt", "bytes=100000-")]
    assert_only(tmp_path / "m.pt")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/m.pt", "data:,x", "m.pt"])
def test_only_web_addresses_are_opened(tmp_path, url):
    with pytest.raises(DownloadError, match="is no web address; expected one that begins with https://"):
        fetch(url, tmp_path / "m.pt")
    assert not list(tmp_path.iterdir())


def test_redirects_in_a_circle_end(tmp_path):
    behaviour = Behaviour()
    with serving(behaviour) as address:
        behaviour.redirect = address
        with pytest.raises(DownloadError):
            get(address, tmp_path / "m.pt")
    assert len(behaviour.requests) < 40


@pytest.mark.parametrize("target", ["http://127.0.0.1/m.pt", "ftp://127.0.0.1/m.pt", "file:///etc/passwd"])
def test_redirects_to_less_safe_places_are_refused(target):
    import urllib.request

    request = urllib.request.Request("https://example.org/m.pt")
    with pytest.raises(DownloadError, match="Nothing was fetched"):
        _Redirects().redirect_request(request, None, 302, "", {}, target)


@pytest.mark.parametrize(("code", "words"), [(404, "not there"), (403, "refuses"), (401, "refuses"), (410, "moved")])
def test_refusals_are_told_and_not_repeated(tmp_path, code, words):
    behaviour = Behaviour(statuses=[code])
    with serving(behaviour) as address, pytest.raises(DownloadError, match=rf"HTTP {code}.*{words}"):
        get(address, tmp_path / "m.pt")
    assert len(behaviour.requests) == 1


def test_passing_faults_are_waited_for(tmp_path):
    behaviour, told = Behaviour(statuses=[500, 503, 200]), []
    with serving(behaviour) as address:
        get(address, tmp_path / "m.pt", say=told.append)
    assert ["HTTP 500" in told[0], "HTTP 503" in told[1]] == [True, True]
    assert_only(tmp_path / "m.pt")


def test_faults_that_stay_end_it(tmp_path):
    with serving(Behaviour(statuses=[500] * 9)) as address, pytest.raises(DownloadError, match="HTTP 500; given up"):
        get(address, tmp_path / "m.pt")


def test_the_server_may_ask_for_a_pause(tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(transfer.time, "sleep", pauses.append)
    with serving(Behaviour(statuses=[429, 429], headers={"Retry-After": "7000"})) as address:
        get(address, tmp_path / "m.pt")
    assert pauses == [transfer.LONGEST_PAUSE] * 2


def test_a_web_page_is_no_model(tmp_path):
    page = Behaviour(headers={"Content-Type": "text/html; charset=utf-8"})
    with serving(page) as address, pytest.raises(DownloadError, match="web page"):
        get(address, tmp_path / "m.pt", size=None)


def test_a_server_that_falls_silent_is_left(tmp_path):
    import threading

    released = threading.Event()
    behaviour = Behaviour(before_block=lambda sent: sent and released.wait(60))
    with serving(behaviour) as address:
        with pytest.raises(DownloadError, match="broke"):
            get(address, tmp_path / "m.pt", patience=Patience(timeout=0.2, failures=2, pause=0.01, gain=1 << 30))
        released.set()
    assert Part(tmp_path / "m.pt").size() > 0


def test_no_server_is_told(tmp_path):
    with serving(Behaviour()) as address:
        pass
    with pytest.raises(DownloadError, match="no connection to 127"):
        get(address, tmp_path / "m.pt")


@pytest.mark.skipif(os.name == "nt", reason="needs limits of POSIX")
def test_a_file_that_the_system_lets_not_grow_is_kept_and_told(tmp_path):
    """A real refusal of the system to write on: the limit of a file's size, which ends in an OSError as a full disk."""
    import resource
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with serving(Behaviour()) as address:
            resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, before[1]))
            with pytest.raises(OutputError, match="cannot be written"):
                get(address, tmp_path / "m.pt")
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            assert 0 < Part(tmp_path / "m.pt").size() <= 120_000
            get(address, tmp_path / "m.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert_only(tmp_path / "m.pt")


def test_a_full_disk_is_told_as_such(tmp_path, monkeypatch):
    """A small file system of its own would need root: here only the system's answer to fsync is put in."""

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with serving(Behaviour()) as address:
        with monkeypatch.context() as patch:
            patch.setattr(transfer.os, "fsync", full)
            with pytest.raises(OutputError, match=r"disk is full.*same command"):
                get(address, tmp_path / "m.pt")
        get(address, tmp_path / "m.pt")
    assert_only(tmp_path / "m.pt")


def test_space_is_looked_at_before_the_first_byte(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10**6))
    with serving(Behaviour()) as address, pytest.raises(OutputError, match=r"0\.00 GB free, 0\.05 GB are needed"):
        get(address, tmp_path / "m.pt", size=None)
    assert Part(tmp_path / "m.pt").size() == 0


# The manifest, mirrors and places


def test_the_manifest_holds_what_was_cited():
    content = json.loads(MANIFEST.read_text("utf-8"))
    for model in content["models"].values():
        assert model["licence"]["sources"]
        for file in model["files"]:
            for field in ("size", "sha256"):
                assert (file[field] is None) == (not file[f"{field}_sources"]), file["path"]
                assert all(source.startswith("https://github.com/") for source in file[f"{field}_sources"])
            assert all(url.startswith("https://") for url in file["urls"])
            openai = [url for url in file["urls"] if "openaipublic" in url]
            assert all(url.split("/")[-2] == file["sha256"] for url in openai)


def test_the_page_tells_what_the_manifest_says():
    """docs/models.md: each file with its size, licence and hash, each of them with its sources."""
    page = (Path(__file__).parents[2] / "docs" / "models.md").read_text("utf-8")
    sources = dict(re.findall(r"^- \[(\d+)\] <(.+)>$", page, re.MULTILINE))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.count("|") == 7]
    rows = [row for row in rows if row[0].startswith("`")]
    expected = []
    content = json.loads(MANIFEST.read_text("utf-8"))
    for name, model in content["models"].items():
        licence = model["licence"]
        for file in model["files"]:
            size, sha256 = file["size"], file["sha256"]
            told = [f"`{name}`", f"`{file['path']}`", f"`{file['comfyui_path']}`"]
            told += ["not known" if size is None else f"{size:,}", f"[{licence['name']}]({licence['url']})"]
            told.append("not known" if sha256 is None else f"`{sha256}`")
            cited = [set(), set(), set(), {*file["size_sources"]}, {*licence["sources"]}, {*file["sha256_sources"]}]
            expected.append((told, cited))
    assert [
        (
            [re.sub(r"( \[\d+\])+$", "", cell) for cell in row],
            [{sources[number] for number in re.findall(r" \[(\d+)\]", cell)} for cell in row],
        )
        for row in rows
    ] == expected


def test_the_manifest_fits_the_code_that_looks_for_files():
    from latentsync.model.loading import RELEASED_UNET_NAMES, WHISPER_OF_WIDTH
    from latentsync.model_files import OFFICIAL, SUBFOLDERS

    models = read_manifest()
    paths = {name: [file.path for file in model.files] for name, model in models.items()}
    assert paths["latentsync-1.6"][0] in RELEASED_UNET_NAMES
    assert Path(paths["latentsync-1.5"][0]).name in RELEASED_UNET_NAMES
    assert paths["whisper"] + paths["whisper-small"] == [f"whisper/{name}" for name in WHISPER_OF_WIDTH.values()]
    for name, official in OFFICIAL.items():
        folder, file = paths[name.lower()][0].split("/")
        assert folder in SUBFOLDERS
        assert file == official.files[0]
        assert official.origin.source in models[name.lower()].files[0].urls
        assert official.origin.sha256 == models[name.lower()].files[0].sha256
        model = models[name.lower()]
        assert official.origin.licence == model.licence.name
        assert (official.origin.vendor, official.origin.year) == (model.vendor, model.year)
    assert sum(model.licence.question is not None for model in models.values()) == 1


def test_every_network_says_where_it_comes_from():
    networks = [value for value in vars(model_files).values() if isinstance(value, model_files.NetworkFile)]
    origins = [row.origin for row in (*networks, *model_files.OFFICIAL.values(), *DETECTORS.values())]
    assert len(origins) >= 11
    for origin in origins:
        assert origin.vendor
        assert origin.licence
        assert origin.source.startswith("https://")
        assert 2010 < origin.year < 2030
        assert origin.sha256 is None or re.fullmatch("[0-9a-f]{64}", origin.sha256)


def test_models_bring_what_they_need():
    models = read_manifest()
    assert [m.name for m in wanted_models(["latentsync-1.6,gfpgan"], models)] == [
        "latentsync-1.6",
        "gfpgan",
        "vae",
        "whisper",
    ]
    with pytest.raises(OptionError, match=r"no model 'latentsync'.*latentsync-1\.6, latentsync-1\.5"):
        wanted_models(["latentsync"], models)


@pytest.mark.parametrize("path", ["../x.pt", "/x.pt", "a/../../x.pt", "C:/x.pt", "a\\x.pt"])
def test_a_manifest_that_leads_out_is_refused(tmp_path, path):
    file = {"path": path, "comfyui_path": "x", "urls": [], "size": None, "sha256": None}
    licence = {"name": "", "url": "", "question": None}
    model = {"title": "", "vendor": "", "year": 2026, "licence": licence, "needs": [], "files": [file]}
    (tmp_path / "m.json").write_text(json.dumps({"models": {"m": model}}))
    with pytest.raises(OptionError, match="leads out"):
        read_manifest(tmp_path / "m.json")


def test_mirrors():
    url = "https://huggingface.co/a/b/resolve/main/c"
    assert mirrored(url, {}) == url
    assert mirrored(url, {"HF_ENDPOINT": "https://hf-mirror.com/"}) == "https://hf-mirror.com/a/b/resolve/main/c"
    both = {"HF_ENDPOINT": "https://one", "LATENTSYNC_MIRROR": "https://two/hub"}
    assert mirrored(url, both) == "https://two/hub/a/b/resolve/main/c"
    assert mirrored("https://github.com/a", both) == "https://github.com/a"
    assert mirrored("https://github.com/a", {"LATENTSYNC_GITHUB_MIRROR": "http://x"}) == "http://x/a"
    with pytest.raises(OptionError, match="LATENTSYNC_MIRROR is 'hf-mirror"):
        mirrored(url, {"LATENTSYNC_MIRROR": "hf-mirror.com"})


def test_the_folder_is_the_hosts_where_there_is_one(tmp_path):
    unet = read_manifest()["latentsync-1.6"].files[0]
    alone = choose_place(tmp_path / "somewhere")
    assert alone.target(unet) == tmp_path / "somewhere" / "checkpoints" / "latentsync_unet.pt"
    pack = tmp_path / "ComfyUI" / "custom_nodes" / "pack"
    pack.mkdir(parents=True)
    assert choose_place(pack).root == pack / "checkpoints"
    (tmp_path / "ComfyUI" / "models").mkdir()
    assert choose_place(pack).target(unet) == tmp_path / "ComfyUI" / "models" / "latentsync" / "latentsync_unet.pt"
    assert choose_place(pack, checkpoints=str(tmp_path)).target(unet) == tmp_path / "latentsync_unet.pt"
    with pytest.raises(OptionError, match="not a folder"):
        choose_place(pack, models_dir=str(tmp_path / "typo"))
    with pytest.raises(OptionError, match="both"):
        choose_place(pack, checkpoints="a", models_dir="b")
