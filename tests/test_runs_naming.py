"Oracles for runs.naming: the formatters' exact values and the names of SPACE-Time, SVG and PVR."
import itertools
import numpy as np, pytest
from vislearn.core import ConfigError
from vislearn.runs.config import RunConfig
from vislearn.runs.naming import FORMATS, SVG_DEFAULTS, combo_label, format_value, pvr_file, pvr_name, space_name, svg_name


def one_line(f, *words):
    with pytest.raises(ConfigError) as e: f()
    assert '\n' not in str(e.value) and e.value.exit_code==2 and all(w in str(e.value) for w in words), str(e.value)


def test_A09_lr_formatter(): assert ' '.join(format_value(v, 'lr') for v in np.logspace(-5.5, -4.01, 4))=='3.1e-06 9.9e-06 3.1e-05 9.7e-05'


def test_lr_cuts_and_never_rounds():
    for exponent in range(-9, 3):
        for digits in (1.0, 1.09, 1.19, 5.55, 9.99): assert format_value(digits*10.**exponent, 'lr')==f'{int(digits*10 + 1e-9)/10:.1f}e{exponent:+03d}'


@pytest.mark.parametrize('value,how,text', [(True, 'bool', '1'), (np.bool_(False), 'bool', '0'), (0, 'bool', '0'), (5000, 'k', '5k'), (5999, 'k', '5k'), (999, 'k', '0k'), (5260, 'h', '5.3k'), (5000, 'h', '5.0k'), (10., 'identity', '10.0'), (np.float64(.1), 'identity', '0.1'),
    (np.int64(3), 'identity', '3'), ('a b', 'identity', 'a b'), (None, 'identity', 'None'), (.25, '.1f', '0.2'), (7, '03d', '007'), (.5, lambda v: int(v*10), '5'), (3, str, '3')])
def test_formats(value, how, text): assert format_value(value, how)==text


def test_wrong_formats():
    one_line(lambda: format_value('x', 'k'), "'k'", "'x'"); one_line(lambda: format_value(None, 'h'), "'h'"); one_line(lambda: format_value(1.5, 'identiy'), "did you mean 'identity'", 'known are'); one_line(lambda: format_value([1], '.1f'), "'.1f'"); one_line(lambda: format_value('x', 'lr'), "'lr'")
    assert set(FORMATS)=={'identity', 'bool', 'k', 'h', 'lr'}


TEN = ['_seed0_aow0.0', '_seed0_aow10.0', '_seed1_aow0.0', '_seed1_aow10.0', '_seed2_aow0.0', '_seed2_aow10.0', '_seed3_aow0.0', '_seed3_aow10.0', '_seed4_aow0.0', '_seed4_aow10.0']

def test_A08_the_ten_names():
    experiment = dict(seed=('seed', range(5), 'identity'), aow=('arch.area_object_weight', [0.0, 10.0], 'identity'))
    combos = [dict(zip(experiment, row)) for row in itertools.product(*([(key, v, how) for v in values] for key, values, how in experiment.values()))]
    assert [space_name('atari', c) for c in combos]==['atari' + t for t in TEN]
    assert [combo_label('atari', dict(seed=s, aow=a)) for s in range(5) for a in (0.0, 10.0)]==['atari' + t for t in TEN]
    assert combo_label('x', dict(lr=3.19e-5, n='word'), dict(lr='lr'))=='x_lr3.1e-05_nword' and combo_label('x', {})=='x'
    one_line(lambda: space_name('x', dict(seed=('seed', 3))), 'seed', '(key, value, formatter)')


def original_svg(o):
    "The original's rule, in its own printf form."
    name = 'model=%s%dx%d-rnn_size=%d-predictor-posterior-prior-rnn_layers=%d-%d-%d-n_past=%d-n_future=%d-lr=%.4f-g_dim=%d-z_dim=%d-last_frame_skip=%s-beta=%.7f%s' % (o['model'], o['image_width'], o['image_width'], o['rnn_size'], o['predictor_rnn_layers'],
        o['posterior_rnn_layers'], o['prior_rnn_layers'], o['n_past'], o['n_future'], o['lr'], o['g_dim'], o['z_dim'], o['last_frame_skip'], o['beta'], o['name'])
    return ('%s/%s-%d/%s' % (o['log_dir'], o['dataset'], o['num_digits'], name)) if o['dataset']=='smmnist' else '%s/%s/%s' % (o['log_dir'], o['dataset'], name)


@pytest.mark.parametrize('given', [{}, dict(num_digits=3, name='try'), dict(dataset='bair', model='vgg', z_dim=64, n_past=2), dict(dataset='kth', lr=4e-5, beta=1e-6, last_frame_skip=True, image_width=128), dict(predictor_rnn_layers=4, posterior_rnn_layers=5, prior_rnn_layers=6)])
def test_svg_name(given):
    assert svg_name(given)==original_svg(SVG_DEFAULTS | given)
    options = {k: v for k, v in (SVG_DEFAULTS | given).items() if k not in ('dataset', 'model', 'lr', 'log_dir')}
    cfg = RunConfig(task='svg.lp', description='x', out='logs/lp', data=dict(root='.', train=dict(name=(SVG_DEFAULTS | given)['dataset'])), model=dict(name=(SVG_DEFAULTS | given)['model'], params=options | dict(channels=1)),
        optim=dict(lr=(SVG_DEFAULTS | given)['lr']), train=dict(epochs=1, batch_size=1))
    assert svg_name(cfg)==svg_name(given)


def test_svg_variants_and_mistakes():
    assert svg_name(dict(action_cond=True, act_design=2)).endswith('-beta=0.0001000-act-cond-2') and 'act-cond' not in svg_name({})
    assert svg_name({}, 'fp')=='logs/fp/smmnist-2/model=dcgan64x64-rnn_size=256-predictor-posterior-rnn_layers=2-1-n_past=5-n_future=10-lr=0.0020-g_dim=128-z_dim=10-last_frame_skip=0-beta=0.0001000'
    one_line(lambda: svg_name(dict(rnn_sise=3)), "did you mean 'rnn_size'"); one_line(lambda: svg_name({}, 'x'), "'lp' or 'fp'")


def test_svg_name_of_vislearns_own_fields():
    params = dict(arch='vgg', image_width=56, channels=4, n_past=2, n_future=5, g_dim=128, z_dim=10, nf=64, prior='learned', actions='learned', act_dim=4, skip='fixed', bn='joint', split=True)
    cfg = RunConfig(task='video.svg', description='x', out='logs/lp', data=dict(root='.', train=dict(name='fabric-random')), model=dict(name='svg', params=params), loss=dict(name='svg', params=dict(beta=1e-5)), optim=dict(lr=1e-3), train=dict(epochs=1, batch_size=1))
    want = dict(dataset='fabric-random', model='vgg', image_width=56, n_past=2, n_future=5, lr=1e-3, beta=1e-5)
    assert svg_name(cfg)==svg_name(want | dict(action_cond=True, act_design=2)) and svg_name(cfg).endswith('-beta=0.0000100-act-cond-2')
    for change, flags in [(dict(actions='raw'), dict(action_cond=True, act_design=1)), (dict(actions='none'), {}), (dict(actions='none', skip='last'), dict(last_frame_skip=True)), (dict(actions='none', skip='legacy'), {})]:
        assert svg_name(cfg.replace(model=dict(name='svg', params=params | change)))==svg_name(want | flags), change
    for prior in ('fixed', 'none'): assert svg_name(cfg.replace(model=dict(name='svg', params=params | dict(prior=prior, actions='none'))))==svg_name(want | dict(log_dir='logs/lp'), 'fp')
    assert svg_name(cfg.replace(model=dict(name='dcgan', params={k: v for k, v in params.items() if k!='arch'}))).split('model=')[1].startswith('dcgan56x56')
    assert svg_name(dict(prior='fixed'), 'lp')==svg_name({}) # what is asked for wins


def test_pvr_names():
    assert pvr_name(dict(learning_rate=1e-4, batch_size=16))=='lr=0.0001--bs=16' and pvr_name(dict(seed=1, embedding_name='x'), 'bc')=='s1_enx'
    assert len({pvr_name(dict(batch_size=1, beta_scale=2)), pvr_name(dict(batch_size=2, beta_scale=1))})==2 and 'batch_size=1' in pvr_name(dict(batch_size=1, beta_scale=2)) # initials collide: keys in full
    assert pvr_file('apartment_0', 'moco', 3, 'apartment_1')=='apartment_0_emmoco_s3_apartment_1'
    one_line(lambda: pvr_name({}, 'x'), "'grid' or 'bc'")
