"""SyncNet: whether lips and speech belong together, as a loss of training and as a score."""
