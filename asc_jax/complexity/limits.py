"""The task's limits, and the check of a network against them."""

from collections.abc import Mapping

from asc_jax.errors import UserError

MAX_MACS, MAX_BYTES = 30_000_000, 128_000  # a config can only lower them
OVER_BUDGET = "OVER BUDGET: outside the task's limits"  # the stamp on what such a network makes
ROLES = ("submission", "teacher")  # of `config.budget.role`
TEACHER = "TEACHER: not a submission"  # the stamp on what such a network makes
N_NAMED_LAYERS = 3  # how many of the dearest layers an over-budget message names


class OverBudget(UserError):
    """A network over the limits; `excess` says by how much, and not what to do."""

    def __init__(self, excess: str):
        self.excess = f"the network is over the task's budget: {excess}"
        super().__init__(
            f"{self.excess}. Make it smaller (config.model, config.features.hop_length), or pass "
            "--config.budget.enforce=False for a run outside the task"
        )


def check_budget(
    macs: Mapping[str, int],
    n_bytes: Mapping[str, int],
    *,
    max_macs: int,
    max_bytes: int,
    enforce: bool = True,
) -> bool:
    """Check a network against the task's limits.

    Args:
      macs: multiply-accumulates by layer, for one clip.
      n_bytes: bytes of the parameters in their stored dtype, by layer.
      max_macs: limit, multiply-accumulates.
      max_bytes: limit, bytes.
      enforce: False lets an over-budget network pass, for experiments outside the task.

    Returns:
      True when it is within both limits.

    Raises:
      OverBudget: a limit is exceeded; names limit, excess and the layers that cost most.
    """
    problems = [
        f"{sum(costs.values()):,} {unit} are {sum(costs.values()) - limit:,} over the limit of "
        f"{limit:,}; most go to {_dearest(costs)}"
        for costs, limit, unit in ((macs, max_macs, "MACs"), (n_bytes, max_bytes, "bytes"))
        if sum(costs.values()) > limit
    ]
    if problems and enforce:
        raise OverBudget(". ".join(problems))
    return not problems


def _dearest(costs: Mapping[str, int]) -> str:
    ranked = sorted(costs.items(), key=lambda item: -item[1])[:N_NAMED_LAYERS]
    return ", ".join(f"{layer} ({cost:,})" for layer, cost in ranked)
