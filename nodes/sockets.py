"""The pack's own connection types. Their names are part of saved graphs and stay."""

from .host import io

Model = io.Custom("LATENTSYNC_MODEL")  # hosted_model.HostedModel
Audio = io.Custom("LATENTSYNC_AUDIO")  # latentsync.speech_features.SpeechFeatures
Faces = io.Custom("LATENTSYNC_FACES")  # latentsync.face_track.FaceTrack
Restorer = io.Custom("LATENTSYNC_RESTORER")  # a loaded face restoration model
Report = io.Custom("LATENTSYNC_REPORT")  # report.HostedReport
