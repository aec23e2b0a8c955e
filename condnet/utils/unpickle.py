"""Pickles of other programs, read without running what they say: numbers, text and containers, nothing else."""

import io
import pickle
import pickletools
import struct
from collections.abc import Callable
from typing import Any, cast

from condnet.errors import CondnetError

_FORMATS = {'f2': 'e', 'f4': 'f', 'f8': 'd', 'b1': '?'}  # numpy's names of data types, and those of the module struct
_FORMATS |= {'i1': 'b', 'i2': 'h', 'i4': 'i', 'i8': 'q', 'u1': 'B', 'u2': 'H', 'u4': 'I', 'u8': 'Q'}


def safe_unpickle(data: bytes, check_memo: bool = False) -> Any:
    """Read a pickle. Numbers of numpy become Python's, its one-dimensional arrays lists.

    Args:
        data: The pickle.
        check_memo: Whether a flipped bit may be in it, as no checksum tells: one can make Python ask for 64 GB of
            memory. It takes seven times as long.

    Raises:
        HoldsTensors: If it holds tensors of torch.
        CondnetError: If it is damaged, or asks for anything that is not needed to read numbers.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data) if check_memo else ():
            if opcode.name in ('PUT', 'LONG_BINPUT') and cast(int, argument) > len(data):
                raise CondnetError(f'it numbers an object {argument}, but has {len(data)} bytes')
        return _Unpickler(io.BytesIO(data)).load()
    except CondnetError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise CondnetError(' '.join(f'{type(error).__name__}: {error}'.split())) from error


class HoldsTensors(CondnetError):
    """A pickle asks for torch."""


class _NumpyType:
    """Stands in for a numpy data type, so that no code of numpy runs on what a file says."""

    __slots__ = ('format',)

    def __init__(self, code: str, *_: object):
        if code not in (*_FORMATS, 'O8'):
            raise CondnetError(f'it holds numpy data of type {code!r}; expected numbers')
        self.format = _FORMATS.get(code, '')

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ('<', '|'):
            raise CondnetError(f'numbers in byte order {state[1]!r}; expected little-endian ones')

    def read(self, data: Any, num: int) -> list[Any]:
        """Values of an array; of one of objects they stand in the pickle one by one."""
        if not self.format:
            return list(data)
        return list(struct.unpack(f'<{num}{self.format}', data))


class _NumpyArray(list[Any]):
    """Stands in for a numpy array of one dimension."""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, _, data = state
        (num,) = shape  # raises for any other number of dimensions
        self[:] = dtype.read(data, num)


def _numpy_scalar(dtype: _NumpyType, data: bytes) -> Any:
    return dtype.read(data, 1)[0]


def _numpy_from_buffer(data: Any, dtype: _NumpyType, shape: tuple[int, ...], *_: object) -> list[Any]:
    (num,) = shape
    return dtype.read(data, num)


def _encode(text: str, encoding: str) -> bytes:
    """How old protocols of pickle write bytes."""
    return text.encode({'latin1': 'latin1', 'latin-1': 'latin1'}[encoding])


class _Unpickler(pickle.Unpickler):
    """Reads numbers, strings and containers; every other name in the file is an error, and nothing is imported."""

    _KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
        ('collections', 'OrderedDict'): dict,
        ('_codecs', 'encode'): _encode,
        ('numpy', 'dtype'): _NumpyType,
        ('numpy', 'ndarray'): _NumpyArray,
        **{
            (f'numpy.{core}.{module}', name): function
            for core in ('core', '_core')  # before and since numpy 2
            for module, name, function in (
                ('multiarray', 'scalar', _numpy_scalar),
                ('multiarray', '_reconstruct', lambda *_: _NumpyArray()),
                ('numeric', '_frombuffer', _numpy_from_buffer),
            )
        },
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            error = HoldsTensors if module.partition('.')[0] == 'torch' else CondnetError
            raise error(f'it asks for {module + "." + name!r}, which no table of numbers needs; it was not run')
        return self._KNOWN[module, name]
