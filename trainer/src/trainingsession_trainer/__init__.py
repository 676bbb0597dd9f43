"""Transfer learning with cached bottleneck features, one TrainingSession at a time."""

__version__ = "0.2.0"
