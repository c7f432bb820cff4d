"""What the numbers and colours of masks stand for, as far as counting them tells: classes, ignored labels, maps.

What is said of the data (names, maps, a number of classes) is held to. What is not said is proposed by these rules:

* 0 with 1, or 0 with 255: binary masks.
* 0, 1, ..., n - 1: n classes. A label apart from these that programs use for "not labelled" (255, 65535, negative
  ones) is ignored; so is one label above the classes, where their number is said.
* Numbers of which fewer than half of those up to the highest are there: a label map in their order.
* Colours: a colour table in their order, from black on.
"""
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from .description import LARGE_IGNORE_LABEL, DataDescription
from .labels import Color, ColorMap, LabelMap
from .statistics import LabelStatistics

__all__ = ['Finding', 'Meaning', 'meaning_of', 'proposed_colors', 'with_suspicion']

_WHITE = 255
_VOIDS = (_WHITE, LARGE_IGNORE_LABEL, 2 ** 31 - 1, 2 ** 32 - 1)
_MOST_CLASSES = 1024  # from which on numbers are those of objects, or measurements
_MOST_COLORS = 255
_RARE = 1e-4  # share of the pixels below which one of many colours is taken for a blurred edge
# for a label to be suspected of standing for "not labelled": other labels, and the share of images that have it
_FEWEST_BESIDE, _NEARLY_ALL = 5, 0.95


@dataclass(frozen=True)
class Finding:
    """Something to know of a data set.

    Attributes:
        level: 'error', with which no training is possible; 'warning', what is likely wrong; 'note', good to know.
        kind: A word for programs.
        text: For people. It names arguments of the library.
        files: Some of the files that are concerned.
    """
    level: str
    kind: str
    text: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class Meaning:
    """What labels stand for.

    Attributes:
        num_classes: Number of classes, 1 of binary masks.
        ignore_index: Label that does not count; None for none.
        label_map: Pairs of a label and its class, empty where labels are classes.
        foreground: Of binary masks, the number that is class 1.
        reasons: Why, by the name of the argument, for those that are proposed here.
        findings: What is to be said of it.
    """
    num_classes: int
    ignore_index: int | None = None
    label_map: LabelMap = ()
    foreground: int = 1
    reasons: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def class_of(self, label: int) -> int | None:
        """The class of a label, None for one that does not count or is none."""
        if label == self.ignore_index:
            return None
        if self.label_map:
            return dict(self.label_map).get(label)
        if self.num_classes <= 2 and label in (1, self.foreground):
            return 1
        return label if 0 <= label < max(self.num_classes, 2) else None


def meaning_of(
        description: DataDescription,
        num_classes: int | None,
        stored: Mapping[int, int],
        both: int,
) -> Meaning | None:
    """What labels stand for, by what is said of the data and what was counted.

    Args:
        description: What is said of the data.
        num_classes: What is said of the number of classes.
        stored: Pixels of each number in the masks.
        both: Masks with 1 and 255.

    Returns:
        The meaning; None where masks hold no numbers, or too many for classes.
    """
    known = num_classes or description.num_classes
    if not stored or len(stored) > _MOST_CLASSES:
        return None
    if description.label_map or description.color_map:
        label_map = description.label_map or tuple(
            (label, label) for label in sorted({label for _, label in description.color_map}))
        return _with_unlisted(Meaning(known, description.ignore_index, label_map), stored, bool(description.color_map))
    labels = sorted(label for label in stored if label != description.ignore_index)
    if known is not None:
        return _of_known(known, description.ignore_index, labels, stored, both)
    return _of_unknown(description.ignore_index, labels, stored, both)


def _with_unlisted(meaning: Meaning, stored: Mapping[int, int], is_colored: bool) -> Meaning:
    listed = dict(meaning.label_map)
    others = {
        label: pixels for label, pixels in stored.items() if label not in listed and label != meaning.ignore_index}
    if not others:
        return meaning
    share = sum(others.values()) / sum(stored.values())
    level = 'error' if not any(label in listed for label in stored) else 'warning' if share > 0.5 else 'note'
    what, of = ('colours', 'table') if is_colored else ('labels', 'map')
    which = '' if is_colored else f': {_shares(others, stored)}'  # all colours that are not listed are one label
    text = f'{share:.1%} of the pixels have {what} that the {of} does not list, and are ignored{which}.'
    if level == 'error':
        text = f'The {of} must list {what} that the masks have, and they have others{which}; correct it.'
    return replace(meaning, findings=(Finding(level, 'unlisted', text),))


def _of_known(
        known: int, ignored: int | None, labels: list[int], stored: Mapping[int, int], both: int) -> Meaning:
    """The meaning where the number of classes is said."""
    number = max(known, 2)
    others = [label for label in labels if not 0 <= label < number]
    if known <= 2 and _WHITE in others and 1 not in labels and ignored not in (1, _WHITE):
        others.remove(_WHITE)
        meaning = Meaning(known, ignored, foreground=_WHITE)
    else:
        meaning = Meaning(known, ignored)
    if not others:
        return replace(meaning, ignore_index=_enough(known, ignored))
    if known <= 2 and others == [_WHITE] and ignored is None:
        return _binary_with_white(known, both)
    if len(others) == 1 and ignored is None and (others[0] == number or _is_void(others[0])):
        text = (f'{stored[others[0]] / sum(stored.values()):.2%} of the pixels have label {others[0]}, '
                f'{"one above" if others[0] == number else "none of"} the classes: it is taken for that of unlabelled '
                'pixels.')
        return replace(meaning, ignore_index=others[0], reasons={'ignore_index': text},
                       findings=(Finding('warning', 'void', text),))
    if len(labels) == number:
        pairs = tuple((label, index) for index, label in enumerate(labels))
        text = f'{known} classes are said, and the labels are {_listed(labels)}: they are mapped in their order.'
        return Meaning(known, ignored, pairs, reasons={'label_map': text}, findings=(
            Finding('warning', 'labels', text),))
    allowed = f'0 to {number - 1}{"" if ignored is None else f" or the ignored {ignored}"}'
    text = (f'Labels must be {allowed}, and masks have {_shares({label: stored[label] for label in others}, stored)} '
            'besides: pass '
            f'num_classes={max(others) + 1} if they are classes, or as label_map those that count with their classes.')
    return replace(meaning, findings=(Finding('error', 'labels', text),))


def _of_unknown(ignored: int | None, labels: list[int], stored: Mapping[int, int], both: int) -> Meaning:
    """The meaning where the number of classes is not said."""
    seen = set(labels)
    if seen <= {0, 1} or seen <= {0, _WHITE}:
        white = _WHITE in seen
        text = f'Masks hold {_listed(labels)} only: they are binary{f", with {_WHITE} for the foreground" * white}.'
        reason = {'num_classes': text}
        note = (Finding('note', 'binary', text),) if white else ()
        return Meaning(1, ignored, foreground=_WHITE if white else 1, reasons=reason, findings=note)
    if seen <= {0, 1, _WHITE}:
        return _binary_with_white(1, both) if ignored is None else Meaning(1, ignored)
    # 255 of 300 labels is one of them
    voids = [label for label in labels if _is_void(label) and label - 1 not in seen] if ignored is None else []
    if _are_shades(labels):
        voids = []
    counted = [label for label in labels if label not in voids]
    highest = max(counted, default=0)
    reasons, findings = {}, []
    if voids:
        text = (f'Labels that stand for unlabelled pixels in most data are apart from the others, and are ignored: '
                f'{_shares({label: stored[label] for label in voids}, stored)}.')
        findings.append(Finding('warning', 'void', text))
        reasons['ignore_index'] = text
    if counted and (len(counted) < (highest + 1) / 2 or len(voids) > 1 or counted[0] < 0):
        pairs = tuple((label, index) for index, label in enumerate(counted))
        text = f'The labels are {_listed(counted)}: they are mapped in their order.'
        findings.append(Finding('warning', 'labels', text))
        return Meaning(len(counted), ignored, pairs, reasons={'label_map': text}, findings=tuple(findings))
    reasons['num_classes'] = f'The highest label that counts is {highest}.'
    ignored = voids[0] if voids else ignored
    return Meaning(highest + 1, _enough(highest + 1, ignored), reasons=reasons, findings=tuple(findings))


def _binary_with_white(known: int, both: int) -> Meaning:
    """Binary masks with 0, 1 and 255: two ways of writing one thing, or 255 is not labelled."""
    if both:
        text = f'{both} masks have 1 and {_WHITE}: 1 is taken for the foreground, and {_WHITE} for unlabelled pixels.'
        return Meaning(known, _WHITE, reasons={'num_classes': text, 'ignore_index': text}, findings=(
            Finding('warning', 'void', text),))
    text = f'Some masks have 1 and others {_WHITE}, and none has both: both are taken for the foreground.'
    return Meaning(known, None, ((0, 0), (1, 1), (_WHITE, 1)), reasons={'label_map': text}, findings=(
        Finding('warning', 'binary', text),))


def _enough(number: int, ignored: int | None) -> int | None:
    """An ignored label for padding, where there are too many classes for 255 to be one."""
    return LARGE_IGNORE_LABEL if ignored is None and number > _WHITE else ignored


def _is_void(label: int) -> bool:
    return label < 0 or label in _VOIDS


def _are_shades(labels: list[int]) -> bool:
    """Whether labels are equal steps of grey up to white, as 0, 127 and 255."""
    steps = [second - first for first, second in zip(labels, labels[1:], strict=False)]
    return len(labels) > 2 and labels[0] == 0 and labels[-1] == _WHITE and min(steps) > 1 \
        and max(steps) - min(steps) <= 1


def with_suspicion(
        meaning: Meaning,
        found: Mapping[int, LabelStatistics],
        images: int,
        neighbours: Collection[tuple[int, int]],
) -> Meaning:
    """A meaning with a finding, where the highest label looks as that of unlabelled pixels does.

    It is then in nearly every image and beside every other label, and in more pieces than any other.

    Args:
        meaning: Of masks of which nothing was said.
        found: What was counted of each label.
        images: Number of images.
        neighbours: Pairs of labels that touch.
    """
    label = meaning.num_classes - 1
    beside = {other for pair in neighbours if label in pair for other in pair}
    if meaning.ignore_index is not None or meaning.label_map or label < _FEWEST_BESIDE or found.keys() - beside \
            or found[label].images < _NEARLY_ALL * images \
            or found[label].objects < max(statistics.objects for statistics in found.values()):
        return meaning
    return replace(meaning, findings=(*meaning.findings, Finding(
        'warning', 'void',
        f'Label {label}, the highest, is in {found[label].images} of {images} images, beside every other label, and in '
        f'more pieces than any, as that of unlabelled pixels is: pass num_classes={label} and ignore_index={label} if '
        'it stands for these.')))


def _listed(labels: Collection[int]) -> str:
    shown = list(map(str, labels))
    if len(shown) > 12:
        return f'{", ".join(shown[:12])}, ...'
    return ' and '.join(filter(None, (', '.join(shown[:-1]), shown[-1])))


def _shares(labels: Mapping[int, int], stored: Mapping[int, int]) -> str:
    """Labels with their shares of the pixels, the commonest first."""
    total = sum(stored.values())
    ordered = sorted(labels.items(), key=lambda item: -item[1])
    return ', '.join(f'{label} ({pixels / total:.2%})' for label, pixels in ordered[:8]) \
        + (', ...' if len(ordered) > 8 else '')


def proposed_colors(counts: Mapping[Color, int]) -> tuple[ColorMap, float]:
    """A colour table of the colours that masks have, and the share of the pixels that it leaves out.

    Black comes first, then the others in the order of red, green and blue. Of more colours than there may be classes,
    those that are rarer than `_RARE` are left out.
    """
    total = sum(counts.values())
    chosen = list(counts)
    if len(chosen) > _MOST_COLORS:
        common = Counter(counts).most_common(_MOST_COLORS)
        chosen = [color for color, pixels in common if pixels >= _RARE * total]
    left_out = 1 - sum(counts[color] for color in chosen) / total
    return tuple((color, index) for index, color in enumerate(sorted(chosen))), left_out
