"""A data set read whole: what it holds, what is wrong with it, and what its labels stand for."""
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..errors import DatasetError
from .ahead import called_ahead
from .bands import EIGHT_BITS, PERCENTILE
from .description import DataDescription, DataSource, Sample, split_names
from .facts import Reading, facts_of
from .headers import max_pixels
from .meaning import Finding, Meaning, meaning_of, proposed_colors, with_suspicion
from .statistics import LabelStatistics, SplitStatistics, duplicates
from .survey import percentiles, sample_values, survey

__all__ = ['LEVELS', 'Check', 'check_data']

LEVELS = ('note', 'warning', 'error')
_MOST_NAMED = 8  # files or classes in a text
_FEWEST_IMAGES = 2  # that a model can be trained on
_UNEVEN = 10  # times the pixels of the rarest class that the commonest has, from which on it is said
_LIGHTEST, _HEAVIEST = 0.25, 4.0  # weights of classes


@dataclass
class Check:
    """What a data set holds.

    Attributes:
        description: What is known of it: what was said, and what is proposed where nothing was.
        splits: What was counted, by the name of the split.
        samples: The samples of each split.
        train: Name of the split to train on; None where there is none.
        validation: Name of the split to validate on, likewise.
        meaning: What labels stand for; None where that is not known.
        findings: What is to be said, errors first.
        colors_are_proposed: Whether the colour table of the description is proposed here.
        said_scale: What was said of the scale of the images; that of the description may be measured.
    """
    description: DataDescription
    splits: dict[str, SplitStatistics] = field(default_factory=dict)
    samples: dict[str, Sequence[Sample]] = field(default_factory=dict)
    train: str | None = None
    validation: str | None = None
    meaning: Meaning | None = None
    findings: list[Finding] = field(default_factory=list)
    colors_are_proposed: bool = False
    said_scale: Any = None

    @property
    def level(self) -> str:
        """The worst level of a finding; 'note' where there is nothing wrong."""
        return max((finding.level for finding in self.findings), key=LEVELS.index, default='note')

    @property
    def is_mapped(self) -> bool:
        """Whether the splits are counted by class, since the labels of the files are mapped."""
        return bool(self.description.label_map or self.description.color_map)

    @property
    def class_names(self) -> list[str]:
        """One name a class, two of binary masks; empty where the classes are not known."""
        if self.meaning is None:
            return []
        number, names = max(2, self.meaning.num_classes), list(self.description.class_names)
        if len(names) == 1 and number == 2:
            names = ['background', *names]
        if len(names) == number and not (self.meaning.label_map and not self.is_mapped):
            return names
        return ['background', 'foreground'] if self.meaning.num_classes == 1 else [f'class {i}' for i in range(number)]

    def class_of(self, label: int) -> int | None:
        """The class of a label as the splits count it; None for one that does not count."""
        return label if self.is_mapped or self.meaning is None else self.meaning.class_of(label)

    def classes(self, split: str) -> dict[int, LabelStatistics]:
        """What was counted of each class of a split that it has."""
        found: dict[int, LabelStatistics] = {}
        for label, statistics in sorted(self.splits[split].labels.items()):
            index = self.class_of(label)
            if index is not None:
                found.setdefault(index, LabelStatistics()).merge(statistics)
        return found

    def written(self) -> DataDescription:
        """The description with what is proposed in it, as `write_dataset_yaml` takes it."""
        # what was measured of the images is measured by each training on its own
        meaning, found = self.meaning, replace(self.description, image_scale=self.said_scale)
        if meaning is None:
            return found
        if meaning.label_map and not self.is_mapped:
            return replace(found, label_map=meaning.label_map, class_names=tuple(self.class_names), colors=())
        return replace(found, ignore_index=meaning.ignore_index, class_names=tuple(self.class_names))


def check_data(
        description: DataDescription,
        train_split: str = 'train',
        val_split: str = 'validation',
        *,
        num_classes: int | None = None,
        in_chans: int | None = None,
        threads: int | None = None,
        progress: Callable[[Iterable, int], Iterable] = lambda items, total: items,
) -> Check:
    """Read all samples of a data set, in threads of this process, and say what it holds.

    Memory holds a few samples at a time, and of each only 24 bytes for good.

    Args:
        description: Of `describe_data`.
        train_split: Split to train on.
        val_split: Split to validate on. A split for testing is read too, where there is one.
        num_classes: Number of classes, where it is known; 1 for binary masks.
        in_chans: Channels that images are read with; None takes those of the images.
        threads: Samples that are read at a time; None takes one for each core, at most 16.
        progress: Goes through what it is given, of which it gets the number too, as `tqdm.tqdm` does.

    Returns:
        What was found. Nothing that is wrong with the data raises an error: see `Check.findings`.
    """
    check = Check(description, said_scale=description.image_scale)
    _find_splits(check, train_split, val_split)
    _find_images(check, in_chans)
    _read(check, threads, progress)
    colors = sum((split.colors for split in check.splits.values()), Counter())
    if any(split.colored for split in check.splits.values()) and not check.is_mapped:
        color_map, left_out = proposed_colors(colors)
        rest = f', which leaves out {left_out:.2%} of the pixels,' if left_out > 0 else ''
        check.findings.append(Finding(
            'warning', 'colours',
            f'Masks are in colours, and nothing tells what these are: they have {len(colors)}, of which a table of '
            f'{len(color_map)}{rest} is proposed. Name its classes, leave out what is none, and pass it as color_map.'))
        check.description = replace(
            check.description, color_map=color_map, class_names=tuple(f'class {index}' for _, index in color_map),
            colors=tuple(color for color, _ in color_map), ignore_index=None)
        check.colors_are_proposed = True
        _read(check, threads, progress)
    check.meaning = _meaning(check, num_classes)
    _find_faults(check, num_classes)
    check.findings.sort(key=lambda finding: -LEVELS.index(finding.level))
    return check


def _find_splits(check: Check, train_split: str, val_split: str) -> None:
    source = check.description.source
    check.train, check.validation = source.name_of(train_split), source.name_of(val_split)
    if check.train is None:
        check.findings.append(Finding('error', 'split', _no_split(source, train_split)))
    if check.validation is None and source.splits:
        level = 'error' if 'validation' not in split_names(val_split) else 'warning'
        check.findings.append(Finding(level, 'split', str(source.no_split(val_split))))
    asked = list(filter(None, dict.fromkeys((check.train, check.validation, source.name_of('test')))))
    for name in asked:
        try:
            check.samples[name] = source.samples(name)
        except DatasetError as error:
            check.findings.append(Finding('error', 'files', str(error)))
    others = [name for name in source.splits if name not in asked]
    if others:
        check.findings.append(Finding(
            'note', 'split', f'Other splits are not read: {", ".join(others[:_MOST_NAMED])}.'))


def _no_split(source: DataSource, split: str) -> str:
    """Why a split is not there, as asking for its samples tells."""
    try:
        source.samples(split)
    except DatasetError as error:
        return str(error)
    return str(source.no_split(split))


def _find_images(check: Check, in_chans: int | None) -> None:
    """How images are read, by what training finds out of its split."""
    description = check.description
    images = [image for image, _ in check.samples.get(check.train, ())]
    scale = EIGHT_BITS
    try:
        if images:
            found = survey(images, in_chans, description.bands, description.image_scale)
            in_chans, scale = found.in_chans, found.scale
            check.findings += [Finding('note', 'images', f'{line[0].upper()}{line[1:]}.') for line in found.told]
        if scale == PERCENTILE:
            scale = percentiles(sample_values(images, in_chans, description.bands))
    except DatasetError as error:
        check.findings.append(Finding('error', 'images', str(error)))
        in_chans, scale = in_chans or 3, EIGHT_BITS
    check.description = replace(description, in_chans=in_chans or 3, image_scale=scale)


def _read(check: Check, threads: int | None, progress: Callable[[Iterable, int], Iterable]) -> None:
    reading = Reading(check.description)
    check.splits = {name: SplitStatistics(name) for name in check.samples}
    samples = ((name, sample) for name, part in check.samples.items() for sample in part)
    facts = called_ahead(lambda item: facts_of(item[1], reading), samples, threads)
    for (name, sample), found in progress(facts, sum(map(len, check.samples.values()))):
        check.splits[name].add(sample, found)


def _meaning(check: Check, num_classes: int | None) -> Meaning | None:
    splits = check.splits.values()
    stored = sum((split.stored for split in splits), Counter())
    bits = sum((split.bits for split in splits), Counter())
    white = 255 if 255 in stored and 1 not in stored else 1  # what a set pixel stands for
    stored.update({white if label else 0: pixels for label, pixels in bits.items()})
    meaning = meaning_of(check.description, num_classes, stored, sum(split.both for split in splits))
    if meaning is None or num_classes or check.description.num_classes:
        return meaning
    found: dict[int, LabelStatistics] = {}
    for split in splits:
        for label, statistics in split.labels.items():
            found.setdefault(label, LabelStatistics()).merge(statistics)
    total = sum(split.pairs - split.num_bad for split in splits)
    return with_suspicion(meaning, found, total, {pair for split in splits for pair in split.neighbours})


def _find_faults(check: Check, num_classes: int | None) -> None:
    add = check.findings.append
    for split in check.splits.values():
        if split.num_bad:
            add(Finding(
                'error', 'samples', f'{split.num_bad} of {split.pairs} samples of {split.name} cannot be used: '
                f'{split.bad[0][2]}', tuple(image for image, _, _ in split.bad)))
        if split.colored and split.grey and not check.colors_are_proposed:
            add(Finding('warning', 'colours', f'{split.colored} masks of {split.name} are in colours and {split.grey} '
                        'are not.'))
    if check.train in check.splits:
        usable = check.splits[check.train].pairs - check.splits[check.train].num_bad
        if usable < _FEWEST_IMAGES:
            add(Finding('error', 'samples', f'Training needs at least {_FEWEST_IMAGES} images, and {check.train} has '
                        f'{usable} that can be used: add some.'))
    if check.meaning is None:
        if any(split.is_full or split.labels for split in check.splits.values()):
            add(Finding('error', 'labels', 'Masks must hold classes, and these hold too many different numbers, as '
                        'those of objects or of measurements do: write masks of classes.'))
        elif not any(split.num_bad for split in check.splits.values()) and check.splits:
            add(Finding('error', 'labels', 'No mask has a label.'))
    else:
        check.findings += check.meaning.findings
        _find_missing_classes(check)
        _find_uneven_classes(check)
    _find_duplicates(check)
    _find_kinds(check)


def _find_missing_classes(check: Check) -> None:
    names = check.class_names
    have = {split: check.classes(split).keys() for split in check.splits if check.splits[split].labels}
    nowhere = [index for index in range(len(names)) if not any(index in found for found in have.values())]

    def add(level: str, classes: list[int], text: str) -> None:
        if classes:
            shown = ', '.join(names[index] for index in classes[:_MOST_NAMED])
            more = ', ...' if len(classes) > _MOST_NAMED else ''
            number = '1 class' if len(classes) == 1 else f'{len(classes)} classes'
            check.findings.append(Finding(level, 'classes', f'{number} of {len(names)} {text}: {shown}{more}.'))

    if not have:
        return
    add('warning', nowhere, 'are in no mask' if len(nowhere) > 1 else 'is in no mask')
    data, file = check.description, check.description.source.root / 'classes.txt'
    has_names = data.class_names and not (data.label_map or data.color_map)
    if has_names and 2 * len(nowhere) > len(names) and not file.is_file():
        check.findings.append(Finding(
            'warning', 'classes', f'Where the names, which {data.source.format} gives, are not those of these masks, '
            f'write the names of your classes, one a line, into {file}.'))
    for split, found in have.items():
        lacking = [index for index in range(len(names)) if index not in found and index not in nowhere]
        what = 'cannot be learnt' if split == check.train else 'cannot be measured'
        add('warning', lacking, f'{"are" if len(lacking) > 1 else "is"} missing in {split} and {what} there')


def _find_uneven_classes(check: Check) -> None:
    """A note on classes of few pixels, with the weights that are not proposed for them (docs/experiments.md)."""
    if check.train not in check.splits:
        return
    names, found = check.class_names, check.classes(check.train)
    pixels = np.array([found[index].pixels if index in found else 0 for index in range(len(names))], float)
    present = pixels > 0
    if present.sum() < 2 or pixels.max() < _UNEVEN * pixels[present].min():
        return
    weights = np.ones(len(names))
    weights[present] = np.sqrt(np.median(pixels[present]) / pixels[present]).clip(_LIGHTEST, _HEAVIEST)
    common, rare = (names[int(index)] for index in (pixels.argmax(), np.where(present, pixels, np.inf).argmin()))
    shown = ' '.join(f'{round(weight, 2):g}' for weight in weights)
    check.findings.append(Finding(
        'note', 'uneven', f'{common} has {pixels.max() / pixels[present].min():.0f} times the pixels of {rare}. No '
        'class_weights are proposed for that: on CamVid they measured worse than none beside a loss with Dice, as the '
        f'default is. For a loss without Dice they would be {shown}, the root of how much rarer each class is than '
        f'that in the middle, from {_LIGHTEST} to {_HEAVIEST:g}.'))


def _find_duplicates(check: Check) -> None:
    names = list(check.splits)
    groups = duplicates(list(check.splits.values())) if names else []
    across = [group for group in groups if len({split for split, _ in group}) > 1]
    within = [group for group in groups if group not in across]
    for level, found, where in (('warning', across, 'in more than one split, so that what is measured was learnt'),
                                ('note', within, 'twice or more in a split')):
        if found:
            files = [str(check.samples[names[split]][number][0]) for group in found for split, number in group]
            pair = ' and '.join(files[:2])
            number = 'One image is' if len(found) == 1 else f'{len(found)} images are'
            check.findings.append(Finding(
                level, 'duplicates', f'{number} {where}, by the values of the pixels, such as {pair}.', tuple(files)))


def _find_kinds(check: Check) -> None:
    """Notes on what differs between files, which is read and need not be wrong."""
    for split in check.splits.values():
        if split.large:
            how = 'random crops' if split.name == check.train else 'tiles'
            what = f'image of {split.name} has' if split.large == 1 else f'images of {split.name} have'
            check.findings.append(Finding(
                'note', 'large', f'{split.large} {what} more than {max_pixels()} pixels: such are read by windows, in '
                f'{how}.'))
        if split.turned:
            check.findings.append(Finding(
                'note', 'orientation', f'{split.turned} of {split.pairs} images of {split.name} have an EXIF '
                'orientation that turns them by 90 degrees, and are read as they are shown.'))
    for kind, of in (('channels', 3), ('bits', 2)):
        found: Counter = Counter()
        for split in check.splits.values():
            for key, number in split.image_kinds.items():
                found[key[of]] += number
        if len(found) > 1:
            shown = ', '.join(f'{number} images with {value}' for value, number in sorted(found.items()))
            check.findings.append(Finding('note', kind, f'Images differ in their {kind}: {shown}.'))
