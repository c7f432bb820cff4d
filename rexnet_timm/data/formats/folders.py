"""Folders of images beside folders of masks, or of depth: fixed layouts and templates of folders.

The layouts are those that CamVid (SegNet tutorial), mmsegmentation and most labelling tools write.
"""
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from ...errors import DatasetError
from ..description import IMAGE_EXTENSIONS, DataDescription, DataSource, Layout, Sample, split_names
from .partners import DEPTHS, MASKS, SPLIT, Partner
from .splits import divided, listed, splits_of_template

_SEPARATORS = '_-. '
_JPEG = ('.jpg', '.jpeg')


def folders(root: Path, layout: Layout) -> DataDescription:
    """Images and masks in any of the layouts of `MASKS`, or, without splits, in one folder each."""
    return DataDescription(source=folder_source(root, layout, MASKS))


def folder_source(root: Path, layout: Layout, partner: Partner) -> DataSource:
    """Images and their partners in any of the partner's layouts, or, without splits, in one folder each."""
    if layout.image_dir is not None:
        return _template_source(root, layout, 'folders', layout.image_dir, layout.mask_dir, partner)
    pairs = flat_folders(root, partner)
    suffixes = layout.image_suffix, layout.mask_suffix
    splits = _splits_of_layouts(root, partner)
    if pairs and not any(folder_pairs(root, split, partner) for split in splits):
        find = partial(folder_samples, *pairs[0], *suffixes, partner=partner)
        if layout.split_file is not None:
            return listed(root, 'folders', find, layout.split_file, partner)
        return divided(root, 'folders', find, layout)
    if layout.split_file is not None:

        def unknown() -> list[Sample]:
            raise DatasetError(
                f'A list that names images only needs the folder of the images and that of the {partner.kind}s: name '
                f'them by image_dir and {partner.option}, or write both files in each line of {layout.split_file}.')

        return listed(root, 'folders', unknown, layout.split_file, partner)

    def find(split: str) -> list[Sample]:
        return folder_samples(*find_folders(root, split, partner), *suffixes, partner=partner)

    return DataSource('folders', root, splits, find)


def mmsegmentation(root: Path, layout: Layout) -> DataDescription | None:
    """mmsegmentation's `img_dir/{split}` and `ann_dir/{split}`, with any suffixes."""
    if not ((root / 'img_dir').is_dir() and (root / 'ann_dir').is_dir()):
        return None
    return templates(root, layout, 'mmseg', 'img_dir/{split}', 'ann_dir/{split}')


def templates(
        root: Path,
        layout: Layout,
        name: str = 'folders',
        image_dir: str | None = None,
        mask_dir: str | None = None,
) -> DataDescription:
    """Any pair of folders, with `{split}` in their paths or a list of each split, and with what lies below them."""
    image_dir, mask_dir = layout.image_dir or image_dir, layout.mask_dir or mask_dir
    return DataDescription(source=_template_source(root, layout, name, image_dir, mask_dir, MASKS))


def _template_source(
        root: Path, layout: Layout, name: str, image_dir: str, mask_dir: str, partner: Partner) -> DataSource:
    suffixes = layout.image_suffix, layout.mask_suffix
    has_splits = SPLIT in image_dir and SPLIT in mask_dir
    if (SPLIT in image_dir) != (SPLIT in mask_dir):
        raise DatasetError(
            f'image_dir and {partner.option} must both have {SPLIT}, or neither: got {image_dir!r} and {mask_dir!r}.')

    def find(split: str = '') -> list[Sample]:
        for name in split_names(split):
            pair = [root / template.replace(SPLIT, name) for template in (image_dir, mask_dir)]
            if all(folder.is_dir() for folder in pair):
                return folder_samples(*pair, *suffixes, recursive=True, partner=partner)
        pair = [root / template.replace(SPLIT, split) for template in (image_dir, mask_dir)]
        missing = ' and '.join(str(folder) for folder in pair if not folder.is_dir())
        there = f'; splits there are {", ".join(splits)}' if has_splits and splits else ''
        raise DatasetError(
            f'The folders of images and {partner.kind}s must exist: there is no {missing}{there}; correct the paths, '
            'which are relative to the folder of the data.')

    splits = splits_of_template(root, image_dir) if has_splits else ()
    if has_splits:
        return DataSource(name, root, splits, find)
    if layout.split_file is not None:
        return listed(root, name, find, layout.split_file, partner, (root / image_dir, root / mask_dir))
    return divided(root, name, find, layout)


def _layouts(root: Path, split: str, partner: Partner) -> list[tuple[Path, Path]]:
    """Every (image folder, mask folder) in which a split may be stored."""
    return [tuple(root / template.replace(SPLIT, split) for template in pair) for pair in partner.layouts]


def _splits_of_layouts(root: Path, partner: Partner) -> tuple[str, ...]:
    names = {name for images, _ in partner.layouts for name in splits_of_template(root, images)}
    return tuple(sorted(name for name in names if any(
        all(folder.is_dir() for folder in pair) for pair in _layouts(root, name, partner))))


def folder_pairs(root: str | Path, split: str, partner: Partner = MASKS) -> list[tuple[Path, Path]]:
    """Every (image folder, mask folder) that a folder has for a split, under the first of its names that has any."""
    for name in split_names(split):
        found = [pair for pair in _layouts(Path(root), name, partner) if all(folder.is_dir() for folder in pair)]
        if found:
            return found
    return []


def flat_folders(root: str | Path, partner: Partner = MASKS) -> list[tuple[Path, Path]]:
    """The folder of images and that of masks where a data set has no splits; empty where there are none or several.

    Of two folders, one may have a name of its own, such as photos beside masks, where all of their files pair.
    """
    names = [(*partner.images, *partner.flat_images), (*partner.folders, *partner.flat)]
    pairs = [(Path(root) / images, Path(root) / masks) for images in names[0] for masks in names[1]]
    pairs = [pair for pair in pairs if all(folder.is_dir() and _has_files(folder) for folder in pair)]
    if not pairs:
        pairs = _pairs_of_two(Path(root), *names, partner)
    return pairs if len(pairs) == 1 else []


def _pairs_of_two(
        root: Path, image_names: Sequence[str], partner_names: Sequence[str], partner: Partner,
) -> list[tuple[Path, Path]]:
    """The two only folders of a data set, of which one has a name that tells what it holds, where their files pair."""
    if not root.is_dir():
        return []
    two = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith('.'))
    if len(two) != 2 or not all(map(_has_files, two)):
        return []
    foreign = {name for kind in (MASKS, DEPTHS) if kind is not partner for name in kind.folders}
    pairs = [(images, other) for images, other in (two, two[::-1]) if other.name not in foreign and (
        images.name in image_names or other.name in partner_names)]
    try:
        return [pair for pair in pairs if folder_samples(*pair, partner=partner)]
    except DatasetError:  # classes of images, two of which may be called so
        return []


def _has_files(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        return any(entry.is_file() and not entry.name.startswith('.') for entry in entries)


def find_folders(root: str | Path, split: str, partner: Partner = MASKS) -> tuple[Path, Path]:
    """Find a split's folders in any of the layouts that `SegmentationFolder`, or `DepthFolder`, lists.

    Args:
        root: Folder of the data set.
        split: Name of the split; train/training and val/valid/validation are tried for each other.
        partner: What lies beside the images.

    Returns:
        The folder of images and that of their partners.

    Raises:
        DatasetError: No such root, no layout fits, or several fit.
    """
    root = Path(root)
    found, kind, first = folder_pairs(root, split, partner), partner.kind, partner.folders[0]
    if len(found) > 1:
        masks = ' and '.join(str(pair[1]) for pair in found)
        raise DatasetError(f'A split must have one folder of {kind}s: found {masks}; move or rename all but one.')
    if found:
        return found[0]

    layouts = '; '.join(f'{images} with {masks}' for images, masks in (
        (f'{split}/', f'{split}{partner.ends[0]}/'),
        (f'{split}/images/', f'{split}/{first}/'),
        (f'images/{split}/', f'{first}/{split}/'),
    ))
    present = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith('.'))
    content = f'has the folders {", ".join(present[:8])}{", ..." if len(present) > 8 else ""}' if present \
        else 'has no folders'
    half = [
        f'{images} has no {masks}' for name in split_names(split) for images, masks in (
            (root / name / 'images', root / name / first), (root / 'images' / name, root / first / name))
        if images.is_dir()
    ]
    splits = [f'"{name}"' for name in _splits_of_layouts(root, partner) if name not in split_names(split)]
    advice = f'Take the split {" or ".join(splits)}, or arrange it' if splits else 'Arrange it'
    others = ' or '.join(f'"{name}"' for name in partner.folders[1:])
    raise DatasetError(
        f'No folders of images and {kind}s for split "{split}": {root} {content}'
        f'{"".join(f"; {text}" for text in half)}. '
        f'{advice} as one of: {layouts} ("{first}" may also be called {others}; '
        f'split names tried: {", ".join(split_names(split))}), or name its folders by image_dir and {partner.option}.')


def folder_samples(
        image_folder: Path,
        mask_folder: Path,
        image_suffix: str | None = None,
        mask_suffix: str | None = None,
        recursive: bool = False,
        partner: Partner = MASKS,
) -> list[Sample]:
    """The pairs of image and mask, or another partner, of two folders, in the order of their names.

    Args:
        image_folder: Folder of the images.
        mask_folder: Folder of the masks.
        image_suffix: How the names of images end, behind what they share with their masks. Without it, and where no
            names are equal, what all of them have in common at their end is left out.
        mask_suffix: How the names of masks end.
        recursive: Whether files in folders below are taken too, where the two have the same path.
        partner: What lies beside the images.

    Raises:
        DatasetError: No files, two of one name, or images without masks and the reverse.
    """
    images = files_by_stem(image_folder, IMAGE_EXTENSIONS, 'image', image_suffix, recursive)
    masks = files_by_stem(mask_folder, partner.extensions, partner.kind, mask_suffix, recursive)
    if images.keys().isdisjoint(masks) and not (image_suffix or mask_suffix):
        images, masks = _without_ends(images, masks)
    _require_partner(images, masks, 'image', f'a {partner.kind}', mask_folder)
    _require_partner(masks, images, partner.kind, 'an image', image_folder)
    return [(images[stem], masks[stem]) for stem in sorted(images)]


def files_by_stem(
        folder: Path,
        extensions: tuple[str, ...],
        kind: str,
        suffix: str | None = None,
        recursive: bool = False,
) -> dict[str, Path]:
    """The files of a folder by their names without the suffix, or without the ending; DatasetError for none."""
    files: dict[str, Path] = {}
    suffix = suffix or ''
    has_ending = os.path.splitext(f'a{suffix}')[1].lower() in extensions
    for whole in sorted(_names_below(folder, recursive)):
        start, ending = os.path.splitext(whole)
        name = whole if has_ending else start
        if ending.lower() not in extensions or not name.endswith(suffix):
            continue
        stem = (name[:len(name) - len(suffix)] if suffix else name).replace(os.sep, '/')
        if stem in files:
            raise DatasetError(
                f'Each {kind} must have a stem of its own, by which pairs are matched: {files[stem].name} '
                f'and {os.path.basename(whole)} in {folder} share "{stem}"; remove or rename one.')
        files[stem] = folder / whole
    if not files:
        _refuse_empty(folder, extensions, kind, suffix, recursive)
    return files


def _names_below(folder: Path, recursive: bool, start: str = '') -> Iterator[str]:
    """Paths of the files of a folder, relative to it; the entries tell what they are, so that no file is asked."""
    with os.scandir(folder / start) as entries:
        for entry in entries:
            # Names with a leading dot are what file managers leave behind, not data.
            if entry.name.startswith('.'):
                continue
            path = os.path.join(start, entry.name)
            if entry.is_file():
                yield path
            elif recursive and entry.is_dir():
                yield from _names_below(folder, True, path)


def _refuse_empty(folder: Path, extensions: tuple[str, ...], kind: str, suffix: str, recursive: bool) -> None:
    ending = suffix or ', '.join(extensions)
    remedy = 'put the files directly into it'
    if suffix:
        remedy = f'correct {kind.split()[0]}_suffix'
    elif recursive:
        remedy = 'put the files into it'
    if kind == 'mask' and not suffix and any(path.suffix.lower() in _JPEG for path in folder.iterdir()):
        remedy = 'JPEG files, which it has, blur labels, so save the masks as PNG from their source'
    raise DatasetError(f'The folder of {kind}s is empty: {folder} has no file ending in {ending}; {remedy}.')


def _require_partner(files: dict[str, Path], partners: dict[str, Path], kind: str, partner: str, folder: Path) -> None:
    alone = [path for stem, path in files.items() if stem not in partners]
    if alone:
        names = ', '.join(path.name for path in alone[:3]) + (', ...' if len(alone) > 3 else '')
        raise DatasetError(
            f'Each {kind} must have {partner} of the same stem: {len(alone)} of {len(files)} {kind}s in '
            f'{alone[0].parent} have none ({names}); add the {partner.partition(" ")[2]}s to {folder} or remove the '
            f'{kind}s.')


def _without_ends(
        images: dict[str, Path], masks: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    """The files by their names without what all names have at their end, such as `_mask`, where they then pair."""
    for image_end in ('', _common_end(images)):
        for mask_end in ('', _common_end(masks)):
            short = [{stem[:len(stem) - len(end)]: path for stem, path in files.items()}
                     for files, end in ((images, image_end), (masks, mask_end))]
            if short[0].keys() == short[1].keys():
                return short[0], short[1]
    return images, masks


def _common_end(stems: Sequence[str]) -> str:
    """What all stems have at their end, from a separator on: '_mask'."""
    end = os.path.commonprefix([stem[::-1] for stem in stems])[::-1]
    places = [place for place, letter in enumerate(end) if letter in _SEPARATORS]
    if not places:
        return ''
    return end[places[-1] if len(stems) == 1 else places[0]:]
