"""Seeing instead of reading: drawings of architectures, and pages of rankings and searches."""
