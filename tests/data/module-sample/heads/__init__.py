"""Heads of our own; the trainer calls the functions of its modules."""
