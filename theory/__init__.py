"""Checks of the theorems behind latent-dynamics agents, in exact and numerical linear algebra.

This package needs NumPy, SciPy and matplotlib only; it never imports torch and knows nothing of
``uld_torchrl``.
"""

from theory import catalogue
from theory.abstraction import check_abstraction
from theory.aggregate import AggregateModel, aggregate_model
from theory.bisimulation import coarsest_bisimulation, coarsest_pair_labels
from theory.bounds import BoundLadder, bounds
from theory.equivariance import check_equivariances
from theory.errors import InputError
from theory.exact_mdp import ExactMDP
from theory.features import Features
from theory.garnet import garnet
from theory.mdp import TabularMDP
from theory.policy import Policy
from theory.problem import Problem
from theory.problem_report import problem_report
from theory.report import Condition, Report
from theory.rollout import Rollout, h_step_solution, model_based_solution
from theory.stability import Stability, stability
from theory.td import FixedPoint, LinearModel, TDSystem, fit_linear_model, td_fixed_point, td_system
from theory.theorem1 import check_fixed_point_equivalence
from theory.trajectory import Trajectory, td_trajectory
from theory.truth import Certified, Optimal, certified_q, certified_v, chain_value, optimal, visitation
from theory.value_error import ValueErrorSplit, value_error, value_error_of_functions
from theory.weights import Weights
from theory.worlds import cliff_walking, frozen_lake, random_walk, river_swim

__all__ = [
    "AggregateModel",
    "BoundLadder",
    "Certified",
    "Condition",
    "ExactMDP",
    "Features",
    "FixedPoint",
    "InputError",
    "LinearModel",
    "Optimal",
    "Policy",
    "Problem",
    "Report",
    "Rollout",
    "Stability",
    "TDSystem",
    "TabularMDP",
    "Trajectory",
    "ValueErrorSplit",
    "Weights",
    "aggregate_model",
    "bounds",
    "catalogue",
    "certified_q",
    "certified_v",
    "chain_value",
    "check_abstraction",
    "check_equivariances",
    "check_fixed_point_equivalence",
    "cliff_walking",
    "coarsest_bisimulation",
    "coarsest_pair_labels",
    "fit_linear_model",
    "frozen_lake",
    "garnet",
    "h_step_solution",
    "model_based_solution",
    "optimal",
    "problem_report",
    "random_walk",
    "river_swim",
    "stability",
    "td_fixed_point",
    "td_system",
    "td_trajectory",
    "value_error",
    "value_error_of_functions",
    "visitation",
]
