"""Ground-truth tables: what every architecture of a space reaches when it is trained alone.

`load_benchmark` reads the published tables, and trusts nothing in them. Others are made known by `register_benchmark`.
"""

from condnet.benchmarks import readers  # noqa: F401  # it registers condnet's own
from condnet.benchmarks.nats import convert_nats
from condnet.benchmarks.registry import BenchmarkRow, find_benchmark, register_benchmark
from condnet.benchmarks.tables import BenchmarkTable, holds_table, load_benchmark

__all__ = [
    'BenchmarkRow',
    'BenchmarkTable',
    'convert_nats',
    'find_benchmark',
    'holds_table',
    'load_benchmark',
    'register_benchmark',
]
