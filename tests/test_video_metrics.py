"Frame metrics against a loop over windows, closed values, chance, and any cut into pieces"
import math
import numpy as np, pytest, torch
from vislearn.core import DataError
from vislearn.video import metrics as vm

def pair(size=64, dtype=torch.float64):
    y, x = torch.meshgrid(torch.arange(size, dtype=dtype), torch.arange(size, dtype=dtype), indexing='ij')
    wave = lambda dx, dy: (.5 + .5*torch.sin(2*math.pi*(x + dx)/16)*torch.cos(2*math.pi*(y + dy)/24))[None]
    return wave(0, 0), wave(1, -2)

def slow_ssim(x, y, window, L):
    "One position after the other, one channel after the other, from the formula."
    r = 5 if window=='gauss11' else 3
    w = np.exp(-np.add.outer((np.arange(11.)-5)**2, (np.arange(11.)-5)**2)/4.5) if window=='gauss11' else np.ones((7, 7))
    w /= w.sum(); f = 1 if window=='gauss11' else 49/48; c1, c2 = (.01*L)**2, (.03*L)**2; out = []
    for a, b in zip(x, y):
        for i in range(r, a.shape[0]-r):
            for j in range(r, a.shape[1]-r):
                p, q = a[i-r:i+r+1, j-r:j+r+1], b[i-r:i+r+1, j-r:j+r+1]; mp, mq = (w*p).sum(), (w*q).sum()
                vp, vq, cov = f*(w*(p-mp)**2).sum(), f*(w*(q-mq)**2).sum(), f*(w*(p-mp)*(q-mq)).sum()
                out.append((2*mp*mq+c1)*(2*cov+c2)/((mp**2+mq**2+c1)*(vp+vq+c2)))
    return np.mean(out)

def test_V10_printed_values():
    a, b = pair(); byte = lambda x: (x*255).floor()
    assert f'{vm.mse(a, b):.8f}'=='0.02462190' and f'{vm.psnr(a, b):.6f}'=='16.086785'
    assert f'{vm.ssim(a, b, "sk7"):.8f}'=='0.75187877' and f'{vm.ssim(a, b, "sk7", 2):.8f}'=='0.76119615'
    assert f'{vm.ssim(a, b):.8f}'=='0.72916270' and f'{vm.ssim(byte(a), byte(b), "sk7", 255):.8f}'=='0.75170187'
    dark, light = torch.full((1, 20, 20), .2, dtype=torch.float64), torch.full((1, 20, 20), .6, dtype=torch.float64)
    for w in vm.WINDOWS: assert [f'{vm.ssim(dark, light, w, r):.10f}' for r in (1, 2)]==['0.6000999750', '0.6003996004']
    for w in vm.WINDOWS: assert vm.ssim(a, a, w)==1 and vm.ssim(b.float(), b.float(), w)==1

@pytest.mark.parametrize('window', ['gauss11', 'sk7'])
@pytest.mark.parametrize('L', [1, 2, 255])
def test_V10_ssim_equals_the_loop_over_windows(window, L):
    x, y = np.random.default_rng(0).random((2, 3, 17, 21))*min(L, 255)
    y = .6*x + .4*y
    assert vm.ssim(torch.tensor(x), torch.tensor(y), window, L).item()==pytest.approx(slow_ssim(x, y, window, L), abs=1e-12)
    assert vm.ssim(torch.tensor(x).float(), torch.tensor(y).float(), window, L).item()==pytest.approx(slow_ssim(x, y, window, L), abs=1e-5)

def test_ssim_is_symmetric_bounded_and_zero_by_chance():
    x, y = torch.rand(2, 20, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    for w in vm.WINDOWS:
        assert torch.allclose(vm.ssim(x, y, w), vm.ssim(y, x, w)) and (vm.ssim(x, y, w).abs()<.05).all()       # independent noise
        assert -1<=vm.ssim(x, 1-x, w).min() and vm.ssim(x, 1-x, w).max()<-.7                                   # negative: worst

def test_psnr_hand_values_and_conventions():
    x = torch.zeros(3, 4, 4); x[0] = .1; x[1] = .5; x[2] = 1.; y = torch.zeros(3, 4, 4)
    assert vm.mse(x, y).item()==pytest.approx((.01+.25+1)/3) and vm.psnr(x, y).item()==pytest.approx(-10*math.log10(.42), abs=1e-5)
    assert vm.psnr(x, y, channels='per-channel').item()==pytest.approx((20 - 10*math.log10(.25) + 0)/3, abs=1e-5)
    assert vm.psnr(x, y, data_range=2).item()==pytest.approx(vm.psnr(x, y).item() + 20*math.log10(2), abs=1e-4)
    assert vm.psnr(x, x).item()==math.inf and vm.psnr(x, x, floor=1e-10).item()==pytest.approx(100)
    assert vm.psnr(torch.ones(1, 4, 4), torch.zeros(1, 4, 4)).item()==0                                         # worst
    r = np.random.default_rng(0).random((2, 4, 1, 9, 9)); noise = vm.mse(*torch.tensor(r)).mean().item()
    assert noise==pytest.approx(1/6, abs=.02)                                                                   # chance: two uniform numbers

@pytest.mark.parametrize('budget', [1, 500, 3000, 10**9])
def test_pieces_and_leading_axes_do_not_change_a_bit(budget):
    g = torch.Generator().manual_seed(0); x, y = torch.rand(3, 2, 5, 3, 16, 16, generator=g), torch.rand(2, 5, 3, 16, 16, generator=g)
    for f in (vm.mse, vm.psnr, vm.ssim, lambda *a, **k: vm.ssim(*a, window='sk7', per_channel=True, **k)):
        whole = f(x, y, budget=budget); assert whole.shape[:3]==(3, 2, 5)
        one = torch.stack([torch.stack([torch.stack([f(x[s, b, t], y[b, t]) for t in range(5)]) for b in range(2)]) for s in range(3)])
        assert torch.equal(whole, one)

def test_dtypes_and_gradients():
    a, b = pair(32); x = a.float().requires_grad_()
    for f in (vm.mse, vm.psnr, vm.ssim): assert not f(x, b.float()).requires_grad and f(a, b).dtype==torch.float64
    assert vm.ssim(a.half(), b.half()).dtype==torch.float32
    with torch.autocast('cpu', dtype=torch.bfloat16): assert vm.ssim(a.float(), b.float()).item()==pytest.approx(vm.ssim(a, b).item(), abs=1e-5)
    assert vm.ssim(torch.rand(0, 4, 1, 16, 16), torch.rand(4, 1, 16, 16)).shape==(0, 4)

def test_equalize_hist_equals_the_loop():
    rng = np.random.default_rng(0)
    for x in (rng.integers(0, 256, (12, 12)), rng.integers(40, 60, (12, 12)), np.full((12, 12), 9), rng.integers(7, 9, (12, 12))):
        count = np.bincount(x.ravel(), minlength=256); low = x.min(); ref = np.zeros(256)
        for level in range(256): ref[level] = max(0, count[:level+1].sum() - count[low])*255/max(1, x.size - count[low])
        want = x if count[low]==x.size else np.round(ref)[x]
        assert (vm.equalize_hist(torch.tensor(x, dtype=torch.uint8)).numpy()==want).all()

def test_fabric_ssim_is_its_parts():
    g = torch.Generator().manual_seed(0); x, y = torch.randint(0, 200, (2, 3, 4, 24, 24), generator=g, dtype=torch.uint8)
    s = vm.fabric_ssim(x, y)
    for i in range(3):
        assert s.color[i].item()==pytest.approx(slow_ssim(x[i,:3].double().numpy(), y[i,:3].double().numpy(), 'sk7', 255), abs=1e-5)
        level = lambda d: vm.equalize_hist((d.double()*255/d.max().item() + 1e-6).floor().byte()).double().numpy()
        assert s.depth[i].item()==pytest.approx(slow_ssim(level(x[i,3])[None], level(y[i,3])[None], 'sk7', 255), abs=1e-5)
    assert torch.allclose(torch.stack(vm.fabric_ssim(x.float()/255, y.float()/255)), torch.stack(s))             # floats and bytes agree
    assert torch.equal(vm.fabric_ssim(x, y, budget=1).depth, s.depth)

def test_frechet_distance_closed_forms():
    a, b = np.random.default_rng(0).normal(size=(2, 5, 5)); q = np.linalg.qr(a)[0]; s, t = np.array([1, 2, 3, 4, 5.]), np.array([5, .5, 0, 2, 1.])
    c1, c2 = torch.tensor(q*s@q.T), torch.tensor(q*t@q.T)                                                       # same axes: they commute
    m = torch.arange(5.).double()
    assert vm.frechet_distance(m, c1, m*0, c2)==pytest.approx(30 + ((s**.5 - t**.5)**2).sum(), rel=1e-6)
    from scipy.linalg import sqrtm
    d1, d2 = a@a.T, b@b.T
    assert vm.frechet_distance(m, torch.tensor(d1), m, torch.tensor(d2))==pytest.approx(np.trace(d1+d2-2*np.real(sqrtm(d1@d2))), rel=1e-6)
    assert vm.frechet_distance(m, torch.tensor(d1), m, torch.tensor(d1))==pytest.approx(0, abs=1e-6)
    one = torch.tensor([[4.]]); assert vm.frechet_distance(torch.tensor([1.]), one, torch.tensor([3.]), 4*one)==pytest.approx(4 + 4)
    x, y = np.random.default_rng(1).normal(size=(2, 20000, 3)); y = y*2 + 1                                     # Gaussian features: 3 + 3
    assert vm.frechet_distance(*vm.gaussian_stats(x), *vm.gaussian_stats(y))==pytest.approx(6, abs=.2)
    few = np.random.default_rng(2).normal(size=(4, 30)); assert math.isfinite(vm.frechet_distance(*vm.gaussian_stats(few), *vm.gaussian_stats(few + 1)))

class Distance(torch.nn.Module):
    def forward(self, x, y): return (x - y).abs().mean((1, 2, 3))
class Film(torch.nn.Module):
    def forward(self, x): return torch.stack([x.mean((1, 2, 3, 4)), x.std((1, 2, 3, 4))], 1)

def test_learned_metrics_from_files(tmp_path):
    torch.jit.script(Distance()).save(tmp_path/'d.pt'); torch.jit.script(Film()).save(tmp_path/'f.pt'); (tmp_path/'bad.pt').write_bytes(b'no network')
    x, y = torch.rand(2, 3, 4, 1, 16, 16); d = vm.LearnedDistance(tmp_path/'d.pt', batch=5)(x, y)
    assert torch.allclose(d, 2*(x - y).abs().mean((-1, -2, -3))) and d.shape==(3, 4)
    f = vm.FilmFeatures(tmp_path/'f.pt', size=32, batch=2)(x); assert f.shape==(3, 2) and f.dtype==torch.float64
    assert torch.allclose(f[:, 0], (x*2 - 1).mean((1, 2, 3, 4)).double(), atol=1e-2)
    for make in (vm.LearnedDistance, vm.FilmFeatures):
        with pytest.raises(DataError, match='is no TorchScript file') as e: make(tmp_path/'bad.pt')
        assert '\n' not in str(e.value) and str(tmp_path) not in str(e.value)
        with pytest.raises(DataError, match='vislearn brings none'): make(tmp_path/'absent.pt')

def test_the_band_covers_the_mean_95_times_of_100():
    rng = np.random.default_rng(0); x = rng.normal(3, 2, (200, 4000)); band = vm.mean_band(x)
    assert np.allclose(band.half, [1.96*np.sqrt(((c - c.mean())**2).sum()/199)/np.sqrt(200) for c in x.T])
    assert abs((np.abs(band.mean - 3)<=band.half).mean() - .95)<.01
    assert vm.mean_band(torch.tensor(x)).mean.shape==(4000,)
