"""The pack's own connection types. Their names are part of saved graphs and stay."""

from .host import io

Model = io.Custom("LATENTSYNC_MODEL")  # hosted_model.HostedModel
Audio = io.Custom("LATENTSYNC_AUDIO")  # audio.HostedSpeech
Faces = io.Custom("LATENTSYNC_FACES")  # latentsync.run.stages.FaceTrack
Speakers = io.Custom("LATENTSYNC_SPEAKERS")  # a tuple of speaker.HostedSpeaker
Restorer = io.Custom("LATENTSYNC_RESTORER")  # hosted_restorer.HostedRestorer
Report = io.Custom("LATENTSYNC_REPORT")  # report.HostedReport

# The host's own type in newer releases, by its name, so that the nodes are the same on all hosts: for each frame a list
# of the boxes in it, each {"x", "y", "width", "height", "label", "score"} in px.
Boxes = io.Custom("BOUNDING_BOX")
