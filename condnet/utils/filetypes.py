"""What a file is, by its first bytes: for messages about files that are something else than was expected."""

import zipfile
from pathlib import Path

_HEAD = 512  # bytes that are looked at; a tar archive is known by bytes 257 to 261
_LEGACY_TORCH = bytes.fromhex('6cfc9c46f9206aa85019')  # a number that torch.save began with before 1.6
TORCH, LEGACY_TORCH, PICKLE, SAFETENSORS, TAR, BZIP2, CUT_ZIP = (
    'a file of torch.save',
    'a file of torch.save in the form before torch 1.6',
    'a pickle',
    'a safetensors file',
    'a tar archive',
    'compressed by bzip2',
    'a ZIP archive without an end',
)
_MAGIC = (
    (b'BZh', BZIP2),
    (b'\x1f\x8b', 'compressed by gzip'),
    (b'\xfd7zXZ\x00', 'compressed by xz'),
    (b'\x28\xb5\x2f\xfd', 'compressed by zstd'),
    (b'7z\xbc\xaf\x27\x1c', 'a 7-Zip archive'),
    (b'Rar!', 'a RAR archive'),
    (b'\x89HDF', 'an HDF5 file'),
    (b'\x93NUMPY', 'a NumPy array'),
    (b'PAR1', 'a Parquet file'),
    (b'SQLite format 3', 'an SQLite database'),
    (b'\xd0\xcf\x11\xe0', 'an Excel workbook'),
    (b'%PDF', 'a PDF'),
    (b'\x89PNG', 'an image'),
    (b'\xff\xd8\xff', 'an image'),
)


def describe_file(path: str | Path) -> str | None:
    """What a file is, in a few words; None for text and for what is not known. However large, little of it is read.

    Raises:
        OSError: If it cannot be read.
    """
    with open(path, 'rb') as file:
        head = file.read(_HEAD)
    text = head.removeprefix(b'\xef\xbb\xbf').lstrip().lower()
    if text.startswith((b'<!doctype html', b'<html', b'<?xml')):
        return 'a web page, saved instead of the file that it offers'
    if text.startswith(b'version https://git-lfs'):
        return "git-LFS's pointer to the file, not the file; `git lfs pull` fetches it"
    if head.startswith(b'PK'):
        return _describe_zip(path)
    if head[257:262] == b'ustar':
        return TAR
    if head[8:9] == b'{' and head[5:8] == bytes(3):  # the header's length, and the header
        return SAFETENSORS
    if head[:1] == b'\x80' and head[1:2] in b'\x02\x03\x04\x05':
        return LEGACY_TORCH if _LEGACY_TORCH in head[:32] else PICKLE
    return next((name for magic, name in _MAGIC if head.startswith(magic)), None)


def _describe_zip(path: str | Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return CUT_ZIP
    for suffix, name in (
        ('/constants.pkl', 'a network that torch.jit saved'),
        ('/data.pkl', TORCH),
        ('xl/workbook.xml', 'an Excel workbook'),
        ('content.xml', 'an OpenDocument spreadsheet'),
        ('.npy', 'an archive of NumPy arrays'),
    ):
        if any(file.endswith(suffix) for file in names):
            return name
    return 'a ZIP archive'
