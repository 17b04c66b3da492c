"""The sections of a model card."""
