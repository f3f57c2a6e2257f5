"""Pictures of results: each function takes what the package computed and returns a matplotlib Figure.

Matplotlib is imported when the first name is used (PEP 562), so ``import theory`` does without it. Figures
are made without pyplot: nothing global is changed and no window opens. Sizes and colours are fixed
(``style``), and :func:`save` writes the same bytes for the same figure. Only Kolter's curve is computed here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "PALETTE": "style",
    "save": "style",
    "plot_bounds": "ladder",
    "plot_tightness": "ladder",
    "plot_eigenvalues": "iterations",
    "plot_td_error": "iterations",
    "plot_target_networks": "iterations",
    "plot_decomposition": "decomposition",
    "plot_decomposition_map": "decomposition",
    "plot_error_map": "decomposition",
    "plot_audit_history": "audit",
    "plot_audit_linearity": "audit",
    "plot_feature_sweep": "curves",
    "plot_lstd": "curves",
    "plot_n_step": "curves",
    "KolterCurve": "kolter",
    "kolter_curve": "kolter",
    "plot_kolter": "kolter",
}
# Written out, so that type checkers see it.
__all__ = [
    "PALETTE",
    "KolterCurve",
    "kolter_curve",
    "plot_audit_history",
    "plot_audit_linearity",
    "plot_bounds",
    "plot_decomposition",
    "plot_decomposition_map",
    "plot_eigenvalues",
    "plot_error_map",
    "plot_feature_sweep",
    "plot_kolter",
    "plot_lstd",
    "plot_n_step",
    "plot_target_networks",
    "plot_td_error",
    "plot_tightness",
    "save",
]

if TYPE_CHECKING:
    from theory.plots.audit import plot_audit_history, plot_audit_linearity
    from theory.plots.curves import plot_feature_sweep, plot_lstd, plot_n_step
    from theory.plots.decomposition import plot_decomposition, plot_decomposition_map, plot_error_map
    from theory.plots.iterations import plot_eigenvalues, plot_target_networks, plot_td_error
    from theory.plots.kolter import KolterCurve, kolter_curve, plot_kolter
    from theory.plots.ladder import plot_bounds, plot_tightness
    from theory.plots.style import PALETTE, save


def __getattr__(name: str) -> Any:
    """Import the module that a public name lives in, and matplotlib with it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
