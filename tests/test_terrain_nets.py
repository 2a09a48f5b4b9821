"Numeric facts of the terrain networks, and old checkpoints on disk."
import pytest, torch
from torch import nn
from torch.nn import functional as F
from vislearn.core import ConfigError, DataError
from vislearn.terrain.nets import (CostNet, EmbeddingNet, FullCostNet, IPTEncoder, Projector, TinyResNet, VisualEncoderTiny, as_unit,
                                   import_seed_state, make_encoder, read_seed_state, sphere, split_seed_state)

def count(model): return sum(p.numel() for p in model.parameters())

@pytest.mark.parametrize('dim,n', [(6, 234_153), (8, 234_411), (16, 235_443), (64, 241_635), (128, 249_891)])
def test_seed_encoder_counts(dim, n):
    net = EmbeddingNet(dim)
    assert count(net)==n==233_379 + 129*dim and sum(b.numel() for b in net.buffers())==419
    blocks = [count(block) for block in net.convnet]
    assert blocks==[2_401, 25_793, 205_185] and count(net.fc)==129*dim

@pytest.mark.parametrize('side,cells', [(64, 8), (32, 4), (60, 8), (8, 1)])
def test_feature_map_and_unit_norm(side, cells):
    net, x = EmbeddingNet(8).eval(), torch.randint(0, 256, (5, 3, side, side), dtype=torch.uint8)
    assert net.features(x).shape==(5, 128, cells, cells)
    assert (net(x).norm(dim=1)-1).abs().max()<1e-6

def test_same_layers_written_out_by_hand():
    "The forward pass against the layer table, operation by operation."
    torch.manual_seed(0); net = EmbeddingNet(8).eval(); x = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.running_mean.uniform_(-1, 1); m.running_var.uniform_(.5, 2)
    y = x.double()/255; s = {k:v.double() for k,v in net.state_dict().items()}
    for k, pad in enumerate((3, 2, 2)):
        g = lambda n: s[f'convnet.{k}.block.{n}']
        y = F.conv2d(y, g('0.weight'), g('0.bias'), stride=2, padding=pad)
        y = (y-g('1.running_mean')[:,None,None])/(g('1.running_var')[:,None,None]+1e-5).sqrt()*g('1.weight')[:,None,None]+g('1.bias')[:,None,None]
        y = torch.where(y>0, y, y*g('2.weight'))
    y = y.mean((2, 3))@s['fc.weight'].T + s['fc.bias']; y = y/y.pow(2).sum(1, keepdim=True).sqrt()
    assert torch.allclose(net(x).double(), y, atol=1e-5)

def test_uint8_and_float_agree_and_zero_vector_is_safe():
    net, x = EmbeddingNet(8).eval(), torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(net(x), net(x.float()/255)) and torch.equal(as_unit(x), x/255)
    assert torch.isfinite(sphere(torch.zeros(1, 4))).all()

def test_other_counts():
    assert count(VisualEncoderTiny(64))==172_264 and count(IPTEncoder(64))==279_520
    assert count(Projector(64, 64))==8_321 and count(Projector(64, 128))==24_833

def test_sterling_stages():
    net, x, shapes = VisualEncoderTiny(64).eval(), torch.rand(2, 3, 64, 64), []
    for stage in net.stages: x = stage(x); shapes.append(tuple(x.shape[1:]))
    assert (8, 32, 32) in shapes and (16, 16, 16) in shapes and (32, 8, 8) in shapes and shapes[-1]==(64, 2, 2)
    assert not any(m.bias is not None for m in net.modules() if isinstance(m, nn.Conv2d))

@pytest.mark.parametrize('dim', [6, 8, 16, 64])
def test_cost_net(dim):
    net = CostNet(dim); assert count(net)==2*dim*dim + 3*dim + 3
    assert (net(torch.randn(500, dim)*50)>0).all() and net(torch.randn(500, dim)*1e6).max()<=25.22
    for p in net.parameters(): nn.init.zeros_(p)
    assert torch.equal(net(torch.randn(7, dim)), torch.full((7, 1), .0625))

@pytest.mark.parametrize('name', ['seed', 'tiny_resnet', 'sterling'])
def test_gradient_reaches_every_parameter_and_one_batch_is_learned(name):
    torch.manual_seed(0); net = make_encoder(name, 4, 32); x = torch.rand(12, 3, 32, 32); y = F.normalize(torch.randn(12, 4), dim=1)
    opt = torch.optim.Adam(net.parameters(), 3e-3); first = None
    for k in range(60):
        loss = (net(x)-y).pow(2).mean(); opt.zero_grad(); loss.backward(); opt.step(); first = first or loss.item()
        if k==0: assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        if k==0: assert all(p.grad.abs().sum()>0 for p in net.parameters() if p.dim()>1)
    assert loss.item()<.3*first

def test_dense_is_the_windowed_mean_of_one_feature_map():
    torch.manual_seed(0); model = FullCostNet(EmbeddingNet(8), CostNet(8)).eval(); x = torch.randint(0, 256, (1, 3, 96, 64), dtype=torch.uint8)
    fast, maps = model.dense(x, 32), model.encoder.features(x)
    assert fast.shape==(1, 9, 5)
    for r in range(9):
        for c in range(5):
            z = sphere(model.encoder.fc(maps[:,:,r:r+4,c:c+4].mean((2, 3))))
            assert torch.allclose(fast[0,r,c], model.cost(z)[0,0], atol=1e-6)

@pytest.mark.parametrize('prefix', ['embedding_net.', ''])
def test_import_both_name_patterns(prefix, tmp_path):
    torch.manual_seed(0); net = EmbeddingNet(8).eval(); x = torch.rand(3, 3, 32, 32)
    torch.save({prefix+k:v for k,v in net.state_dict().items()}, tmp_path/'trained_epoch_79.pth')
    got, cost = import_seed_state(tmp_path/'trained_epoch_79.pth')
    assert cost is None and got.dim==8 and torch.equal(got(x), net(x)) and not got.training

@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_import_cost_part_of_a_script(tmp_path):
    torch.manual_seed(0); model = FullCostNet(EmbeddingNet(6), CostNet(6)).eval(); x = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    torch.jit.trace(model, x).save(str(tmp_path/'fullcostnet_19.pt'))
    encoder, cost = import_seed_state(tmp_path/'fullcostnet_19.pt')
    assert torch.allclose(FullCostNet(encoder, cost)(x), model(x), atol=1e-7)

def test_wrong_size_names_both_in_one_line(tmp_path):
    torch.save(EmbeddingNet(6).state_dict(), tmp_path/'a.pth')
    with pytest.raises(DataError, match='holds embeddings of size 6, expected 8') as e: import_seed_state(tmp_path/'a.pth', dim=8)
    assert '\n' not in str(e.value) and 'a.pth' in str(e.value)
    with pytest.raises(ConfigError, match='size 6, the cost network expects 8'): FullCostNet(EmbeddingNet(6), CostNet(8))

def test_bad_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such checkpoint'): read_seed_state(tmp_path/'none.pth')
    (tmp_path/'x.pth').write_bytes(b'not a checkpoint')
    with pytest.raises(DataError, match='neither a state dict'): read_seed_state(tmp_path/'x.pth')
    torch.save([1, 2], tmp_path/'l.pth')
    with pytest.raises(DataError, match='expected a dictionary of tensors, got list'): read_seed_state(tmp_path/'l.pth')
    torch.save(TinyResNet(8).state_dict(), tmp_path/'r.pth')
    with pytest.raises(DataError, match="not the seed's encoder") as e: import_seed_state(tmp_path/'r.pth')
    assert '\n' not in str(e.value)
    half = FullCostNet(EmbeddingNet(8), CostNet(8)).state_dict(); half.popitem()
    torch.save(half, tmp_path/'h.pth')
    with pytest.raises(DataError, match='do not fit a cost network of size 8'): import_seed_state(tmp_path/'h.pth')
    with pytest.raises(DataError, match='found 0 among'): split_seed_state({'a': torch.zeros(1)})
