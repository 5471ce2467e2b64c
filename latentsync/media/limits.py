"""How large a picture or a clip may be that someone else has made."""

MAX_PIXELS = 8192 * 8192  # of a frame or picture; a frame of this size takes 200 MB as RGB
MAX_SECONDS = 24 * 3600.0  # s from the first picture or sample to the last
MAX_GAP = 3600.0  # s between two frames, or of silence between two packets; a longer one is a wrong timestamp
SAMPLE_RATES = 1000, 768_000  # Hz, of sound that is speech
MAX_CHANNELS = 64
