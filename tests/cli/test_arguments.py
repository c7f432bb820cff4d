"""What `rexnet train` takes: ranges, choices, YAML by the same rules, and mistakes as one line."""
import argparse
import re
import traceback

import numpy as np
import pytest
import torch
import yaml
from timm.data.transforms import str_to_interp_mode
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2, scheduler_kwargs

from rexnet_timm.cli import arguments, mistakes
from rexnet_timm.cli.arguments import create_train_parser, parse_train_args, repeatable_args, train_flags
from rexnet_timm.cli.mistakes import UsageError, report_errors
from rexnet_timm.errors import DatasetError, is_refusal
from rexnet_timm.training.base_losses import create_segmentation_loss


def refused(*words: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse_train_args(['DATA', *words])
    text = str(caught.value)
    assert '\n' not in text and text[0] != ' ' and text[-1] in '.?'
    return text


def from_yaml(tmp_path, text: str) -> argparse.Namespace:
    path = tmp_path / 'recipe.yaml'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return parse_train_args(['DATA', '--config', str(path)])


def refused_yaml(tmp_path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        from_yaml(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(repr(str(tmp_path / 'recipe.yaml'))) and '\n' not in message and message[-1] in '.?'
    return message.removeprefix(repr(str(tmp_path / 'recipe.yaml')))


# --- ranges ---

@pytest.mark.parametrize('words, text', [
    ('--weight-decay -1', 'must be at least 0, got -1.0.'),
    ('--std -1', 'must be above 0 and at most 10, got -1.0.'),
    ('--std 0', 'must be above 0 and at most 10, got 0.0.'),
    ('--std 58.4', 'must be above 0 and at most 10, got 58.4.'),
    ('--mean nan', "must be a number of at least -10 and at most 10, got 'nan'."),
    ('--mean 123.7', 'must be at least -10 and at most 10, got 123.7.'),
    ('--mean 0.5 0.5 --in-chans 3', 'must have one value, or one for each of the 3 channels, got 0.5 0.5.'),
    ('--std 0.5 0.5 0.5 --in-chans 4', 'must have one value, or one for each of the 4 channels, got 0.5 0.5 0.5.'),
    ('--mixup nan', "must be a number of at least 0, got 'nan'."),
    ('--cutmix -0.1', 'must be at least 0, got -0.1.'),
    ('--mixup-prob 1.1', 'must be at least 0 and at most 1, got 1.1.'),
    ('--mixup-switch-prob -1', 'must be at least 0 and at most 1, got -1.0.'),
    ('--lr 0', 'must be above 0, got 0.0.'),
    ('--lr -1', 'must be above 0, got -1.0.'),
    ('--lr=-1e-3', 'must be above 0, got -0.001.'),
    ('--lr -1e-3', 'must be a number above 0: expected one argument.'),
    ('--lr nan', "must be a number above 0, got 'nan'."),
    ('--lr inf', "must be a number above 0, got 'inf'."),
    ('--lr fast', "must be a number above 0, got 'fast'."),
    ('--lr-base 0', 'must be above 0, got 0.0.'),
    ('--lr-base-size 0', 'must be at least 1, got 0.'),
    ('--warmup-lr -1', 'must be at least 0, got -1.0.'),
    ('--min-lr -1', 'must be at least 0, got -1.0.'),
    ('--lr-k-decay 0', 'must be above 0, got 0.0.'),
    ('--epochs 0', 'must be at least 1, got 0.'),
    ('--epochs 2.5', "must be a whole number of at least 1, got '2.5'."),
    ('--epochs', 'must be a whole number of at least 1: expected one argument.'),
    ('--start-epoch -1', 'must be at least 0, got -1.'),
    ('--warmup-epochs -1', 'must be at least 0, got -1.'),
    ('--cooldown-epochs -1', 'must be at least 0, got -1.'),
    ('--patience-epochs -1', 'must be at least 0, got -1.'),
    ('--decay-epochs 0', 'must be above 0, got 0.0.'),
    ('--decay-milestones 9 3', 'must rise from one to the next, got 9 3.'),
    ('--decay-rate 0', 'must be above 0, got 0.0.'),
    ('--batch-size 0', 'must be at least 1, got 0.'),
    ('--validation-batch-size 0', 'must be at least 1, got 0.'),
    ('--workers -1', 'must be at least 0, got -1.'),
    ('--synthetic-images 0', 'must be at least 1, got 0.'),
    ('--num-classes 0', 'must be at least 1, got 0.'),
    ('--in-chans 0', 'must be at least 1, got 0.'),
    ('--img-size 0', 'must be at least 32, got 0.'),
    ('--img-size 31', 'must be at least 32, got 31.'),
    ('--input-size 3 32 31', 'must have sides of at least 32 pixels, got 3 32 31.'),
    ('--input-size 0 32 32', 'must be at least 1, got 0.'),
    ('--input-size 3 32', 'must be a whole number of at least 1: expected 3 arguments.'),
    ('--img-size 64 --input-size 3 32 32',
     'must agree with --input-size, got 64 and 3 32 32: pass --input-size 3 64 64, or only one of the two.'),
    ('--img-size 64 --input-size 3 64 32',
     'must agree with --input-size, got 64 and 3 64 32: pass --input-size 3 64 64, or only one of the two.'),
    ('--in-chans 1 --input-size 3 32 48',
     'must agree with --input-size, got 1 and 3 32 48: pass --input-size 1 32 48, or only one of the two.'),
    ('--crop-pct 0', 'must be above 0 and at most 1, got 0.0.'),
    ('--crop-pct 87.5', 'must be above 0 and at most 1, got 87.5.'),
    ('--drop 1', 'must be at least 0 and below 1, got 1.0.'),
    ('--drop-path -0.1', 'must be at least 0 and below 1, got -0.1.'),
    ('--rex-width-mult 0', 'must be above 0, got 0.0.'),
    ('--rex-depth-mult -1', 'must be above 0, got -1.0.'),
    ('--hflip 2', 'must be at least 0 and at most 1, got 2.0.'),
    ('--vflip -1', 'must be at least 0 and at most 1, got -1.0.'),
    ('--color-jitter -1', 'must be at least 0, got -1.0.'),
    ('--scale 2 1', 'must be the lowest and the highest value, got 2.0 1.0.'),
    ('--scale 0 1', 'must be above 0, got 0.0.'),
    ('--ratio 2 1', 'must be the lowest and the highest value, got 2.0 1.0.'),
    ('--ratio -1 1', 'must be above 0, got -1.0.'),
    ('--reprob 1.5', 'must be at least 0 and at most 1, got 1.5.'),
    ('--recount 0', 'must be at least 1, got 0.'),
    ('--smoothing 1', 'must be at least 0 and below 1, got 1.0.'),
    ('--class-weights 1 0', 'must be above 0, got 0.0.'),
    ('--object-share 0', 'must be above 0 and at most 1, got 0.0.'),
    ('--object-share 1.1', 'must be above 0 and at most 1, got 1.1.'),
    ('--background-classes -1', 'must be at least 0, got -1.'),
    ('--fade-epochs 5 2', 'must be a first epoch and a later last one, got 5 2.'),
    ('--fade-epochs 5', 'must be a whole number of at least 0: expected 2 arguments.'),
    ('--scales -1', 'must be at least 0, got -1.'),
    ('--scale-weights exp 1', 'must be one name or only numbers, got exp 1.0.'),
    ('--scale-weights -1 1', "must be one of same, exp, two, or numbers of at least 0, got '-1'."),
    ('--scale-weights inf', "must be one of same, exp, two, or numbers of at least 0, got 'inf'."),
    ('--scale-weights 0 0', 'must not all be 0.'),
    ('--ignore-index -3000000000', 'must be at least -2147483648 and at most 4294967295, got -3000000000.'),
    ('--min-depth 0', 'must be above 0, got 0.0.'),
    ('--min-depth 5 --max-depth 5', 'must be below --max-depth, got 5.0 and 5.0.'),
    ('--smoothness -1', 'must be at least 0, got -1.0.'),
    ('--opt-eps -1', 'must be at least 0, got -1.0.'),
    ('--opt adamw --opt-betas 0.9', 'must be 2 numbers for --opt adamw, got 0.9.'),
    ('--opt adan --opt-betas 0.9 0.9', 'must be 3 numbers for --opt adan, got 0.9 0.9.'),
    ('--opt lookahead_adamw --opt-betas 0.9', 'must be 2 numbers for --opt lookahead_adamw, got 0.9.'),
    ('--opt-betas 1.5 0.9', 'must be at least 0 and below 1, got 1.5.'),
    ('--momentum 1', 'must be at least 0 and below 1, got 1.0.'),
    ('--clip-grad 0', 'must be above 0, or left out, got 0.0.'),
    ('--grad-accum-steps 0', 'must be at least 1, got 0.'),
    ('--model-ema-decay 1', 'must be at least 0 and below 1, got 1.0.'),
    ('--seed -1', 'must be at least 0 and at most 2147483647, got -1.'),
    ('--log-interval 0', 'must be at least 1, got 0.'),
    ('--checkpoint-hist 0', 'must be at least 1, got 0.'),
])
def test_a_number_out_of_its_range_is_refused_with_the_rule(words, text):
    flags = [word.partition('=')[0] for word in words.split() if word.startswith('--')]
    assert refused(*words.split()) in [f'{flag} {text}' for flag in flags]


def test_every_number_has_a_range():
    for name, option in create_train_parser().options.items():
        if getattr(option.type, 'metavar', '') in ('N', 'X'):
            for word in ('nan', '-1000000000000', '1e400'):
                with pytest.raises(argparse.ArgumentTypeError, match='^must be .* got'):
                    option.type(word)
                    pytest.fail(f'{name} takes {word}')


@pytest.mark.parametrize('words', [
    '--sched none', '--img-size 32', '--input-size 3 32 32 --img-size 32 --in-chans 3', '--mean 0.5', '--std 1 1 1',
    '--input-size 1 32 48 --mean 0.5 --std 0.2', '--opt adan --opt-betas 0.9 0.9 0.9', '--opt sgd --opt-betas 0.9',
    '--opt Lookahead_AdamW', '--lr 1e-3', '--lr=.5', '--fade-epochs 0 1', '--scale 1 1', '--ignore-index 65535',
    '--scale-weights 1 0.5 0', '--scale-weights two', '--seg-loss ce+dice+dice', '--dist-bn=', '--lr-base-scale=',
    '--dataset torch/cifar10', '--dataset hfds/User/Name', '--aa rand-m9-mstd0.5-inc1', '--aa augmix-m5-w4-d2',
    '--aa original', '--torchcompile', '--clip-mode agc --clip-grad 1e-2', '--num-classes 1', '--dr 0.5', '--drop 0'])
def test_the_ends_of_the_ranges_are_taken(words):
    parse_train_args(['DATA', *words.split()])


# --- names ---

@pytest.mark.parametrize('words, near', [
    ('--encoder-nam rexnetv1', '--encoder-nam. Did you mean --encoder-name'),
    ('--encoder_name=rexnetv1', '--encoder_name. Did you mean --encoder-name'),
    ('--learning-rate 0.1', '--learning-rate. Did you mean --lr?'),
    ('--num_workers 1', '--num_workers. Did you mean --workers?'),
    ('--wd 1', '--wd. Did you mean --weight-decay?'),
    ('-epochs 1', '-epochs. Did you mean --epochs'),
    ('--experimant night', '--experimant. Did you mean --experiment?'),  # and neither --mean nor --crops-per-image
    ('--image-size 64', '--image-size. Did you mean --img-size or --image-scale or --image-dir?'),
    ('--cosine', '--cosine. Did you mean --sched cosine?'),
    ('--zzzz', '--zzzz.'),
])
def test_an_unknown_option_is_refused_with_near_names(words, near):
    assert refused(*words.split()).startswith(f'There is no option {near}')


def test_synonyms_lead_to_options_and_hide_none():
    options = create_train_parser().options.keys()
    assert set(arguments._SYNONYMS.values()) | set(arguments._LIBRARY_NAMES.values()) <= options
    assert not set(arguments._SYNONYMS) & options


def test_options_are_not_abbreviated_and_words_not_lost():
    assert 'no option --epoch.' in refused('--epoch', '3')
    assert refused('MORE') == "'MORE' is one word too many: it belongs to no option."
    assert refused('--amp=1') == '--amp is a switch and takes no value.'


@pytest.mark.parametrize('words, near', [
    ('--sched cosin', 'cosine'), ('--opt adamww', 'adamw'), ('--seg-loss dicce', 'dice'),
    ('--seg-loss ce+dicce', 'dice'), ('--scale-target nearst', 'nearest'), ('--scale-weights expo', 'exp'),
    ('--amp-dtype float61', 'float16'), ('--remode pixl', 'pixel'), ('--interpolation bicubik', 'bicubic'),
    ('--train-interpolation randm', 'random'), ('--clip-mode nom', 'norm'), ('--mixup-mode bach', 'batch'),
    ('--dataset syntetic', 'synthetic'), ('--dist-bn reducs', 'reduce'), ('--lr-base-scale linea', 'linear'),
])
def test_an_unknown_choice_is_refused_with_the_near_name(words, near):
    flag, word = words.split()
    text = refused(flag, word)
    assert text.startswith(f'{flag} must be one of ') and f'got {word!r}. Did you mean {near}' in text


@pytest.mark.parametrize('policy', ['rant-m9', 'rand-x9', 'rand-mstdx-m1.5', 'augmix-x5', 'originale'])
def test_an_unknown_policy_is_refused(policy):
    assert refused('--aa', policy).startswith("--aa must be a policy of timm, such as 'rand-m9-mstd0.5'")


@pytest.mark.parametrize('name', arguments.SCHEDULES)
@pytest.mark.filterwarnings('ignore:PlateauLRScheduler:FutureWarning')
def test_each_schedule_is_one_of_timm(name):
    args = parse_train_args(['DATA', '--sched', name, '--epochs', '30', '--cooldown-epochs', '0'])
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    scheduler, epochs = create_scheduler_v2(optimizer, **scheduler_kwargs(args, decreasing_metric=False))
    assert (scheduler is None) == (name == 'none') and epochs == 30


@pytest.mark.parametrize('words, text', [
    ('--sched plateau --sched-on-updates', '--sched plateau follows the metric of each epoch: leave out --sched-on-'),
    ('--sched wsd --epochs 5', '--sched wsd needs epochs after the warm-up, at least --decay-epochs of them: 0 are le'),
    ('--sched wsd --epochs 9 --decay-epochs 5', '--decay-epochs of them: 4 are left of --epochs 9.'),
    ('--sched rsqrt --warmup-epochs 0', '--sched rsqrt needs --warmup-epochs of at least 1, got 0.'),
])
def test_a_schedule_that_timm_cannot_make_is_refused(words, text):
    args = argparse.Namespace(**{**vars(parse_train_args(['DATA'])), **create_train_parser().given(words.split())})
    with pytest.raises((ValueError, AssertionError)):
        create_scheduler_v2(
            torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), updates_per_epoch=10,
            **scheduler_kwargs(args, decreasing_metric=False))
    assert text in refused(*words.split())


def test_the_other_choices_are_those_of_timm_and_of_the_losses():
    assert [str_to_interp_mode(name).value for name in arguments.INTERPOLATIONS] == list(arguments.INTERPOLATIONS)
    for name in arguments.LOSSES:
        create_segmentation_loss(name, 2, None)
    assert not any('_' in name for name in list_optimizers())  # with which timm's lookahead_ could not be told apart
    weight = torch.nn.Parameter(torch.zeros(1))
    assert 'lookahead' in type(create_optimizer_v2([weight], 'lookahead_adamw', lr=0.1)).__name__.lower()


# --- help ---

@pytest.mark.parametrize('columns', [80, 100])
def test_help_explains_every_option_within_the_width(columns, monkeypatch):
    monkeypatch.setenv('COLUMNS', str(columns))
    parser = create_train_parser('rexnet train')
    lines = parser.format_help().splitlines()
    assert lines[0] == 'usage: rexnet train [DIR] [options]' and max(map(len, lines)) <= columns
    for name, option in parser.options.items():
        assert option.help and len(option.help.split()) >= 2 and option.help[-1] not in '.:', name
        assert len(option.help) <= 170, name
        if option.default not in (None, '', False, {}):
            assert 'default: ' in option.help, name
    assert len(lines) < 300


# --- YAML ---

def test_yaml_is_read_as_if_it_was_typed(tmp_path):
    args = from_yaml(tmp_path, '\n'.join([
        'lr: 1e-3', 'weight-decay: 0', 'batch_size: 16', 'amp: true', 'model_ema: false', 'scales: 0', 'mean: [0.5]',
        'experiment: 2024-01-05', 'seed: "7"', 'drop: null', 'epochs:', 'sched: none', 'scale_weights: [1, 0.5]',
        'model_kwargs: {scales: [0, 1], eps: 1e-3}', 'opt-args: {nesterov: false}', 'torchcompile: true']))
    typed = parse_train_args([
        'DATA', *'--lr 1e-3 --weight-decay 0 --batch-size 16 --amp --scales 0 --mean 0.5 --experiment 2024-01-05 '
        '--seed 7 --sched none --scale-weights 1 0.5 --model-kwargs scales=[0,1] eps=1e-3 --opt-args nesterov=false '
        '--torchcompile'.split()])
    assert {**vars(args), 'config': None} == vars(typed)
    assert args.lr == 1e-3 and args.scales == [0] and args.model_kwargs == {'scales': [0, 1], 'eps': 1e-3}


@pytest.mark.parametrize('text, message', [
    ('model_ema: "false"', "model_ema must be true or false, got the text 'false'."),
    ('amp: 1', 'amp must be true or false, got 1.'),
    ('lr: "fast"', "lr must be a number above 0, got 'fast'."),
    ('lr: -1', 'lr must be above 0, got -1.0.'),
    ('lr: .inf', "lr must be a number above 0, got '.inf'."),
    ('lr: [0.1]', 'lr must be one value, got a list.'),
    ('lr: {a: 1}', 'lr must be a number above 0, got a mapping.'),
    ('epochs: 2.5', "epochs must be a whole number of at least 1, got '2.5'."),
    ('epochs: 1e1', "epochs must be a whole number of at least 1, got '1e1'."),
    ('sched: cosin', "sched must be one of cosine, tanh, step, multistep, constant, plateau, poly, wsd, rsqrt, none, "
                     "got 'cosin'. Did you mean cosine"),
    ('batch_size: yes', 'batch_size must be a whole number of at least 1, got yes (quote it to mean the word).'),
    ('experiment: no', 'experiment must be one word, got no (quote it to mean the word).'),
    ('scales: []', 'scales must be at least one value, got 0.'),
    ('scales: [0, [1]]', 'scales must be a whole number of at least 0, got a list.'),
    ('scales: [0, null]', 'scales must be a whole number of at least 0, got null.'),
    ('scale: [0.5]', 'scale must be 2 values, got 1.'),
    ('scale: 0.5', 'scale must be 2 values, got 1.'),
    ('model_kwargs: [a]', 'model_kwargs must be a mapping, KEY: VALUE, got a list.'),
    ('model_kwargs: {1: 2}', "model_kwargs must have names of arguments as keys, got '1'."),
    ('model_kwargs: {a: 1, a: 2}', 'a is set a second time.'),
    ('model_kwargs: {a: 2024-13-45}', 'model_kwargs must have values in YAML, and a has none.'),
    ('model_kwargs: {a: !!python/name:os.system }', 'could not determine a constructor for the tag '
                                                    "'tag:yaml.org,2002:python/name:os.system'."),
    ('lr: !!python/object/apply:os.getcwd []', "lr must be a number above 0, got the tag 'python/object/apply"),
    ('lr: !x 1', "lr must be a number above 0, got the tag '!x'."),
    ('weight_decai: 0.1', 'there is no option weight_decai. Did you mean weight_decay'),
    ('learning_rate: 0.1', 'there is no option learning_rate. Did you mean lr?'),
    ('config: other.yaml', 'there is no option config.'),
    ('[1]: 2', 'a key must be a name.'),
    ('lr: 0.1\nlr: 0.2', 'lr is set a second time.'),
    ('batch-size: 1\nbatch_size: 1', 'batch_size is set a second time.'),
    ('lr: 0.1\n\tamp: true', "found character '\\t' that cannot start any token."),
    ('lr: [0.1', "expected ',' or ']', but got '<stream end>'."),
    ('lr: 0.1: 2', 'mapping values are not allowed here.'),
    ('lr: "\x00"', 'special characters are not allowed'),
    ('lr: 0.1\n---\nlr: 0.1', 'but found another document.'),
    ('', 'must hold NAME: VALUE lines, one for each option: it has none.'),
    ('# nothing', 'must hold NAME: VALUE lines, one for each option: it has none.'),
    ('- lr: 0.1', 'must hold NAME: VALUE lines, one for each option: it has a list.'),
    ('lr', "must hold NAME: VALUE lines, one for each option: it has the text 'lr'."),
    ('experiment: ä'.encode('latin-1'), 'must be text in UTF-8: '),
])
def test_a_mistake_in_yaml_is_one_line_with_the_file(text, message, tmp_path):
    assert message in refused_yaml(tmp_path, text)


def test_a_mistake_in_yaml_names_its_line(tmp_path):
    assert refused_yaml(tmp_path, '# recipe\nopt: sgd\nlr: 0\n') == ', line 3: lr must be above 0, got 0.0.'
    assert refused_yaml(tmp_path, 'opt: sgd\nscales:\n- 0\n- -1\n') == ', line 4: scales must be at least 0, got -1.'


def test_rules_over_several_options_hold_for_yaml_too(tmp_path):
    path = tmp_path / 'recipe.yaml'
    path.write_text('min_depth: 10\ninput_size: [3, 64, 96]\n')
    assert refused('--config', str(path), '--max-depth', '5') == (
        '--min-depth must be below --max-depth, got 10.0 and 5.0.')
    assert '--input-size 3 64 64' in refused('--config', str(path), '--img-size', '64')


def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path):
    assert from_yaml(tmp_path, b'\xef\xbb\xbflr: 0.5').lr == 0.5


def test_a_recipe_is_a_path_or_a_name_of_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named, suffixed = (
        vars(parse_train_args(['DATA', '--config', name]))
        for name in ('rexnetv1_unet_camvid', 'rexnetv1_unet_camvid.yaml'))
    assert named['scale_target'] == 'object' and {**named, 'config': None} == {**suffixed, 'config': None}
    (tmp_path / 'rexnetv1_imagenet').mkdir()  # a folder of that name does not hide the recipe
    assert parse_train_args(['DATA', '--config', 'rexnetv1_imagenet']).lr == 0.5
    (tmp_path / 'rexnetv1_unet_camvid').write_text('lr: 0.25')  # a file does
    assert parse_train_args(['DATA', '--config', 'rexnetv1_unet_camvid']).lr == 0.25
    assert "no configuration file 'rexnetv1_unet_camvit'" in refused('--config', 'rexnetv1_unet_camvit')
    assert 'Did you mean rexnetv1_unet_camvid' in refused('--config', 'scripts/configs/rexnetv1_unet_camvit.yaml')
    assert refused('--config', str(tmp_path)) == (
        f'--config must be a file or the name of a recipe, {str(tmp_path)!r} is a folder.')


# --- pairs, folder, what was given ---

def test_pairs_are_yaml_and_add_up(tmp_path):
    args = parse_train_args([
        'DATA', *'--model-kwargs scales=[0,1] act=relu --opt sgd --model-kwargs act=silu eps=1e-3 drop-rate=0'.split()])
    assert args.model_kwargs == {'scales': [0, 1], 'act': 'silu', 'eps': 1e-3, 'drop_rate': 0}
    path = tmp_path / 'recipe.yaml'
    path.write_text('model_kwargs: {a: 1, b: 2}')
    assert parse_train_args(['DATA', '--config', str(path), '--model-kwargs', 'b=3']).model_kwargs == {'a': 1, 'b': 3}
    assert parse_train_args(['DATA', '--config', str(path), '--model', 'unet']).model_kwargs == {'a': 1, 'b': 2}
    path.write_text('model: multiscaleunet\nmodel_kwargs: {a: 1, b: 2}')  # of this model, and of no other
    assert parse_train_args(['DATA', '--config', str(path), '--model', 'unet']).model_kwargs == {}
    assert create_train_parser().parse_args([]).model_kwargs == {}


@pytest.mark.parametrize('pair, text', [
    ('scales', "must be KEY=VALUE pairs, got 'scales'."), ('=1', "must be KEY=VALUE pairs, got '=1'."),
    ('a b=1', "must be KEY=VALUE pairs, got 'a b=1'."), ('a=[0,1', "must have values in YAML, got 'a=[0,1'."),
    ('a=!!python/name:os.system', "must have values in YAML, got 'a=!!python/name:os.system'."),
    ('a=2024-13-45', "must have values in YAML, got 'a=2024-13-45'."),
])
def test_a_wrong_pair_is_refused(pair, text):
    assert refused('--model-kwargs', pair) == f'--model-kwargs {text}'
    assert refused('--opt-kwargs', pair) == f'--opt-args {text}'


def test_the_folder_is_one_however_it_is_given(tmp_path):
    for words in (['DATA'], ['--data-dir', 'DATA'], ['DATA', '--data-dir', 'DATA/'], ['--amp', 'DATA']):
        args = parse_train_args(words)
        assert args.data_dir.rstrip('/') == 'DATA' and not hasattr(args, 'data') and 'data_dir' in args.given
    assert refused('--data-dir', 'OTHER') == "The folder of the data is given twice: 'DATA' and --data-dir 'OTHER'."
    path = tmp_path / 'recipe.yaml'
    path.write_text('data_dir: OTHER')
    assert parse_train_args(['DATA', '--config', str(path)]).data_dir == 'DATA'
    assert parse_train_args(['--config', str(path)]).data_dir == 'OTHER'
    with pytest.raises(UsageError, match='A folder of data is needed'):
        parse_train_args([])
    assert parse_train_args(['--dataset', 'synthetic']).data_dir is None


def test_given_has_what_was_typed_or_changed_by_yaml(tmp_path):
    path = tmp_path / 'recipe.yaml'
    path.write_text('hflip: 0.5\nvflip: 0.5\namp: false\ndrop: null\n')
    args = parse_train_args(['--dataset', 'synthetic', '--config', str(path), '--mixup', '0', '--model-ema'])
    assert args.given == ('dataset', 'mixup', 'model_ema', 'vflip')
    assert parse_train_args(['--dataset', 'synthetic']).given == ('dataset',)


def test_args_yaml_repeats_a_run_and_not_its_resumption(tmp_path):
    words = [
        *'DATA --model unet --encoder-name rexnetv1 --lr 1e-5 --scales 0 2 --scale-weights 1 0.5 --fade-epochs 2 5 '
        '--model-kwargs a=[0,1] b=null c=1e-5 --opt-args d={e:f} --amp --mean 0.5 --torchcompile --drop 0.1'.split(),
        '--experiment', 'no']
    args = parse_train_args([*words, '--resume', 'last.pth.tar', '--no-resume-opt'])
    written = repeatable_args(args)
    assert not {'resume', 'no_resume_opt', 'config', 'data', 'given'} & written.keys()
    path = tmp_path / 'args.yaml'
    path.write_text(yaml.safe_dump(written, default_flow_style=False))
    repeated, first = parse_train_args(['--config', str(path)]), parse_train_args(words)
    assert {**vars(repeated), 'config': None} == vars(first)
    assert repeatable_args(repeated) == written


def test_arguments_survive_a_checkpoint_that_runs_no_code(tmp_path):
    torch.save(parse_train_args(['DATA', '--amp']), tmp_path / 'args.pth')
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert torch.load(tmp_path / 'args.pth', weights_only=True).given == ('amp', 'data_dir')


# --- errors ---

def raiser(error: BaseException):
    def command():
        raise error
    return command


def in_worker(error: Exception) -> Exception:
    """The error as torch raises it again out of a loader's worker; a run with a worker is in test_scripts.py."""
    try:
        raise error
    except type(error):
        text = traceback.format_exc()
    return type(error)(f'Caught {type(error).__name__} in DataLoader worker process 0.\nOriginal {text}')


def missing_file() -> OSError:
    with pytest.raises(OSError) as caught:
        open('/gone/file')
    return caught.value


@pytest.mark.parametrize('error, text', [
    (UsageError('--lr must be above 0, got 0.'), '--lr must be above 0, got 0.'),
    (ValueError('one\n  two'), 'one; two'),
    (DatasetError('Masks must be readable: a.png is not.'), 'Masks must be readable: a.png is not.'),
    (FileNotFoundError("There is no checkpoint 'a'."), "There is no checkpoint 'a'."),
    (missing_file(), "'/gone/file': No such file or directory."),
    (FloatingPointError('The loss is nan.'), 'The loss is nan.'),
])
def test_mistakes_of_the_user_are_one_line(error, text, capsys, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    assert report_errors('rexnet train', raiser(error), train_flags()) == 2
    assert capsys.readouterr() == ('', f'rexnet train: error: {text}\n')


@pytest.mark.parametrize('error', [DatasetError('Bad file: a.png.'), ValueError('Bad file: a.png.')])
def test_the_error_of_a_worker_is_one_line(error, capsys):
    assert report_errors('rexnet train', raiser(in_worker(error))) == 2
    assert capsys.readouterr().err == 'rexnet train: error: Bad file: a.png.\n'


def test_one_of_several_processes_tells_what_all_met(capsys, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    assert report_errors('rexnet train', raiser(ValueError('all'))) == 2
    assert report_errors('rexnet train', raiser(DatasetError('mine'))) == 2
    assert report_errors('rexnet train', raiser(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == 'rexnet train: error: mine\n'


def test_an_interruption_is_one_line(capsys, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    assert report_errors('rexnet train', raiser(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == 'rexnet train: interrupted\n'
    assert report_errors('rexnet train', lambda: (0.5, 3)) == 0


@pytest.mark.parametrize('error', [
    TypeError('a'), KeyError('a'), AssertionError('a'), RuntimeError('a'), IndexError('a'), OSError('no file named'),
    SystemExit(3)])
def test_faults_of_the_program_keep_their_traceback(error):
    with pytest.raises(type(error)) as caught:
        report_errors('rexnet train', raiser(error), train_flags())
    assert caught.value is error


def test_a_lost_connection_is_no_traceback_on_several_processes(capsys, monkeypatch):
    error = RuntimeError('[pair.cc:561] Connection closed by peer [127.0.0.1]:1')
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    with pytest.raises(RuntimeError):
        report_errors('rexnet train', raiser(error))
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setenv('RANK', '1')
    assert report_errors('rexnet train', raiser(error)) == mistakes.LEFT_ALONE
    assert capsys.readouterr().err == (
        'rexnet train: process 1 stops, since another process of the run has ended.\n')
    with pytest.raises(RuntimeError):
        report_errors('rexnet train', raiser(RuntimeError('shapes differ')))


def test_a_refusal_is_an_explicit_check_of_a_library():
    def of(command) -> bool:
        with pytest.raises((AssertionError, ValueError)) as caught:
            command()
        return is_refusal(caught.value)

    assert of(lambda: create_optimizer_v2([torch.zeros(1, requires_grad=True)], 'adamw', lr=-1.0))
    assert of(lambda: torch.nn.AdaptiveLogSoftmaxWithLoss(1, 3, [5]))
    assert not of(lambda: list(zip([1], [1, 2], strict=True)))
    assert not of(raiser(ValueError('ours')))


@pytest.mark.parametrize('command', [
    lambda: list(zip([1], [1, 2], strict=True)), lambda: int('one'), lambda: [a for a, b in [(1, 2, 3)]],
    lambda: torch.nn.BatchNorm2d(3)(torch.zeros(1, 3)), lambda: np.zeros(3).reshape(2)],
    ids=['zip', 'int', 'unpacking', 'torch', 'numpy'])
def test_an_error_that_no_check_raised_is_a_fault_of_the_program(command):
    with pytest.raises(ValueError):
        report_errors('rexnet train', command, train_flags())


@pytest.mark.parametrize('text, shown', [
    ('num_classes must be at least 1, got 0.', '--num-classes must be at least 1, got 0.'),
    ('Depth must be 0 < min_depth < max_depth.', 'Depth must be 0 < --min-depth < --max-depth.'),
    ("It has no weights: use encoder_weights=None.", 'It has no weights: use no --encoder-weights.'),
    ('Leave out (batch_size), or pass batch_size=8.', 'Leave out (--batch-size), or pass --batch-size 8.'),
    ("No network of width_mult 1.5 fits 'num_classes'.", "No network of --rex-width-mult 1.5 fits 'num_classes'."),
    ('scales must be whole numbers.', '--scales must be whole numbers.'),
    ('These two scales must be whole numbers.', 'These two scales must be whole numbers.'),
    ('Take rexnet_timm.load_encoder_weights(encoder, path).', 'Take --pretrained-path.'),
    ('Call it as f(in_chans=3, num_classes=1).', 'Call it as f(in_chans=3, num_classes=1).'),
    ("The model's num_classes isn't the file's.", "The model's --num-classes isn't the file's."),
])
def test_arguments_are_shown_as_options(text, shown):
    assert mistakes.with_flags(text, train_flags()) == shown


@pytest.mark.parametrize('text', [
    "'/data/num_classes/a b.png' is broken", '"it\'s num_classes" is broken', '/data/num_classes/1.png is broken',
    'num_classes/1.png is broken', 'num_classes.txt is broken', 'C:\\num_classes is broken', 'the scale and the seed',
    'set_grad_checkpointing() and my_num_classes_2', 'pass --num_classes', 'grad_checkpointing(model)'])
def test_names_of_files_and_quoted_words_are_left_alone(text):
    assert mistakes.with_flags(text, train_flags()) == text
    assert re.sub(r'\s+', ' ', text) == text  # a line


@pytest.mark.parametrize(('words', 'expected'), [
    ('--model rexnetv1_unet_1_0', {
        'opt': 'nmuon', 'lr': 2e-3, 'epochs': 100, 'batch_size': 8, 'seg_loss': 'ce+dice+dice'}),
    ('--model unet --opt adamw', {'opt': 'adamw', 'lr': 1e-3, 'weight_decay': 0.01, 'sched_on_updates': True}),
    ('--model unet --lr 0.5 --epochs 3', {'opt': 'nmuon', 'lr': 0.5, 'epochs': 3}),
    ('--model unet --opt sgd', {'opt': 'sgd', 'lr': None, 'warmup_epochs': 1}),
    ('--model unet --lr-base 0.2', {'opt': 'nmuon', 'lr': None, 'lr_base': 0.2}),
    ('--model unet --scale-target soft', {'seg_loss': 'ce'}),
    ('--model unet --sched plateau', {'sched_on_updates': False}),
    ('--model rexdepth_1_0', {'opt': 'adamw', 'lr': 1e-3, 'epochs': 100}),
    ('--model rexnetv1_1_0', {'opt': 'sgd', 'lr': None, 'epochs': 300, 'batch_size': 128, 'weight_decay': 2e-5})])
def test_each_kind_of_model_has_its_defaults(words, expected):
    args = parse_train_args(['DATA', *words.split()])
    assert {name: getattr(args, name) for name in expected} == expected
    assert not {'epochs', 'batch_size', 'weight_decay'} & set(args.given) - {'epochs'}
