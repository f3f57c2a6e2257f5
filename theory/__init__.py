"""Checks of the theorems behind latent-dynamics agents, in exact and numerical linear algebra.

Empty so far: the catalogue of checks comes with its own issue. This package needs NumPy, SciPy and
matplotlib only; it never imports torch and knows nothing of ``uld_torchrl``.
"""
