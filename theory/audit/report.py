"""The report of an audit: one sentence, every condition, then the numbers of each part.

The parts are computed in the other modules and put together in ``assemble``; this is what they end up in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from theory.audit.acting import ActingAudit
from theory.audit.labelling import LabellingAudit
from theory.audit.linearity import LinearityAudit
from theory.audit.noise import NoiseAudit
from theory.audit.probe import ProbeAudit
from theory.audit.relaxing import RelaxationAudit
from theory.audit.returns import ReturnsAudit
from theory.audit.setting import Setting
from theory.audit.value import ValueAudit
from theory.report import Report


@dataclass(frozen=True, eq=False)
class AuditReport(Report):
    """What an export shows about the theorems; true if and only if every equality that was checked holds.

    The verdict is about equalities, which hold for any network: "fail" says that transitions, rewards, policy
    or terminal states do not fit together, "inconclusive" that values are infinite. How good the network is
    stands in the conditions and the numbers. A part that cannot be judged is ``None``, and ``unjudged`` says
    why. Residual and tolerance are those of the split of the value error.

    Attributes:
        sentence: the first line.
        setting: export, MDP, rows and weights; its ``problem`` is what maps are drawn for.
        value: the network's values against the true ones, with the three parts of the error.
        returns: the part of the error that n-step returns ask for.
        acting: what the agent's choices are worth.
        linearity: how linear values are in the embeddings of pairs.
        probe: theorems 1 and 2 on them.
        relaxation: the price of predicting the next state's embedding alone.
        labelling: theorem 3 on clusters of embeddings.
        noise: what of the encoder's loss no model can predict.
        unjudged: the parts that are ``None``, and why.
        arrays: what is as long as there are rows or components, by name; in the JSON only.
    """

    sentence: str = ""
    setting: Setting | None = None
    value: ValueAudit | None = None
    returns: ReturnsAudit | None = None
    acting: ActingAudit | None = None
    linearity: LinearityAudit | None = None
    probe: ProbeAudit | None = None
    relaxation: RelaxationAudit | None = None
    labelling: LabellingAudit | None = None
    noise: NoiseAudit | None = None
    unjudged: Mapping[str, str] = field(default_factory=dict)
    arrays: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int | None:
        """The training step of the export; ``None`` if it does not say."""
        return None if self.setting is None else self.setting.export.step

    def to_json(self) -> str:
        """Return strict JSON as other reports do; ``data`` also holds the arrays."""
        full = replace(self, data={**self.data, **self.arrays})
        return Report.to_json(full)

    def to_markdown(self) -> str:
        """Return the sentence, the table of conditions, then the numbers."""
        _, rest = super().to_markdown().split("\n", 1)
        return f"{self.sentence}\n{rest}"
