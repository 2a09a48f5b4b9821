"Old checkpoints and configs, written by the literal reference in the old form, other inner names, filter and scalar included"
from collections import OrderedDict

import pytest, torch
from space_reference import Reference, draw_noise
from torch import nn
from vislearn.core import ConfigError, DataError
from vislearn.objects.legacy import (convert_space_config, fill_space, load_optimizers, load_space_checkpoint, match_names, read_space, read_space_config, save_space_checkpoint, swap_colours)
from vislearn.objects.space import Space, SpaceConfig
from vislearn.objects.time import MocConfig
from vislearn.objects.recipes import moc_config, space_config
from vislearn.runs.config import RunConfig


def trained(G=4, K=3, seed=0):
    "The reference after two training steps on BGR pictures, with its optimizers."
    torch.manual_seed(seed); ref = Reference(G=G, K=K)
    fg, bg = torch.optim.RMSprop(ref.fg_module.parameters(), lr=3e-5), torch.optim.Adam(ref.bg_module.parameters(), lr=1e-3)
    for k in range(2):
        for o in (fg, bg): o.zero_grad()
        ref(torch.rand(1, 3, 128, 128), draw_noise(1, G, K, seed=k), 0).elbo_loss.mean().backward()
        for o in (fg, bg): o.step(); o.zero_grad()
    return ref.eval(), fg, bg


def as_old(optimizer):
    "The state as torch 1.x wrote it: steps are plain numbers, and there are fewer options."
    state = optimizer.state_dict(); keep = ('params', 'lr', 'alpha', 'eps', 'centered', 'momentum', 'weight_decay', 'betas', 'amsgrad')
    return dict(state={i: {k: int(v) if k=='step' else v for k, v in s.items()} for i, s in state['state'].items()}, param_groups=[{k: v for k, v in g.items() if k in keep} for g in state['param_groups']])


def old_file(path, ref, fg=None, bg=None, moc=False, parallel=False, extra=True, zipped=True):
    "What the old programs write: prefix, scalar and frozen filter."
    state = OrderedDict(ref.state_dict())
    if extra:
        state['fg_module.frozen_kernel'] = torch.ones(1, 1, 32, 32)
        state.move_to_end('fg_module.frozen_kernel', last=False)
    state = OrderedDict((('space.' if moc else '') + ('module.' if parallel else '') + k, v) for k, v in state.items())
    if moc: state['dummy'] = torch.zeros(1)
    tree = dict(model=state, epoch=3, global_step=5000)
    if fg is not None: tree |= dict(optimizer_fg=as_old(fg), optimizer_bg=as_old(bg))
    torch.save(tree, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.fixture(scope='module')
def old(): return trained()


@pytest.mark.parametrize('moc, parallel, zipped', [(False, False, True), (True, False, False), (True, True, True), (False, True, False)])
def test_a_checkpoint_of_bgr_runs_on_bgr_and_its_import_on_rgb(tmp_path, old, moc, parallel, zipped):
    ref = old[0]; ref.opt.align_corners = moc; x, noise = torch.rand(2, 3, 128, 128), draw_noise(2, 4, 3)
    model = load_space_checkpoint(old_file(tmp_path/'model_000005000.pth', ref, moc=moc, parallel=parallel, zipped=zipped))
    assert not model.training and (model.cfg.G, model.cfg.K, model.cfg.align_corners, int(model.step))==(4, 3, moc, 5000)
    with torch.no_grad(): theirs, ours = ref(x.flip(1), noise, 5000), model(x, noise=noise)
    for name in ('z_where', 'z_pres_prob', 'z_what', 'z_depth', 'alpha_map', 'masks'): assert torch.allclose(getattr(ours, name), getattr(theirs, name), atol=1e-3), name
    for name in ('fg', 'bg', 'y', 'comps'): assert torch.allclose(getattr(ours, name), getattr(theirs, name).flip(-3), atol=1e-3), name
    for name in ('elbo_loss', 'kl_bg'): assert torch.allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-4), name
    as_is = load_space_checkpoint(tmp_path, bgr=False)
    with torch.no_grad(): assert torch.allclose(as_is(x.flip(1), noise=noise).y, theirs.y, atol=1e-3) and not torch.allclose(as_is(x, noise=noise).y, ours.y, atol=1e-2)


def test_corners_matter(tmp_path, old):
    old_file(tmp_path/'a.pth', old[0]); x, noise = torch.rand(1, 3, 128, 128), draw_noise(1, 4, 3); out = []
    for align in (False, True):
        old[0].opt.align_corners = align; model = load_space_checkpoint(tmp_path/'a.pth', bgr=False, align_corners=align)
        with torch.no_grad(): a, b = model(x, noise=noise), old[0](x, noise, 5000)
        assert torch.allclose(a.fg, b.fg, atol=1e-3); out.append(a.z_what)
    assert not torch.allclose(*out, atol=1e-3)


def test_one_component_leaves_the_dead_branch_behind(tmp_path):
    ref = Reference(G=4, K=1).eval(); model = load_space_checkpoint(old_file(tmp_path/'a.pth', ref), bgr=False); x, noise = torch.rand(1, 3, 128, 128), draw_noise(1, 4, 1)
    assert model.cfg.K==1 and not hasattr(model.bg_module, 'mask_decoder')
    with torch.no_grad(): assert torch.allclose(model(x, noise=noise).bg, ref(x, noise).bg, atol=1e-5)
    save_space_checkpoint(model, tmp_path/'b.pth', bgr=False); again = Reference(G=4, K=1); names = match_names(read_space(tmp_path/'b.pth').weights, again.state_dict())
    assert set(names)==set(again.state_dict()) # an old program finds all its tensors
    with pytest.raises(ConfigError, match='one background component, got 3'): load_space_checkpoint(tmp_path/'a.pth', K=3)
    with pytest.raises(DataError, match='expected'): fill_space(Space(SpaceConfig(G=4, K=3)), read_space(tmp_path/'a.pth'))


def test_a_plain_checkpoint_starts_space_time_and_the_other_way_round(tmp_path, old):
    "Both are one network here, so the fallback of the original is not needed."
    a, b = (load_space_checkpoint(old_file(tmp_path/f'{moc}.pth', old[0], moc=moc), align_corners=False) for moc in (False, True))
    assert all(torch.equal(v, w) for v, w in zip(a.state_dict().values(), b.state_dict().values()))


@pytest.mark.parametrize('bgr', [True, False])
def test_optimizers_go_on_where_they_were(tmp_path, old, bgr):
    "The next step of the old training, done here, gives the weights of the old program."
    ref, fg, bg = trained(seed=4); path = old_file(tmp_path/'a.pth', ref, fg, bg, extra=False); model = load_space_checkpoint(path, bgr, align_corners=False)
    mine = torch.optim.RMSprop(model.fg_module.parameters(), lr=1.), torch.optim.Adam(model.bg_module.parameters(), lr=1.)
    load_optimizers(path, model, *mine, bgr); assert [o.param_groups[0]['lr'] for o in mine]==[3e-5, 1e-3]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    x, noise = torch.rand(1, 3, 128, 128), draw_noise(1, 4, 3, seed=9); flip = lambda t: t.flip(1) if bgr else t
    ref(flip(x), noise, 5000).elbo_loss.mean().backward(); model(x, noise=noise).elbo_loss.mean().backward()
    grads = {n: p.grad.clone() for n, p in ref.named_parameters() if p.grad is not None}; assert grads
    for o in (fg, bg, *mine): o.step(); o.zero_grad()
    state = dict(ref.named_parameters()); names = match_names(state, dict(model.named_parameters())); theirs = {n: state[o].detach() for n, o in names.items()}; theirs = swap_colours(theirs) if bgr else theirs
    moved = torch.cat([(theirs[n] - before[n]).flatten() for n in theirs]); apart = torch.cat([(theirs[n] - p.detach()).flatten() for n, p in model.named_parameters()])
    assert moved.norm()>0 and apart.norm()<.05*moved.norm()
    fresh = torch.optim.RMSprop(model.fg_module.parameters()), torch.optim.Adam(model.bg_module.parameters())
    with pytest.raises(DataError, match='no optimizer_fg'): load_optimizers(old_file(tmp_path/'b.pth', ref), model, *fresh)


def test_frozen_filter_among_the_parameters_of_the_optimizer(tmp_path):
    "The old optimizer counts the filter: positions behind it shift by one."
    ref, fg, bg = trained(); path = old_file(tmp_path/'a.pth', ref, fg, bg); tree = torch.load(path, weights_only=True); state = tree['optimizer_fg']
    state['state'] = {i + 1: v for i, v in state['state'].items()}; state['param_groups'][0]['params'] = list(range(len(state['param_groups'][0]['params']) + 1)); torch.save(tree, path)
    model = load_space_checkpoint(path, bgr=False); mine = torch.optim.RMSprop(model.fg_module.parameters()), torch.optim.Adam(model.bg_module.parameters()); load_optimizers(path, model, *mine, bgr=False)
    weights = dict(zip((n for n, _ in ref.named_parameters()), ref.parameters())); where = 'fg_module.z_what_net.enc_cnn.3.weight'
    assert torch.equal(mine[0].state[dict(model.named_parameters())[where]]['square_avg'], fg.state[weights[where]]['square_avg'])


def test_written_files_are_old_files(tmp_path, old):
    "Import, write with the names of the old file, and compare key by key; without an old file the keys are those of the specification."
    path = old_file(tmp_path/'old.pth', *old, moc=True); model = load_space_checkpoint(path); both = torch.optim.RMSprop(model.fg_module.parameters(), lr=3e-5), torch.optim.Adam(model.bg_module.parameters(), lr=1e-3)
    tree = torch.load(path, weights_only=True); again = torch.load(save_space_checkpoint(model, tmp_path/'new.pth', like=path, optimizers=both, epoch=3), weights_only=True)
    assert list(again['model'])==list(tree['model']) and all(torch.equal(again['model'][k], v) for k, v in tree['model'].items())
    assert (again['epoch'], again['global_step'])==(3, 5000) and set(again)==set(tree)
    state = torch.load(save_space_checkpoint(model, tmp_path/'own.pth', bgr=False), weights_only=True)['model']
    for part in ('fg_module.img_encoder.enc.0.weight', 'fg_module.img_encoder.z_pres_net.bias', 'fg_module.z_what_net.enc_what.weight', 'fg_module.glimpse_dec.dec_alpha.weight', 'bg_module.rnn_mask.weight_ih', 'bg_module.z_mask_0'): assert part in state
    assert sum(v.numel() for k, v in state.items() if not k.endswith(('offset', 'running_mean', 'running_var', 'num_batches_tracked')))==5_307_651


def test_moments_are_written_in_the_old_order(tmp_path):
    ref, fg, bg = trained(); path = old_file(tmp_path/'old.pth', ref, fg, bg, extra=False); model = load_space_checkpoint(path); mine = torch.optim.RMSprop(model.fg_module.parameters()), torch.optim.Adam(model.bg_module.parameters())
    load_optimizers(path, model, *mine); new = torch.load(save_space_checkpoint(model, tmp_path/'new.pth', like=path, optimizers=mine), weights_only=True); tree = torch.load(path, weights_only=True)
    for o in ('optimizer_fg', 'optimizer_bg'):
        assert new[o]['state'].keys()==tree[o]['state'].keys() and new[o]['param_groups'][0]['params']==tree[o]['param_groups'][0]['params'] and new[o]['param_groups'][0].keys()==tree[o]['param_groups'][0].keys()
        assert all(type(s['step']) is int for s in new[o]['state'].values())
        for i, s in tree[o]['state'].items(): assert all(torch.equal(torch.as_tensor(new[o]['state'][i][k]), torch.as_tensor(v)) for k, v in s.items())
    again = Reference(G=4, K=3); again.load_state_dict(new['model']); fresh = torch.optim.RMSprop(again.fg_module.parameters()), torch.optim.Adam(again.bg_module.parameters())
    for o, s in zip(fresh, ('optimizer_fg', 'optimizer_bg')): o.load_state_dict(new[s] | dict(param_groups=[o.state_dict()['param_groups'][0] | new[s]['param_groups'][0]]))


def test_colours_swap_and_swap_back(old):
    state = Space(SpaceConfig(G=4, K=3)).state_dict(); once = swap_colours(state); changed = {k for k in state if not torch.equal(state[k], once[k])}
    assert all(torch.equal(v, swap_colours(once)[k]) for k, v in state.items()) and len(changed)==8 # four first convolutions; weight and bias of two heads
    mask = [k for k in changed if 'comp_encoder' in k][0]; assert torch.equal(state[mask][:, 0], once[mask][:, 0]) and torch.equal(state[mask][:, 1], once[mask][:, 3])


class Other(nn.Linear): "A class of somebody else."


def test_wrong_files_in_one_line(tmp_path, old):
    path = old_file(tmp_path/'model_1.pth', old[0])
    torch.save(dict(model=dict(a=torch.zeros(1))), tmp_path/'other.pth'); torch.save(Other(1, 1), tmp_path/'module.pth'); (tmp_path/'text.pth').write_text('hello'); (tmp_path/'cut.pth').write_bytes(path.read_bytes()[:1000]); torch.save([1], tmp_path/'list.pth')
    broken = torch.load(path, weights_only=True); del broken['model']['fg_module.z_what_net.enc_what.bias']; torch.save(broken, tmp_path/'part.pth')
    less = torch.load(path, weights_only=True); less['model']['fg_module.glimpse_dec.dec_o.weight'] = torch.zeros(4, 16, 3, 3); torch.save(less, tmp_path/'shape.pth')
    (tmp_path/'empty').mkdir()
    for name, words in {'other.pth': 'not a checkpoint of SPACE', 'module.pth': 'not only weights', 'text.pth': 'not a', 'cut.pth': 'not a', 'list.pth': 'found list', 'part.pth': 'enc_what: expected 2 tensors, found 1', 'shape.pth': 'dec_o.weight: expected', 'none.pth': 'no such checkpoint', 'empty': 'no model_'}.items():
        with pytest.raises(DataError, match=words) as e: load_space_checkpoint(tmp_path/name)
        assert '\n' not in str(e.value) and str(tmp_path) in str(e.value), name
    with pytest.raises(DataError, match='grid of 4 x 4 cells on 128 pixels, the config wants 16 x 16'): load_space_checkpoint(path, cfg=SpaceConfig.atari('Pong'))
    with pytest.raises(ConfigError, match='several background components'): load_space_checkpoint(path, K=1)


def test_config_given(tmp_path, old):
    cfg = SpaceConfig.atari('Riverraid').replace(G=4); model = load_space_checkpoint(old_file(tmp_path/'a.pth', old[0], moc=True), cfg=cfg)
    assert model.cfg==cfg.replace(align_corners=True) and model.cfg.K==4 and abs(model.pres_prior.item() - 1e-10)<1e-15 # at step 5000


YAML = '''
exp_name: tennis
model: tcspace
seed: 3
dataset: atari
dataset_roots: {atari: ../aiml_atari_data}
gamelist: [Tennis-v0]
parallel: true
device_ids: [0, 1, 2, 3]
add_flow: true
load_time_consistency: true
train: {batch_size: 16, max_steps: 5000, eval_every: 200, print_every: 200, max_ckpt: 4, solver: {fg: {optim: RMSprop, lr: 3e-5}, bg: {optim: Adam, lr: 1e-3}}}
arch:
  G: 16
  K: 3
  T: 4
  fg_sigma: 0.20
  bg_sigma: 0.10
  img_shape: [128, 128]
  z_pres_start_step: 0
  z_pres_end_step: 5000
  z_pres_start_value: 0.1
  z_pres_end_value: 1e-10
  z_scale_mean_start_step: 0
  z_scale_mean_end_step: 5000
  z_scale_mean_start_value: -2.5
  z_scale_mean_end_value: -3.0
  z_scale_std_value: 0.1
  tau_start_step: 0
  tau_end_step: 10000
  tau_start_value: 2.5
  tau_end_value: 2.5
  fix_alpha_steps: -1
  boundary_loss: false
  z_what_dim: 32
  motion: true
  motion_kind: mode
  area_object_weight: 10
  motion_underestimating: 0.75
  motion_object_found_lambda: 0.01
  acceptable_non_moving: 9
  motion_wait: 1
'''

def test_a_historical_config(tmp_path):
    (tmp_path/'tennis.yaml').write_text(YAML); made = read_space_config(tmp_path/'tennis.yaml')
    assert made.space==SpaceConfig.atari('Tennis').replace(tau=(0, 10000, 2.5, 2.5)) and made.moc==MocConfig.atari('Tennis') and made.moc.weight_images==64
    cfg = RunConfig(**made.values); assert (cfg.task, cfg.label, cfg.seed, cfg.train.max_steps, cfg.launch.per_node, cfg.train.batch_size, cfg.optim['fg'].lr, cfg.data.common, cfg.data.train.name)==('objects.space', 'tennis', 3, 5000, 4, 4, 3e-5, dict(game='Tennis'), 'folders')
    assert space_config(cfg)==made.space and moc_config(cfg)==made.moc
    for words in ("motion_kind: 'mode' belongs to the clips", 'acceptable_non_moving: 9 dropped, the original never used it', "motion_wait: 1 dropped (did you mean 'motion_weight'?)", 'weight_images=64', 'load_time_consistency'): assert any(words in n for n in made.notes), words
    (tmp_path/'bad.yaml').write_text(YAML.replace('G: 16', 'G: 12'))
    with pytest.raises(ConfigError, match='bad.yaml.*G: a power of two') as e: read_space_config(tmp_path/'bad.yaml')
    assert '\n' not in str(e.value)


def test_a_config_of_the_paper():
    "What a file leaves out has the defaults of the original's code."
    made = convert_space_config(dict(arch=dict(G=16, tau_end_step=20000, tau_end_value=.5, bl_off_step=100000), train=dict(batch_size=12, max_steps=160000)))
    assert made.space==SpaceConfig.rooms_large() and not made.moc.needs_clips and made.values['train']['max_steps']==160000
    assert convert_space_config(dict(arch=dict(G=8))).space==SpaceConfig.original() and RunConfig(**made.values).loss.params==dict(motion_weight=0., area_object_weight=0.)
    games = convert_space_config(dict(arch={}, gamelist=['Pong-v0', 'Boxing-v4'], eval=dict(metric='ap_avg'))); assert space_config(RunConfig(**games.values))==games.space and games.values['data']['common']==dict(game='Pong') and any(n.startswith('gamelist: Pong, Boxing') for n in games.notes) and any('ap_avg dropped' in n for n in games.notes)
    assert made.values['data']['common']==dict(game=None)
    fg = convert_space_config(dict(arch=dict(fg_sigma=1, area_object_weight=0), train={})); assert fg.space.fg_sigma==1. and fg.moc.area_object_weight==0.
