"""All faces of a clip, frame by frame: found, followed, told apart, chosen and placed."""
