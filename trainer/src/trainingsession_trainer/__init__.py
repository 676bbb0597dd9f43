"""Transfer learning with cached bottleneck features, one TrainingSession at a time."""
