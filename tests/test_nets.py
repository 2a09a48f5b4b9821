"Networks shared by the wings: oracles for architecture, feature positions, freezing and bad weight files."
import numpy as np, pytest, torch
from vislearn import nets
from vislearn.core import DataError, import_torchvision, real_data

squeezenet_file, mobilenet_file = (real_data(f'checkpoints/{name}.npz') for name in ('squeezenet1_0_imagenet_deepcompression', 'mobilenet_v1_025_224_imagenet'))
needs_weights = pytest.mark.skipif(squeezenet_file is None or mobilenet_file is None, reason='ImageNet weights are not on this machine')

def test_squeezenet_equals_torchvision():
    "Same keys, same logits, at an odd size too."
    torchvision = import_torchvision()
    torch.manual_seed(0)
    theirs, ours = torchvision.models.squeezenet1_0(weights=None).eval(), nets.SqueezeNet().eval()
    nets.fill_state(ours, theirs.state_dict(), 'torchvision')
    x = torch.rand(2, 3, 131, 170)
    with torch.no_grad(): expected, got = theirs((x-ours.mean)/ours.std), ours(x)
    assert torch.allclose(expected, got, atol=1e-5)
    assert set(ours.state_dict())==set(theirs.state_dict())

def test_maps_are_the_prefix_of_the_network():
    net = nets.freeze(nets.SqueezeNet())
    x = torch.randint(0, 256, (1, 3, 100, 120), dtype=torch.uint8)
    maps = net.maps(x, ('fire9', 'fire3'))
    assert list(maps)==['fire9', 'fire3']
    assert torch.equal(maps['fire9'], net.features((x.float()/255-net.mean)/net.std))

@pytest.mark.parametrize('layer', ['fire2', 'fire5', 'fire9'])
def test_feature_centres(layer):
    "The gradient of one feature is spread evenly around the pixel that SQUEEZENET_LAYERS says."
    torch.manual_seed(0)
    net = nets.freeze(nets.SqueezeNet())
    for m in net.modules():
        if isinstance(m, torch.nn.Conv2d): m.weight.fill_(1/m.weight[0].numel()); m.bias.fill_(1.)
    _, _, step, first = nets.SQUEEZENET_LAYERS[layer]
    x = torch.full((1, 3, 240, 240), 0.5, requires_grad=True)
    f = net.maps(x, (layer,))[layer]; i = f.shape[-1]//2
    f[0, :, i, i].sum().backward()
    support = x.grad[0].abs().sum((0, 1)).nonzero().flatten()
    centre = (support.min()+support.max()).item()/2
    assert abs(centre-(step*i+first))<=step  # max pooling picks one of equal inputs, so the support may lean by less than one step

@needs_weights
def test_weights_load_and_are_frozen():
    for load, size in ((nets.squeezenet_features, 227), (nets.mobilenet_features, 224)):
        net = load(); before = nets.state_digest(net)
        net(torch.rand(2, 3, size, size))
        assert nets.state_digest(net)==before and not net.training and nets.count_params(net, trainable=True)==0

@needs_weights
def test_wrong_weights_are_named():
    with pytest.raises(DataError, match='weights of another network'): nets.squeezenet_features(mobilenet_file)
    with pytest.raises(DataError, match='not on this machine'): nets.squeezenet_features('nowhere/weights.npz')

@needs_weights
def test_networks_know_asphalt_from_grass():
    "Frozen features of one texture lie closer together than those of two."
    folder = real_data('textures')
    if folder is None: pytest.skip('textures are not on this machine')
    from PIL import Image
    crops = lambda name: [np.asarray(Image.open(folder/f'{name}.jpg').convert('RGB'))[i:i+224, i:i+224] for i in (0, 256)]
    for load in (nets.squeezenet_features, nets.mobilenet_features):
        enc = nets.PooledEncoder(load())
        x = torch.from_numpy(np.stack(crops('asphalt')+crops('grass'))).permute(0, 3, 1, 2)
        z = torch.nn.functional.normalize(enc(x))
        same, other = (z[0]@z[1]+z[2]@z[3])/2, (z[0]@z[2]+z[1]@z[3])/2
        assert same>other+0.1

def test_freeze_holds_batch_norm_and_digest_sees_buffers():
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3)); before = nets.state_digest(net)
    net[0].running_mean += 1e-6
    assert nets.state_digest(net)!=before
    before = nets.state_digest(nets.freeze(net)); net(torch.randn(4, 3, 5, 5))
    assert nets.state_digest(net)==before

def test_npz_is_never_unpickled(tmp_path):
    np.savez(tmp_path/'evil.npz', w=np.array([{'a': 1}], dtype=object))
    with pytest.raises(DataError, match='not an npz archive of plain arrays'): nets.load_npz_state(tmp_path/'evil.npz')
