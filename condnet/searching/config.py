"""Settings of a search, of which the flags of the command are made."""

from collections.abc import Iterable
from dataclasses import dataclass

from condnet.errors import CondnetError
from condnet.ranking.config import EvalConfig
from condnet.ranking.mean_ranks import parse_rank_by
from condnet.utils.settings import SettingError, setting

OBJECTIVES = ('accuracy', 'loss', 'params', 'flops', 'latency')
SAMPLER_NAMES = ('nsga2', 'tpe', 'random', 'grid')
_SEARCH = 'search'


@dataclass(frozen=True)
class SearchConfig(EvalConfig):
    """What is searched for and how, how architectures are evaluated, and where the results go.

    Raises:
        SettingError: If a value makes no sense, or does not go with another.
    """

    output: str | None = setting(None, 'directory of the results')
    report: bool = setting(False, 'write report.html as well: plots, the best drawn, settings')
    sampler: str = setting('nsga2', "Optuna's; grid: everything", group=_SEARCH, choices=SAMPLER_NAMES)
    num_evals: int = setting(
        20,
        'distinct architectures to evaluate, by all processes that share the storage; a Pareto front takes hundreds',
        group=_SEARCH,
        least=1,
    )
    objectives: str = setting('accuracy', f'some of {",".join(OBJECTIVES)}; several give a Pareto front', group=_SEARCH)
    select_by: str = setting(
        '',
        'take as the winner the best by a rank mean over all that were evaluated, such as accuracy+flops or '
        'loss-latency (default: the first objective that is predicted)',
        group=_SEARCH,
    )
    max_flops: float | None = setting(None, 'most FLOPs (multiply-adds) of the network that is exported', group=_SEARCH)
    max_params: float | None = setting(None, 'most parameters of the network that is exported', group=_SEARCH)
    max_latency: float | None = setting(
        None, 'highest latency of the network that is exported, in ms, or by --latency-table', group=_SEARCH
    )
    latency_table: str | None = setting(
        None,
        "latencies of the benchmark's networks, as HW-NAS-Bench has them (default: of the network that is exported, "
        'measured on --device)',
        group=_SEARCH,
    )
    latency_device: str | None = setting(None, 'whose latencies to take from the table, such as raspi4', group=_SEARCH)
    seed: int = setting(0, 'give each process that shares a storage its own', group=_SEARCH, least=0)
    storage: str | None = setting(
        None, "database URL or journal file (default: the output's study.journal)", group=_SEARCH
    )
    study_name: str = setting('search', 'name of the study in the storage', group=_SEARCH)
    onnx: bool = setting(False, 'write the winner as ONNX as well', group=_SEARCH)

    def __post_init__(self) -> None:
        if not isinstance(self.objectives, str) and isinstance(self.objectives, Iterable):
            object.__setattr__(self, 'objectives', ','.join(map(str, self.objectives)))
        super().__post_init__()
        try:
            if len(parse_rank_by(self.select_by)) > 1:
                raise CondnetError('expected one')
        except CondnetError as error:
            raise SettingError('select_by', f'is {self.select_by!r}: {error}') from error
        needs_latency = 'latency' in self.objective_names or self.max_latency is not None
        if (self.latency_table or self.latency_device) and not needs_latency:
            raise SettingError('latency_table', 'is of no use without `max_latency` or the objective latency')
        if self.latency_device and not self.latency_table:
            raise SettingError('latency_device', f'is {self.latency_device!r}, expected a `latency_table` with it')

    @property
    def objective_names(self) -> tuple[str, ...]:
        """The objectives, one by one."""
        return tuple(name.strip() for name in self.objectives.split(','))

    @property
    def limits(self) -> dict[str, float]:
        """The most that an architecture may have of what is limited."""
        limits = {'flops': self.max_flops, 'params': self.max_params, 'latency': self.max_latency}
        return {name: limit for name, limit in limits.items() if limit is not None}
