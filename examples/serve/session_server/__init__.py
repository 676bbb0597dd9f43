"""A small service that classifies pictures with the model of a TrainingSession."""
