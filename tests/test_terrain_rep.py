"Representation learning: batches, recipes, runs, checkpoints, resume."
import json
import numpy as np, pytest, torch
from vislearn.core import ConfigError, DataError, UserError
from vislearn.learn import fit_run
from vislearn.nets import Encoder, state_digest
from vislearn.runs.config import Part, RunConfig, Train, config_hash
from vislearn.runs.record import Run
from vislearn.terrain.nets import EmbeddingNet
from vislearn.terrain.patches import toy_patchset
from vislearn.terrain.rep import (CardCB, RepData, embed, encoder_of, export_seed_files, load_encoder, rep_batches, rep_card, rep_learner, rep_loss, rep_model,
                                  rep_recipe, rep_scores, terrain_rep_seed, train_rep)
from vislearn.terrain.triplets import block_split

@pytest.fixture(scope='module')
def pset(tmp_path_factory): return toy_patchset(tmp_path_factory.mktemp('cache'))

def small(root, sampler='grid', epochs=2, steps=10, bs=24, **kw):
    cfg = rep_recipe(root, 4, epochs, sampler=sampler, **kw)
    return cfg.replace(data=cfg.data.replace(train=Part(name=sampler, params=dict(k=8, steps=steps, block_m=2.))), train=Train(epochs=epochs, batch_size=bs))

def test_seed_recipe_has_the_seeds_defaults():
    cfg = terrain_rep_seed()
    assert (cfg.train.epochs, cfg.train.batch_size, cfg.optim.lr, cfg.loss.name, cfg.loss.params, cfg.schedule.name, cfg.schedule.params) == (40, 64, 2e-3, 'triplet', dict(margin=1.), 'plateau', dict(factor=.5, patience=3))
    data = RepData(**cfg.data.train.params); assert data.augment is None and data.steps is None and cfg.data.train.name=='triplets'
    assert cfg.optim.name=='adamw' and 'weight_decay' not in cfg.optim.params

def test_recipes_are_whole_configs_that_survive_yaml():
    from vislearn.runs.yaml import dump_yaml, parse_yaml
    for cfg in (rep_recipe(), rep_recipe(sampler='views'), terrain_rep_seed()):
        assert RunConfig(**parse_yaml(dump_yaml(cfg)))==cfg and RunConfig(**json.loads(cfg.model_dump_json()))==cfg
    assert config_hash(rep_recipe(dim=8))!=config_hash(rep_recipe(dim=6))

def test_wrong_settings():
    with pytest.raises(ConfigError, match='sampler must be one of grid, triplets, views'): rep_recipe(sampler='x')
    with pytest.raises(ConfigError, match=r"RepData: stepz: unknown key \(did you mean 'steps'\?\)"): RepData(stepz=3)
    with pytest.raises(ConfigError, match="cannot use batches of 'grid'"): rep_loss(rep_recipe().replace(loss=Part(name='vicreg')))
    with pytest.raises(ConfigError, match='loss.name must be one of'): rep_loss(rep_recipe().replace(loss=Part(name='hinge')))

def test_batches_are_pure_and_stay_inside_the_split(pset):
    split = block_split(pset, 2.)
    for kind, n in (('grid', 24), ('triplets', 72), ('views', 48)):
        train, again = (rep_batches(pset, split.train, kind, 24, RepData(k=8), seed=3) for _ in range(2))
        (x, y), (x2, y2) = train.fn(2, 5), again.fn(2, 5)
        assert len(x)==len(y)==n and x.dtype==torch.uint8 and torch.equal(x, x2) and torch.equal(y, y2)
        assert not torch.equal(x, train.fn(2, 6)[0]) and not torch.equal(x, train.fn(3, 5)[0])
    rows = {r.numpy().tobytes(): k for k, r in enumerate(pset.images(np.arange(len(pset))))}
    x, _ = rep_batches(pset, split.train, 'grid', 24, RepData(k=8)).fn(0, 0)
    assert split.train[pset.location[[rows[p.numpy().tobytes()] for p in x]]].all()

def test_views_are_two_views_of_one_location(pset):
    rows = {r.numpy().tobytes(): k for k, r in enumerate(pset.images(np.arange(len(pset))))}
    x, _ = rep_batches(pset, None, 'views', 20).fn(0, 0); a, b = np.array([rows[p.numpy().tobytes()] for p in x]).reshape(-1, 2).T
    assert (pset.location[a]==pset.location[b]).all() and (a!=b).all()

@pytest.mark.parametrize('sampler', ['grid', 'triplets', 'views'])
def test_two_steps_of_every_sampler(pset, tmp_path, sampler):
    learn = rep_learner(small(tmp_path, sampler, 1, 2, 12), pset, 'cpu'); before = state_digest(learn.model); fit_run(learn, None, 1)
    assert state_digest(learn.model)!=before and all(np.isfinite(v) for v in learn.recorder.values[-1])
    assert encoder_of(learn.model).dim==4 and {'knn', 'knn_far', 'knn_light', 'viewpoint_gap'} <= learn.eval_values.keys()

def test_learns_three_toy_terrains(pset, tmp_path):
    cfg = small(tmp_path, epochs=3, steps=40, bs=48).replace(data=small(tmp_path).data.replace(train=Part(name='grid', params=dict(k=16, steps=40, block_m=2.))))
    learn = rep_learner(cfg, pset, 'cpu'); split = block_split(pset, 2.); before = rep_scores(rep_model(cfg, 21).eval(), pset, split=split)
    fit_run(learn, None, 3); after = rep_scores(learn.model.eval(), pset, split=split, clusters=True)
    assert after['knn']>=.9 and after['knn_light']>=.85 and before['knn']<.8 and after['one_to_one']>.85 and after['viewpoint_gap']<before['viewpoint_gap']

def test_scores_of_perfect_and_useless_encoders(pset):
    class Known(torch.nn.Module):
        dim, card = 3, {}
        def forward(self, x): return torch.nn.functional.one_hot(self.ask(x), 3).float()
    known = Known(); lookup = {r.numpy().tobytes(): int(c) for r, c in zip(pset.images(np.arange(len(pset))), pset.category)}
    known.ask = lambda x: torch.tensor([lookup.get((p if p.dtype==torch.uint8 else p*0).numpy().tobytes(), 0) for p in x])
    s = rep_scores(known, pset, split=block_split(pset, 2.)); assert s['knn']==s['knn_far']==1 and s['viewpoint_gap']==0 and s['knn_light']<.6
    with np.errstate(invalid='ignore'): # all angles are 0
        known.ask = lambda x: torch.zeros(len(x), dtype=torch.long)
        assert abs(rep_scores(known, pset, split=block_split(pset, 2.))['knn']-1/3)<.1

def test_embed_does_not_depend_on_the_batch_size(pset):
    net = EmbeddingNet(4).eval(); rows = np.arange(0, 200, 7)
    assert torch.allclose(embed(net, pset, rows, bs=5), embed(net, pset, rows, bs=512), atol=1e-6) and embed(net, pset, rows[:0]).shape==(0, 4)

def test_run_checkpoint_card_and_loader(pset, tmp_path):
    run = train_rep(small(tmp_path), tmp_path/'runs', pset, device='cpu'); encoder = load_encoder(run)
    assert isinstance(encoder, Encoder) and encoder.dim==4 and not encoder.training and not any(p.requires_grad for p in encoder.parameters())
    assert encoder.card['categories']==pset.categories and encoder.card['patch_px']==21 and encoder.card['channel_order']=='rgb' and encoder.card['run']==run.id and encoder.card['bev']['ppm']
    assert encoder(pset.images([0, 1])).shape==(2, 4) and run.load_model().card==encoder.card and json.loads((run.dir/'artifacts'/'card.json').read_text())['dim']==4
    assert load_encoder(run.id, root=tmp_path/'runs').card==encoder.card and state_digest(load_encoder(run.dir))==encoder.card['state']
    with pytest.raises(DataError, match=f'{run.id} makes embeddings of size 4, expected 8'): load_encoder(run, dim=8)
    files = export_seed_files(run, tmp_path/'old'); old = load_encoder(files[-1])
    assert [f.name for f in files]==[f'trained_epoch_{k}.pth' for k in sorted({v['epoch']-1 for v in run.ckpt.index.values()})] and old.dim==4
    assert all(k.startswith('embedding_net.') for k in torch.load(files[-1], weights_only=True))
    with pytest.raises(DataError, match='holds embeddings of size 4, expected 6'): load_encoder(files[-1], dim=6)

def test_same_seed_same_weights_and_resume_is_exact(pset, tmp_path):
    cfg = small(tmp_path, epochs=3, steps=4)
    whole = train_rep(cfg, pset=pset, folder=tmp_path/'a', device='cpu')
    half = Run.create(cfg, folder=tmp_path/'b', policy='record'); learn = rep_learner(cfg, pset, 'cpu')
    class Stop(Exception): pass
    def stop(epoch, step, fn=learn.dls.train.fn):
        if (epoch, step)==(1, 2): half.save(__import__('vislearn.learn').learn.training_state(learn, 1, 2)); raise Stop('stopped')
        return fn(epoch, step)
    learn.dls.train.fn = stop
    with pytest.raises(Stop): fit_run(learn, half)
    done = train_rep(cfg, pset=pset, folder=tmp_path/'b', device='cpu')
    assert done.status['state']=='finished' and state_digest(load_encoder(done, best=False))==state_digest(load_encoder(whole, best=False))

def test_going_on_with_other_data_is_refused(pset):
    card = rep_card(rep_recipe(dim=4), pset); cb = CardCB(card)
    cb.set_state(cb.get_state())
    with pytest.raises(ConfigError, match='another dim: 8 instead of 4'): cb.set_state(dict(card=json.dumps(card | dict(dim=8))))

def test_wrong_kind_of_run(pset, tmp_path):
    run = Run.create(small(tmp_path).replace(task='terrain.cost'), folder=tmp_path/'r', policy='record')
    with pytest.raises(ConfigError, match='is a run of terrain.cost, expected one of terrain.rep'): load_encoder(run)
    with pytest.raises(UserError, match="encoder 'tiny_resnet': the original knows only 'seed'"): export_seed_files(Run.create(small(tmp_path, encoder='tiny_resnet'), folder=tmp_path/'s', policy='record'))
