"""Kubernetes operator for TrainingSession resources."""
