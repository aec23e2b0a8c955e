"""Checkpoints on disk: the state of a training, and model folders as they go to the Hub."""
