"""People from seeds: the shape of a head and how it looks, as numbers; nothing is loaded or drawn here."""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np

HELD_OUT = range(9_000_000, 9_000_060)  # identities that no training may see
SKIN_TONES = np.array(  # sRGB, from the lightest to the darkest
    [
        (246, 218, 200),
        (236, 200, 176),
        (226, 184, 154),
        (210, 162, 128),
        (190, 139, 104),
        (161, 112, 80),
        (126, 84, 58),
        (94, 60, 42),
        (66, 43, 33),
    ],
    np.float32,
)
HAIR_COLOURS = {
    "black": (22, 18, 17),
    "dark brown": (48, 33, 24),
    "brown": (82, 56, 38),
    "light brown": (120, 88, 58),
    "blond": (176, 148, 108),
    "light blond": (210, 188, 152),
    "red": (128, 58, 30),
    "grey": (140, 137, 134),
    "white": (214, 211, 206),
}
DYED = {"pink": (190, 80, 120), "blue": (50, 80, 150), "violet": (90, 50, 120)}
IRISES = {
    "dark brown": (46, 27, 16),
    "brown": (84, 52, 28),
    "hazel": (112, 88, 48),
    "green": (92, 112, 76),
    "blue": (84, 118, 150),
    "grey": (118, 126, 130),
}
CUTS = ("bald", "buzz", "short", "swept", "parted", "fringe", "bob", "long", "tied", "curly", "afro")
BEARDS = ("none", "stubble", "goatee", "moustache", "full", "long", "chinstrap", "patchy")
OPPOSITES = (
    ("-incr", "-decr"),
    ("-up", "-down"),
    ("-out", "-in"),
    ("-forward", "-backward"),
    ("-convex", "-concave"),
    ("-uncompress", "-compress"),
)
# Shapes of one direction only, which exclude each other.
HEAD_FORMS = ("head-diamond", "head-invertedtriangular", "head-oval", "head-rectangular", "head-round", "head-square")
UNUSED = re.compile(r"^(head-trans|head-angle|neck-trans|asymm-|mouth-trans-(in|out)|nose-trans-(in|out))|ear-trans")
REACH = {
    "head-scale": 0.5,
    "ear": 0.5,
    "eye-scale": 0.5,
    "eye-push": 0.5,
    "nose-scale": 0.9,
    "trans": 0.5,
    "eye-trans": 0.6,
}


def linear(colour) -> np.ndarray:
    """sRGB 0..255 to linear light 0..1, float32."""
    scaled = np.asarray(colour, np.float32) / 255
    return np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4).astype(np.float32)


@dataclass(frozen=True)
class Person:
    """One person, the same for the same seed.

    identity     the seed: 0..99,999 for training, HELD_OUT for what measures it
    description  in words and numbers that JSON can hold: sex, age in years, ancestry, skin, hair, beard, glasses, ...
    look         numbers and colours (linear light 0..1) that the drawing asks for by name
    """

    identity: int
    description: dict
    look: dict

    @classmethod
    def from_seed(cls, seed: int) -> "Person":
        """The person of a seed of at least 0."""
        random = np.random.default_rng([seed, 1])
        sex = "female" if random.random() < 0.5 else "male"
        age = float(18 + 62 * random.beta(1.1, 1.8))
        ancestry = random.dirichlet((0.5, 0.5, 0.5))
        return cls(seed, *_describe(random, sex, age, ancestry))

    def weights(self, names) -> dict[str, float]:
        """How much of each shape of the mesh this person has, of those in `names`; shapes at 0 are left out."""
        random = np.random.default_rng([self.identity, 2])
        weights = self._of_the_body(random)
        weights |= _of_the_face(random, sorted(names))
        return {name: weight for name, weight in weights.items() if name in names and abs(weight) > 1e-3}

    def _of_the_body(self, random: np.random.Generator) -> dict[str, float]:
        """Weights of sex, age, ancestry and build, which multiply."""
        male = self.look["male"]
        old = np.clip((self.description["age"] - 25) / 60, 0, 1)
        sexes = {"female": 1 - male, "male": male}
        ages = {"young": 1 - old, "old": old}
        muscle, weight = (_three(float(random.beta(2.2, 2.2)), name) for name in ("muscle", "weight"))
        weights = {}
        for sex, of_sex in sexes.items():
            for age, of_age in ages.items():
                for ancestry, of_ancestry in self.description["ancestry"].items():
                    weights[f"{ancestry}-{sex}-{age}"] = of_sex * of_age * of_ancestry
                for strength, of_strength in muscle.items():
                    for build, of_build in weight.items():
                        weights[f"universal-{sex}-{age}-{strength}-{build}"] = of_sex * of_age * of_strength * of_build
        return weights

    @property
    def beard_reach(self) -> float:
        """m that the hairs of the beard stand off the skin."""
        return self.look["beard_length"] if self.description["beard"] != "none" else 0.0

    @cached_property
    def held_out(self) -> bool:
        """Whether this identity is kept from training."""
        return self.identity in HELD_OUT


def _three(value: float, name: str) -> dict[str, float]:
    """0..1 as weights of the least, the average and the most."""
    return {
        f"min{name}": max(0.0, 1 - 2 * value),
        f"average{name}": 1 - abs(2 * value - 1),
        f"max{name}": max(0.0, 2 * value - 1),
    }


def _of_the_face(random: np.random.Generator, names: list[str]) -> dict[str, float]:
    """Weights of the single shapes of head and face, both sides nearly alike, and of what is not alike."""
    known, weights = set(names), {}
    strength = random.uniform(0.22, 0.42)  # some people are further from the average than others
    for more, less in OPPOSITES:
        for name in names:
            if not name.endswith(more) or name.startswith("r-") or UNUSED.search(name):
                continue
            stem = name[: -len(more)]
            if stem + less not in known:
                continue
            reach = min([share for part, share in REACH.items() if part in name], default=1.0)
            value = float(np.clip(random.normal(0, strength), -0.85, 0.85)) * reach * (random.random() < 0.65)
            weights[stem + (more if value > 0 else less)] = abs(value)
            if stem.startswith("l-"):
                other = value + float(random.normal(0, 0.05))
                weights["r-" + stem[2:] + (more if other > 0 else less)] = abs(other)
    if random.random() < 0.6:
        weights[str(random.choice(HEAD_FORMS))] = float(random.uniform(0.1, 0.6))
    asymmetries = [name for name in names if name.startswith("asym-")]
    for name in random.permutation(asymmetries)[: random.integers(2, 12)].tolist():
        weights[name] = float(random.uniform(0.05, 0.5))
    return weights


def _describe(random: np.random.Generator, sex: str, age: float, ancestry: np.ndarray) -> tuple[dict, dict]:
    """Words for the description, and the numbers of the look that belong to them."""
    male = float(np.clip(random.beta(1, 6), 0, 1))
    male = 1 - male if sex == "male" else male
    old = float(np.clip((age - 25) / 55, 0, 1))
    african, asian, caucasian = ancestry
    # Ancestry says something about the tone, and no more than something: networks shall not infer one from the other.
    usual = 7.0 * african + 2.6 * asian + 1.5 * caucasian
    tone = float(np.clip(random.normal(usual, 1.3) if random.random() < 0.7 else random.uniform(0, 8), 0, 8))
    step = min(int(tone), 7)
    skin = linear(SKIN_TONES[step] + (SKIN_TONES[step + 1] - SKIN_TONES[step]) * (tone - step))
    skin = np.clip(skin * (1 + random.normal(0, (0.035, 0.03, 0.06))), 0.01, 0.95)
    hair, colour = _hair(random, tone, age)
    cut = _cut(random, sex, old)
    beard = _beard(random, sex)
    make_up = _make_up(random, sex)
    glasses = str(random.choice(("none", "round", "square", "rimless"), p=(0.76, 0.09, 0.11, 0.04)))
    eye_odds = (0.75, 0.2, 0.03, 0.01, 0.005, 0.005) if tone > 4 else (0.2, 0.25, 0.15, 0.1, 0.2, 0.1)
    eyes = str(random.choice(list(IRISES), p=eye_odds))
    teeth = float(random.beta(2.2, 1.6))  # 0 yellow .. 1 white
    freckled = random.random() < (0.3 if tone < 3 else 0.06)
    description = {
        "sex": sex,
        "age": round(age),
        "ancestry": {
            name: float(share) for name, share in zip(("african", "asian", "caucasian"), ancestry, strict=True)
        },
        "skin_tone": round(tone, 2),
        "hair": hair,
        "cut": cut,
        "beard": beard,
        "eyes": eyes,
        "glasses": glasses,
        "lipstick": make_up["lipstick"] > 0.3,
        "freckles": freckled,
    }
    # Lips: the tone, redder and darker the lighter the skin; dark lips are partly brown.
    blood = random.uniform(0.4, 1.3)
    lips = skin * (np.array((0.95, 0.48, 0.50)) ** blood) * random.uniform(0.8, 1.05)
    lips += np.array((0.05, 0.0, 0.008)) * random.random() * (tone < 5)
    look = {
        "male": male,
        "old": old,
        "skin": skin,
        "lips": lips,
        "hair": colour,
        "iris": linear(IRISES[eyes]) * random.uniform(0.7, 1.3),
        "sclera": linear((232, 224, 216)) * random.uniform(0.72, 0.95),
        "pattern": random.uniform(0, 40, 3),  # where in the noise this person's spots and strands lie
        "ruddy": random.uniform(0.1, 1.0) * (1 - 0.06 * tone),
        "uneven": random.uniform(0.15, 0.9),
        "freckles": random.uniform(0.3, 1.0) if freckled else 0.0,
        "moles": random.uniform(0, 1),
        "age_spots": old * random.uniform(0, 0.9),
        "wrinkles": float(np.clip(old * random.uniform(0.7, 1.4) + random.uniform(0, 0.12), 0, 1)),
        "pores": random.uniform(0.2, 1.0),
        "shine": random.uniform(0.35, 1.0),
        "roughness": random.uniform(0.38, 0.58),
        "eye_rings": random.uniform(0, 0.6) + 0.25 * old,
        "brow_strength": random.uniform(0.35, 1.0),
        "brow_width": random.uniform(0.7, 1.5) * (1.2 if sex == "male" else 0.9),
        "brow_arch": random.uniform(-1, 1),
        "brow_tone": random.uniform(0.35, 0.9),
        "lashes": random.uniform(0.35, 0.8) if sex == "male" else random.uniform(0.6, 1.0),
        "lip_edge": random.uniform(0.3, 1.0),
        "lip_gloss": random.uniform(0.25, 0.7),
        "lip_lines": random.uniform(0.2, 1.0),
        "teeth": linear((222, 196, 152)) * (1 - teeth) + linear((243, 236, 222)) * teeth,
        "gums": linear((188, 104, 100)) * random.uniform(0.6, 1.05) * (1 - 0.055 * tone),
        "tongue": linear((196, 104, 98)) * random.uniform(0.75, 1.1),
        "beard_density": {"none": 0, "stubble": 0.5, "patchy": 0.45}.get(beard, 1.0) * random.uniform(0.55, 1.0),
        "beard_length": {"stubble": 0.0008, "patchy": 0.0035, "full": 0.009, "long": 0.02}.get(beard, 0.006)
        * random.uniform(0.6, 1.4),
        "beard_shade": random.uniform(0, 0.5) * (sex == "male") * (beard in ("none", "stubble", "goatee", "moustache")),
        "beard_grey": float(np.clip(old * 1.3 - 0.3 + random.normal(0, 0.2), 0, 0.9)),
        "hairline": random.normal(0, 0.35) + (0.8 * old * random.random() if sex == "male" else 0),
        "thickness": random.uniform(0.5, 1.0),
        "wave": random.uniform(0, 1) ** 2,
        "gather": random.uniform(0, 1),
        "cloth": linear(random.uniform(15, 235, 3) * random.uniform(0.5, 1) + random.uniform(0, 20)),
        "cloth_kind": int(random.integers(0, 4)),
        "collar": random.uniform(0, 1),
        "frame": linear(random.choice(((20, 20, 22), (60, 36, 22), (150, 130, 90), (120, 20, 30), (180, 180, 185)))),
        "lens_size": random.uniform(0.85, 1.2),
        **make_up,
    }
    return description, look


def _hair(random: np.random.Generator, tone: float, age: float) -> tuple[str, np.ndarray]:
    """Name and colour of the hair: mostly dark with dark skin, greyer with age, now and then dyed."""
    names = ["black", "dark brown", "brown", "light brown", "blond", "light blond", "red"]
    dark = np.clip((tone - 1.5) / 3, 0, 1)
    odds = (1 - dark) * np.array((0.1, 0.22, 0.24, 0.18, 0.14, 0.06, 0.06)) + dark * np.array(
        (0.7, 0.2, 0.05, 0.02, 0.01, 0.01, 0.01)
    )
    name = str(random.choice(names, p=odds / odds.sum()))
    colour = np.array(HAIR_COLOURS[name], np.float32)
    grey = float(np.clip((age - 38) / 40 + random.normal(0, 0.2), 0, 1)) if random.random() < 0.75 else 0.0
    target = np.array(HAIR_COLOURS["grey" if random.random() < 0.6 else "white"], np.float32)
    colour = colour + (target - colour) * grey
    if random.random() < 0.03:
        name, grey = str(random.choice(list(DYED))), 0.0
        colour = np.array(DYED[name], np.float32)
    return ("grey" if grey > 0.6 else name), linear(
        np.clip(colour * (1 + random.normal(0, 0.08) + random.normal(0, 0.02, 3)), 8, 245)
    )


def _cut(random: np.random.Generator, sex: str, old: float) -> str:
    """One of CUTS."""
    of_men = np.array((0.06 + 0.2 * old, 0.14, 0.22, 0.16, 0.12, 0.06, 0.02, 0.04, 0.03, 0.09, 0.06))
    of_women = np.array((0.01, 0.03, 0.08, 0.06, 0.10, 0.08, 0.16, 0.24, 0.12, 0.07, 0.05))
    odds = of_men if sex == "male" else of_women
    return str(random.choice(CUTS, p=odds / odds.sum()))


def _beard(random: np.random.Generator, sex: str) -> str:
    """One of BEARDS."""
    if sex == "female":
        return "none"
    return str(random.choice(BEARDS, p=(0.32, 0.18, 0.08, 0.07, 0.19, 0.05, 0.04, 0.07)))


def _make_up(random: np.random.Generator, sex: str) -> dict:
    """Lipstick, rouge, shadow and line of the eyes."""
    wears = random.random() < (0.55 if sex == "female" else 0.02)
    stick = linear((random.uniform(110, 220), random.uniform(20, 120), random.uniform(40, 120)))
    return {
        "lipstick": float(random.uniform(0.35, 0.95)) if wears and random.random() < 0.75 else 0.0,
        "stick": stick,
        "stick_gloss": random.uniform(0.2, 1.0),
        "rouge": random.uniform(0, 0.6) * wears,
        "eye_shadow": random.uniform(0, 0.8) * wears,
        "shadow_colour": linear((random.uniform(40, 190), random.uniform(30, 130), random.uniform(40, 150))),
        "eye_line": random.uniform(0.2, 1.0) * wears,
        "powder": random.uniform(0, 0.8) * wears,
    }
