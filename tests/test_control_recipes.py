"Recipes: complete, checked, and with the rates of the papers."
import numpy as np, pytest, torch
from vislearn.callbacks import ScheduleCB, schedule_factor
from vislearn.control.bc import StairsCB, check_config
from vislearn.control.recipes import bc_cortexbench, bc_data, bc_donkey, bc_eval, bc_model, bc_nano, bc_pvr_lstm, bc_pvr_mlp, bc_r3m, bc_recipe, bc_scratch, bc_source, bc_state, bc_training, loss_kind, policy_spec, stair_rate
from vislearn.control.policies import Policy
from vislearn.core import ConfigError
from vislearn.learn import make_optimizer, synth_learner
from vislearn.nets import count_params
from vislearn.runs.config import RunConfig, dump_yaml, load_config

RECIPES = [bc_pvr_lstm, bc_pvr_mlp, bc_cortexbench, bc_r3m, bc_state, bc_scratch, bc_nano, bc_donkey]


@pytest.mark.parametrize('make', RECIPES)
def test_recipes_are_complete_and_come_back_from_yaml(make, tmp_path):
    cfg = make(); check_config(cfg); path = tmp_path/'c.yaml'; path.write_text(dump_yaml(cfg.model_dump(mode='json')))
    assert load_config(path, RunConfig) == cfg and cfg.task == 'control.bc'


def test_P05_rate_of_an_epoch():
    "Per step, `linear` is the rate of the original at every beginning of an epoch; `stairs` is the rate at every step."
    E, n, seen = 10, 8, []
    class Look(ScheduleCB):
        order = 62
        def before_fit(self): pass
        def before_batch(self): seen.append((self.epoch, self.opt.hypers[0]['lr']))
    for cbs, exact in (([StairsCB()], range(n)), ([], [0])):
        seen.clear(); learn = synth_learner(n, lr=1e-4, optim='rmsprop'); learn.add_cbs([Look(), *cbs]); learn.fit(E, cbs=[ScheduleCB('linear')])
        rates = np.array([lr for _, lr in seen]).reshape(E, n); want = np.array([1e-4*(1 - e/E) for e in range(E)])
        for i in exact: assert np.allclose(rates[:, i], want, rtol=1e-12)
        if not cbs: assert (rates[:, 1] < rates[:, 0]).all() and abs(rates[:, -1] - want).max() <= 1e-4/E
    assert stair_rate(1e-4, 0, 100) == 1e-4 and stair_rate(1e-4, 99, 100) == pytest.approx(1e-6) and schedule_factor('linear', .5) == .5


def test_settings_of_the_papers():
    cfg = bc_pvr_lstm('HabitatImageNav-room_0,HabitatImageNav-hotel_0', 'resnet50')
    assert (cfg.optim.name, cfg.optim.lr, cfg.optim.params) == ('rmsprop', 1e-4, dict(alpha=.99, eps=1e-5, momentum=0.)) and (cfg.train.epochs, cfg.train.batch_size, cfg.train.clip_norm, cfg.seed) == (100, 16, 40., 1)
    assert bc_data(cfg).window == 100 and bc_source(cfg).env == ['HabitatImageNav-room_0', 'HabitatImageNav-hotel_0'] and bc_training(cfg)[1].stairs
    opt = make_optimizer([torch.nn.Parameter(torch.zeros(1))], cfg.optim); assert opt.defaults['alpha'] == .99 and opt.defaults['eps'] == 1e-5 and opt.defaults['momentum'] == 0
    with torch.device('meta'): assert count_params(Policy(policy_spec(cfg, 4096, ('discrete', 3)))) == 22_049_795 and count_params(Policy(policy_spec(bc_pvr_lstm(encoder=None), 12, ('discrete', 3)))) == 17_859_587
    box = lambda n: ('continuous', (-1.,)*n, (1.,)*n)
    with torch.device('meta'): assert count_params(Policy(policy_spec(bc_pvr_mlp(), 6144, box(24)))) == 1_657_392 and count_params(Policy(policy_spec(bc_pvr_mlp(encoder=None), 24, box(6)))) == 73_740
    cb = bc_cortexbench(); assert policy_spec(cb, 3*512 + 4, box(4)).widths == [256]*3 and bc_training(cb)[0] == 'mse' and (cb.train.batch_size, cb.optim.name, cb.optim.lr) == (256, 'adam', 1e-3)
    assert (bc_data(cb).stack, bc_data(cb).stack_mode, bc_data(cb).proprio, bc_data(cb).num_trajectories) == (3, 'diff', True, 25) and bc_eval(bc_cortexbench(episodes=25)).every == 5
    r3 = bc_r3m(); assert (r3.train.max_steps, r3.train.eval_every, r3.train.batch_size, bc_model(r3).widths, bc_model(r3).batch_norm) == (20_000, 1000, 32, [256, 256], True)


@pytest.mark.parametrize('discrete, name, want', [(True, 'auto', 'ce'), (False, 'auto', 'nll'), (False, 'mse', 'mse'), (True, 'ce', 'ce'), (True, 'nll', None), (False, 'ce', None)])
def test_losses_fit_actions(discrete, name, want):
    cfg = bc_recipe(loss=name)
    if want: assert loss_kind(cfg, discrete) == want
    else:
        with pytest.raises(ConfigError, match='does not fit'): loss_kind(cfg, discrete)


@pytest.mark.parametrize('section, params, message', [('common', dict(enocder='x'), "did you mean 'encoder'"), ('train', dict(stack=0), 'stack'), ('model', dict(widths='x'), 'widths'), ('loss', dict(stair=True), "did you mean 'stairs'"), ('eval', dict(epochs=[1], every=2), 'epochs or every'), ('eval', dict(episodes=0), 'episodes')])
def test_wrong_settings_are_one_line(section, params, message):
    cfg = bc_recipe('x', episodes=2); values = cfg.model_dump(mode='json')
    if section in ('common', 'train', 'eval'): part = values['data'][section]; (part if section == 'common' else part['params']).update(params)
    else: values[section]['params'].update(params)
    with pytest.raises(ConfigError, match=message) as e: check_config(RunConfig(**values))
    assert '\n' not in str(e.value)
