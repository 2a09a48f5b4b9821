"Checkpoint files: the public formats made here with random weights, read back, and refused when they do not fit."
import os, pickle
import pytest, torch
from torch import nn
from torch.nn import functional as F
from vislearn.control.backbones import RandomConv, ResNet, clip_tower, vit
from vislearn.control.weights import clip_state, find_weights, is_torchscript, load_weights, pick_state, read_checkpoint, weight_folders
from vislearn.core import DataError, UserError
from vislearn.nets import state_digest

def moco_file(path, net, layer=None, drop=()):
    "As MoCo saves: query and key network with their heads, queue, pointer; compressed networks with what followed in pre-training."
    state = dict(net.state_dict())
    if layer: state |= {f'{layer}.2.conv1.weight': torch.randn(8, 4, 3, 3), f'{layer}.2.bn1.weight': torch.ones(8)}
    if layer=='layer3': state |= {'layer4.0.conv1.weight': torch.randn(4, 4, 1, 1)}
    state |= {f'fc.{i}.{k}': torch.zeros(3) for i in (0, 2) for k in ('weight', 'bias')}
    for k in drop: del state[k]
    full = {f'module.encoder_{q}.{k}': v for q in 'qk' for k, v in state.items()} | {'module.queue': torch.randn(128, 64), 'module.queue_ptr': torch.zeros(1, dtype=torch.long)}
    torch.save(dict(epoch=200, arch='resnet50', state_dict=full, optimizer=dict(state={}, param_groups=[])), path)
    return full

@pytest.fixture(scope='module')
def trunk(): return ResNet(50)
@pytest.fixture(scope='module')
def l3(): return ResNet(50, 'l3')
@pytest.fixture(scope='module')
def l4(): return ResNet(50, 'l4')

def test_P02_moco(tmp_path, trunk):
    full = moco_file(tmp_path/'moco_aug.pth.tar', trunk)
    assert len(full)==646==2*322 + 2
    state = pick_state(read_checkpoint(tmp_path/'moco_aug.pth.tar'), 'moco5', 'x'); assert len(state)==318
    loaded = load_weights(ResNet(50), tmp_path/'moco_aug.pth.tar', 'moco5')
    assert state_digest(loaded)==state_digest(trunk)

@pytest.mark.parametrize('layer, kind', [('l3', 'moco3'), ('l4', 'moco4')])
def test_P02_compressed_moco(tmp_path, request, layer, kind):
    net, path = request.getfixturevalue(layer), tmp_path/f'moco_aug_{layer}.pth'
    moco_file(path, net, f'layer{layer[1]}')
    assert state_digest(load_weights(ResNet(50, layer), path, kind))==state_digest(net), 'layers that came after are left out'
    moco_file(path, net, f'layer{layer[1]}', drop=[f'layer{layer[1]}.1.conv2.weight'])
    with pytest.raises(DataError, match=rf'moco_aug_{layer}.pth: weights of another network: layer{layer[1]}.1.conv2.weight missing'): load_weights(ResNet(50, layer), path, kind)

@pytest.mark.parametrize('kind, fixture, extra', [('sup5', 'trunk', ['fc.weight', 'fc.bias']), ('sup4', 'l4', ['fc.weight', 'layer4.2.conv1.weight']), ('sup3', 'l3', ['fc.weight', 'layer4.1.conv1.weight', 'layer3.2.bn1.bias'])])
def test_P02_supervised(tmp_path, request, kind, fixture, extra):
    net = request.getfixturevalue(fixture); state = {f'module.{k}': v for k, v in (dict(net.state_dict()) | {k: torch.zeros(2) for k in extra}).items()}
    torch.save(dict(epoch=1, state_dict=state), tmp_path/'a.tar')
    new = ResNet(50) if fixture=='trunk' else ResNet(50, fixture)
    assert state_digest(load_weights(new, tmp_path/'a.tar', kind))==state_digest(net)
    del state['module.layer1.0.conv1.weight']; torch.save(dict(state_dict=state), tmp_path/'b.tar')
    with pytest.raises(DataError, match='layer1.0.conv1.weight missing'): load_weights(new, tmp_path/'b.tar', kind)

def test_P02_masked_autoencoder(tmp_path):
    net = vit('small'); extra = {'mask_token': torch.zeros(1, 1, 8), 'decoder_embed.weight': torch.zeros(8, 8), 'decoder_blocks.0.norm1.weight': torch.zeros(8), 'decoder_pos_embed': torch.zeros(1, 5, 8)}
    assert {k.split('.')[0] for k in net.state_dict()}=={'cls_token', 'pos_embed', 'patch_embed', 'blocks', 'norm'}
    torch.save(dict(model=net.state_dict() | extra), tmp_path/'mae_visualize_vit.pth')
    assert state_digest(load_weights(vit('small'), tmp_path/'mae_visualize_vit.pth', 'mae'))==state_digest(net)
    torch.save(dict(model=net.state_dict() | {'head.weight': torch.zeros(2)}), tmp_path/'odd.pth')
    with pytest.raises(DataError, match='odd.pth: weights of another network: head.weight not in this network'): load_weights(vit('small'), tmp_path/'odd.pth', 'mae')
    with pytest.raises(DataError, match='no .state_dict. inside .found model.: a MoCo network is expected'): load_weights(ResNet(18), tmp_path/'odd.pth', 'moco5')

def test_r3m_vip_and_mocov3(tmp_path, trunk):
    words = {'module.lang_enc.model.weight': torch.zeros(3), 'module.lang_rew.pred.0.weight': torch.zeros(3)}
    torch.save(dict(r3m={f'module.convnet.{k}': v for k, v in trunk.state_dict().items()} | words, alpha=1), tmp_path/'r3m.pt')
    assert state_digest(load_weights(ResNet(50), tmp_path/'r3m.pt', 'r3m'))==state_digest(trunk)
    net = ResNet(50, out=1024); torch.save(dict(vip={f'module.convnet.{k}': v for k, v in net.state_dict().items()}), tmp_path/'vip.pt')
    assert state_digest(load_weights(ResNet(50, out=1024), tmp_path/'vip.pt', 'vip'))==state_digest(net)
    with pytest.raises(DataError, match="no 'r3m' inside .found vip.: an R3M network is expected"): load_weights(ResNet(50), tmp_path/'vip.pt', 'r3m')
    net = vit('small'); state = {f'module.base_encoder.{k}': v for k, v in net.state_dict().items()} | {'module.base_encoder.head.0.weight': torch.zeros(2), 'module.momentum_encoder.cls_token': torch.zeros(2)}
    torch.save(dict(state_dict=state), tmp_path/'v3.pth.tar')
    assert state_digest(load_weights(vit('small'), tmp_path/'v3.pth.tar', 'mocov3'))==state_digest(net)

def test_torchvision_files(tmp_path):
    net = ResNet(18); state = dict(net.state_dict()) | {'fc.weight': torch.zeros(1000, 512), 'fc.bias': torch.zeros(1000)}
    torch.save({k: v for k, v in state.items() if 'num_batches' not in k}, tmp_path/'resnet18-f37072fd.pth')   # files of old versions lack the counters
    assert torch.equal(load_weights(ResNet(18), tmp_path/'resnet18-f37072fd.pth', 'torchvision').layer4[1].conv2.weight, net.layer4[1].conv2.weight)
    with pytest.raises(DataError, match='resnet18-f37072fd.pth: weights of another network') as e: load_weights(ResNet(34), tmp_path/'resnet18-f37072fd.pth', 'torchvision')
    assert len(str(e.value).splitlines())==1

def test_random_files(tmp_path):
    net = RandomConv(5, seed=11); torch.save(dict(state_dict=net.state_dict()), tmp_path/'random5.tar')
    assert state_digest(load_weights(RandomConv(5), tmp_path/'random5.tar', 'random'))==state_digest(net)
    five = RandomConv(5, shared=False, seed=1); torch.save(dict(state_dict=five.state_dict()), tmp_path/'random.tar')
    assert state_digest(load_weights(RandomConv(5, shared=False), tmp_path/'random.tar', 'random'))==state_digest(five)
    with pytest.raises(DataError, match='load it as random5_separate'): load_weights(RandomConv(5), tmp_path/'random.tar', 'random')

class Block(nn.Module):
    "A transformer block with the names of CLIP."
    def __init__(self, d, heads):
        super().__init__(); self.attn, self.ln_1, self.ln_2 = nn.MultiheadAttention(d, heads), nn.LayerNorm(d), nn.LayerNorm(d)
        self.mlp = nn.Sequential(); self.mlp.add_module('c_fc', nn.Linear(d, 4*d)); self.mlp.add_module('c_proj', nn.Linear(4*d, d))
    def forward(self, x):
        y = self.ln_1(x); x = x + self.attn(y, y, y, need_weights=False)[0]
        h = self.mlp[0](self.ln_2(x)); return x + self.mlp[1](h*torch.sigmoid(1.702*h))

class Visual(nn.Module):
    def __init__(self, d=64, heads=2, depth=2, out=512, size=224, patch=32):
        super().__init__(); n = (size//patch)**2 + 1
        self.conv1, self.class_embedding, self.positional_embedding = nn.Conv2d(3, d, patch, patch, bias=False), nn.Parameter(torch.randn(d)), nn.Parameter(torch.randn(n, d))
        self.ln_pre, self.ln_post, self.proj = nn.LayerNorm(d), nn.LayerNorm(d), nn.Parameter(torch.randn(d, out)/8)
        self.transformer = nn.Module(); self.transformer.resblocks = nn.Sequential(*[Block(d, heads) for _ in range(depth)])
    def forward(self, x):
        x = self.conv1(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1) + self.positional_embedding
        return self.ln_post(self.transformer.resblocks(self.ln_pre(x).transpose(0, 1)).transpose(0, 1)[:, 0]) @ self.proj

class Clip(nn.Module):
    def __init__(self, visual):
        super().__init__(); self.visual, self.text_projection = visual, nn.Parameter(torch.randn(8, 8))
        for name, value in dict(input_resolution=224, context_length=77, vocab_size=49408).items(): self.register_buffer(name, torch.tensor(value))
    def forward(self, x): return self.visual(x)

@pytest.fixture(scope='module')
def small_clip(tmp_path_factory):
    "A TorchScript archive like CLIP's, half precision, with a small tower; the tower in float32."
    torch.manual_seed(0); model = Clip(Visual()).eval().half(); path = tmp_path_factory.mktemp('clip')/'ViT-B-32.pt'
    torch.jit.trace(model.float(), torch.rand(1, 3, 224, 224)).half().save(str(path))
    return path, model.visual.half().float()

def small_tower():
    import timm
    return timm.create_model('vit_base_patch32_clip_quickgelu_224', embed_dim=64, depth=2, num_heads=2).eval()

@pytest.mark.filterwarnings('ignore')
def test_P02_clip_transformer(small_clip):
    path, ref = small_clip
    assert is_torchscript(path) and all(k in read_checkpoint(path) for k in ('visual.proj', 'text_projection', 'vocab_size'))
    with pytest.raises(Exception): torch.load(path, weights_only=True)
    net, x = load_weights(small_tower(), path, 'clip'), torch.rand(3, 3, 224, 224)
    with torch.no_grad(): assert (net(x) - ref(x)).abs().max() < 2e-5 and net(x).std() > .1 and net(x).dtype==torch.float32
    assert (net.head.bias==0).all()
    with pytest.raises(DataError, match='not a CLIP model with a ResNet as image tower'): load_weights(clip_tower('rn50'), path, 'clip')
    with pytest.raises(DataError, match='ViT-B-32.pt: '): load_weights(clip_tower('vit'), path, 'clip')

class Bottleneck(nn.Module):
    def __init__(self, ni, width, stride):
        super().__init__(); nf = 4*width
        self.conv1, self.bn1, self.conv2, self.bn2 = nn.Conv2d(ni, width, 1, bias=False), nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3, self.stride, self.downsample = nn.Conv2d(width, nf, 1, bias=False), nn.BatchNorm2d(nf), stride, None
        if stride>1 or ni!=nf: self.downsample = nn.Sequential(); self.downsample.add_module('0', nn.Conv2d(ni, nf, 1, bias=False)); self.downsample.add_module('1', nn.BatchNorm2d(nf))
    def forward(self, x):
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        shrink = lambda t: F.avg_pool2d(t, self.stride) if self.stride>1 else t
        return F.relu(self.bn3(self.conv3(shrink(y))) + (x if self.downsample is None else self.downsample(shrink(x))))

class AttentionPool(nn.Module):
    def __init__(self, d, heads, out, n):
        super().__init__(); self.heads, self.positional_embedding = heads, nn.Parameter(torch.randn(n*n+1, d)/d**.5)
        self.k_proj, self.q_proj, self.v_proj, self.c_proj = (nn.Linear(d, k) for k in (d, d, d, out))
    def forward(self, x):
        x = x.flatten(2).transpose(1, 2); x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        q, k, v = (f(t).unflatten(2, (self.heads, -1)).transpose(1, 2) for f, t in ((self.q_proj, x[:, :1]), (self.k_proj, x), (self.v_proj, x)))
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)[:, 0])

class VisualResNet(nn.Module):
    def __init__(self):
        super().__init__(); ni = 3
        for i, nf in enumerate((32, 32, 64), 1): setattr(self, f'conv{i}', nn.Conv2d(ni, nf, 3, 2 if i==1 else 1, 1, bias=False)); setattr(self, f'bn{i}', nn.BatchNorm2d(nf)); ni = nf
        for i, (depth, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512)), 1):
            setattr(self, f'layer{i}', nn.Sequential(*[Bottleneck(ni if k==0 else 4*width, width, 2 if k==0 and i>1 else 1) for k in range(depth)])); ni = 4*width
        self.attnpool = AttentionPool(2048, 32, 1024, 7)
    def forward(self, x):
        for i in (1, 2, 3): x = F.relu(getattr(self, f'bn{i}')(getattr(self, f'conv{i}')(x)))
        x = F.avg_pool2d(x, 2)
        for i in (1, 2, 3, 4): x = getattr(self, f'layer{i}')(x)
        return self.attnpool(x)

def test_P02_clip_resnet(tmp_path):
    torch.manual_seed(0); ref = VisualResNet().eval(); state = {f'visual.{k}': v for k, v in ref.state_dict().items()}
    assert len(state)==339 and sum(p.numel() for p in ref.parameters())==38_316_896
    torch.save(state | {'text_projection': torch.zeros(3)}, tmp_path/'RN50.pt')
    net, x = load_weights(clip_tower('rn50'), tmp_path/'RN50.pt', 'clip').eval(), torch.rand(1, 3, 224, 224)
    with torch.no_grad(): assert torch.allclose(net(x), ref(x), atol=1e-5) and net(x).shape==(1, 1024)
    with pytest.raises(DataError, match='not a CLIP model with a transformer'): clip_state(state, small_tower(), 'x')

def test_vit_b32_of_clip_has_the_published_counts():
    with torch.device('meta'): visual = Visual(768, 12, 12)
    assert sum(p.numel() for p in visual.parameters())==87_849_216 and len(visual.state_dict())==152

def test_files_that_are_no_checkpoints(tmp_path):
    class Evil:
        def __reduce__(self): return os.system, ('true',)
    (tmp_path/'evil.pth').write_bytes(pickle.dumps(dict(state_dict=Evil()))); torch.save(dict(state_dict=Evil()), tmp_path/'evil.tar')
    (tmp_path/'cut.pth').write_bytes((tmp_path/'evil.tar').read_bytes()[:300]); torch.save(torch.zeros(3), tmp_path/'tensor.pth'); (tmp_path/'empty.pth').touch()
    torch.save(dict(state_dict={}), tmp_path/'none.pth')
    for name in ('evil.pth', 'evil.tar', 'cut.pth', 'tensor.pth', 'empty.pth', 'none.pth', 'missing.pth'):
        with pytest.raises(UserError) as e: load_weights(ResNet(18), tmp_path/name, 'sup5')
        assert name in str(e.value) and len(str(e.value).splitlines())==1, name

def test_where_files_are_looked_for(tmp_path, monkeypatch):
    one, two = tmp_path/'one', tmp_path/'two'; one.mkdir(); two.mkdir()
    for f in ('demy.pth', 'other.pth'): (two/f).touch()
    monkeypatch.delenv('PVR_MODEL_PATH', raising=False)
    with pytest.raises(DataError, match=r'demy: expected its weights as demy.pth in .*PVR_MODEL_PATH is not set.*allow_random') as e: find_weights('demy', ['demy.pth'])
    assert len(str(e.value).splitlines())==1
    monkeypatch.setenv('PVR_MODEL_PATH', str(two)); assert weight_folders()[0]==two and find_weights('demy', ['demy.pth'])==two/'demy.pth'
    assert find_weights('demy', ['old.pth', 'other.pth'])==two/'other.pth' and find_weights('demy', ['x.pth'], two/'other.pth')==two/'other.pth'
    with pytest.raises(DataError, match=f'expected its weights as demy.pth in {one}:'): find_weights('demy', ['demy.pth'], one)
    with pytest.raises(DataError, match='demy: .*nowhere: no such weights file'): find_weights('demy', ['demy.pth'], tmp_path/'nowhere')
    assert find_weights('demy', ['x.pth'], must=False) is None
    monkeypatch.setenv('PVR_MODEL_PATH', str(one)); assert find_weights('squeezenet', ['squeezenet1_0_imagenet_deepcompression.npz']).name.endswith('.npz'), 'shipped with vislearn'
