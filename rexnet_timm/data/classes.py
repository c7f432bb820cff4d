"""The classes of a data set: how many there are, what they are called, and whether a map fits them."""
from ..errors import DatasetError
from .description import DEFAULT_IGNORE_LABEL, DataDescription

__all__ = ['check_map', 'fitting_names', 'number_of', 'refuse_many']


def refuse_many(num_classes: int) -> None:
    raise ValueError(
        f'Without ignore_index, label {DEFAULT_IGNORE_LABEL} marks padding, so num_classes must be at most '
        f'{DEFAULT_IGNORE_LABEL}, got {num_classes}; pass an ignore_index that is no class.')


def number_of(description: DataDescription) -> int:
    """The number of classes of a description. ValueError where it does not tell."""
    if description.num_classes is None:
        raise ValueError(
            f'num_classes must be given, since {description.source.root} does not tell it: pass the number of classes, '
            '1 for binary masks, or name the classes in classes.txt.')
    return description.num_classes


def check_map(description: DataDescription, num_classes: int) -> None:
    """Raise DatasetError for a map that does not fit the classes, or that lists the ignored label."""
    pairs = description.label_map or description.color_map
    number = max(num_classes, 2)
    wrong = next(((label, index) for label, index in pairs if index >= number), None)
    if wrong is not None:
        raise DatasetError(
            f'The classes of a map must be below num_classes, {number}: it has {wrong[0]}:{wrong[1]}; pass '
            f'num_classes={max(index for _, index in pairs) + 1}, or correct the map.')
    listed = dict(description.label_map)
    if description.ignore_index in listed:
        label = description.ignore_index
        raise DatasetError(
            f'A label is a class or ignored, and {label} is class {listed[label]} of the label map and ignore_index '
            'too; leave it out of one of the two.')


def fitting_names(description: DataDescription, num_classes: int) -> list[str]:
    """One name a class; of a binary mask those of background and foreground.

    Raises:
        DatasetError: Another number of names than of classes.
    """
    names, root = list(description.class_names), description.source.root
    if not names:
        return ['background', 'foreground'] if num_classes == 1 else [f'class {index}' for index in range(num_classes)]
    path = root / 'classes.txt'
    is_file = path.is_file()
    where = f'{path} has' if is_file else f'{root}, read as {description.source}, has'
    if len(names) != num_classes and not (num_classes == 1 and len(names) == 2):
        one = ', or that of the foreground, since num_classes is 1' if num_classes == 1 else ''
        remedy = 'correct the file or ' if is_file else 'name your classes in classes.txt, or '
        what = 'classes.txt must name every class, one a line, without the ignored label' if is_file \
            else 'There must be a name for every class'
        raise DatasetError(
            f'{what}{one}: {where} {len(names)} names, num_classes is {num_classes}; {remedy}pass '
            f'num_classes={len(names)}.')
    if len(names) == 1 == num_classes:
        if names == ['background']:
            raise DatasetError(
                f'The one name of a binary set must be that of the foreground: {where} {names[0]!r}; name the '
                'foreground, or both in two lines.')
        names = ['background', *names]
    return names
