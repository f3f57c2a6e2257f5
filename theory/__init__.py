"""Checks of the theorems behind latent-dynamics agents, in exact and numerical linear algebra.

This package needs NumPy and SciPy, and matplotlib for ``theory.plots`` only, which is not imported here. It
never imports torch and knows nothing of ``uld_torchrl``.
"""

from theory import catalogue
from theory.abstraction import check_abstraction
from theory.aggregate import AggregateModel, aggregate_model
from theory.audit import AuditReport, audit_embeddings
from theory.bellman_residual import (
    ResidualSplit,
    ResidualStudy,
    bellman_residual,
    compare_with_residual_minimiser,
)
from theory.bisimulation import coarsest_bisimulation, coarsest_pair_labels
from theory.bounds import BoundLadder, bounds
from theory.control import ActionGap, GreedyLoss, action_gap, check_greedy, greedy_loss
from theory.equivariance import check_equivariances
from theory.errors import InputError
from theory.exact.mdp import ExactMDP
from theory.exact.problem import ExactProblem
from theory.exact.stability import ExactStability, exact_stability
from theory.exact.system import ExactModel
from theory.exact.theorem1 import prove_fixed_point_equivalence
from theory.exact.theorem2 import ExactSplit, exact_value_error, prove_value_error
from theory.features import Features
from theory.garnet import garnet
from theory.interpolation import FeatureSweep, eigen_features, feature_sweep
from theory.localised import LocalisedBounds, localised_bounds
from theory.lstd import LstdStudy, lstd_study
from theory.mdp import TabularMDP
from theory.n_step import NStepFixedPoint, n_step_fixed_point, n_step_problem, n_step_return
from theory.policy import Policy
from theory.problem import Problem
from theory.problem_report import problem_report
from theory.relaxation import Relaxation, relax_to_state
from theory.report import Condition, Report
from theory.rollout import Rollout, h_step_solution, model_based_solution
from theory.stability import Stability, stability
from theory.study_reports import lstd_report, n_step_report, target_network_report
from theory.target_networks import TargetNetworks, target_network_radius, target_network_trajectory
from theory.td import FixedPoint, LinearModel, TDSystem, fit_linear_model, td_fixed_point, td_system
from theory.theorem1 import check_fixed_point_equivalence
from theory.trajectory import Trajectory, td_trajectory
from theory.truncation import Horizon, Truncation, truncation, truncation_horizon
from theory.truth import Certified, Optimal, certified_q, certified_v, chain_value, optimal, visitation
from theory.value_error import ValueErrorSplit, value_error, value_error_of_functions
from theory.weights import Weights
from theory.worlds import cliff_walking, frozen_lake, random_walk, river_swim

__all__ = [
    "ActionGap",
    "AggregateModel",
    "AuditReport",
    "BoundLadder",
    "Certified",
    "Condition",
    "ExactMDP",
    "ExactModel",
    "ExactProblem",
    "ExactSplit",
    "ExactStability",
    "FeatureSweep",
    "Features",
    "FixedPoint",
    "GreedyLoss",
    "Horizon",
    "InputError",
    "LinearModel",
    "LocalisedBounds",
    "LstdStudy",
    "NStepFixedPoint",
    "Optimal",
    "Policy",
    "Problem",
    "Relaxation",
    "Report",
    "ResidualSplit",
    "ResidualStudy",
    "Rollout",
    "Stability",
    "TDSystem",
    "TabularMDP",
    "TargetNetworks",
    "Trajectory",
    "Truncation",
    "ValueErrorSplit",
    "Weights",
    "action_gap",
    "aggregate_model",
    "audit_embeddings",
    "bellman_residual",
    "bounds",
    "catalogue",
    "certified_q",
    "certified_v",
    "chain_value",
    "check_abstraction",
    "check_equivariances",
    "check_fixed_point_equivalence",
    "check_greedy",
    "cliff_walking",
    "coarsest_bisimulation",
    "coarsest_pair_labels",
    "compare_with_residual_minimiser",
    "eigen_features",
    "exact_stability",
    "exact_value_error",
    "feature_sweep",
    "fit_linear_model",
    "frozen_lake",
    "garnet",
    "greedy_loss",
    "h_step_solution",
    "localised_bounds",
    "lstd_report",
    "lstd_study",
    "model_based_solution",
    "n_step_fixed_point",
    "n_step_problem",
    "n_step_report",
    "n_step_return",
    "optimal",
    "problem_report",
    "prove_fixed_point_equivalence",
    "prove_value_error",
    "random_walk",
    "relax_to_state",
    "river_swim",
    "stability",
    "target_network_radius",
    "target_network_report",
    "target_network_trajectory",
    "td_fixed_point",
    "td_system",
    "td_trajectory",
    "truncation",
    "truncation_horizon",
    "value_error",
    "value_error_of_functions",
    "visitation",
]
