"""Weights: checkpoints, merge methods, and materializing a recipe into a live model.

Names are imported on first use, so that rooms without torch can import `evomerge.engine.recipe`.
"""
