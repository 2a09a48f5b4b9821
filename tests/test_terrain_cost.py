"Cost learning: cached embeddings, pairs, the frozen encoder, runs that depend on runs, export."
import json
import numpy as np, pytest, torch
from torch import nn
from vislearn.core import ConfigError, DataError
from vislearn.learn import fit_run
from vislearn.nets import state_digest
from vislearn.runs.ckpt import save_atomic
from vislearn.runs.config import Part, RunConfig, Train
from vislearn.runs.record import Run
from vislearn.terrain.cost import (CostData, cost_batches, cost_learner, cost_of, cost_recipe, cost_scores, embed_patches, export_cost_model, load_cost_model, load_vectors, new_cost_net,
                                   pair_loss, start_at, terrain_cost_seed, train_cost)
from vislearn.terrain.losses import rank_loss
from vislearn.terrain.nets import CostNet, EmbeddingNet
from vislearn.terrain.patches import toy_patchset
from vislearn.terrain.rep import export_seed_files, load_encoder, rep_recipe, train_rep

@pytest.fixture(scope='module')
def root(tmp_path_factory): return tmp_path_factory.mktemp('cost')

@pytest.fixture(scope='module')
def pset(root): return toy_patchset(root)

@pytest.fixture(scope='module')
def parent(root, pset):
    cfg = rep_recipe(root, 4, 3)
    cfg = cfg.replace(data=cfg.data.replace(train=Part(name='grid', params=dict(k=16, steps=40, block_m=2.))), train=Train(epochs=3, batch_size=48))
    return train_rep(cfg, root/'runs', pset, device='cpu')

def small(parent, root, kind='embeddings', epochs=8, steps=50, bs=128, **kw):
    cfg = cost_recipe(parent.dir, root, **kw)
    return cfg.replace(data=cfg.data.replace(train=Part(name=kind, params=dict(steps=steps, block_m=2.))), train=Train(epochs=epochs, batch_size=bs))

def test_seed_recipe_has_the_seeds_defaults():
    cfg = terrain_cost_seed(); data = CostData(**cfg.data.train.params)
    assert (cfg.train.epochs, cfg.train.batch_size, cfg.optim.lr, cfg.loss.params, cfg.schedule.name, cfg.data.train.name) == (20, 32, 1e-3, dict(margin=1.), 'constant', 'patches')
    assert (data.closure, data.weights, data.consistency, data.ground, cfg.model.params['start']) == (False, 'seed', 0, 0, None) and RunConfig(**json.loads(cfg.model_dump_json()))==cfg

def test_cache_holds_what_the_encoder_gives(pset, root):
    torch.manual_seed(1); encoder = EmbeddingNet(4).eval().requires_grad_(False); path = embed_patches(encoder, pset, 3, 2, root=root, bs=50); z = load_vectors(path)
    assert z.shape==(len(pset.loc_datum), 6, 4) and torch.allclose(z[:, 0], encoder(pset.images(pset.clearest)), atol=1e-5)
    assert (z[:, 1]-z[:, 0]).norm(dim=1).mean()>1e-4 and (z[:, 4]-z[:, 5]).norm(dim=1).mean()>1e-4 and embed_patches(encoder, pset, 3, 2, root=root)==path
    encoder.convnet[0].block[1].running_mean += 1e-3; assert embed_patches(encoder, pset, 3, 2, root=root)!=path # a buffer counts, too
    with pytest.raises(DataError, match="a store of kind 'patches', not of embeddings"): load_vectors(pset.data[0].path)

def test_pairs_are_labelled_right_and_pure(pset, root):
    L = len(pset.loc_datum); z = torch.arange(L, dtype=torch.float32)[:, None, None].expand(L, 3, 1)
    dl = cost_batches(pset, z, None, 500, CostData(margin_mode='hops'), margin=2., seed=5, ground_from=1); x, y, m, g = dl.fn(0, 3)
    level = torch.as_tensor([pset.spec.levels()[pset.categories[c]] for c in pset.loc_category])[x[..., 0].long()]
    assert torch.equal(y, (level[:, 0]-level[:, 1]).sign()) and torch.equal(level[:, 2], level[:, 0]) and torch.equal(x[:, 0], x[:, 2])
    assert torch.equal(m, 2.*(level[:, 0]-level[:, 1]).abs().clamp(min=1)) and g.unique().tolist()==[0] and abs(dl.fn(1, 0)[3].unique().item()-.02)<1e-6
    assert all(torch.equal(a, b) for a, b in zip(dl.fn(4, 2), cost_batches(pset, z, None, 500, CostData(margin_mode='hops'), margin=2., seed=5).fn(4, 2)))
    images, y, _, _ = cost_batches(pset, None, None, 7).fn(0, 0); assert images.shape==(14, 3, 21, 21) and images.dtype==torch.uint8

def test_pair_loss_by_hand():
    c, y, m = torch.tensor([[0., 2, 1], [2, 0, 2]]), torch.tensor([-1, -1]), torch.ones(2)
    assert abs(pair_loss(c, y, m, consistency=.1) - (1.5 + .1*.5))<1e-6 and torch.equal(pair_loss(c[:, :2].reshape(-1, 1), y, m), rank_loss(c[:, 0], c[:, 1], y))
    assert abs(pair_loss(c[:, :2], y, m, torch.tensor([0., 1.])) - (1.5 + .5))<1e-6

@pytest.mark.parametrize('positivity', ['exp16', 'exp', 'softplus'])
def test_start(pset, positivity):
    net = CostNet(4, positivity)
    for p in net.parameters(): nn.init.zeros_(p)
    assert torch.allclose(start_at(net, 3.)(torch.randn(2, 4)), torch.full((2, 1), 3.), atol=1e-4)
    net = new_cost_net(cost_recipe(positivity=positivity, margin=2.), 4, pset.spec); u = net.net[-1].bias
    for p in net.net[-1:].parameters(): p.data.mul_(p.dim()==1)
    assert torch.allclose(net(torch.zeros(1, 4)), torch.tensor([[4.]]), atol=1e-3) and u.numel()==1 # two steps of margin 2
    with pytest.raises(ConfigError, match='must be above 0'): start_at(net, -1.)

def test_learns_the_stated_order(pset, parent, root):
    encoder = load_encoder(parent); before = state_digest(encoder); learn = cost_learner(small(parent, root), pset, encoder, root, 'cpu'); fit_run(learn, None, 8)
    z, names = load_vectors(embed_patches(encoder, pset, root=root)), np.array(pset.categories)[pset.loc_category]
    s = cost_scores(learn.model(z[:, 0]).detach().reshape(-1), names, pset.spec)
    assert s['ordering']>.97 and s['margin']>.9 and s['kendall']==1 and state_digest(encoder)==before
    assert learn.eval_values['ordering']>.95 and learn.recorder.values[-1][0]<.3*learn.recorder.values[0][0]

@pytest.mark.parametrize('recipe', [terrain_cost_seed, cost_recipe])
def test_frozen_means_bit_identical_batch_norm_included(pset, parent, root, recipe):
    encoder = load_encoder(parent); before = {k: v.clone() for k, v in encoder.state_dict().items()}
    cfg = recipe(parent.dir, root); cfg = cfg.replace(data=cfg.data.replace(train=Part(name='patches', params=cfg.data.train.params | dict(steps=6, block_m=2.))), train=Train(epochs=2, batch_size=16))
    learn = cost_learner(cfg, pset, encoder, root, 'cpu'); cost = state_digest(cost_of(learn.model)); fit_run(learn, None, 2)
    assert state_digest(cost_of(learn.model))!=cost and all(torch.equal(before[k], v) for k, v in learn.model.encoder.state_dict().items()) and not learn.model.encoder.training

def test_that_train_mode_would_have_changed_it(pset, parent):
    "The check above can fail: the original's way moves the buffers."
    encoder = load_encoder(parent); before = state_digest(encoder); encoder.train(); encoder(pset.images(np.arange(32))); assert state_digest(encoder)!=before

def test_run_reads_the_size_from_its_parent(pset, parent, root):
    run = train_cost(small(parent, root), root/'runs', pset, cache=root, device='cpu'); model = run.load_model(); x = pset.images(pset.clearest)
    assert run.manifest['parent']==parent.id and 'dim' not in run.config.model.params and run.status['state']=='finished' and model.card['dim']==4
    assert run.config.data.common['patches']['patch_px']==21 # the parent's rules of extraction, too
    assert set(model.card['calibration']['categories'])==set(pset.categories) and model.card['levels']==pset.spec.levels() and model.card['bev']['ppm'] and model.card['hashes']['encoder']==load_encoder(parent).card['state']
    for form in ('torchscript', 'export'): assert torch.allclose(load_cost_model(export_cost_model(run, root/form, form))(x), model(x), atol=1e-5)
    assert torch.equal(load_cost_model(run.dir/'artifacts')(x[:3]), load_cost_model(run.dir/'artifacts'/'cost_model.pt')(x[:3])) and load_cost_model(run.id, root=root/'runs')(x).shape==(len(x),)
    assert train_cost(run.config, pset=pset, folder=run.dir, cache=root, device='cpu').id==run.id # finished: nothing is done again
    with pytest.raises(ConfigError, match='is a run of terrain.rep, expected one of terrain.cost'): load_cost_model(parent)

def test_a_checkpoint_of_another_size(pset, parent, root):
    with pytest.raises(ConfigError, match='model.params.dim is 16, but the parent .* makes embeddings of size 4'):
        cost_learner(small(parent, root).replace(model=Part(name='cost', params=dict(dim=16))), pset, load_encoder(parent), root, 'cpu')
    run = train_cost(small(parent, root, epochs=1, steps=2), root/'runs', pset, cache=root, device='cpu')
    save_atomic(dict(name='seed', dim=6, patch_px=21, card='{}', state=EmbeddingNet(6).state_dict()), run.dir/'artifacts'/'encoder.pt')
    with pytest.raises(DataError, match='cost network for embeddings of size 4, its encoder makes 6'): load_cost_model(run)

def test_a_stopped_run_goes_on_without_its_parent(pset, parent, root):
    cfg = small(parent, root, epochs=2, steps=4); whole = train_cost(cfg, pset=pset, folder=root/'whole', cache=root, device='cpu')
    class Stop(Exception): pass
    import vislearn.terrain.cost as module; keep = module._finish
    def stop(*args): raise Stop('stopped')
    module._finish = stop
    try:
        with pytest.raises(Stop): train_cost(cfg, pset=pset, folder=root/'half', cache=root, device='cpu')
    finally: module._finish = keep
    assert Run(root/'half').status['state']=='failed'
    done = train_cost(Run(root/'half').config, pset=pset, folder=root/'half', cache=root, device='cpu'); x = pset.images([0, 9])
    assert done.status['state']=='finished' and torch.equal(done.load_model()(x), whole.load_model()(x))

def test_an_old_checkpoint_can_be_the_parent(pset, parent, root):
    old = export_seed_files(parent, root/'old')[-1]; cfg = small(parent, root, epochs=1, steps=3).replace(parent=str(old))
    run = train_cost(cfg, root/'runs', pset, cache=root, device='cpu'); assert run.manifest['parent']==str(old) and run.load_model().card['dim']==4

def test_errors(pset, parent, root):
    with pytest.raises(ConfigError, match='parent: which run'): train_cost(cost_recipe(root=root), root/'runs', pset)
    with pytest.raises(ConfigError, match="embeddings or patches, got 'x'"): cost_learner(small(parent, root, 'x'), pset, load_encoder(parent), root, 'cpu')
    encoder = load_encoder(parent); encoder.card['patch_px'] = 32
    with pytest.raises(DataError, match='trained on patches of 32 px, these have 21'): cost_learner(small(parent, root), pset, encoder, root, 'cpu')
    with pytest.raises(ConfigError, match="rank or bradley_terry, got 'x'"): pair_loss(torch.zeros(1, 2), torch.zeros(1), torch.ones(1), kind='x')
    run = Run.create(small(parent, root), folder=root/'unfinished', policy='record')
    with pytest.raises(DataError, match='the run did not finish'): load_cost_model(run)

def test_bradley_terry_learns_the_order_too(pset, parent, root):
    encoder = load_encoder(parent); learn = cost_learner(small(parent, root, loss='bradley_terry'), pset, encoder, root, 'cpu'); fit_run(learn, None, 8)
    assert learn.eval_values['ordering']>.95

@pytest.mark.slow
def test_tiny_benchmark(tmp_path):
    "The acceptance numbers of the tiny preset, through bags, patches, runs and files."
    from vislearn.synth.terrain import make_terrain
    from vislearn.terrain.rep import load_patchset, rep_scores
    made = make_terrain(tmp_path/'tiny', 'tiny', workers=2); cfg = rep_recipe(made.specs)
    train, held = (load_patchset(cfg, split, tmp_path/'cache') for split in ('train', 'holdout'))
    rep = train_rep(cfg, tmp_path/'runs', train); cost = train_cost(cost_recipe(rep.id, made.specs), tmp_path/'runs', train, cache=tmp_path/'cache')
    assert rep_scores(load_encoder(rep), train, held)['knn']>=.78
    s = cost_scores(cost.load_model()(held.images(held.clearest)), np.array(held.categories)[held.loc_category], train.spec)
    assert s['ordering']>=.96 and s['margin']>=.8
