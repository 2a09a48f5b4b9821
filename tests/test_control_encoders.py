"The registry, embedders, embedding of many frames, encoders of runs."
import json, warnings
from pathlib import Path
import numpy as np, pytest, torch
from torch import nn
from torch.nn import functional as F
from vislearn.control.backbones import ResNet, random_dim
from vislearn.control.encoders import Concat, embed_frames, embed_speed, encoder_names, encoder_title, entries, make_encoder, run_encoder
from vislearn.control.demos import embedded
from vislearn.control.recipes import BcSource
from vislearn.control.trajs import toy_trajs
from vislearn.core import ConfigError, DataError, UserError
from vislearn.nets import Encoder, PooledEncoder, count_params, mobilenet_features, squeezenet_features, state_digest
from vislearn.objects.space import Space, SpaceConfig
from vislearn.runs.config import TASKS, Data, Part, RunConfig, Train, register_task
from vislearn.runs.record import Run
from vislearn.terrain.nets import EmbeddingNet
from vislearn.terrain.patches import toy_patchset
from vislearn.terrain.rep import rep_recipe, train_rep
from vislearn.video.svg import SVG, SVGConfig

def frames(n, h=64, w=64, m=1, seed=0): return np.random.default_rng(seed).integers(0, 256, (n, h, w, 3*m), dtype=np.uint8)

DIMS = {**{f'resnet{d}': n for d, n in ((18, 512), (34, 512), (50, 2048))}, 'resnet50_places': 2048, 'resnet50_l4': 2058, 'resnet50_l3': 2156, 'resnet50_places_l4': 2058, 'resnet50_places_l3': 2156, 'demy': 2048,
    **{f'moco_aug{s}': 2048 for s in ('', '_habitat', '_mujoco', '_uber', '_places')}, **{f'moco_croponly{s}': 2048 for s in ('', '_places', '_mujoco', '_uber', '_habitat')}, 'moco_coloronly': 2048,
    **{f'moco_{a}{p}_{layers}': dim for a in ('aug', 'croponly') for p in ('', '_places') for layers, dim in dict(l4=2058, l3=2156, uber_345=6262, uber_35=4204, uber_34=4214, uber_45=4106).items()},
    'mae_base': 768, 'mae_large': 1024, 'mae_huge': 1280, 'clip_vit': 512, 'clip_rn50': 1024,
    'r3m18': 512, 'r3m34': 512, 'r3m50': 2048, 'vip50': 1024, 'mvp_small': 384, 'mvp_base': 768, 'mvp_large': 1024, 'vc1_base': 768, 'vc1_large': 1024, 'mocov3_small': 384, 'mocov3_base': 768, 'squeezenet': 512, 'mobilenet': 256}

def test_P01_every_name_of_the_table():
    assert DIMS=={name: e.dim for name, e in entries().items()}
    assert set(encoder_names())==set(DIMS) | {f'random{n}' for n in range(1, 7)} | {'random5_separate'}

def test_P01_sizes_are_what_the_networks_give():
    made = {} # many names share a network
    for name, entry in entries().items():
        if not entry.kind: continue
        how = entry.build.func, tuple(a for a in entry.build.args if a!=name), str(entry.build.keywords)
        if how not in made:
            with torch.device('meta'): made[how] = entry.build()(torch.zeros(1, 3, 224, 224, device='meta')).shape
        assert made[how]==(1, DIMS[name]), name
    assert len(made)==12

def test_P01_files_are_called_as_in_the_original():
    files = {n: e.files[0] for n, e in entries().items() if e.files}
    for name, file in {'resnet50_places': 'resnet50_places.pth.tar', 'resnet50_l4': 'resnet50_l4.pth.tar', 'resnet50_l3': 'resnet50_l3.tar', 'resnet50_places_l4': 'resnet50_places_l4.tar', 'resnet50_places_l3': 'resnet50_places_l3.tar',
        'demy': 'demy.pth', 'moco_aug': 'moco_aug.pth.tar', 'moco_aug_places': 'moco_aug_places.pth.tar', 'moco_aug_uber': 'moco_aug_uber.pth', 'moco_aug_habitat': 'moco_aug_habitat.pth', 'moco_aug_l3': 'moco_aug_l3.pth',
        'moco_croponly_places_l4': 'moco_croponly_places_l4.pth', 'moco_croponly_places': 'moco_croponly_places.pth', 'moco_coloronly': 'moco_coloronly.pth', 'mae_huge': 'mae_pretrain_vit_huge.pth'}.items(): assert files[name]==file
    assert entries()['moco_aug_habitat'].files[1]=='moco_aug_habitat_64.pth' and entries()['moco_aug_uber'].members==() and entries()['moco_aug_uber_34'].members==('moco_aug_l3', 'moco_aug_l4')

@pytest.mark.parametrize('size', [(64, 64), (84, 84), (210, 160)])
@pytest.mark.parametrize('name', ['random1', 'random5', 'random5_separate'])
def test_P01_random_networks(name, size):
    encoder = make_encoder(name, size); n = int(name[6])
    assert encoder.dim==random_dim(n, *size) and encoder(torch.from_numpy(frames(2, *size))).shape==(2, encoder.dim)

@pytest.mark.parametrize('name, says', [('resnet51', "did you mean 'resnet50'"), ('moco_aug_ubre_345', "did you mean 'moco_aug_uber_345'"), ('true_stat', "did you mean 'true_state'"), ('true_state', 'is no encoder'),
    ('maskrcnn_l3', 'detectron2'), ('random', None), ('RANDOM-5', 'no encoder'), ('squeezenet@fire10', "no layer 'fire10' to read.*did you mean"), ('squeezenet@fire9:max', 'no pooling'), ('', 'no encoder')])
def test_names(name, says):
    if says is None: assert make_encoder(name).card['name']=='random5' and state_digest(make_encoder(name))==state_digest(make_encoder('random5')); return
    with pytest.raises(ConfigError, match=says) as e: make_encoder(name)
    assert len(str(e.value).splitlines())==1

def test_missing_and_wrong_files(tmp_path, monkeypatch):
    monkeypatch.setenv('PVR_MODEL_PATH', str(tmp_path))
    with pytest.raises(DataError, match=f'moco_aug_l3: expected its weights as moco_aug_l3.pth in {tmp_path}'): make_encoder('moco_aug_l3')
    with pytest.raises(DataError, match='moco_aug_l3: expected'): make_encoder('moco_aug_uber_345')
    torch.save({k: v for k, v in ResNet(34).state_dict().items()}, tmp_path/'resnet18-f37072fd.pth')
    with pytest.raises(DataError, match='resnet18-f37072fd.pth: weights of another network') as e: make_encoder('resnet18')
    assert len(str(e.value).splitlines())==1
    with pytest.warns(UserWarning, match='resnet34: no weights file, so its weights are random'): a = make_encoder('resnet34', allow_random=True)
    with pytest.warns(UserWarning): b = make_encoder('resnet34', allow_random=True)
    assert a.fingerprint==b.fingerprint and a.card['source']=='random, seed 0'

def test_weights_from_a_file_a_folder_and_the_environment(tmp_path, monkeypatch):
    net = ResNet(18); path = tmp_path/'resnet18-f37072fd.pth'; torch.save(dict(net.state_dict()), path)
    by_file = make_encoder('resnet18', weights=path); by_folder = make_encoder('resnet18', weights=tmp_path); monkeypatch.setenv('PVR_MODEL_PATH', str(tmp_path)); by_env = make_encoder('resnet18')
    assert state_digest(net)==by_file.card['weights']==by_folder.card['weights']==by_env.card['weights'] and by_env.card['source']==path.name
    x = torch.from_numpy(frames(2, 48, 64)); encoder = by_env
    with torch.no_grad(): assert torch.allclose(encoder(x), net.eval()(encoder.inputs(x.permute(0, 3, 1, 2))), atol=1e-4)
    assert not encoder.training and not any(p.requires_grad for p in encoder.parameters())

def test_random_file_of_the_original(tmp_path):
    from vislearn.control.backbones import RandomConv
    net = RandomConv(5, seed=123); torch.save(dict(state_dict=net.state_dict()), tmp_path/'random5.tar')
    encoder = make_encoder('random5', weights=tmp_path); assert encoder.card['source']=='random5.tar' and state_digest(encoder.net)==state_digest(net)
    seeded = make_encoder('random4', weights=tmp_path, seed=3); assert seeded.card['source']=='seed 3' and state_digest(seeded)==state_digest(make_encoder('random4', seed=3)) # a folder for other encoders
    with pytest.raises(DataError, match='random4: .*no.tar: no such weights file'): make_encoder('random4', weights=tmp_path/'no.tar')

@pytest.fixture(scope='module')
def uber():
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); return make_encoder('moco_aug_uber_345', allow_random=True)

def test_P04_uber_is_its_members_side_by_side(uber):
    x = torch.from_numpy(frames(2)); ready = uber.inputs(x.permute(0, 3, 1, 2))
    with torch.no_grad():
        parts = [net(ready) for net in uber.net.members]; out = uber(x)
    assert [p.shape[1] for p in parts]==[2156, 2058, 2048] and torch.allclose(out, torch.cat(parts, 1), atol=1e-5) and out.shape==(2, 6262)
    state = uber.state_dict(); assert len(state)==277 + 337 + 318 and count_params(uber)==8_747_214 + 25_072_490 + 23_508_032
    assert isinstance(uber.net, Concat) and {k.split('.')[2] for k in state}=={'0', '1', '2'}
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); alone = make_encoder('moco_aug_l4', allow_random=True)
    assert state_digest(alone.net)==state_digest(uber.net.members[1]), 'a member is the encoder of that name'

def test_P04_uber_moves_as_a_whole(uber):
    import copy
    moved = copy.deepcopy(uber).to(torch.float64)
    assert all(p.dtype==torch.float64 for p in moved.parameters()) and moved.to('meta').device.type=='meta' and all(p.device.type=='meta' for p in moved.parameters())

def test_shapes_are_never_squeezed():
    encoder = make_encoder('squeezenet')
    assert isinstance(encoder, Encoder)
    for n in (0, 1, 2):
        for m in (1, 2, 3):
            x = frames(n, m=m); out = encoder(torch.from_numpy(x))
            assert out.shape==(n, 512*m)==(n, encoder.out_dim(m)) and out.dtype==torch.float32 and embed_frames(encoder, x).shape==out.shape
            assert torch.allclose(encoder(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()), out, atol=1e-5)

def test_pictures_of_an_observation_are_embedded_one_by_one():
    encoder, x = make_encoder('mobilenet'), frames(3, m=2)
    both = embed_frames(encoder, x); view, goal = embed_frames(encoder, x[..., :3]), embed_frames(encoder, x[..., 3:])
    assert np.allclose(both, np.concatenate([view, goal], 1), atol=1e-4) and not np.allclose(view, goal, atol=1e-3)

@pytest.mark.parametrize('name, make', [('squeezenet', squeezenet_features), ('mobilenet', mobilenet_features)])
def test_shipped_networks_are_the_pooled_encoders(name, make):
    x = torch.from_numpy(frames(2, 120, 160)); encoder, ref = make_encoder(name, (120, 160)), PooledEncoder(make())
    assert torch.cosine_similarity(encoder(x), ref(x.permute(0, 3, 1, 2))).min() > .999 and encoder.card['weights']==state_digest(ref.net)

def test_card_and_fingerprint():
    base = make_encoder('random2'); assert json.loads(json.dumps(base.card))==base.card and base.card['versions']['torch']==torch.__version__ and len(base.fingerprint)==12
    assert base.fingerprint==make_encoder('random2').fingerprint
    others = [make_encoder('random2', seed=1), make_encoder('random2', dtype='bfloat16'), make_encoder('random3'), make_encoder('random2', (84, 84)), make_encoder('random2@conv1:gap')]
    assert len({e.fingerprint for e in others} | {base.fingerprint})==6
    a, b, c = (make_encoder('squeezenet', preprocess=p).fingerprint for p in ('legacy', 'modern', 'whole')); assert a==b==c, 'its own preprocessing is antialiased and whole already'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore'); assert len({make_encoder('resnet18', preprocess=p, allow_random=True).fingerprint for p in ('legacy', 'modern', 'whole')})==3

def test_other_layers():
    for name, dim in {'squeezenet@fire5:flat': 256*27*27, 'squeezenet@fire9:grid3': 4608, 'mobilenet@block4:spatialsoftmax': 128, 'random4@conv2:gap': 32, 'random4@conv4:flat': 512}.items():
        encoder = make_encoder(name); assert encoder.dim==dim and encoder(torch.from_numpy(frames(1))).shape==(1, dim) and encoder.card['name'].startswith(name.split(':')[0])
    x = torch.from_numpy(frames(2))
    assert torch.allclose(make_encoder('random4@conv4:flat')(x), make_encoder('random4')(x)) and torch.allclose(make_encoder('squeezenet@fire9')(x), make_encoder('squeezenet')(x))

def test_frozen_or_ready_to_learn():
    x = torch.from_numpy(frames(4)); frozen = make_encoder('random3'); outer = nn.Sequential(frozen, nn.Linear(frozen.dim, 2)).train()
    assert not frozen.training and not frozen.net.training and not frozen(x).requires_grad
    outer(x).sum().backward(); assert all(p.grad is None for p in frozen.parameters())
    with warnings.catch_warnings(): warnings.simplefilter('ignore'); tuned = make_encoder('resnet18', allow_random=True, freeze=False)
    assert tuned.training and tuned.net.bn1.training and all(p.requires_grad for p in tuned.parameters())
    mean = tuned.net.bn1.running_mean.clone(); tuned(x).square().sum().backward()
    assert all(p.grad is not None for p in tuned.parameters()) and not torch.equal(mean, tuned.net.bn1.running_mean)
    tuned.eval(); assert not tuned.net.bn1.training; tuned.train(); assert tuned.net.bn1.training

def test_bfloat16_is_close():
    x = frames(8, 120, 160); a, b = embed_frames(make_encoder('squeezenet', (120, 160)), x), embed_frames(make_encoder('squeezenet', (120, 160), dtype='bfloat16'), x)
    assert a.dtype==b.dtype==np.float32 and not np.array_equal(a, b)
    assert np.linalg.norm(a-b)/np.linalg.norm(a) < .03 and ((a*b).sum(1)/np.linalg.norm(a, axis=1)/np.linalg.norm(b, axis=1)).min() > .999

@pytest.mark.parametrize('batch', [1, 3, 7, 16, 100, None])
def test_embedding_does_not_depend_on_the_portions(batch):
    encoder, x = make_encoder('random3'), frames(7, m=2)
    assert np.allclose(embed_frames(encoder, x, batch), encoder(torch.from_numpy(x)).numpy(), atol=1e-6)

def test_memory_maps_are_read_in_portions(tmp_path):
    np.save(tmp_path/'x.npy', frames(9)); x = np.load(tmp_path/'x.npy', mmap_mode='r'); seen = []
    encoder = make_encoder('random3'); encoder.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    with warnings.catch_warnings():
        warnings.simplefilter('error'); out = embed_frames(encoder, x, batch=4)
    assert np.allclose(out, embed_frames(encoder, np.array(x))) and seen[:3]==[4, 4, 1]
    assert torch.is_inference_mode_enabled() is False and np.allclose(embed_frames(encoder, torch.from_numpy(np.array(x))), out)

def test_memory_is_constant_in_the_number_of_frames(tmp_path):
    from vislearn.core import peak_mb
    x = np.lib.format.open_memmap(tmp_path/'x.npy', 'w+', np.uint8, (6000, 64, 64, 3)); encoder = make_encoder('random6')   # 74 MB on disk, 295 MB as float32
    embed_frames(encoder, x[:64]); before = peak_mb(); out = embed_frames(encoder, x)
    assert out.shape==(6000, 32) and peak_mb() - before < 120

def test_wrong_frames():
    encoder = make_encoder('random5')
    with pytest.raises(DataError, match='must be uint8'): embed_frames(encoder, frames(2).astype(np.float32))
    with pytest.raises(DataError, match='add a leading axis'): embed_frames(encoder, frames(2)[0])
    with pytest.raises(DataError, match=r'random5: gave \(2, 288\) for 2 pictures of 64x64 pixels, expected \(2, 128\): make it for the size of the frames, here \(84, 84\)'): embed_frames(encoder, frames(2, 84, 84))

def test_any_encoder_embeds():
    ref = PooledEncoder(mobilenet_features()); x = frames(3)
    with torch.no_grad(): assert np.allclose(embed_frames(ref, x), ref(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy(), atol=1e-4)

def test_speed_has_all_sides():
    encoder = make_encoder('random4'); speed = embed_speed(encoder, frames(64), repeats=2)
    assert set(speed)=={'embed', 'backbone', 'trajectory', 'frame'} and speed['embed'] > speed['frame'] and not any(p.requires_grad for p in encoder.parameters())

def test_terrain_run_is_a_representation(tmp_path, monkeypatch):
    pset = toy_patchset(tmp_path/'cache'); cfg = rep_recipe(tmp_path, 4, 1)
    cfg = cfg.replace(data=cfg.data.replace(train=Part(name='grid', params=dict(k=8, steps=2, block_m=2.))), train=Train(epochs=1, batch_size=24))
    run = train_rep(cfg, tmp_path/'runs', pset, device='cpu'); model = run.load_model()
    encoder = make_encoder(f'run:{run.id}', (64, 48), root=tmp_path/'runs'); x = frames(3, 64, 48)
    assert encoder.dim==4 and encoder.card['name']==f'run:{run.id}' and encoder.card['task']=='terrain.rep' and encoder.card['weights']==state_digest(model)
    out = embed_frames(encoder, x); assert out.shape==(3, 4) and np.allclose(np.linalg.norm(out, axis=1), 1, atol=1e-5)
    assert make_encoder(str(run.dir)).fingerprint==encoder.fingerprint==make_encoder(run.id, root=tmp_path/'runs').fingerprint
    small = torch.from_numpy(frames(2, 21, 21)); assert torch.allclose(run_encoder(run, (21, 21))(small), model(small.permute(0, 3, 1, 2)), atol=1e-6), 'frames of its own size are not resized'

class Stub(nn.Module):
    "A model of another wing, which makes its encoder."
    def __init__(self): super().__init__(); self.scale = nn.Parameter(torch.tensor(2.))
    def as_encoder(self, size): return StubEncoder(self, size)

class StubEncoder(nn.Module):
    def __init__(self, model, size): super().__init__(); self.model, self.dim, self.card = model, 3 + size[0]//32, dict(kind='stub', epoch=7)
    def forward(self, x): return torch.cat([x.float().mean((2, 3))*self.model.scale, x.new_zeros(len(x), self.dim-3, dtype=torch.float)], 1)

def load_stub(run): return Stub()
def load_svg(run): torch.manual_seed(0); return SVG(SVGConfig(channels=3, nf=4, g_dim=16, rnn_size=8)).eval()
def load_space(run): torch.manual_seed(0); return Space(SpaceConfig.nano())
def load_patches(run): torch.manual_seed(0); net = EmbeddingNet(8).eval(); net.card = dict(patch_px=40); return net

@pytest.fixture
def wings(tmp_path):
    "A run of each wing, untrained."
    made = {}
    for name in ('svg', 'space', 'patches'):
        register_task(f'test.{name}', f'{__name__}:load_{name}', f'{__name__}:load_{name}')
        cfg = RunConfig(task=f'test.{name}', description='a stub', data=Data(root=str(tmp_path), train=Part(name='none')), model=Part(name='none'), train=Train(epochs=1, batch_size=2))
        made[name] = Run.create(cfg, out=tmp_path/'at@home', policy='record')
    yield made
    for name in made: TASKS.pop(f'test.{name}', None)

@pytest.mark.parametrize('name,side,layer,channels,cells', [('svg', 64, 'maps', 32, 4), ('svg', 64, 'map4', 32, 4), ('svg', 64, 'map1', 4, 32), ('space', 32, 'maps', 64, 4), ('patches', 40, 'maps', 128, 5)])
def test_layers_of_runs(wings, name, side, layer, channels, cells):
    run = wings[name]; x = frames(3, side, side, m=2); own = {'svg': load_svg, 'space': load_space, 'patches': load_patches}[name](run)
    pictures = torch.from_numpy(x[..., :3]).permute(0, 3, 1, 2)
    with torch.no_grad(): # by hand, from the network itself
        if name=='svg': want = own.encoder(pictures/255)[1][{'maps': 3, 'map4': 3, 'map1': 0}[layer]]
        elif name=='space': want = own.fg_module.img_encoder.enc((pictures/255).contiguous(memory_format=torch.channels_last))
        else: want = own.convnet(pictures/255)
    assert want.shape==(3, channels, cells, cells)
    for pool, vector in (('flat', want.flatten(1)), ('gap', want.mean((2, 3))), ('grid2', F.adaptive_avg_pool2d(want, 2).flatten(1)), ('', want.mean((2, 3)))):
        encoder = make_encoder(f'run:{run.id}@{layer}' + f':{pool}'*bool(pool), (side, side), root=run.dir.parent); out = embed_frames(encoder, x)
        assert encoder.dim==vector.shape[1] and out.shape==(3, 2*encoder.dim) and np.allclose(out[:, :encoder.dim], vector, atol=1e-5), pool
        assert encoder.card['name']==f'run:{run.id}@{layer}:{pool or "gap"}'

def test_layers_of_runs_by_folder(wings):
    run, root = wings['svg'], wings['svg'].dir.parent; plain, maps = (make_encoder(f'run:{run.id}{at}', (48, 80), root=root) for at in ('', '@maps:grid4'))
    for name in (f'run:{run.dir}@maps:grid4', f'{run.dir}@maps:grid4', f'{run.id}@maps:grid4'):
        assert make_encoder(name, (48, 80), root=root).fingerprint==maps.fingerprint
    assert make_encoder(str(run.dir), (48, 80)).fingerprint==plain.fingerprint==make_encoder(f'run:{run.dir}', (48, 80)).fingerprint, 'an @ in a folder is no layer'
    prints = {make_encoder(f'run:{run.dir}{at}', (48, 80)).fingerprint for at in ('', '@maps', '@maps:gap', '@maps:flat', '@map3:gap')}; assert len(prints)==4 and maps.card['weights']==plain.card['weights'] and maps.dim==32*16
    tuned = make_encoder(f'run:{run.dir}@maps:grid4', (48, 80), freeze=False); tuned(torch.from_numpy(frames(2, 48, 80))).sum().backward(); assert any(p.grad is not None for p in tuned.parameters())

def test_layers_that_a_run_does_not_have(wings):
    with pytest.raises(ConfigError, match=r"no layer 'map' to read \(did you mean 'maps'\?\): a run of test.svg offers map1, map2, map3, map4, maps"): make_encoder(f'run:{wings["svg"].dir}@map')
    with pytest.raises(ConfigError, match="no layer 'l3' to read.*: a run of test.space offers maps"): make_encoder(f'run:{wings["space"].dir}@l3:gap')
    with pytest.raises(ConfigError, match="no pooling 'grid'"): make_encoder(f'run:{wings["space"].dir}@maps:grid')

def test_a_run_without_layers(wings):
    register_task('test.svg', f'{__name__}:load_stub', f'{__name__}:load_stub')
    with pytest.raises(ConfigError, match="no layer 'maps' to read: a run of test.svg offers none"): make_encoder(f'run:{wings["svg"].dir}@maps')

def load_nothing(run): return 'a text'

def test_models_that_make_their_encoder(tmp_path):
    made = {}
    try:
        for task in ('stub', 'nothing'):
            register_task(f'test.{task}', f'{__name__}:load_stub', f'{__name__}:load_{task}')
            cfg = RunConfig(task=f'test.{task}', description='a stub', data=Data(root=str(tmp_path), train=Part(name='none')), model=Part(name='none'), train=Train(epochs=1, batch_size=2))
            made[task] = Run.create(cfg, out=tmp_path, policy='record')
        encoder = make_encoder(f'run:{made["stub"].id}', (64, 64), root=tmp_path); x = frames(2, m=2)
        assert encoder.dim==5 and encoder.card['epoch']==7 and encoder(torch.from_numpy(x)).shape==(2, 10)
        assert np.allclose(embed_frames(encoder, x)[:, :3], 2*x[..., :3].mean((1, 2)), atol=1e-2) and make_encoder(str(made['stub'].dir), (96, 96)).dim==6
        with pytest.raises(ConfigError, match='a run of test.nothing gives no encoder of pictures .str has neither as_encoder nor dim'): make_encoder(f'run:{made["nothing"].id}', root=tmp_path)
        with pytest.raises(UserError, match='no run abc'): make_encoder('run:abc', root=tmp_path)
    finally:
        for task in ('stub', 'nothing'): TASKS.pop(f'test.{task}', None)

def test_the_title_of_an_encoder_is_the_name_on_its_card(wings, tmp_path):
    run, root = wings['svg'], wings['svg'].dir.parent
    for name in ('random', 'squeezenet@fire5:flat', 'squeezenet@fire5', 'mobilenet@', f'run:{run.id}', f'run:{run.dir}', str(run.dir), f'run:{run.dir}@maps', f'{run.dir}@maps:grid4', f'run:{run.id[:-1]}@maps:flat'):
        assert encoder_title(name, root)==make_encoder(name, root=root, allow_random=True).card['name'], name
    assert encoder_title(f' random+run:{run.dir}@maps', root)==f'random5+run:{run.id}@maps:gap' and encoder_title('run:elsewhere@maps', root)=='run:elsewhere@maps:gap'

def test_features_of_a_run_are_not_made_twice(wings, monkeypatch):
    "The card says run:<id>, the config may name the folder: the same features, unless the run has other weights by now."
    run, trajs = wings['svg'], toy_trajs(2); monkeypatch.chdir(run.dir.parent.parent); src = BcSource(encoder=f'run:{run.dir.relative_to(Path.cwd())}@maps:grid2')
    trajs = embedded(trajs, src); encoder = make_encoder(src.encoder, (32, 32)); trajs.info = dict(encoder=json.loads(json.dumps(encoder.card))); assert trajs.emb.shape[1]==encoder.dim==128
    assert embedded(trajs, src) is trajs and embedded(trajs, src.replace(encoder=f'run:{run.dir}@maps:grid2')) is trajs and embedded(trajs, src.replace(encoder=src.encoder.removeprefix('run:'))) is trajs
    assert embedded(trajs, src.replace(encoder=f'run:{run.dir}@maps')).emb.shape[1]==32
    trajs.info['encoder']['weights'] = 'older'; assert embedded(trajs, src) is not trajs
    alias = embedded(toy_trajs(2), BcSource(encoder='squeezenet@fire5')); alias.info = dict(encoder=dict(name='squeezenet@fire5:gap')); assert embedded(alias, BcSource(encoder='squeezenet@fire5')) is alias
