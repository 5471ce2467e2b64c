"""What is said: common English words, and words that do not exist but could, in the sounds of several languages."""

import numpy as np

REAL = """
    the a of and to in is you that it he was for on are as with his they at be this have from or one had by word but not
    what all were we when your can said there use an each which she do how their if will up other about out many then
    them these so some her would make like him into time has look two more write go see number no way could people my
    than first water been call who oil its now find long down day did get come made may part over new sound take only
    little work know place year live me back give most very after thing our just name good sentence man think say great
    where help through much before line right too mean old any same tell boy follow came want show also around form
    three small set put end does another well large must big even such because turn here why ask went men read need land
    different home us move try kind hand picture again change off play spell air away animal house point page letter
    mother answer found study still learn should world paper baby happy people problem remember maybe summer number
    family
    ever half enough laugh five seven very above beautiful music movie book cup map lamp bump stop keep shape hope
    warm whole window food soup shoes blue you two through choose join boil noise house loud fire hire
    seven eleven twelve thirty hundred thousand million Monday Friday November open oven bottle apple purple bubble
"""
COMMON = REAL.split()
# Consonants, vowels and ends of syllables as each language writes what it can say; lips meet often.
SOUNDS = {
    "english": (
        "b m p f v w th s sh ch j t d n l r k g h y br pl fl st sp sw tr kr gr",
        "a e i o u ee oo ay igh ow oy aw ar er",
        "- - n m p t k s l nd mp ft st ng sh ve",
    ),
    "plain": ("b m p f v s t d n l r k g j br pl fl tr kr", "a e i o u a e i o u", "- - - n m l r s p"),
    "italian": ("b m p f v s t d n l r ch gh gl gn sc z br pr fr", "a e i o u a e i o ia uo", "- - - - n l r"),
    "finnish": ("m p v s t n l r k h j m p", "a e i o u aa ee oo uu ai ei ou", "- - - n s l"),
    "czech": ("b m p f v s z t d n l r k h j ch br pr", "a e i o u a e o ou", "- - - m n k l t s"),
    "russian": ("b m p f v s z t d n l r k g br pr", "a e i o u ya", "- - - m n k l t s"),
    "catalan": ("b m p f v s t d n l r c g ll ny br pl", "a e i o u a e o", "- - - n l r m s"),
}


def word(language: str, random: np.random.Generator) -> str:
    """One that could be, of one to three syllables."""
    starts, vowels, ends = (text.split() for text in SOUNDS[language])
    syllables = (str(random.choice(part)) for _ in range(random.integers(1, 4)) for part in (starts, vowels, ends))
    return "".join(syllables).replace("-", "")


def sentence(language: str, random: np.random.Generator) -> str:
    """Four to nine words, or now and then a row of syllables, as who calls, counts or hums."""
    if random.random() < 0.06:
        starts, vowels, _ = (text.split() for text in SOUNDS[language])
        syllable = str(random.choice(starts)) + str(random.choice(vowels))
        return " ".join([syllable] * int(random.integers(3, 8)))
    real = 0.75 if language == "english" else 0.0
    count = int(random.integers(4, 10))
    words = [str(random.choice(COMMON)) if random.random() < real else word(language, random) for _ in range(count)]
    if count > 5 and random.random() < 0.3:
        words[count // 2] += ","
    return " ".join(words)
