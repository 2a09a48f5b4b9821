"Networks: exact counts, keys, sizes; against torchvision; taps on layers."
import numpy as np, pytest, torch
from torch import nn
from torch.nn import functional as F
from vislearn.control.backbones import CompressBlock, RandomConv, ResNet, Tap, clip_tower, layer_map, layer_names, orthogonal, own_rng, pool_map, random_dim, vit
from vislearn.core import ConfigError, import_torchvision
from vislearn.nets import MobileNet, SqueezeNet, count_params, state_digest

def on_meta(build):
    with torch.device('meta'): return build()

TABLE = {(56, 56): (25088, 6272, 1568, 512, 128, 32), (64, 64): (32768, 8192, 2048, 512, 128, 32), (84, 84): (56448, 14112, 3872, 1152, 288, 128), (128, 128): (131072, 32768, 8192, 2048, 512, 128),
         (210, 160): (268800, 67840, 17280, 4480, 1120, 384), (256, 256): (524288, 131072, 32768, 8192, 2048, 512)}

@pytest.mark.parametrize('size', TABLE)
def test_P01_random_table(size):
    for n, dim in enumerate(TABLE[size], 1):
        assert random_dim(n, *size)==dim
        if n > 1: assert RandomConv(n)(torch.zeros(1, 3, *size)).shape==(1, dim)

def test_P01_random_parameters_and_keys():
    assert [count_params(RandomConv(n)) for n in (1, 2, 3, 6)]==[896, 10_144, 10_144, 10_144] and count_params(RandomConv(5, shared=False))==37_888
    net = RandomConv(5); assert len(net.state_dict())==10 and list(net.state_dict())[:4]==['0.weight', '0.bias', '2.weight', '2.bias'] and net[2] is net[8]
    for i in (0, 2):
        w = net[i].weight.detach().double().flatten(1); gram = w.T@w if len(w) >= w.shape[1] else w@w.T
        assert torch.allclose(gram, 2*torch.eye(len(gram), dtype=torch.float64), atol=1e-5) and (net[i].bias==0).all()

def test_random_weights_depend_on_name_and_seed_only():
    torch.manual_seed(1); state = torch.get_rng_state(); a = RandomConv(4, seed=2)
    assert torch.equal(state, torch.get_rng_state()), 'the generator of torch is left alone'
    torch.manual_seed(99); digest = state_digest(a)
    assert digest==state_digest(RandomConv(4, seed=2)) and digest!=state_digest(RandomConv(4, seed=3))
    assert not torch.equal(RandomConv(4)[0].weight, RandomConv(5)[0].weight) and not torch.equal(RandomConv(5)[0].weight, RandomConv(5, shared=False)[0].weight)
    assert RandomConv(5)[0].weight[0, 0, 0].tolist()==pytest.approx(RandomConv(5, seed=0)[0].weight[0, 0, 0].tolist())

def test_random_weights_are_the_same_in_another_process():
    import subprocess, sys
    code = 'from vislearn.control.backbones import RandomConv; from vislearn.nets import state_digest; print(state_digest(RandomConv(3, seed=5)))'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip()==state_digest(RandomConv(3, seed=5))

def test_own_rng_gives_equal_networks():
    state = torch.get_rng_state()
    with own_rng('resnet18', 4): a = ResNet(18)
    with own_rng('resnet18', 4): b = ResNet(18)
    with own_rng('resnet18', 5): c = ResNet(18)
    assert state_digest(a)==state_digest(b)!=state_digest(c) and torch.equal(state, torch.get_rng_state())

@pytest.mark.parametrize('build, params, keys, dim, stats', [
    (lambda: ResNet(18), 11_176_512, 120, 512, 9_600), (lambda: ResNet(34), 21_284_672, 216, 512, 17_024), (lambda: ResNet(50), 23_508_032, 318, 2048, 53_120),
    (lambda: ResNet(50, 'l3'), 8_747_214, 277, 2156, None), (lambda: ResNet(50, 'l4'), 25_072_490, 337, 2058, None), (lambda: ResNet(50, out=1024), 25_606_208, 320, 1024, 53_120),
    (lambda: vit('small'), 21_665_664, 150, 384, None), (lambda: vit('base'), 85_798_656, 150, 768, None), (lambda: vit('large'), 303_301_632, 294, 1024, None), (lambda: vit('huge'), 630_764_800, 390, 1280, None),
    (lambda: clip_tower('vit'), 87_849_216 + 512, 153, 512, None), (lambda: clip_tower('rn50'), 38_316_896, 339, 1024, None)])
def test_P01_counts_keys_and_sizes(build, params, keys, dim, stats):
    net = on_meta(build)
    assert (count_params(net), len(net.state_dict()))==(params, keys) and net(torch.zeros(2, 3, 224, 224, device='meta')).shape==(2, dim)
    if stats: assert sum(v.numel() for k, v in net.state_dict().items() if 'running' in k)==stats

def test_P01_counts_of_torchvision_and_blocks():
    models = import_torchvision().models
    assert [count_params(on_meta(lambda d=d: getattr(models, f'resnet{d}')())) for d in (18, 34, 50)]==[11_689_512, 21_797_672, 25_557_032]
    assert [count_params(on_meta(lambda a=a: CompressBlock(*a))) for a in ((1024, 11), (2048, 42))]==[203_918, 1_564_458]

def test_trunk_is_torchvisions():
    net = ResNet(18).eval(); ref = import_torchvision().models.resnet18(); ref.fc = nn.Identity(); ref.load_state_dict(net.state_dict()); ref.eval()
    x = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(net(x), ref(x)) and list(net.state_dict())==list(ref.state_dict())
        assert torch.equal(net.maps(x, 'l2'), ref.layer2(ref.layer1(ref.maxpool(ref.relu(ref.bn1(ref.conv1(x)))))))

def test_compressed_network_by_hand():
    net, x = ResNet(50, 'l3').eval(), torch.rand(1, 3, 224, 224); block = net.layer3[1]
    keys = [k for k in net.state_dict() if k.startswith('layer3.1.')]
    assert {k.split('.')[2] for k in keys}=={'conv1', 'bn1', 'conv2', 'bn2', 'downsample'} and 'layer3.1.downsample.0.bias' in keys and 'layer3.1.conv1.bias' not in keys and 'layer3.0.5.conv3.weight' in net.state_dict()
    for bn in (block.bn1, block.bn2, block.downsample[1]): nn.init.uniform_(bn.weight); nn.init.normal_(bn.bias); bn.running_mean.normal_(); bn.running_var.uniform_(.5, 2)
    with torch.no_grad():
        m = net.layer3[0](net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(x))))))); out = net(x)
        bn = lambda y, b: (y - b.running_mean[:, None, None])/(b.running_var[:, None, None] + b.eps).sqrt()*b.weight[:, None, None] + b.bias[:, None, None]
        u = bn(F.conv2d(m, block.conv1.weight, padding=1), block.bn1).clamp_min(0)
        v, s = bn(F.conv2d(u, block.conv2.weight, padding=1), block.bn2), bn(F.conv2d(m, block.downsample[0].weight, block.downsample[0].bias, padding=1), block.downsample[1])
        assert m.shape==(1, 1024, 14, 14) and torch.allclose(out, (v + s).clamp_min(0).flatten(1), atol=1e-4) and out.shape==(1, 2156) and (out >= 0).all() and out.std() > 0

def test_poolings():
    x = torch.rand(2, 3, 4, 6)
    assert torch.equal(pool_map(x, 'flat'), x.reshape(2, -1)) and torch.allclose(pool_map(x, 'gap'), x.mean((2, 3))) and torch.allclose(pool_map(x, 'grid1'), x.mean((2, 3)))
    assert torch.allclose(pool_map(x, 'grid2').view(2, 3, 2, 2)[:, :, 0, 1], x[:, :, :2, 3:].mean((2, 3)))
    p = torch.exp(x)/torch.exp(x).sum((2, 3), keepdim=True); ys, xs = torch.linspace(-1, 1, 4), torch.linspace(-1, 1, 6)
    assert torch.allclose(pool_map(x, 'spatialsoftmax'), torch.cat([torch.einsum('ncij,j->nc', p, xs), torch.einsum('ncij,i->nc', p, ys)], 1), atol=1e-6)
    with pytest.raises(ConfigError, match="did you mean 'spatialsoftmax'"): pool_map(x, 'softmax')

def test_taps():
    x = torch.rand(2, 3, 64, 64)
    for net in (SqueezeNet(), MobileNet(), RandomConv(3), ResNet(18)):
        net.eval()
        for layer in (layer_names(net)[0], layer_names(net)[-1]):
            with torch.no_grad(): assert torch.equal(Tap(net, layer, 'flat')(x), layer_map(net, x, layer).flatten(1)), layer
    net = on_meta(lambda: ResNet(50)); y = torch.zeros(1, 3, 224, 224, device='meta')
    assert Tap(net, 'l3', 'flat')(y).shape==(1, 1024*14*14) and Tap(net, 'l4', 'spatialsoftmax')(y).shape==(1, 4096)
    assert layer_names(on_meta(lambda: ResNet(50, 'l3')))==('l1', 'l2') and layer_names(on_meta(lambda: ResNet(50, 'l4')))==('l1', 'l2', 'l3')
    with pytest.raises(ConfigError, match="no layer 'l5' to read.*did you mean"): Tap(net, 'l5')

def test_tokens_of_a_transformer():
    import timm
    net = timm.create_model('vit_base_patch16_224', embed_dim=32, depth=2, num_heads=2, img_size=64, num_classes=0, global_pool='token').eval(); x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        tokens = net.forward_features(x)
        assert torch.equal(Tap(net, 'cls')(x), net(x)) and torch.equal(Tap(net, 'mean')(x), tokens[:, 1:].mean(1)) and Tap(net, 'patches')(x).shape==(2, 16*32)

def test_gradient_reaches_every_parameter():
    for net in (RandomConv(3), CompressBlock(8, 4)):
        net(torch.rand(2, 3 if isinstance(net, RandomConv) else 8, 16, 16)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in net.named_parameters() if n not in ('downsample.0.bias',)), 'a bias before batch norm has none'

def test_without_timm(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ConfigError, match=r'mae_base needs timm: pip install "vislearn\[pvr\]"'): vit('base', 'mae_base')

def test_orthogonal():
    for shape in ((4, 9), (9, 4), (5, 5)):
        w = orthogonal(*shape, np.random.default_rng(0), gain=1.).double(); gram = w@w.T if shape[0] <= shape[1] else w.T@w
        assert torch.allclose(gram, torch.eye(min(shape), dtype=torch.float64), atol=1e-6)
