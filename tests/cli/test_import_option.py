"""`--import`, and what is said of names that other modules register."""
import sys
from pathlib import Path

import pytest
import torch

import rexnet_timm
from rexnet_timm.__main__ import main
from rexnet_timm.cli.arguments import parse_train_args
from rexnet_timm.cli.kinds import KINDS, Classification, register_kind
from rexnet_timm.data.formats import FORMATS
from rexnet_timm.extensions import missing_of
from rexnet_timm.models.decoder import Decoder, SumDecoder
from rexnet_timm.models.factory import create_network, network_of
from rexnet_timm.training.base_losses import create_segmentation_loss

LOSS = """import rexnet_timm
import torch


@rexnet_timm.register_loss('{name}')
def make(num_classes, ignore_index):
    return torch.nn.CrossEntropyLoss()
"""


@pytest.fixture
def here(names_of_others, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys, *words: str) -> str:
    assert main(['train', 'DATA', *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_module_is_imported_before_the_words_are_read(here):
    (here / 'my_loss.py').write_text(LOSS.format(name='mine'))
    for words in (['--seg-loss', 'ce+mine', '--import', 'my_loss'], ['--import=my_loss', '--seg-loss', 'mine']):
        args = parse_train_args(['DATA', *words])
        assert args.seg_loss.endswith('mine') and 'import' not in vars(args) and args.given == ('data_dir', 'seg_loss')
    assert sys.path[-1] == str(here), 'a file in the current folder stands for no module that is elsewhere'


@pytest.mark.parametrize('words, text', [
    (['--import', 'my_gone'], '--import my_gone: there is no such module in the current folder, on PYTHONPATH or inst'),
    (['--import', 'my_package.gone'], '--import my_package.gone: there is no such module'),
    (['--import', 'my_broken'], "--import my_broken: it imports 'my_nothing', which is not there."),
    (['--import', 'my_loss.py'], '--import must be the name of a module, without .py, got'),
    (['--import', './my_loss'], "--import must be the name of a module, such as my_package.decoder, got './my_loss'."),
    (['--import'], "--import must be the name of a module, such as my_package.decoder, got ''."),
    (['--imports', 'x'], 'There is no option --imports. Did you mean --import'),
    (['--import', 'my_taken'], "The loss 'dice' is that of rexnet_timm.training.base_losses already: take anoth"),
    (['--import', 'my_named'], "The name of a loss must be letters, digits, - and _, a letter first, got 'a+b'."),
])
def test_mistakes_end_with_one_line(words, text, here, capsys):
    (here / 'my_broken.py').write_text('import my_nothing\n')
    (here / 'my_loss.py').write_text('')
    (here / 'my_taken.py').write_text(LOSS.format(name='dice'))
    (here / 'my_named.py').write_text(LOSS.format(name='a+b'))
    assert text in refused(capsys, *words)


def test_an_error_in_the_module_is_shown_whole(here):
    (here / 'my_error.py').write_text('1 / 0\n')
    with pytest.raises(ZeroDivisionError):
        main(['train', 'DATA', '--import', 'my_error'])


def test_no_file_has_a_module_imported(here, capsys):
    (here / 'my_side.py').write_text('open("written", "w").close()\n')
    (here / 'recipe.yaml').write_text('import: my_side\n')
    assert 'there is no option import' in refused(capsys, '--config', 'recipe.yaml')
    network = {'library': 'timm', 'name': 'no_such_network', 'arguments': {}, 'imports': ['my_side', 'x; y', 3]}
    with pytest.raises(ValueError, match='^The network was made with my_side imported: import my_side first'):
        create_network(network)
    assert not (here / 'written').exists() and 'my_side' not in sys.modules
    assert missing_of('my_side') == missing_of(None) == missing_of([3, 'a b', 'torch']) == []


def make_decoder(module: str) -> type[Decoder]:
    class Mine(SumDecoder):
        def __init__(self, encoder_channels, decoder_channels, act_layer, interpolation, grids):
            super().__init__(encoder_channels, (8, 8, 8, 8), act_layer=act_layer, grids=grids)

    Mine.__module__ = module
    return Mine


def test_a_network_keeps_the_modules_that_register_its_parts(names_of_others):
    arguments = {'encoder_name': 'rexnetv1_test', 'decoder_type': 'mine'}
    assert 'imports' not in network_of('smp', 'multiscaleunet', {'encoder_name': 'rexnetv1_test'})
    rexnet_timm.register_decoder('mine')(make_decoder('my_package.parts'))
    network = network_of('smp', 'multiscaleunet', arguments)
    assert network['imports'] == ['my_package.parts']
    model = create_network(network)
    assert model.eval()(torch.randn(1, 3, 45, 67)).shape == (1, 1, 45, 67)
    with pytest.raises(ValueError, match="The decoder 'mine' is that of my_package.parts already: take another name"):
        rexnet_timm.register_decoder('mine')(make_decoder('somebody.else'))
    again = rexnet_timm.register_decoder('mine')(make_decoder('my_package.parts'))  # as a cell that is run again
    assert isinstance(create_network(network).decoder, again)
    rexnet_timm.register_decoder('plain')(lambda **arguments: torch.nn.Identity())
    with pytest.raises(ValueError, match="the decoder 'plain' must give a rexnet_timm.*Decoder, got Identity"):
        rexnet_timm.MultiScaleUnet('rexnetv1_test', decoder_type='plain')
    rexnet_timm.register_loss('plain')(lambda num_classes, ignore_index: torch.nn.functional.cross_entropy)
    with pytest.raises(ValueError, match="the loss 'plain' must give a torch.nn.Module, got function"):
        create_segmentation_loss('plain', 3)
    names_of_others()
    with pytest.raises(ValueError, match='made with my_package.parts imported: import my_package.parts first. deco'):
        create_network(network)
    with pytest.raises(ValueError, match='made in a script or notebook that registers names: run what registers them'):
        create_network({**network, 'imports': ['__main__']})


def test_names_of_this_package_are_taken(names_of_others):
    with pytest.raises(ValueError, match="The format 'voc' is that of rexnet_timm.data.formats.public already"):
        rexnet_timm.register_format('voc', 'anything')(lambda root, layout: None)
    with pytest.raises(ValueError, match="The format 'auto' is that of rexnet_timm"):
        rexnet_timm.register_format('auto', 'anything')(lambda root, layout: None)
    with pytest.raises(ValueError, match="The task 'depth' is that of rexnet_timm.cli.kinds.depth already"):
        register_kind('depth')(type('Mine', (Classification,), {'__module__': 'my_task'}))
    rexnet_timm.register_format('mine', 'anything')(lambda root, layout: None)
    register_kind('mine')(type('Mine', (Classification,), {'__module__': 'my_task'}))
    assert list(FORMATS)[0] == 'mine' and 'mine' in KINDS
