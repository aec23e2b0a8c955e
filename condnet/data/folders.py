"""Class folders: which files of a folder or tar file are images of which class, and what is in them.

The same rules hold for folders and tar files, so that both give the same images, or the same refusal. Exactly one level
of folders may differ from image to image: it names the classes (`class/image.png`, `train/class/image.png` in a tar
file, Tiny-ImageNet's `class/images/image.JPEG`). Whatever would make an image or a class vanish is an error.
"""

import io
import os
import re
import tarfile
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from condnet.errors import CondnetError

Location = tuple[str, int, int]  # file, offset and size in bytes; -1: all of it
ImageFiles = dict[tuple[str, str], Location]  # by class, and name within the class

_Path = tuple[str, ...]
_Entries = dict[_Path, Location | None]  # None: a folder
_EXPECTED = 'expected files named class/image.jpg (or .png, ...)'
_EXTENSIONS = {'.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp'}
_OTHER_EXTENSIONS = {
    *('.apng', '.avif', '.dcm', '.dib', '.exr', '.gif', '.hdr', '.heic', '.heif', '.ico', '.j2k', '.jfif', '.jp2'),
    *('.jpe', '.jxl', '.npy', '.pbm', '.pcx', '.pnm', '.psd', '.svg', '.tga'),
}  # images, but not read
_NOT_DATA = {'__MACOSX', '@eaDir', 'lost+found', '$RECYCLE.BIN', 'System Volume Information'}
_MAX_DEPTH = 12  # a link that leads back would be followed for ever
_PACKED = {
    b'\x1f\x8b': 'gzip',
    b'BZh': 'bzip2',
    b'\xfd7zXZ': 'xz',
    b'\x28\xb5\x2f\xfd': 'zstd',
    b'PK\x03\x04': 'zip',
}  # by their first bytes


def natural_key(text: str) -> list[str | int]:
    """As timm's, which fails on digits that are no decimals, such as those of ².

    Texts and numbers alternate, so that keys can be compared.
    """
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r'(\d+)', text.lower()))]


def find_images(source: Path) -> ImageFiles:
    """Find the images of a folder or tar file of class folders, in any order.

    Hidden files and folders, and files that are no images, are left out.

    Raises:
        CondnetError: If the file is damaged, the classes cannot be told, or an image or class would be left out.
    """
    try:
        entries = _read_tar(source) if source.is_file() else dict(_walk(str(source)))
    except OSError as error:
        raise CondnetError(f'cannot read {source}: {error}') from error
    entries = {path: entries[path] for path in sorted(entries) if not any(map(_is_hidden, path))}
    _check_names(source, entries)
    images = {path: location for path, location in entries.items() if location and _suffix(path) in _EXTENSIONS}
    level = _class_level(source, images)
    prefix = next(iter(images))[:level]
    classes = {path[level] for path in images}
    for path, location in entries.items():
        folder = path if location is None else path[:-1]
        if folder[:level] == prefix and len(folder) > level and folder[level] not in classes:
            raise CondnetError(f'{source}: class folder {folder[level]} holds no images; {_EXPECTED}')
    if len({unicodedata.normalize('NFC', name) for name in classes}) < len(classes):
        raise CondnetError(f'{source}: two class folders have one name, in two Unicode forms; expected one of them')
    return {(path[level], '/'.join(path[level + 1 :])): location for path, location in images.items()}


def read_image(name: str, location: Location) -> Image.Image:
    """Decode an image as RGB.

    Args:
        name: What to call it in an error.
        location: Where it is.

    Raises:
        CondnetError: If it is damaged, or holds several images, or numbers of more than 16 bits.
    """
    path, offset, size = location
    try:
        with open(path, 'rb') as file:
            file.seek(offset)
            return _to_rgb(Image.open(io.BytesIO(file.read(size))))
    except UnidentifiedImageError as error:
        raise CondnetError(f'cannot read the image {name}: it is empty, or of no known format') from error
    except Exception as error:  # a damaged file makes Pillow's decoders raise anything
        raise CondnetError(f'cannot read the image {name}: {" ".join(str(error).split())}') from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if getattr(image, 'n_frames', 1) > 1 and image.format != 'MPO':  # a photograph with its previews
        raise CondnetError(f'it has {getattr(image, "n_frames")} frames, expected one')  # noqa: B009
    if image.mode.startswith('I;16') or (image.mode == 'I' and image.format in ('PNG', 'PPM')):
        # Pillow would clip greys of 16 bits; of colours of 16 bits it takes the upper 8, too.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ('I', 'F'):
        raise CondnetError(f'its greys are of Pillow mode {image.mode}, expected 8 or 16 bits')
    return image.convert('RGB')


def _suffix(path: _Path) -> str:
    return PurePosixPath(path[-1]).suffix.lower()


def _is_hidden(name: str) -> bool:
    return name.startswith('.') or name in _NOT_DATA


def _check_names(source: Path, entries: Collection[_Path]) -> None:
    for path in entries:
        if re.search('[\0-\x1f\x7f\ud800-\udfff]', ''.join(path)) or any(len(os.fsencode(name)) > 255 for name in path):
            raise CondnetError(f'{source}: {"/".join(path)[:300]!r} is not a proper file name; {_EXPECTED}')
        if _suffix(path) in _OTHER_EXTENSIONS:
            formats = ', '.join(sorted(_EXTENSIONS))
            raise CondnetError(f'{source}: {"/".join(path)} is not of a format that is read; expected {formats}')


def _class_level(source: Path, images: Collection[_Path]) -> int:
    """Which level of folders names the classes."""
    if not images:
        raise CondnetError(f'{source} holds no images; {_EXPECTED}')
    first = next(iter(images))
    for path in images:
        if len(path) == 1:
            raise CondnetError(f'{source}: {path[0]} is in no class folder; {_EXPECTED}')
        if len(path) != len(first):
            raise CondnetError(f'{source}: {"/".join(first)} and {"/".join(path)} are at different depths; {_EXPECTED}')
    levels = [level for level in range(len(first) - 1) if len({path[level] for path in images}) > 1]
    if not levels:
        raise CondnetError(f'{source} has images in one folder, {"/".join(first[:-1])}; expected two classes or more')
    if len(levels) > 1:
        other = next(path for path in images if path[levels[0]] != first[levels[0]])
        raise CondnetError(
            f'{source}: in {"/".join(first)} and {"/".join(other)} several folders differ, any may be the class; '
            f'{_EXPECTED}'
        )
    return levels[0]


def _walk(folder: str, path: _Path = ()) -> Iterator[tuple[_Path, Location | None]]:
    """Everything in a folder; links are followed."""
    if len(path) > _MAX_DEPTH:
        raise CondnetError(f'{folder} is nested too deeply (does a link lead back?); {_EXPECTED}')
    with os.scandir(folder) as found:
        for entry in found:
            inner = (*path, entry.name)
            if _is_hidden(entry.name):
                continue
            if entry.is_dir():
                yield inner, None
                yield from _walk(entry.path, inner)
            elif entry.is_file():
                yield inner, (entry.path, 0, -1)
            else:
                raise CondnetError(f'{entry.path} is a broken link, or no file; {_EXPECTED}')


def _read_tar(source: Path) -> _Entries:
    """Everything in a tar file. Of two members of one name the last counts, as when the file is unpacked."""
    entries: _Entries = {}
    links: dict[_Path, str] = {}
    try:
        with tarfile.open(source, 'r:') as tar:
            for member in tar:
                if member.size < 0 or tar.offset <= member.offset:
                    raise tarfile.ReadError('a header is damaged')
                path = _split_name(source, member.name)
                links.pop(path, None)
                if member.issym():
                    entries.pop(path, None)
                    links[path] = member.linkname
                elif path:
                    entries[path] = _locate(source, member, entries)
            end = tar.offset
    except CondnetError:
        raise
    except Exception as error:  # a damaged header makes tarfile raise anything
        raise CondnetError(f'cannot read {source}: {_packing(source) or " ".join(str(error).split())}') from error
    _check_end(source, end)
    return _follow(source, entries, links)


def _split_name(source: Path, name: str) -> _Path:
    path = tuple(part for part in name.split('/') if part not in ('', '.'))
    if '..' in path or len(path) > _MAX_DEPTH:
        raise CondnetError(f'{source}: {name[:300]!r} is not a proper file name; {_EXPECTED}')
    return path


def _locate(source: Path, member: tarfile.TarInfo, entries: _Entries) -> Location | None:
    """Where a member's bytes are; None for a folder."""
    if member.isdir():
        return None
    if member.islnk() and (location := entries.get(_split_name(source, member.linkname))):
        return location
    if member.isfile() and not member.issparse():
        return str(source), member.offset_data, member.size
    raise CondnetError(f'{source}: {member.name!r} is a broken link, or no plain file; {_EXPECTED}')


def _packing(source: Path) -> str:
    with source.open('rb') as file:
        start = file.read(8)
    kinds = [kind for magic, kind in _PACKED.items() if start.startswith(magic)]
    return f'it is packed with {kinds[0]}, expected a tar file that is not' if kinds else ''


def _check_end(source: Path, end: int) -> None:
    """Check that zeros follow the last member; tarfile takes much else for the end."""
    with source.open('rb') as file:
        file.seek(end)
        length = 0
        while block := file.read(1 << 20):
            length += len(block)
            if block.strip(b'\0'):
                raise CondnetError(f'{source} is damaged, or several joined tar files: more follows its end')
    if length < tarfile.BLOCKSIZE:
        raise CondnetError(f'{source} is cut off: the zeros at the end of a tar file are missing')


def _follow(source: Path, entries: _Entries, links: dict[_Path, str]) -> _Entries:
    """Put what symbolic links lead to in their place, as if the tar file was unpacked."""
    targets = {path: _Path(os.path.normpath('/'.join((*path[:-1], name))).split('/')) for path, name in links.items()}
    targets = {path: target for path, target in targets.items() if not any(map(_is_hidden, path))}
    for _ in range(_MAX_DEPTH if targets else 0):  # a link may lead to a link
        folders = {path[:i] for path in entries for i in range(1, len(path) + 1)}
        waiting = {path[:i] for path in targets for i in range(1, len(path) + 1)}
        for path, target in list(targets.items()):
            if target not in folders or target in waiting or links[path].startswith('/'):
                continue
            if entries.get(target):  # a file
                inner = {path: entries[target]}
            else:
                inner = {path + p[len(target) :]: place for p, place in entries.items() if p[: len(target)] == target}
            if max(map(len, inner)) > _MAX_DEPTH:
                raise CondnetError(f'{source}: {"/".join(path)!r} is nested too deeply; {_EXPECTED}')
            entries |= inner
            del targets[path]
    for path in targets:
        raise CondnetError(f'{source}: {"/".join(path)!r} is a link to {links[path]!r}, which is not in it')
    return entries
