"Preprocessing against torchvision and Pillow, the constants of the specification, channels taken apart."
from dataclasses import replace
import numpy as np, pytest, torch
from PIL import Image
from vislearn.control.inputs import FAMILIES, find_inputs, split_frames
from vislearn.core import ConfigError, DataError, import_torchvision

def noise(n, h, w, seed=0): return torch.randint(0, 256, (n, 3, h, w), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
def levels(name, mode='legacy'): return replace(find_inputs(name, mode), mean=None, std=None)

@pytest.mark.parametrize('size', [(64, 64), (84, 84), (210, 160), (120, 160), (480, 640), (256, 300), (224, 224)])
@pytest.mark.parametrize('family', ['resnet', 'mae', 'clip'])
def test_P03_same_numbers_as_torchvision(family, size):
    T = import_torchvision().transforms; how, x = FAMILIES[family], noise(2, *size)
    mode = T.InterpolationMode.BILINEAR if how.filter=='bilinear' else T.InterpolationMode.BICUBIC
    old = T.Compose([T.Resize(how.side, mode, antialias=how.antialias), T.CenterCrop(how.crop), T.ConvertImageDtype(torch.float32), T.Normalize(how.mean, how.std)])
    for frames in (x, x.contiguous(memory_format=torch.channels_last)):
        assert frames.shape==x.shape and how(frames).dtype==torch.float32
        diff = (how(frames) - old(x)).abs()
        assert diff.max() < 1.1/255/min(how.std) and (diff > 1e-5).float().mean() < 1e-4, 'but for ties of rounding, equal'   # a tie may fall either way

def test_P03_constants_of_a_grey_picture():
    grey = torch.full((1, 3, 300, 200), 128, dtype=torch.uint8)
    for family, want in dict(resnet=(.07406, .20518, .42649), mae=(.07406, .20518, .42649), vc1=(.07406, .20518, .42649), r3m=(.07406, .20518, .42649), clip=(.07634, .16890, .33995)).items():
        out = find_inputs(family)(grey)
        assert out.shape==(1, 3, 224, 224) and torch.allclose(out, torch.tensor(want).view(1, 3, 1, 1).expand_as(out), atol=6e-6), family
    assert torch.equal(find_inputs('random')(grey), grey/255)

def test_P03_crop_keeps_the_central_224_of_256():
    x = noise(1, 256, 256); out = levels('resnet')(x)
    assert torch.equal((out*255).round().to(torch.uint8), x[..., 16:240, 16:240]) and find_inputs('resnet').seen(256, 256)==(16, 16, 240, 240)
    border = x.clone(); border[..., :16, :] = 0; border[..., 240:, :] = 0; border[..., :16] = 0; border[..., 240:] = 0
    assert torch.equal(find_inputs('resnet')(x), find_inputs('resnet')(border)), 'the border is never seen'
    assert not torch.equal(find_inputs('resnet', 'whole')(x), find_inputs('resnet', 'whole')(border))

def test_P03_antialias_matters_when_shrinking():
    big, small = noise(1, 480, 640), noise(1, 64, 64)
    gap = lambda family, x: (levels(family)(x) - levels(family, 'modern')(x)).abs().mean().item()*255
    assert 24 < gap('resnet', big) < 27 and gap('resnet', small)==0 and 34 < gap('mae', big) < 38 and 3.4 < gap('mae', small) < 4.4

@pytest.mark.parametrize('family, mode', [('vc1', Image.BICUBIC), ('vit', Image.BILINEAR)])
def test_like_pillow(family, mode):
    smooth = np.stack([np.asarray(Image.fromarray(noise(1, 12, 16, seed)[0].permute(1, 2, 0).numpy()).resize((640, 480), Image.BICUBIC)) for seed in range(2)])
    for frames in (smooth, noise(2, 480, 640).permute(0, 2, 3, 1).numpy(), noise(2, 60, 80).permute(0, 2, 3, 1).numpy()):
        pil = np.stack([np.asarray(Image.fromarray(f).resize((341, 256), mode))[16:240, 58:282] for f in frames])
        out = (levels(family)(torch.from_numpy(frames).permute(0, 3, 1, 2))*255).permute(0, 2, 3, 1).numpy()
        assert np.abs(out - pil).max() < 2.01 and (np.abs(out - pil) > .5).mean() < .015

@pytest.mark.parametrize('family', ['vc1', 'vit', 'squeezenet'])
def test_the_way_of_a_gpu_gives_the_same_levels(family):
    class Elsewhere(torch.Tensor):
        "A tensor that says it is on a GPU."
        @property
        def device(self): return torch.device('cuda')
    x = noise(2, 120, 160); how = find_inputs(family)
    there = how.resize(x.as_subclass(Elsewhere)).as_subclass(torch.Tensor); here = how.resize(x)
    assert here.dtype==torch.uint8 and there.dtype==torch.float32 and (here.float() - there).abs().max() <= 2 and (here.float()!=there).float().mean() < .015

def test_r3m_divides_first_and_leaves_224_alone():
    x = noise(2, 224, 224); out = levels('r3m')(x)
    assert torch.equal(out, x/255)
    other = noise(2, 64, 64); smooth = levels('r3m')(other)*255
    assert (smooth - smooth.round()).abs().max() > .1 and torch.equal(smooth.round(), (levels('resnet')(other)*255).round())

def test_whole_networks_get_what_their_own_encoder_makes():
    from vislearn.nets import PooledEncoder, SqueezeNet
    net, x = PooledEncoder(SqueezeNet()), noise(2, 120, 160)
    ready = find_inputs('squeezenet')(x); exact = torch.nn.functional.interpolate(x/255, size=(227, 227), mode='bilinear', antialias=True)
    assert ready.shape==exact.shape and (ready - exact).abs().max() < 1.5/255, 'but for rounding to levels'
    with torch.no_grad(): mine, own = net.net.maps(ready, ('fire9',))['fire9'].mean((2, 3)), net(x)
    assert torch.nn.functional.cosine_similarity(mine, own).min() > .999

def test_frames_are_taken_apart():
    x = torch.arange(2*4*5*9).remainder(256).to(torch.uint8).view(2, 4, 5, 9)
    pictures, m = split_frames(x)
    assert m==3 and pictures.shape==(6, 3, 4, 5)
    for n in range(2):
        for k in range(3): assert torch.equal(pictures[3*n+k], x[n, ..., 3*k:3*k+3].permute(2, 0, 1))
    assert torch.equal(split_frames(x.permute(0, 3, 1, 2), (4, 5))[0], pictures)
    square = torch.zeros(1, 84, 84, 3, dtype=torch.uint8)
    assert split_frames(square)[0].shape==split_frames(square.permute(0, 3, 1, 2))[0].shape==(1, 3, 84, 84), 'sizes that could be channels'
    assert split_frames(torch.zeros(1, 24, 15, 15, dtype=torch.uint8), (15, 15))[1]==8
    assert split_frames(torch.zeros(0, 4, 5, 6, dtype=torch.uint8))[0].shape==(0, 3, 4, 5)

@pytest.mark.parametrize('x, says', [(torch.zeros(1, 4, 4, 3), 'must be uint8'), (torch.zeros(4, 4, 3, dtype=torch.uint8), 'add a leading axis'),
    (torch.zeros(1, 4, 4, 4, dtype=torch.uint8), '3, 6, ... channels'), (torch.zeros(1, 0, 4, 3, dtype=torch.uint8), '3, 6, ... channels')])
def test_wrong_frames(x, says):
    with pytest.raises(DataError, match=says): split_frames(x)

def test_wrong_names():
    with pytest.raises(ConfigError, match="did you mean 'clip'"): find_inputs('clipp')
    with pytest.raises(ConfigError, match="'legacy', 'modern' or 'whole'"): find_inputs('clip', 'exact')

def test_inputs_are_not_changed():
    x = noise(2, 64, 64); before = x.clone()
    for how in FAMILIES.values(): how(x); how(x.float().to(torch.uint8))
    assert torch.equal(x, before)
